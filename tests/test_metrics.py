import json
import time
from dataclasses import replace

import numpy as np
import pytest
from manifest_helpers import make_manifest
from score_helpers import make_scores, make_video
from sklearn.metrics import average_precision_score, roc_auc_score

from vadclip.errors import InputError
from vadclip.evaluate import evaluate
from vadclip.evaluate.bootstrap import Resamples, ap_statistic, auc_statistic
from vadclip.evaluate.event_figures import match_events
from vadclip.evaluate.metrics import HEADLINE
from vadclip.events import Event, Peak
from vadclip.frame_figures import frame_ap, frame_auc, frames_in_snippets
from vadclip.labels import Classes


def _evaluate(videos, anomaly, *, resamples=0, dataset="table", **settings):
    return evaluate(
        make_scores(anomaly, **settings), make_manifest(videos, dataset=dataset), resamples=resamples, seed=0
    )


def test_frames_of_spans_in_snippets():
    # Frames 10-19 and, overlapping, 18-33; of the 3 snippets: 10-15 -> 6, 16-31 -> 16, 32-33 -> 2.
    np.testing.assert_array_equal(frames_in_snippets([(10, 20), (18, 34)], 3), [6, 16, 2])
    # What lies past rows * 16 = 32 is cut, as five UCF-Crime annotations need it.
    np.testing.assert_array_equal(frames_in_snippets([(30, 99), (-5, 1)], 2), [1, 2])
    np.testing.assert_array_equal(frames_in_snippets([], 2), [0, 0])


def test_frame_figures_by_hand():
    # Video a: 2 snippets scored .8 and .3, anomalous (Fire) in frames 8-23: 8 of 16 frames in each snippet.
    # Video n, normal: 1 snippet scored .5.
    # Positive frames: 8 at .8, 8 at .3. Negative: 8 at .8, 8 at .3, 16 at .5.
    # AUC over 16 * 32 = 512 pairs. A positive at .8 beats 8 + 16 and ties with 8: 24 + 4 = 28, times 8 = 224.
    # One at .3 beats none and ties with 8: 4, times 8 = 32. (224 + 32) / 512 = .5.
    # AP: at .8: recall 8/16, precision 8/16; at .5 no new positive; at .3: recall 1, precision 16/48.
    # .5 * .5 + .5 * 1/3 = 5/12.
    # Ano-AUC, video a only: pairs 16 * 16 = 256; at .8: 8 + 4 = 12, * 8 = 96; at .3: 4 * 8 = 32; 128/256.
    # auc_Fire is auc here. There is no Theft.
    videos = [make_video("a", 2, [(8, 24, "Fire")]), make_video("n", 1)]
    evaluation = _evaluate(videos, {"a": [0.8, 0.3], "n": [0.5]})
    metrics = evaluation.metrics
    assert metrics["auc"] == pytest.approx(0.5, abs=1e-12)
    assert metrics["ap"] == pytest.approx(5 / 12, abs=1e-12)
    assert metrics["ano_auc"] == pytest.approx(0.5, abs=1e-12)
    assert evaluation.by_class == {"auc_Fire": metrics["auc"]}
    # The helper's p(normal) is 1 - anomaly score, so the branches agree.
    assert metrics["align_auc"] == metrics["auc"]
    assert metrics["align_ap"] == metrics["ap"]
    assert evaluation.undefined["auc_Theft"] == "no positive frame in the test videos"


def test_a_classs_auc_takes_its_own_videos_and_all_normal_ones():
    # a: Fire in snippet 0, Theft in snippet 1; b: Theft only; n: normal.
    # auc_Fire: videos a and n. Positive: a0 (.6). Negative: a1 (.7, Theft, not Fire), n0 (.5), n1 (.2).
    # The positive beats 2 of 3 negatives. b's .1 and .9 play no part.
    # auc_Theft: a, b, n. Positive: a1 (.7), b0 (.1). Negative: a0 .6, b1 .9, n .5 .2. 3 + 0 of 8 pairs.
    videos = [
        make_video("a", 2, [(0, 16, "Fire"), (16, 32, "Theft")]),
        make_video("b", 2, [(0, 16, "Theft")]),
        make_video("n", 2),
    ]
    metrics = _evaluate(videos, {"a": [0.6, 0.7], "b": [0.1, 0.9], "n": [0.5, 0.2]}).by_class
    assert metrics["auc_Fire"] == pytest.approx(2 / 3, abs=1e-12)
    assert metrics["auc_Theft"] == pytest.approx(3 / 8, abs=1e-12)


