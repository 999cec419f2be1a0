"""Figures of several sides over one test set, their differences, and what can be said of them.

All sides see the same draws of videos (bootstrap with replacement), so a difference is paired. A side of
several runs, which differ in their seed, counts as one: its figure is the mean of theirs, and the draws go
over its runs as well. p comes from swapping the two sides video by video (two-sided, 1 is added above and
below); of a group, run by run with its partner, so that p speaks of the videos only and the interval of both.

Legend of shape suffixes: N snippets, V videos, R draws, S runs of a side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from vadclip.errors import InputError
from vadclip.evaluate.bootstrap import Floats, Ints, Statistic, ap_statistic, auc_statistic
from vadclip.evaluate.detection import ClassMatches, Truth, corrected_map, match
from vadclip.evaluate.metrics import TestSet, class_frames, detection_truth
from vadclip.manifest import Manifest, Video

DRAWS = 1000
MAIN = ("auc", "ap", "ano_auc", "map_avg")
MOVED = 10
_Z, _POWER_Z = 1.96, 0.84  # 95 % confidence, 80 % power


@dataclass(frozen=True)
class Side:
    """One or several runs of a model, scored on the same test videos."""

    name: str
    manifest: Manifest
    runs: tuple[TestSet, ...]
    frozen: bool = False
    """The CLIP alone, without training: it has neither a seed nor an epoch that was picked."""


@dataclass(frozen=True)
class Value:
    """One side's figure."""

    value: float
    low: float
    high: float
    sd: float | None
    """Standard deviation over its runs; None of a single one."""


@dataclass(frozen=True)
class Difference:
    """A side's figure minus that of the first side."""

    value: float
    low: float
    high: float
    p: float | None
    """None for a class."""
    videos_needed: int | None
    """About so many videos would show a difference of this size; None if none is in sight."""


@dataclass(frozen=True)
class Moved:
    """A test video on which a side orders frames better or worse than the first side does."""

    video_id: str
    labels: tuple[str, ...]
    before: float
    """Share of the pairs of an anomalous and a normal frame, one of them this video's, in the right order."""
    after: float


@dataclass(frozen=True)
class Against:
    """A side beside the first one."""

    name: str
    differences: Mapping[str, Difference]
    moved: tuple[Moved, ...]
    """The largest changes, largest first."""
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    dataset: str
    videos: int
    figures: tuple[str, ...]
    """Names in their order: those of `MAIN`, then `auc_<class>`; what is not defined is left out."""
    sides: Mapping[str, Mapping[str, Value]]
    """Side -> figure -> value; a side without an alignment branch has no mAP."""
    runs: Mapping[str, int]
    """Runs of each side."""
    against: tuple[Against, ...]
    notes: tuple[str, ...]


