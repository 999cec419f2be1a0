"""How well the events that the detector would report fit the annotated ones.

The threshold is the one that detection takes, read off the peaks of normal validation videos. Truth is a
video's union of annotated spans, whatever their classes. Events take truth spans one to one, the event of the
highest peak first, each the free span of the highest IoU, if that is at least 0.5.

Legend of shape suffixes: V videos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vadclip.events import Event, find_events
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES, Video, frame_spans
from vadclip.score.scores import Scores

MIN_IOU = 0.5

Ints = npt.NDArray[np.int64]
Span = tuple[int, int]


@dataclass(frozen=True)
class EventCounts:
    """The events of V test videos, and counts of them, video by video."""

    events_V: tuple[tuple[Event, ...], ...]
    found_V: Ints
    """Events."""
    truth_V: Ints
    """Annotated spans."""
    matched_V: Ints
    """Events that took a span."""
    agreed_V: Ints
    """Of these, events whose class is one of those annotated where event and span overlap."""


def count_events(videos: Sequence[Video], scores: Scores, classes: Classes, threshold: float) -> EventCounts:
    """Find the events of `videos`, whose scores stand in `scores` in the same order, and match them."""
    events_V, counts_V4 = [], np.zeros((len(videos), 4), dtype=np.int64)
    probabilities_NK = scores.class_probabilities_NK
    for place, video in enumerate(videos):
        rows = scores.rows(place)
        events = find_events(
            scores.main_score_N[rows], None if probabilities_NK is None else probabilities_NK[rows], threshold
        )
        spans = frame_spans(video.frame_spans, int(scores.rows_V[place]) * SNIPPET_FRAMES)
        pairs = match_events(events, spans)
        agreed = sum(
            event.class_index is not None and classes.labels[event.class_index] in _labels(video, event, span)
            for event, span in pairs
        )
        events_V.append(tuple(events))
        counts_V4[place] = len(events), len(spans), len(pairs), agreed
    return EventCounts(tuple(events_V), *counts_V4.T)


def match_events(events: Sequence[Event], spans: Sequence[Span]) -> list[tuple[Event, Span]]:
    """Return each event of a video that takes a truth span, in frames, with that span."""
    free, pairs = list(spans), []
    for event in sorted(events, key=lambda event: -event.peak):
        best = max(free, key=lambda span: _iou(_frames(event), span), default=None)
        if best is not None and _iou(_frames(event), best) >= MIN_IOU:
            free.remove(best)
            pairs.append((event, best))
    return pairs


def _frames(event: Event) -> Span:
    return event.start * SNIPPET_FRAMES, event.stop * SNIPPET_FRAMES


def _overlap(one: Span, other: Span) -> Span:
    return max(one[0], other[0]), min(one[1], other[1])


def _iou(one: Span, other: Span) -> float:
    start, end = _overlap(one, other)
    shared = max(0, end - start)
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def _labels(video: Video, event: Event, span: Span) -> set[str]:
    shared = _overlap(_frames(event), span)
    shown = [
        (segment, _overlap((segment.start_frame, segment.end_frame), shared)) for segment in video.segments
    ]
    return {segment.label for segment, (start, end) in shown if start < end}