def test_ano_auc_leaves_normal_videos_out():
    # Within a: positive .4 beats negative .3. With n (.9, .8) the positive loses to both.
    videos = [make_video("a", 2, [(0, 16, "Fire")]), make_video("n", 2)]
    metrics = _evaluate(videos, {"a": [0.4, 0.3], "n": [0.9, 0.8]}).metrics
    assert metrics["ano_auc"] == 1.0
    assert metrics["auc"] == pytest.approx(1 / 3, abs=1e-12)


def test_the_scores_order_of_videos_does_not_matter_and_val_videos_are_left_out():
    videos = [
        make_video("a", 1, [(0, 16, "Fire")]),
        make_video("n", 2),
        make_video("v", 1, labels=["Fire"], split="val"),
    ]
    one = _evaluate(videos, {"a": [0.6], "n": [0.7, 0.1], "v": [0.0]})
    other = _evaluate(videos, {"v": [0.9], "n": [0.7, 0.1], "a": [0.6]})
    assert one.metrics == other.metrics
    assert one.metrics["auc"] == 0.5


def test_counts_and_what_is_undefined():
    videos = [
        make_video("a", 2, [(0, 32, "Fire")], untimed=True),
        make_video("broken", 0, [(0, 9, "Fire")], num_frames=0, probe_error="no frame"),
        make_video("n", 1),
        make_video("short", 0, num_frames=9),
        make_video("v_broken", 0, split="val", num_frames=0, probe_error="no frame"),
    ]
    excluded = {"broken": "no frame", "short": "too short", "v_broken": "no frame"}
    evaluation = _evaluate(
        videos,
        {"a": [0.9, 0.8], "n": [0.2]},
        excluded=excluded,
        test_selected=True,
        lost_frames={"a": 3, "n": 1, "v_broken": 5},
    )
    metrics = evaluation.metrics
    assert (metrics["videos_excluded"], metrics["untimed_videos"], metrics["test_selected"]) == (2, 1, 1)
    assert metrics["lost_frames"] == 4
    assert evaluation.excluded == {"broken": "no frame", "short": "too short"}
    assert evaluation.untimed == ("a",)
    # a is anomalous from first to last frame: no negative frame within it.
    assert evaluation.undefined["ano_auc"] == "no negative frame in the test videos"
    assert "ano_auc" not in metrics
    assert list(metrics) == sorted(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    json.dumps(metrics)


def test_without_anomalies_only_counts_are_left():
    evaluation = _evaluate([make_video("n", 2)], {"n": [0.5, 0.2]}, resamples=10)
    assert evaluation.metrics == {
        "lost_frames": 0, "test_selected": 0, "untimed_videos": 0, "videos_excluded": 0
    }  # fmt: skip
    assert evaluation.undefined["auc"] == "no positive frame in the test videos"
    assert evaluation.undefined["map_avg"] == "no anomalous segment in the test videos"
    assert evaluation.undefined["map_official_0.5"] == "no anomalous segment in the test videos"
    assert evaluation.undefined["gain_auc"] == "no positive frame in the test videos"


def test_without_test_videos_every_figure_says_why():
    evaluation = _evaluate([make_video("v", 2, split="val")], {"v": [0.5, 0.2]}, resamples=10)
    assert set(evaluation.metrics) == {"lost_frames", "test_selected", "untimed_videos", "videos_excluded"}
    assert set(evaluation.undefined.values()) == {"the manifest has no test videos; give some the split test"}
    assert evaluation.figures()["undefined"].keys() == set(HEADLINE)


@pytest.mark.parametrize(("dataset", "classes_hit"), [("ucf_crime", 2), ("xd_violence", 3), ("table", 3)])
def test_what_normal_videos_mean_to_the_official_map(dataset, classes_hit):
    # Fire and Theft are found exactly. Class normal: in n all snippets but one exceed the threshold, 48 of 64
    # frames, IoU .75 with [0, 64), ranked first; on UCF-Crime there is no such truth.
    def one_hot(*labels):
        return np.eye(3)[list(labels)] * 0.9 + 0.01

    videos = [
        make_video("f", 4, [(16, 32, "Fire")]),
        make_video("n", 4),
        make_video("t", 4, [(32, 64, "Theft")]),
    ]
    probabilities = {
        "f": one_hot(0, 1, 0, 0) - 0.05 * (np.arange(3) == 0),
        "n": np.array([[0.98, 0.01, 0.01]] * 3 + [[0.1, 0.01, 0.01]]),
        "t": one_hot(0, 0, 2, 2) - 0.05 * (np.arange(3) == 0),
    }
    anomaly = dict.fromkeys(probabilities, [0.5] * 4)
    metrics = _evaluate(videos, anomaly, dataset=dataset, probabilities=probabilities).metrics
    assert metrics["map_official_avg"] == pytest.approx(100 * classes_hit / 3, abs=1e-9)
    assert metrics["map_avg"] == pytest.approx(100, abs=1e-9)


def test_a_videos_class_follows_the_logits_of_its_top_snippets():
    # 16 snippets: k = 2. One is Fire beyond doubt, 15 are normal beyond doubt: by mean probability a normal
    # video. Its logits say otherwise: normal's are low throughout (10 at most), Fire's are 30 in one snippet.
    rows = 16
    logits = np.tile([10.0, 0.0, 0.0], (rows, 1))
    logits[3] = [0.0, 30.0, 0.0]
    scores = make_scores({"a": [0.5] * rows})
    normaliser = np.log(np.exp(logits).sum(1))
    scores = replace(
        scores,
        class_probabilities_NK=np.exp(logits - normaliser[:, None]).astype(np.float32),
        log_normaliser_N=normaliser.astype(np.float32),
    )
    np.testing.assert_allclose(scores.class_logits_NK, logits, atol=2e-5)
    manifest = make_manifest([make_video("a", rows, [(48, 64, "Fire")])])
    # Means of the top 2: normal 10, Fire (30 + 0) / 2 = 15.
    evaluation = evaluate(scores, manifest, resamples=0, seed=0)
    assert evaluation.predicted_class_V == ("Fire",)
    assert evaluation.true_class_V == ("Fire",)
    # With two labels the predicted one counts as the truth if it is one of them, else the first.
    for labels, truth in ((("Theft", "Fire"), "Fire"), (("Theft",), "Theft")):
        manifest = make_manifest([make_video("a", rows, [(48, 64, "Theft")], labels)])
        evaluation = evaluate(scores, manifest, resamples=0, seed=0)
        assert (evaluation.true_class_V, evaluation.predicted_class_V) == ((truth,), ("Fire",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": ("Normal", "Theft", "Fire")},
            "of classes Normal, Theft, Fire, the manifest has Normal, Fire, Theft",
        ),
        ({"anomaly": {"n": [0.1]}}, r"no scores for test video a \(of 1\); run the score stage again"),
        (
            {"anomaly": {"v": [0.1]}, "excluded": {"a": "no frame", "n": "too short"}},
            "none of the 2 test videos has scores. a: no frame. n: too short. Mend or replace them",
        ),
    ],
)
def test_scores_that_do_not_fit_the_manifest(change, message):
    videos = [
        make_video("a", 1, [(0, 16, "Fire")]),
        make_video("n", 1),
        make_video("v", 1, split="val"),
    ]
    settings = {"anomaly": {"a": [0.6], "n": [0.1]}, **change}
    with pytest.raises(InputError, match=message):
        evaluate(make_scores(**settings), make_manifest(videos), resamples=0, seed=0)