def compare(sides: Sequence[Side], *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare sides with the first of them.

    Raises InputError if their test sets differ, or if no figure is defined on them.
    """
    for other in sides[1:]:
        check_same_videos(sides[0], other)
    base, manifest = sides[0], sides[0].manifest
    videos = base.runs[0].videos
    frames = _frames(base.runs[0], manifest)
    rng = np.random.default_rng(seed)
    counts_RV = rng.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=draws)
    once_RV = np.ones((1, len(videos)), dtype=np.int64)
    values: dict[str, dict[str, Value]] = {}
    drawn: dict[str, dict[str, Floats]] = {}  # side -> figure -> value of each draw, of videos and runs
    steady: dict[str, dict[str, Floats]] = {}  # the same without draws of runs
    for side in sides:
        values[side.name], drawn[side.name], steady[side.name] = {}, {}, {}
        weights_RS = _run_weights(rng, len(side.runs), draws)
        per_run = [_statistics([run], manifest, frames) for run in side.runs]
        for name in per_run[0]:
            once_S = np.array([run[name](once_RV)[0] for run in per_run])
            if np.isnan(once_S).any():
                continue
            value_RS = np.stack([run[name](counts_RV) for run in per_run], axis=1)
            drawn[side.name][name] = np.einsum("rs,rs->r", weights_RS, value_RS)
            steady[side.name][name] = value_RS.mean(axis=1)
            sd = float(once_S.std(ddof=1)) if len(once_S) > 1 else None
            values[side.name][name] = Value(float(once_S.mean()), *_ends(drawn[side.name][name]), sd)
    names = dict.fromkeys((*MAIN, *frames))
    figures = tuple(name for name in names if any(name in found for found in values.values()))
    if not figures:
        raise InputError("no figure is defined: the test videos need anomalous and normal frames")
    swap_RV = rng.random((draws, len(videos))) < 0.5
    against = []
    for side in sides[1:]:
        there = [name for name in figures if name in values[base.name] and name in values[side.name]]
        p = _p_values(base, side, manifest, frames, [name for name in there if name in MAIN], swap_RV)
        differences = {}
        for name in there:
            value = values[side.name][name].value - values[base.name][name].value
            ends = _ends(drawn[side.name][name] - drawn[base.name][name])
            sd = float(np.nanstd(steady[side.name][name] - steady[base.name][name]))
            needed = _videos_needed(value, sd, len(videos))
            differences[name] = Difference(value, *ends, p.get(name), needed)
        moved = _moved(base, side, frames["auc"]) if "auc" in there else ()
        sentence = _sentence(base, side, values, differences)
        against.append(Against(side.name, differences, moved, sentence))
    return Comparison(
        dataset=manifest.dataset,
        videos=len(videos),
        figures=figures,
        sides=values,
        runs={side.name: len(side.runs) for side in sides},
        against=tuple(against),
        notes=tuple(_notes(sides)),
    )


def check_same_videos(one: Side, other: Side) -> None:
    """Raise InputError where the test sets differ in ids, contents, scored snippets, truth or classes."""
    pair = f"{one.name} and {other.name}"
    if one.manifest.classes.labels != other.manifest.classes.labels:
        raise InputError(f"{pair} have other classes: only equal test sets are compared")
    here, there = ({v.video_id: v for v in side.runs[0].videos} for side in (one, other))
    if apart := sorted(here.keys() ^ there.keys()):
        raise InputError(
            f"{pair} were not tested on the same videos: {_some(apart)} only on one side; score both on "
            "one manifest"
        )
    rows = [dict(zip(here, side.runs[0].scores.rows_V.tolist(), strict=True)) for side in (one, other)]
    for what, differ in (
        ("contents", [v for v in here if here[v].content_hash != there[v].content_hash]),
        ("numbers of snippets", [v for v in here if rows[0][v] != rows[1][v]]),
        ("truths", [v for v in here if _truth(here[v]) != _truth(there[v])]),
    ):
        if differ:
            raise InputError(
                f"{pair} were tested on other {what} of {_some(differ)}: only equal test sets are compared; "
                "run ingest, extract and score again on one state of the data"
            )


def _truth(video: Video) -> tuple[object, ...]:
    return video.labels, video.segments, video.frame_spans, video.untimed


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _frames(test_set: TestSet, manifest: Manifest) -> dict[str, tuple[Ints, Ints]]:
    """Return the anomalous and the normal frames per snippet of each frame figure that is defined."""
    positive_N, negative_N = test_set.positive_N, test_set.negative_N
    anomalous_V = np.add.reduceat(positive_N, test_set.scores.offsets[:-1]) > 0
    video_N = test_set.scores.video_N
    frames = {
        "auc": (positive_N, negative_N),
        "ap": (positive_N, negative_N),
        "ano_auc": (positive_N, negative_N * anomalous_V[video_N]),
    }
    for label in manifest.classes.labels[1:]:
        frames[f"auc_{label}"] = class_frames(test_set, manifest, label)
    return {name: kinds for name, kinds in frames.items() if all(kind_N.any() for kind_N in kinds)}


def _statistics(
    runs: Sequence[TestSet], manifest: Manifest, frames: Mapping[str, tuple[Ints, Ints]]
) -> dict[str, Statistic]:
    """Return each figure as a statistic over the videos of all `runs`, one run's after the other's."""
    count = len(runs[0].videos)
    score_N = np.concatenate([run.scores.main_score_N for run in runs])
    video_N = np.concatenate([run.scores.video_N + at * count for at, run in enumerate(runs)])
    found: dict[str, Statistic] = {}
    for name, kinds in frames.items():
        positive_N, negative_N = (np.tile(kind_N, len(runs)) for kind_N in kinds)
        statistic = ap_statistic if name == "ap" else auc_statistic
        found[name] = statistic(score_N, positive_N, negative_N, video_N)
    probabilities = [run.scores.class_probabilities_NK for run in runs]
    there = [one_NK for one_NK in probabilities if one_NK is not None]
    if len(there) == len(runs):
        truths = [
            Truth(truth.video + at * count, truth.label, truth.start_frame, truth.end_frame)
            for at, run in enumerate(runs)
            for truth in detection_truth(run, manifest)
        ]
        rows_V = np.concatenate([run.scores.rows_V for run in runs])
        found["map_avg"] = partial(_map_average, match(np.concatenate(there), rows_V, truths))
    return found


def _map_average(matches: Sequence[ClassMatches], counts_RV: Ints) -> Floats:
    return np.asarray(corrected_map(matches, counts_RV)[:, 0])


def _run_weights(rng: np.random.Generator, runs: int, draws: int) -> Floats:
    """Weights of a side's runs in each draw; they spread as the mean of so few runs truly does.

    Plain draws of S runs spread by (S - 1) / S too little, in variance.
    """
    if runs == 1:
        return np.ones((draws, 1))
    share_RS = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    weights_RS: Floats = 1 / runs + (share_RS - 1 / runs) * math.sqrt(runs / (runs - 1))
    return weights_RS


def _ends(value_R: Floats) -> tuple[float, float]:
    """The 95 % interval; a draw that does not define the figure (frames of one kind only) is left out."""
    low, high = np.nanpercentile(value_R, [2.5, 97.5])
    return float(low), float(high)


def _p_values(
    base: Side,
    side: Side,
    manifest: Manifest,
    frames: Mapping[str, tuple[Ints, Ints]],
    names: Sequence[str],
    swap_RV: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Return p of each figure's difference; the first of the rows looked at is the world as it is."""
    swap_RV = np.concatenate([np.zeros_like(swap_RV[:1]), swap_RV])
    first_R = np.concatenate([~swap_RV, swap_RV], axis=1).astype(np.int64)
    second_R = np.concatenate([swap_RV, ~swap_RV], axis=1).astype(np.int64)
    pairs = max(len(base.runs), len(side.runs))
    kept = {name: frames[name] for name in names if name in frames}
    difference = dict.fromkeys(names, np.zeros(len(swap_RV)))
    for at in range(pairs):
        pair = [base.runs[at % len(base.runs)], side.runs[at % len(side.runs)]]
        statistics = _statistics(pair, manifest, kept)
        for name in names:
            difference[name] = difference[name] + statistics[name](second_R) - statistics[name](first_R)
    found = {}
    for name, sum_R in difference.items():
        as_far = np.abs(sum_R[1:]) >= abs(sum_R[0]) - 1e-12
        found[name] = float((1 + as_far.sum()) / (1 + len(as_far)))
    return found


def _videos_needed(value: float, sd: float, videos: int) -> int | None:
    """How many videos show a difference of this size in four of five tests."""
    if abs(value) < 1e-12:
        return None
    needed = videos * ((_Z + _POWER_Z) * sd / abs(value)) ** 2
    return None if needed > 1000 * videos else max(2, round(needed))


def _moved(base: Side, side: Side, kinds: tuple[Ints, Ints]) -> tuple[Moved, ...]:
    before_V, after_V = _pair_shares(base, kinds), _pair_shares(side, kinds)
    order = np.argsort(-np.abs(after_V - before_V), kind="stable")[:MOVED]
    videos = base.runs[0].videos
    return tuple(
        Moved(videos[at].video_id, videos[at].labels, float(before_V[at]), float(after_V[at]))
        for at in order.tolist()
        if before_V[at] != after_V[at]
    )


def _pair_shares(side: Side, kinds: tuple[Ints, Ints]) -> Floats:
    """Of each video, the share of rightly ordered pairs of frames that go when the video goes."""
    count = len(side.runs[0].videos)
    counts_RV = np.concatenate([np.ones((1, count)), 1 - np.eye(count)]).astype(np.int64)
    shares = []
    for run in side.runs:
        video_N = run.scores.video_N
        auc_R = auc_statistic(run.scores.main_score_N, *kinds, video_N)(counts_RV)
        positive_V, negative_V = (np.bincount(video_N, kind_N, count) for kind_N in kinds)
        pairs_R = (counts_RV @ positive_V) * (counts_RV @ negative_V)
        right_R = np.where(pairs_R > 0, np.nan_to_num(auc_R), 0.0) * pairs_R
        shares.append((right_R[0] - right_R[1:]) / np.maximum(pairs_R[0] - pairs_R[1:], 1))
    share_V: Floats = np.mean(shares, axis=0)
    return share_V


def _sentence(
    base: Side,
    side: Side,
    values: Mapping[str, Mapping[str, Value]],
    differences: Mapping[str, Difference],
) -> str:
    """Better, worse, or cannot be told; by the dataset's own figure, where both sides have it."""
    own = "ap" if base.manifest.dataset == "xd_violence" else "auc"
    name = next((name for name in (own, *MAIN) if name in differences), None)
    if name is None:
        return f"{side.name} and {base.name} have no figure in common."
    found, count = differences[name], len(base.runs[0].videos)
    before, after = values[base.name][name].value, values[side.name][name].value
    measured = (
        f"{name} {shown(name, after)} against {shown(name, before)}, "
        f"{difference_shown(name, found)}, p = {found.p:.3f}"
    )
    videos = f"{count:,} test videos"
    certain = found.p is not None and found.p < 0.05 and (found.low > 0 or found.high < 0)
    if certain:
        word = "better" if found.value > 0 else "worse"
        return f"{side.name} is {word} than {base.name}: {measured}, {videos}."
    if found.videos_needed is None:
        takes = "No number of videos in sight would tell a difference this small."
    elif found.videos_needed <= count:
        takes = "It takes more videos or more seeds to tell."
    else:
        needed = int(float(f"{found.videos_needed:.2g}"))  # two digits are all that such an estimate has
        takes = f"It would take about {needed:,} videos to tell a difference of this size."
    return f"{side.name} and {base.name} cannot be told apart from {videos}: {measured}. {takes}"


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = []
    trained = [side for side in sides if not side.frozen]
    if picked := [s.name for s in trained if any(run.scores.info.test_selected for run in s.runs)]:
        notes.append(f"test-selected, so its figures are too good: {', '.join(picked)}")
    if single := [side.name for side in trained if len(side.runs) == 1]:
        notes.append(
            f"one run each: {', '.join(single)}; how much another seed would change is not in their intervals"
        )
    if several := [side.name for side in sides if len(side.runs) > 1]:
        notes.append(f"the values of {', '.join(several)} are means over the runs")
    return notes


def decimals(name: str) -> int:
    """Digits after the point: mAP is in percent."""
    return 1 if "map" in name else 3


def shown(name: str, value: float) -> str:
    """A figure as people read it."""
    return f"{value:.{decimals(name)}f}"


def difference_shown(name: str, found: Difference) -> str:
    """A difference with its interval, as people read it."""
    digits = decimals(name)
    return f"{found.value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
