"""Every figure of metrics.json and figures.json, from scores and manifest alone: no model, no GPU.

Frame figures (vadclip.md section 4): a snippet's score stands for its 16 frames, truth is `frame_spans`
clamped to rows * 16, aligned video by video (never by trimming a concatenation). They are computed per
snippet with the number of anomalous and normal frames behind it as weights, which equals scikit-learn on the
repeated frames.
- `auc`, `ap`: anomaly_score (classification branch).
- `align_auc`, `align_ap`: 1 - p(normal) (alignment branch).
- `ano_auc`: anomaly_score over the test videos with an anomalous frame.
- `auc_<class>`: anomaly_score over the class's videos and all normal videos; positive are the class's frames,
  so that another anomaly in those videos counts as negative.
- `map_*`: see detection.py, in percent.
- `zero_shot_*`: the same of the frozen CLIP alone, by its class probabilities.
- `gain_*`: the trained model's figure minus the zero-shot one, both on the same resamples.
- `event_*`: see event_figures.py. `false_alarms_per_hour`: events in normal test videos by their length.
A figure that is not defined is left out and named in `undefined`.

Legend of shape suffixes: N snippets of all test videos, V videos, K classes (0 is normal).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vadclip.errors import InputError
from vadclip.evaluate.bootstrap import Resamples, Statistic, ap_statistic, auc_statistic, ratio_statistic
from vadclip.evaluate.detection import IOU_THRESHOLDS, Truth, corrected_map, match, official_map
from vadclip.evaluate.event_figures import count_events
from vadclip.events import Event, Threshold, poisson_interval, threshold_from_peaks
from vadclip.frame_figures import Ints, frame_ap, frame_auc, frames_in_snippets, top_mean
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES, Manifest, Video
from vadclip.score.scores import Scores

GAINS = ("auc", "ap", "map_avg")
EVENTS = ("event_precision", "event_recall", "event_class_agreement", "false_alarms_per_hour")
HEADLINE = (
    *("auc", "ap", "ano_auc", "align_auc", "align_ap", "map_avg", "map_official_avg"),
    *(f"{prefix}_{name}" for prefix in ("zero_shot", "gain") for name in GAINS),
    *EVENTS,
)
"""The figures of metrics.json, beside counts; all others stand in figures.json."""


@dataclass(frozen=True)
class TestSet:
    """The scored test videos with their frame truth."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    videos: tuple[Video, ...]
    scores: Scores
    """Of `videos`, in their order."""
    positive_N: Ints
    """Anomalous frames per snippet, 0 to 16."""

    @property
    def negative_N(self) -> Ints:
        """Normal frames per snippet."""
        return SNIPPET_FRAMES - self.positive_N

    def auc_within(self, place: int) -> float | None:
        """Frame AUC of the main score within the video at `place`; None if its frames are of one kind."""
        rows = self.scores.rows(place)
        positive_T, negative_T = self.positive_N[rows], self.negative_N[rows]
        if not positive_T.any() or not negative_T.any():
            return None
        return frame_auc(self.scores.main_score_N[rows], positive_T, negative_T)

    @property
    def anomalous_share(self) -> float:
        """Share of frames that are anomalous; 0 where there are none at all."""
        return float(self.positive_N.sum() / max(1, SNIPPET_FRAMES * len(self.positive_N)))


@dataclass(frozen=True)
class Evaluation:
    """The figures and what a reader must know of them."""

    dataset: str
    classes: Classes
    metrics: Mapping[str, float]
    """Content of metrics.json, keys sorted: `HEADLINE` as far as defined, and counts."""
    by_iou: Mapping[str, float]
    """Detection mAP at each IoU: `map_0.1`, ..., `zero_shot_map_0.5`."""
    by_class: Mapping[str, float]
    """`auc_<class>`."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of each figure; empty if none were asked for."""
    undefined: Mapping[str, str]
    """Figures left out -> why."""
    excluded: Mapping[str, str]
    """Test videos without scores -> why."""
    untimed: tuple[str, ...]
    """Test videos taken as anomalous from first to last frame for lack of times."""
    test_selected: bool
    true_class_V: tuple[str, ...]
    """Label of each video; of several labels the predicted one if it is among them, else the first."""
    predicted_class_V: tuple[str, ...] | None
    """None without an alignment branch."""
    threshold: Threshold | None
    """What the events were found with; None if the model has none."""
    events_V: tuple[tuple[Event, ...], ...] | None
    """Events of each video; None without a threshold."""
    test_set: TestSet

    @property
    def all_figures(self) -> dict[str, float]:
        """Every figure by name, of metrics.json and figures.json."""
        return {**self.metrics, **self.by_iou, **self.by_class}

    def figures(self) -> dict[str, Any]:
        """Return the content of figures.json, in plain JSON types."""
        return {
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "iou": dict(self.by_iou),
            "class": dict(self.by_class),
            "undefined": dict(self.undefined),
        }