def test_a_class_called_low_is_not_taken_for_an_interval():
    classes = Classes(("Normal", "low"), ("normal", "low"))
    manifest = make_manifest([make_video("a", 1, [(0, 8, "low")])], classes)
    scores = make_scores({"a": [0.5]}, labels=classes.labels)
    evaluation = evaluate(scores, manifest, resamples=5)
    assert evaluation.by_class == {"auc_low": evaluation.metrics["auc"]}
    assert len(evaluation.intervals["auc_low"]) == 2


def _random_set(seed, videos=8):
    """Scores on a coarse grid, so that ties are everywhere; the last two videos have no anomalous frame."""
    rng = np.random.default_rng(seed)
    rows_V = rng.integers(1, 20, videos)
    video_N = np.repeat(np.arange(videos), rows_V)
    positive_N = rng.integers(0, 17, len(video_N)) * (rng.random(len(video_N)) < 0.4) * (video_N < videos - 2)
    positive_N[0] = 5
    score_N = np.round(rng.random(len(video_N)) + 0.02 * positive_N, 1).astype(np.float32)
    return score_N, positive_N, 16 - positive_N, video_N


def _over_frames(metric, score_N, positive_N, negative_N):
    """The figure as the official code has it: every score repeated for its 16 frames."""
    truth = np.concatenate([np.repeat([1, 0], [p, n]) for p, n in zip(positive_N, negative_N, strict=True)])
    return metric(truth, np.repeat(score_N, positive_N + negative_N))


