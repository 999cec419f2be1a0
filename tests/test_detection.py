import time

import numpy as np
import pytest

from vadclip.evaluate.detection import IOU_THRESHOLDS, Truth, corrected_map, match, official_map


def _figures(probabilities, truths, counts=None):
    """Official and corrected mAP (average first) of videos given as arrays [T, K]."""
    rows_V = np.array([len(video) for video in probabilities])
    matches = match(np.concatenate(probabilities).astype(np.float32), rows_V, truths)
    counts_RV = np.ones((1, len(rows_V)), dtype=np.int64) if counts is None else np.asarray(counts)
    return official_map(matches, counts_RV), corrected_map(matches, counts_RV)


def _with_normal(*anomaly_TK):
    """Put p(normal) = 1 - the rest in front."""
    return [np.concatenate([1 - np.sum(video, 1, keepdims=True), video], 1) for video in anomaly_TK]


def _columns(*columns):
    return np.array(columns, dtype=np.float64).T


def test_one_class_by_hand():
    # Class 1 in video 0 (T = 4, 64 frames): 0.1 0.5 0.9 0.1. Threshold .9 - .6 * .8 = .42: one run,
    # frames [16, 48). Video score: mean of the top floor(64/16) = 4 frames = .9. Score .9 + .7 * .9 = 1.53.
    # Video 1: 0.8 0 0 0.6. Threshold .8 - .48 = .32: runs [0, 16) and [48, 64); video score .8;
    # scores .8 + .56 = 1.36 and .6 + .56 = 1.16.
    # Truth: video 0 [20, 48): IoU 28/32 = .875. Video 1 [52, 80), past its end, not clamped: the run [48, 64)
    # shares 12 frames of a union of 32: .375; the run [0, 16) shares none.
    # Ranking: hit, miss, hit (up to IoU .3). AP = (1/1 + 2/3) / 2 = 5/6 at .1-.3, (1/1) / 2 at .4 and .5.
    probabilities = _with_normal(_columns([0.1, 0.5, 0.9, 0.1]), _columns([0.8, 0.0, 0.0, 0.6]))
    truths = [Truth(0, 1, 20, 48), Truth(1, 1, 52, 80)]
    official, corrected = _figures(probabilities, truths)
    per_iou = 100 * np.array([5 / 6, 5 / 6, 5 / 6, 1 / 2, 1 / 2])
    np.testing.assert_allclose(corrected[0], [per_iou.mean(), *per_iou], rtol=1e-12)
    # Official: normal has proposals but no truth here, so it adds a 0 to the mean over the two classes.
    np.testing.assert_allclose(official[0], corrected[0] / 2, rtol=1e-12)


def test_a_second_proposal_does_not_take_a_segment_again_but_the_next_best():
    # Runs [0, 16) (0.9) and [32, 48) (0.8), truths [0, 48) and [30, 200).
    # First run: IoU with A 16/48 = .333, with B 0. Second: with A 16/48, with B 16/170 = .094.
    # Up to .3 the first takes A; A is then gone for the second, and B is below .1: a miss. AP = 1/2 up to .3.
    probabilities = _with_normal(_columns([0.9, 0.0, 0.8, 0.0]))
    _, corrected = _figures(probabilities, [Truth(0, 1, 0, 48), Truth(0, 1, 30, 200)])
    np.testing.assert_allclose(corrected[0, 1:], [50, 50, 50, 0, 0], rtol=1e-12)
    # With B = [30, 60) (IoU 16/30 = .533) the second run hits it at every threshold: up to .3 both hit; at .4
    # and .5 only the second, ranked second: precision 1/2, over 2 truths = 1/4.
    _, corrected = _figures(probabilities, [Truth(0, 1, 0, 48), Truth(0, 1, 30, 60)])
    np.testing.assert_allclose(corrected[0, 1:], [100, 100, 100, 25, 25], rtol=1e-12)


def test_a_class_without_any_proposal():
    # Class 2 is constant, so nothing exceeds its threshold: no proposal. Class 1 is perfect.
    probabilities = _with_normal(_columns([0.0, 0.8, 0.8, 0.0], [0.1] * 4))
    truths = [Truth(0, 1, 16, 48), Truth(0, 2, 0, 16)]
    official, corrected = _figures(probabilities, truths)
    np.testing.assert_array_equal(official, np.zeros((1, 6)))  # the official quirk
    np.testing.assert_allclose(corrected, np.full((1, 6), 50.0))  # (1 + 0) / 2
    # A class without truth is no part of the corrected figure.
    _, corrected = _figures(probabilities, truths[:1])
    np.testing.assert_allclose(corrected, np.full((1, 6), 100.0))


def test_without_anomalous_truth_neither_figure_is_defined():
    probabilities = _with_normal(_columns([0.0, 0.8]))
    official, corrected = _figures(probabilities, [Truth(0, 0, 0, 32)])
    assert np.isnan(official).all()
    assert np.isnan(corrected).all()


