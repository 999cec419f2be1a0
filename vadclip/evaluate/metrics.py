"""Every figure of metrics.json, from scores and manifest alone: no model, no GPU, no network.

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
A figure that is not defined is left out and named in `undefined`.

Legend of shape suffixes: N snippets of all test videos, V videos, K classes (0 is normal).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from vadclip.errors import InputError
from vadclip.evaluate.bootstrap import Resamples, ap_statistic, auc_statistic
from vadclip.evaluate.detection import IOU_THRESHOLDS, Truth, corrected_map, match, official_map
from vadclip.frame_figures import Ints, frame_ap, frame_auc, frames_in_snippets, top_mean
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES, Manifest, Video
from vadclip.score.table import Scores


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


@dataclass(frozen=True)
class Evaluation:
    """The figures and what a reader must know of them."""

    dataset: str
    classes: Classes
    metrics: Mapping[str, float]
    """Content of metrics.json, keys sorted."""
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
    test_set: TestSet


@dataclass(frozen=True)
class _Frames:
    """One frame figure's material; without scores where the model lacks the branch."""

    branch: str
    score_N: npt.NDArray[np.float32] | None
    positive_N: Ints
    negative_N: Ints

    def missing(self) -> str | None:
        if not self.positive_N.any():
            return "no positive frame in the test videos"
        if not self.negative_N.any():
            return "no negative frame in the test videos"
        return _no_branch(self.branch) if self.score_N is None else None


def _no_branch(branch: str) -> str:
    return f"the model has no {branch} branch (model.branches)"


def evaluate(scores: Scores, manifest: Manifest, *, resamples: int, seed: int) -> Evaluation:
    """Compute all figures of the test videos, with intervals from `resamples` draws (0: without intervals).

    Raises InputError if scores and manifest do not belong together or no test video has a score.
    """
    test_set = collect(scores, manifest)
    draws = Resamples(len(test_set.videos), resamples, seed) if resamples else None
    metrics: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name, frames in _frame_figures(test_set, manifest).items():
        reason = frames.missing()
        if reason:
            undefined[name] = reason
            continue
        assert frames.score_N is not None
        is_ap = name in ("ap", "align_ap")
        metrics[name] = (frame_ap if is_ap else frame_auc)(
            frames.score_N, frames.positive_N, frames.negative_N
        )
        if draws:
            statistic = (ap_statistic if is_ap else auc_statistic)(
                frames.score_N, frames.positive_N, frames.negative_N, test_set.scores.video_N
            )
            low, high = draws.interval(statistic)
            metrics |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    _detection_figures(test_set, manifest, draws, metrics, undefined)
    excluded = {
        video.video_id: scores.info.excluded[video.video_id]
        for video in manifest.split("test")
        if video.video_id in scores.info.excluded
    }
    predicted_V = predicted_classes(test_set.scores)
    untimed = tuple(video.video_id for video in test_set.videos if video.untimed)
    metrics |= {
        "videos_excluded": len(excluded),
        "untimed_videos": len(untimed),
        "test_selected": int(scores.info.test_selected),
    }
    return Evaluation(
        dataset=manifest.dataset,
        classes=manifest.classes,
        metrics=dict(sorted(metrics.items())),
        undefined=dict(sorted(undefined.items())),
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
    if not videos:
        raise InputError(
            "no test video has scores, so there is nothing to evaluate; give videos the split test"
        )
    chosen = scores.select(video.video_id for video in videos)
    positive = [
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


def _frame_figures(test_set: TestSet, manifest: Manifest) -> dict[str, _Frames]:
    scores, videos = test_set.scores, test_set.videos
    positive_N, negative_N = test_set.positive_N, test_set.negative_N
    classification = partial(_Frames, "classification", scores.anomaly_score_N)
    alignment = partial(_Frames, "alignment", scores.alignment_score_N)
    anomalous_V = np.add.reduceat(positive_N, scores.offsets[:-1]) > 0
    figures = {
        "auc": classification(positive_N, negative_N),
        "ap": classification(positive_N, negative_N),
        "ano_auc": classification(positive_N, negative_N * anomalous_V[scores.video_N]),
        "align_auc": alignment(positive_N, negative_N),
        "align_ap": alignment(positive_N, negative_N),
    }
    normal = manifest.classes.normal
    for label in manifest.classes.labels[1:]:
        name = f"auc_{label}"
        if name in ("auc_low", "auc_high"):
            raise InputError(f"class label {label!r} makes {name} ambiguous; rename it in dataset.classes")
        own = [
            frames_in_snippets(
                [(s.start_frame, s.end_frame) for s in video.segments if s.label == label], rows
            )
            for video, rows in zip(videos, scores.rows_V.tolist(), strict=True)
        ]
        shown_V = np.array(
            [
                video.labels == (normal,)
                or label in video.labels
                or any(s.label == label for s in video.segments)
                for video in videos
            ]
        )
        own_N = np.concatenate(own)
        figures[name] = classification(own_N, (SNIPPET_FRAMES - own_N) * shown_V[scores.video_N])
    return figures


def _detection_figures(
    test_set: TestSet,
    manifest: Manifest,
    draws: Resamples | None,
    metrics: dict[str, float],
    undefined: dict[str, str],
) -> None:
    endings = ("avg", *map(str, IOU_THRESHOLDS))
    probabilities_NK = test_set.scores.class_probabilities_NK
    if probabilities_NK is None:
        names = [f"{prefix}_{ending}" for prefix in ("map_official", "map") for ending in endings]
        undefined |= dict.fromkeys(names, _no_branch("alignment"))
        return
    matches = match(probabilities_NK, test_set.scores.rows_V, detection_truth(test_set, manifest))
    once_RV = np.ones((1, len(test_set.videos)), dtype=np.int64)
    for prefix, figure in (("map_official", official_map), ("map", corrected_map)):
        values = figure(matches, once_RV)[0]
        names = [f"{prefix}_{ending}" for ending in endings]
        if np.isnan(values).any():
            undefined |= dict.fromkeys(names, "no anomalous segment in the test videos")
            continue
        metrics |= dict(zip(names, values.tolist(), strict=True))
        if draws:
            low, high = draws.interval(partial(figure, matches))
            for name, lowest, highest in zip(names, low.tolist(), high.tolist(), strict=True):
                metrics |= {f"{name}_low": lowest, f"{name}_high": highest}


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