@pytest.mark.parametrize("seed", range(3))
def test_frame_figures_equal_sklearn_on_repeated_frames_and_so_does_every_resample(seed):
    score_N, positive_N, negative_N, video_N = _random_set(seed)
    for ours, statistic, metric in (
        (frame_auc, auc_statistic, roc_auc_score),
        (frame_ap, ap_statistic, average_precision_score),
    ):
        direct = _over_frames(metric, score_N, positive_N, negative_N)
        assert ours(score_N, positive_N, negative_N) == pytest.approx(direct, rel=1e-12)
        counts_RV = np.random.default_rng(seed).multinomial(8, [1 / 8] * 8, size=130)  # more than one block
        values_R = statistic(score_N, positive_N, negative_N, video_N)(counts_RV)
        for counts, value in zip(counts_RV[::9], values_R[::9], strict=True):
            rows = np.concatenate([np.flatnonzero(video_N == v) for v in np.repeat(np.arange(8), counts)])
            if positive_N[rows].any():
                expected = _over_frames(metric, score_N[rows], positive_N[rows], negative_N[rows])
                assert value == pytest.approx(expected, rel=1e-12)
            else:
                assert np.isnan(value)


def test_a_gain_is_the_difference_on_the_same_videos_and_the_same_draws():
    # Two anomalous videos and two normal ones of one snippet. Trained: every anomalous snippet above every
    # normal one, AUC 1. CLIP alone, 1 - p(normal): a .9, b .3, n .5, m .1: 3 of 4 pairs, AUC .75.
    # AP of CLIP alone: at .9 precision 1, at .3 precision 2/3: (1 + 2/3) / 2 = 5/6.
    videos = [make_video("a", 1, [(0, 16, "Fire")]), make_video("b", 1, [(0, 16, "Fire")])]
    videos += [make_video("m", 1), make_video("n", 1)]
    scores = make_scores({"a": [0.9], "b": [0.8], "m": [0.2], "n": [0.1]})
    alone = np.array([0.9, 0.3, 0.1, 0.5])
    scores = replace(scores, zero_shot_NK=np.stack([1 - alone, alone, 0 * alone], 1).astype(np.float32))
    evaluation = evaluate(scores, make_manifest(videos), resamples=300)
    metrics = evaluation.metrics
    assert [metrics[f"{prefix}_auc"] for prefix in ("zero_shot", "gain")] == pytest.approx([0.75, 0.25])
    assert [metrics[f"{prefix}_ap"] for prefix in ("zero_shot", "gain")] == pytest.approx([5 / 6, 1 / 6])
    # In the draws too the trained AUC is 1, so the gain there is 1 - the zero-shot one.
    low, high = evaluation.intervals["zero_shot_auc"]
    assert evaluation.intervals["gain_auc"] == pytest.approx((1 - high, 1 - low))
    # Without the classification branch there is no auc to compare, while mAP has the alignment branch.
    evaluation = evaluate(replace(scores, anomaly_score_N=None), make_manifest(videos), resamples=0)
    assert evaluation.undefined["gain_auc"] == "the model has no classification branch (model.branches)"
    assert "gain_map_avg" in evaluation.metrics