class _Figures:
    """Figures as they are found: each with its interval, or the reason why it is not defined."""

    def __init__(self, draws: Resamples | None) -> None:
        self._draws = draws
        self.values: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.undefined: dict[str, str] = {}
        self._statistics: dict[str, Statistic] = {}

    def leave_out(self, names: Iterable[str], reason: str) -> None:
        self.undefined |= dict.fromkeys(names, reason)

    def add(self, names: Sequence[str], values: npt.ArrayLike, statistic: Statistic) -> None:
        """Add figures that one statistic computes together, in the order of its last axis."""
        self.values |= dict(zip(names, np.ravel(values).tolist(), strict=True))
        self._statistics[names[0]] = statistic
        if self._draws:
            ends = np.reshape(self._draws.interval(statistic), (2, -1)).T
            self.intervals |= {
                name: (low, high) for name, (low, high) in zip(names, ends.tolist(), strict=True)
            }

    def add_rate(self, name: str, count: int, hours: float) -> None:
        self.values[name] = count / hours
        if self._draws:  # by the count's own distribution: a resample of no alarms has none
            self.intervals[name] = poisson_interval(count, hours)

    def add_gain(self, name: str) -> None:
        """Add what the trained figure `name` has over the zero-shot one; both came first in their `add`."""
        gain, zero_shot = f"gain_{name}", f"zero_shot_{name}"
        if missing := self.undefined.get(name) or self.undefined.get(zero_shot):
            self.undefined[gain] = missing
            return
        self.values[gain] = self.values[name] - self.values[zero_shot]
        if self._draws:
            ends = self._draws.interval(self._statistics[name], self._statistics[zero_shot])
            low, high = (np.ravel(end).tolist()[0] for end in ends)
            self.intervals[gain] = low, high


