"""Events: runs of snippets whose anomaly score is above a threshold, and how that threshold is found.

The threshold is read off the peaks (highest scores) of the normal validation videos, of which a chosen share
may be flagged. Training, evaluation and detection share this module.

Legend of shape suffixes: N snippets of one video, K classes, the first one normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vadclip.errors import InputError

MAX_FLAGGED_NORMAL = 0.05
"""Share of normal validation videos that may be flagged."""
FEW_VIDEOS = 20
"""Below that many normal validation videos, the share cannot be told from none at all."""
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Peak:
    """The highest anomaly score of one normal validation video."""

    video_id: str
    peak: float
    hours: float | None
    """Length of the video; None where its frame rate is not known."""


@dataclass(frozen=True)
class Threshold:
    """A score; snippets strictly above it are anomalous. What is known of its false alarms."""

    value: float
    flagged: int
    """Normal validation videos with a snippet above it."""
    videos: int
    """Normal validation videos in all."""
    hours: float | None
    """Of these videos together; None where the length of one is not known."""
    weak_because: tuple[str, ...]
    """What makes the figures less sure than they look."""

    @property
    def alarms_per_hour(self) -> float | None:
        """Flagged normal videos an hour of normal video; a video counts once, however many events it has."""
        return self.flagged / self.hours if self.hours else None

    @property
    def alarms_interval(self) -> tuple[float, float] | None:
        """95 % interval of `alarms_per_hour`."""
        return poisson_interval(self.flagged, self.hours) if self.hours else None


def poisson_interval(count: int, hours: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate, of which `count` were seen in `hours` (Garwood 1936)."""
    from scipy.stats import chi2

    tail = (1 - _CONFIDENCE) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    high = chi2.ppf(1 - tail, 2 * count + 2) / 2
    return float(low) / hours, float(high) / hours


def threshold_from_peaks(
    peaks: Sequence[Peak], *, selection: str, max_flagged: float = MAX_FLAGGED_NORMAL
) -> Threshold:
    """Return the lowest threshold, midway between two peaks, that flags at most a share of normal videos.

    Where not even one video may be flagged, and where peaks are equal, it is the highest of those that must
    not be. `selection` is the rule that picked the model's epoch. Raises InputError without peaks, or for a
    share outside [0, 1).
    """
    if not 0 <= max_flagged < 1:
        raise InputError(f"the share of flagged normal videos is {max_flagged:g}: give one from 0 to below 1")
    if not peaks:
        raise InputError(
            f"the model knows no normal validation videos (its epoch was picked by {selection!r}), so no "
            "threshold can be read off them: give one with --threshold"
        )
    falling = sorted((peak.peak for peak in peaks), reverse=True)
    allowed = int(max_flagged * len(falling) + 1e-9)
    value = (falling[allowed - 1] + falling[allowed]) / 2 if allowed else falling[0]
    weak = []
    if len(peaks) < FEW_VIDEOS:
        weak.append(f"there are only {len(peaks)} normal validation videos")
    if selection == "validation":
        weak.append("the model's epoch was picked on the same videos")
    hours = [peak.hours for peak in peaks if peak.hours is not None]
    return Threshold(
        value=value,
        flagged=sum(peak > value for peak in falling),
        videos=len(peaks),
        hours=sum(hours) if len(hours) == len(peaks) else None,
        weak_because=tuple(weak),
    )


@dataclass(frozen=True)
class Event:
    """Snippets [start, stop) of a video, all of them above the threshold but for gaps of one."""

    start: int
    stop: int
    peak: float
    """Highest score."""
    mean: float
    """Mean score, gaps included."""
    class_index: int | None
    """The most probable anomaly class over the event; None for a model without an alignment branch."""
    class_probability: float | None
    """Its mean probability over the event."""


def runs_above(score_N: npt.ArrayLike, threshold: float) -> list[tuple[int, int]]:
    """Return the maximal runs [start, stop) of snippets strictly above, a gap of one snippet closed."""
    above = np.flatnonzero(np.asarray(score_N) > threshold)
    if not len(above):
        return []
    last = np.flatnonzero(np.diff(above) > 2)  # within `above`, of each run but the final one
    starts = above[np.concatenate([[0], last + 1])]
    stops = above[np.concatenate([last, [len(above) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def find_events(
    score_N: npt.NDArray[np.floating],
    class_probabilities_NK: npt.NDArray[np.floating] | None,
    threshold: float,
) -> list[Event]:
    """Return a video's events in the order of time."""
    events = []
    for start, stop in runs_above(score_N, threshold):
        label = probability = None
        if class_probabilities_NK is not None:
            mean_K = class_probabilities_NK[start:stop].astype(np.float64).mean(axis=0)
            label = 1 + int(np.argmax(mean_K[1:]))
            probability = float(mean_K[label])
        scores = score_N[start:stop].astype(np.float64)
        events.append(Event(start, stop, float(scores.max()), float(scores.mean()), label, probability))
    return events