def _event_set(**changes):
    """Threshold .5 (the peak of the one validation video). 16 frames/s: a snippet is a second."""
    videos = [
        # Two spans, snippets 1-2 and 6. Events: 1-2 (peak .9), IoU 1 with the first; 5-7 (peak .8), IoU 1/3.
        make_video("a", 8, [(16, 48, "Fire"), (96, 112, "Theft")]),
        # One span, snippets 0-3. Events: 0-1 (.7), IoU 1/2; 5 (.95) fits nothing.
        make_video("b", 8, [(0, 64, "Theft")]),
        # Normal: one event, snippet 3 and, a gap of one closed, snippet 5.
        make_video("n", 8, **changes),
    ]
    anomaly = {
        "a": [0.1, 0.9, 0.6, 0.1, 0.1, 0.8, 0.6, 0.6],
        "b": [0.7, 0.7, 0.1, 0.1, 0.1, 0.95, 0.1, 0.5],  # .5 is not above .5
        "n": [0.1, 0.1, 0.1, 0.6, 0.1, 0.6, 0.1, 0.1],
    }
    # All probability that is left goes to Fire: right in a, wrong in b.
    probabilities = {
        name: np.stack([1 - np.array(score), score, [0.0] * 8], axis=1) for name, score in anomaly.items()
    }
    return videos, {
        "anomaly": anomaly,
        "probabilities": probabilities,
        "normal_peaks": (Peak("v", 0.5, 1.0),),
    }


def test_event_figures_by_hand():
    videos, settings = _event_set()
    evaluation = _evaluate(videos, resamples=50, **settings)
    metrics = evaluation.metrics
    assert [[(e.start, e.stop) for e in events] for events in evaluation.events_V] == [
        [(1, 3), (5, 8)], [(0, 2), (5, 6)], [(3, 6)]
    ]  # fmt: skip
    assert metrics["event_precision"] == pytest.approx(2 / 5)
    assert metrics["event_recall"] == pytest.approx(2 / 3)
    assert metrics["event_class_agreement"] == pytest.approx(1 / 2)
    assert metrics["false_alarms_per_hour"] == pytest.approx(3600 / 8)
    # One count: 0.0253 to 5.5716 by Garwood's table.
    low, high = evaluation.intervals["false_alarms_per_hour"]
    assert (low / 450, high / 450) == pytest.approx((0.0253, 5.5716), abs=1e-4)


def test_event_figures_are_left_out_where_they_are_not_defined():
    names = ["event_precision", "event_recall", "event_class_agreement", "false_alarms_per_hour"]
    videos, settings = _event_set(fps=0.0)
    undefined = _evaluate(videos, **settings).undefined
    assert undefined.keys() & set(names) == {names[3]}
    assert undefined[names[3]] == "the frame rate of a normal test video is not known"
    videos[0] = replace(videos[0], untimed=True)
    undefined = _evaluate(videos, **settings).undefined
    assert [undefined[name] for name in names[:3]] == ["1 test videos are untimed"] * 3
    undefined = _evaluate(videos, **settings | {"normal_peaks": ()}).undefined
    assert {undefined[name] for name in names} == {
        "the model has no normal validation videos to read a threshold off"
    }
    undefined = _evaluate(videos[1:], **settings | {"normal_peaks": (Peak("v", 1.0, None),)}).undefined
    assert undefined["event_precision"] == "no event in the test videos"


def test_an_event_takes_the_free_span_it_fits_best():
    # Spans of 4 and 4 snippets; the event of the higher peak fits both by .5 and takes the first; so the
    # other, which covers the first alone, gets none: it fits the second not at all.
    high, low = Event(0, 8, 0.9, 0.9, None, None), Event(0, 4, 0.8, 0.8, None, None)
    spans = [(0, 64), (64, 128)]
    assert match_events([low, high], spans) == [(high, spans[0])]
    assert match_events([low], spans) == [(low, spans[0])]
    assert match_events([Event(0, 3, 0.9, 0.9, None, None)], [(0, 112)]) == []  # 48 of 112 frames


