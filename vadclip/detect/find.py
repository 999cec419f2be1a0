"""From scores to events with frames, seconds and words.

Legend of shape suffixes: N snippets of one video, K classes, 0 is normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vadclip.events import find_events, runs_above
from vadclip.manifest import SNIPPET_FRAMES

NO_CLASS = "anomaly"
"""What an event of a model without an alignment branch is called."""


@dataclass(frozen=True)
class FoundEvent:
    """Frames [start_frame, end_frame) in which something was found."""

    start_seconds: float
    """Presentation times."""
    end_seconds: float
    start_frame: int
    end_frame: int
    label: str
    """Most probable anomaly class over it; of a prompt's event the prompt's label."""
    probability: float | None
    """Mean of that class's probability; None without an alignment branch."""
    peak: float
    """Highest and, below, mean anomaly score; of a prompt's event they are of the prompt's probability."""
    mean: float
    by: Literal["score", "prompt"]


@dataclass(frozen=True)
class Rules:
    """When something counts as an event."""

    threshold: float
    """Of the anomaly score; an event lies strictly above."""
    prompt_threshold: float | None = None
    prompt_labels: tuple[str, ...] = ()
    """Labels whose probability above `prompt_threshold` makes events as well."""


def events_of(
    score_N: npt.NDArray[np.float32],
    probabilities_NK: npt.NDArray[np.float32] | None,
    labels: Sequence[str],
    edges: npt.NDArray[np.float64],
    rules: Rules,
) -> tuple[FoundEvent, ...]:
    """Return one video's events in order of time; `edges` [N + 1] are its snippets' seconds."""
    found: list[tuple[int, int, str, float | None, float, float, Literal["score", "prompt"]]] = []
    for event in find_events(score_N, probabilities_NK, rules.threshold):
        label = NO_CLASS if event.class_index is None else labels[event.class_index]
        place = event.start, event.stop
        found.append((*place, label, event.class_probability, event.peak, event.mean, "score"))
    if rules.prompt_threshold is not None and probabilities_NK is not None:
        for label in rules.prompt_labels:
            column_N = probabilities_NK[:, list(labels).index(label)]
            for start, stop in runs_above(column_N, rules.prompt_threshold):
                peak, mean = float(column_N[start:stop].max()), float(column_N[start:stop].mean())
                found.append((start, stop, label, mean, peak, mean, "prompt"))
    return tuple(
        FoundEvent(
            start_seconds=round(float(edges[start]), 3),
            end_seconds=round(float(edges[stop]), 3),
            start_frame=start * SNIPPET_FRAMES,
            end_frame=stop * SNIPPET_FRAMES,
            label=label,
            probability=probability,
            peak=peak,
            mean=mean,
            by=by,
        )
        for start, stop, label, probability, peak, mean, by in sorted(
            found, key=lambda event: (event[0], event[1], event[-1])
        )
    )