def test_a_one_snippet_video_is_constant_and_gives_no_proposal():
    probabilities = _with_normal(_columns([0.7]), _columns([0.1, 0.9]))
    _, corrected = _figures(probabilities, [Truth(0, 1, 0, 16), Truth(1, 1, 16, 32)])
    np.testing.assert_allclose(corrected[0, 1:], [50.0] * 5)


def _reference(probabilities, truths, corrected):
    """vadclip.md section 5 read literally: over frames, one class, one video, one threshold at a time."""
    classes = probabilities[0].shape[1]
    by_iou = []
    for threshold in IOU_THRESHOLDS:
        precisions, empty = [], False
        for label in range(classes):
            proposals = []
            for number, video in enumerate(probabilities):
                frames = np.repeat(video[:, label].astype(np.float32), 16)
                count = max(1, len(frames) // 16)
                video_score = np.sort(frames)[::-1][:count].astype(np.float64).mean()
                cut = frames.max() - 0.6 * (frames.max() - frames.min())
                start = None
                for frame, value in enumerate([*frames, -np.inf]):
                    if value > cut and start is None:
                        start = frame
                    elif value <= cut and start is not None:
                        if frame - start >= 2:
                            score = float(frames[start:frame].max()) + 0.7 * video_score
                            proposals.append((score, number, start, frame))
                        start = None
            own = [truth for truth in truths if truth.label == label]
            empty |= not proposals
            taken, hits, total = set(), 0, 0.0
            for rank, (_, number, start, end) in enumerate(sorted(proposals, key=lambda p: -p[0]), 1):
                best, best_iou = None, -1.0
                for index, truth in enumerate(own):
                    if truth.video != number or index in taken:
                        continue
                    overlap = max(0, min(end, truth.end_frame) - max(start, truth.start_frame))
                    iou = overlap / ((end - start) + (truth.end_frame - truth.start_frame) - overlap)
                    if iou > best_iou:
                        best, best_iou = index, iou
                if best is not None and best_iou >= threshold:
                    taken.add(best)
                    hits += 1
                    total += hits / rank
            if not corrected or (own and label > 0):
                precisions.append(total / len(own) if own else 0.0)
        by_iou.append(0.0 if empty and not corrected else 100 * np.mean(precisions))
    return np.array([np.mean(by_iou), *by_iou])


def _random_case(seed):
    """Smooth scores that often rise where the truth is; several segments a video, some past its end."""
    rng = np.random.default_rng(seed)
    probabilities, truths = [], []
    for number in range(6):
        rows, logits = int(rng.integers(2, 40)), None
        logits = np.cumsum(rng.normal(0, 0.7, (rows, 4)), axis=0)
        for _ in range(int(rng.integers(0, 3))):
            label, start = int(rng.integers(1, 4)), int(rng.integers(0, rows * 16))
            end = start + int(rng.integers(10, 200))
            truths.append(Truth(number, label, start, end))
            logits[start // 16 : end // 16 + 1, label] += 3
        if number == 5:
            truths.append(Truth(number, 0, 0, rows * 16))
        exponential = np.exp(logits)
        probabilities.append((exponential / exponential.sum(1, keepdims=True)).astype(np.float32))
    return probabilities, truths


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_direct_computation_over_frames_and_so_does_every_resample(seed):
    probabilities, truths = _random_case(seed)
    once = np.ones(len(probabilities), dtype=int)
    drawn = np.random.default_rng(seed).multinomial(len(once), once / len(once), size=3)
    official, corrected = _figures(probabilities, truths, [once, *drawn])
    assert corrected[0, 1] > 0, "the case must hold hits to say anything"
    for row, counts in enumerate([once, *drawn]):
        # The resample written out: a video drawn twice stands twice, with its truth.
        places = np.repeat(np.arange(len(counts)), counts)
        written = [Truth(new, t.label, t.start_frame, t.end_frame)
                   for new, old in enumerate(places) for t in truths if t.video == old]  # fmt: skip
        assert any(truth.label for truth in written)
        videos = [probabilities[place] for place in places]
        np.testing.assert_allclose(official[row], _reference(videos, written, False), rtol=1e-12)
        np.testing.assert_allclose(corrected[row], _reference(videos, written, True), rtol=1e-12)


def test_a_ucf_sized_test_set_takes_less_than_two_seconds():
    rng = np.random.default_rng(0)
    rows_V = np.maximum(1, rng.geometric(1 / 239, 290))
    probabilities_NK = rng.dirichlet(np.full(14, 0.3), int(rows_V.sum())).astype(np.float32)
    starts = rng.integers(0, rows_V[:140] * 16)
    truths = [
        Truth(video, 1 + video % 13, int(start), int(start) + 400) for video, start in enumerate(starts)
    ]
    begun = time.perf_counter()
    matches = match(probabilities_NK, rows_V, truths)
    figures = corrected_map(matches, np.ones((1, 290), dtype=np.int64))
    assert time.perf_counter() - begun < 2
    assert 0 < figures[0, 0] < 100