def test_one_class_resamples_are_drawn_again():
    # Of two videos only one is anomalous: half of all draws hold one video twice, a figure of one class.
    statistic = auc_statistic([0.9, 0.2], np.array([16, 0]), np.array([0, 16]), np.array([0, 1]))
    seen = []

    def watched(counts_RV):
        seen.append(statistic(counts_RV))
        return seen[-1]

    low, high = Resamples(2, 50, seed=1).interval(watched)
    assert (low, high) == (1.0, 1.0)
    assert np.isnan(np.concatenate(seen)).any()
    assert (~np.isnan(np.concatenate(seen))).sum() >= 50


def test_intervals_are_percentiles_over_seeded_draws_shared_by_all_figures():
    draws = Resamples(5, 40, seed=3)
    counts_RV = np.random.default_rng(3).multinomial(5, [1 / 5] * 5, size=40)
    value = np.array([0.0, 1, 2, 3, 4])
    for _ in range(2):  # the second figure sees the same draws
        low, high = draws.interval(lambda counts: counts @ value)
        np.testing.assert_array_equal([low, high], np.percentile(counts_RV @ value, [2.5, 97.5]))


def test_every_figure_has_an_interval_around_it_and_the_seed_fixes_it():
    rng = np.random.default_rng(0)
    videos, anomaly = [], {}
    for number in range(12):
        name, label = f"v{number:02d}", ("Fire", "Theft")[number % 2]
        videos.append(make_video(name, 10, [(32, 80, label)] if number < 8 else ()))
        anomaly[name] = np.clip(
            rng.normal(0.4, 0.15, 10) + 0.3 * (number < 8) * (np.arange(10) // 3 == 1), 0, 1
        )
    peaks = {"normal_peaks": (Peak("v", 0.55, 0.1),)}
    evaluation = _evaluate(videos, anomaly, resamples=200, **peaks)
    assert set(HEADLINE) <= set(evaluation.metrics)
    assert len(evaluation.metrics) == len(HEADLINE) + 4
    assert {"map_official_0.1", "zero_shot_map_0.5"} <= evaluation.by_iou.keys()
    assert evaluation.by_class.keys() == {"auc_Fire", "auc_Theft"}
    counts = {"videos_excluded", "untimed_videos", "test_selected", "lost_frames"}
    assert evaluation.intervals.keys() == evaluation.all_figures.keys() - counts
    for name, (low, high) in evaluation.intervals.items():
        assert low <= evaluation.all_figures[name] <= high, name
    low, high = evaluation.intervals["auc"]
    assert low < evaluation.metrics["auc"] < high
    again = _evaluate(videos, anomaly, resamples=200, **peaks)
    assert (again.metrics, again.figures()) == (evaluation.metrics, evaluation.figures())


def test_a_ucf_sized_test_set_is_quick():
    """1.1 million frames: each figure in under a second, all of them with 1,000 resamples in a few."""
    rng = np.random.default_rng(0)
    labels = ("Normal", *(f"C{number:02d}" for number in range(13)))
    videos, anomaly, probabilities = [], {}, {}
    for number in range(290):
        name, rows = f"v{number:03d}", int(rng.geometric(1 / 239))
        start = int(rng.integers(0, rows * 16))
        marked = [(start, start + 560, labels[1 + number % 13])] if number < 140 else ()
        videos.append(make_video(name, rows, marked))
        anomaly[name] = rng.random(rows)
        probabilities[name] = rng.dirichlet(np.full(14, 0.3), rows)
    manifest = make_manifest(videos, Classes(labels, tuple(map(str.lower, labels))))
    scores = make_scores(anomaly, probabilities, labels)
    positive_N = rng.integers(0, 17, len(scores.anomaly_score_N))
    begun = time.perf_counter()
    frame_auc(scores.anomaly_score_N, positive_N, 16 - positive_N)
    assert time.perf_counter() - begun < 1
    begun = time.perf_counter()
    evaluation = evaluate(scores, manifest, resamples=1000, seed=0)
    elapsed = time.perf_counter() - begun
    assert elapsed < 15, elapsed
    assert set(evaluation.undefined.values()) == {
        "the model has no normal validation videos to read a threshold off"
    }