def evaluate(scores: Scores, manifest: Manifest, *, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Compute all figures of the test videos, with intervals from `resamples` draws (0: without intervals).

    A manifest without test videos has no figures, and `undefined` says so of each. Raises InputError if
    scores and manifest do not belong together, or if no test video has a score.

    >>> from vadclip.manifest import read_manifest
    >>> from vadclip.score.scores import read_scores
    >>> scores, manifest = read_scores("scores.parquet"), read_manifest("manifest.parquet")
    >>> evaluation = evaluate(scores, manifest, resamples=100)
    >>> low, high = evaluation.intervals["auc"]
    >>> low <= evaluation.metrics["auc"] <= high
    True
    """
    test_set = collect(scores, manifest)
    figures = _Figures(Resamples(len(test_set.videos), resamples, seed) if resamples else None)
    untimed = tuple(video.video_id for video in test_set.videos if video.untimed)
    threshold = events_V = None
    if test_set.videos:
        _add_frame_figures(figures, test_set, manifest)
        _add_detection(figures, test_set, manifest)
        for name in GAINS:
            figures.add_gain(name)
        threshold, events_V = _add_events(figures, test_set, manifest, untimed)
    else:
        figures.leave_out(HEADLINE, "the manifest has no test videos; give some the split test")
    excluded = {
        video.video_id: scores.info.excluded[video.video_id]
        for video in manifest.split("test")
        if video.video_id in scores.info.excluded
    }
    counts = {
        "videos_excluded": len(excluded),
        "untimed_videos": len(untimed),
        "test_selected": int(scores.info.test_selected),
        "lost_frames": sum(scores.info.lost_frames.get(video.video_id, 0) for video in test_set.videos),
    }
    predicted_V = predicted_classes(test_set.scores)
    by_class = {f"auc_{label}" for label in manifest.classes.labels[1:]}
    values = dict(sorted(figures.values.items()))
    return Evaluation(
        dataset=manifest.dataset,
        classes=manifest.classes,
        metrics=dict(sorted((counts | {name: values[name] for name in HEADLINE if name in values}).items())),
        by_iou={name: value for name, value in values.items() if name not in by_class.union(HEADLINE)},
        by_class={name: value for name, value in values.items() if name in by_class},
        intervals=dict(sorted(figures.intervals.items())),
        undefined=dict(sorted(figures.undefined.items())),
        excluded=excluded,
        untimed=untimed,
        test_selected=scores.info.test_selected,
        true_class_V=tuple(
            predicted if predicted in video.labels else video.labels[0]
            for video, predicted in zip(
                test_set.videos, predicted_V or [""] * len(test_set.videos), strict=True
            )
        ),
        predicted_class_V=predicted_V,
        threshold=threshold,
        events_V=events_V,
        test_set=test_set,
    )


def collect(scores: Scores, manifest: Manifest) -> TestSet:
    """Put the test videos' scores and frame truth side by side."""
    if scores.info.labels != manifest.classes.labels:
        raise InputError(
            f"the scores are of classes {', '.join(scores.info.labels)}, the manifest has "
            f"{', '.join(manifest.classes.labels)}; run the score stage again"
        )
    scored = set(scores.video_ids)
    test = manifest.split("test")
    unknown = [
        v.video_id for v in test if v.video_id not in scored and v.video_id not in scores.info.excluded
    ]
    if unknown:
        raise InputError(
            f"no scores for test video {unknown[0]} (of {len(unknown)}); run the score stage again"
        )
    videos = tuple(video for video in test if video.video_id in scored)
    if test and not videos:
        reasons = " ".join(f"{v.video_id}: {scores.info.excluded[v.video_id]}." for v in test[:3])
        raise InputError(f"none of the {len(test)} test videos has scores. {reasons} Mend or replace them")
    chosen = scores.select(video.video_id for video in videos)
    positive = [np.empty(0, np.int64)] + [
        frames_in_snippets(video.frame_spans, int(rows))
        for video, rows in zip(videos, chosen.rows_V, strict=True)
    ]
    return TestSet(videos, chosen, np.concatenate(positive))


def predicted_classes(scores: Scores) -> tuple[str, ...] | None:
    """Class of each video: argmax of softmax of the top-k means of class logits, as L_nce sees a video.

    None without an alignment branch.
    """
    logits_NK = scores.class_logits_NK
    if logits_NK is None:
        return None
    best = [int(np.argmax(top_mean(logits_NK[scores.rows(video)]))) for video in range(len(scores.rows_V))]
    return tuple(scores.info.labels[label] for label in best)


def _no_branch(branch: str) -> str:
    return f"the model has no {branch} branch (model.branches)"


def _add_frame_figures(figures: _Figures, test_set: TestSet, manifest: Manifest) -> None:
    scores = test_set.scores
    positive_N, negative_N = test_set.positive_N, test_set.negative_N

    def add(name: str, score_N: npt.NDArray[np.float32] | None, positive_N: Ints, negative_N: Ints) -> None:
        if not positive_N.any():
            figures.leave_out([name], "no positive frame in the test videos")
        elif not negative_N.any():
            figures.leave_out([name], "no negative frame in the test videos")
        elif score_N is None:
            figures.leave_out([name], _no_branch("alignment" if "align" in name else "classification"))
        else:
            by_ap = name.endswith("ap")
            metric, statistic = (frame_ap, ap_statistic) if by_ap else (frame_auc, auc_statistic)
            frames = (score_N, positive_N, negative_N)
            figures.add([name], metric(*frames), statistic(*frames, scores.video_N))

    anomalous_V = np.add.reduceat(positive_N, scores.offsets[:-1]) > 0
    for prefix, score_N in (
        ("", scores.anomaly_score_N),
        ("align_", scores.alignment_score_N),
        ("zero_shot_", scores.zero_shot_score_N),
    ):
        add(f"{prefix}auc", score_N, positive_N, negative_N)
        add(f"{prefix}ap", score_N, positive_N, negative_N)
    add("ano_auc", scores.anomaly_score_N, positive_N, negative_N * anomalous_V[scores.video_N])
    for label in manifest.classes.labels[1:]:
        add(f"auc_{label}", scores.anomaly_score_N, *class_frames(test_set, manifest, label))


def class_frames(test_set: TestSet, manifest: Manifest, label: str) -> tuple[Ints, Ints]:
    """Frames of a class per snippet, and the other frames of its videos and of all normal ones."""
    own, shown = [], []
    for video, rows in zip(test_set.videos, test_set.scores.rows_V.tolist(), strict=True):
        spans = [(s.start_frame, s.end_frame) for s in video.segments if s.label == label]
        own.append(frames_in_snippets(spans, rows))
        shown.append(bool(spans) or label in video.labels or video.labels == (manifest.classes.normal,))
    own_N = np.concatenate(own)
    return own_N, (SNIPPET_FRAMES - own_N) * np.array(shown)[test_set.scores.video_N]


def _add_detection(figures: _Figures, test_set: TestSet, manifest: Manifest) -> None:
    scores, truth = test_set.scores, detection_truth(test_set, manifest)
    once_RV = np.ones((1, len(test_set.videos)), dtype=np.int64)
    for branch, probabilities_NK, figured in (
        ("alignment", scores.class_probabilities_NK, {"map_official": official_map, "map": corrected_map}),
        ("zero-shot", scores.zero_shot_NK, {"zero_shot_map": corrected_map}),
    ):
        matches = [] if probabilities_NK is None else match(probabilities_NK, scores.rows_V, truth)
        for prefix, figure in figured.items():
            names = [f"{prefix}_{ending}" for ending in ("avg", *IOU_THRESHOLDS)]
            if not matches:
                figures.leave_out(names, _no_branch(branch))
            elif np.isnan(values := figure(matches, once_RV)[0]).any():
                figures.leave_out(names, "no anomalous segment in the test videos")
            else:
                figures.add(names, values, partial(figure, matches))


def _add_events(
    figures: _Figures, test_set: TestSet, manifest: Manifest, untimed: tuple[str, ...]
) -> tuple[Threshold | None, tuple[tuple[Event, ...], ...] | None]:
    """Add the event figures; return the threshold and each video's events, None without a threshold."""
    precision, recall, agreement, alarms = EVENTS
    info, videos, scores = test_set.scores.info, test_set.videos, test_set.scores
    if not info.normal_peaks:
        reason = "the model has no normal validation videos to read a threshold off"
        figures.leave_out(EVENTS, reason)
        return None, None
    threshold = threshold_from_peaks(info.normal_peaks, selection=info.selection)
    counts = count_events(videos, scores, manifest.classes, threshold.value)
    for name, over_V, under_V, missing in (
        (precision, counts.matched_V, counts.found_V, "no event in the test videos"),
        (recall, counts.matched_V, counts.truth_V, "no anomalous segment in the test videos"),
        (agreement, counts.agreed_V, counts.matched_V, "no event fits an annotated one"),
    ):
        if untimed:
            figures.leave_out([name], f"{len(untimed)} test videos are untimed")
        elif scores.class_probabilities_NK is None and name == agreement:
            figures.leave_out([name], _no_branch("alignment"))
        elif not under_V.any():
            figures.leave_out([name], missing)
        else:
            figures.add([name], over_V.sum() / under_V.sum(), ratio_statistic(over_V, under_V))
    normal_V = np.array([video.labels == (manifest.classes.normal,) for video in videos])
    lengths = [
        (video.num_frames, video.fps) for video, normal in zip(videos, normal_V, strict=True) if normal
    ]
    if not lengths:
        figures.leave_out([alarms], "no normal video among the test videos")
    elif not all(fps for _, fps in lengths):
        figures.leave_out([alarms], "the frame rate of a normal test video is not known")
    else:
        hours = sum(frames / fps for frames, fps in lengths if fps) / 3600
        figures.add_rate(alarms, int(counts.found_V[normal_V].sum()), hours)
    return threshold, counts.events_V


def detection_truth(test_set: TestSet, manifest: Manifest) -> list[Truth]:
    """Truth segments as annotated; a normal video is one of class normal, except on UCF-Crime."""
    truths = []
    for place, (video, rows) in enumerate(zip(test_set.videos, test_set.scores.rows_V.tolist(), strict=True)):
        for segment in video.segments:
            label = manifest.classes.index(segment.label)
            truths.append(Truth(place, label, segment.start_frame, segment.end_frame))
        if video.labels == (manifest.classes.normal,) and manifest.dataset != "ucf_crime":
            truths.append(Truth(place, 0, 0, rows * SNIPPET_FRAMES))
    return truths
