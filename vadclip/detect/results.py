"""What became of each video of a run, as events.csv, events.json and a table on the terminal.

Legend of shape suffixes: N snippets of one video.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vadclip.detect.find import FoundEvent
from vadclip.detect.looks import Look
from vadclip.events import Threshold
from vadclip.files import write_text_atomic
from vadclip.remote import shown

MOST_ROWS = 40  # of the table on the terminal
_COLUMNS = (
    "video", "path", "start_seconds", "end_seconds", "start_frame", "end_frame", "class", "class_probability",
    "peak_score", "mean_score", "by",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One video of a run."""

    video_id: str
    location: str
    status: str
    """`ok` or `failed`."""
    note: str | None
    """Why it failed, or what is to be known of an ok one: too short, cut off."""
    num_frames: int
    fps: float
    """0 where it is not known."""
    score_N: npt.NDArray[np.float32] | None = None
    """Anomaly score; None of a video without rows."""
    look: Look | None = None
    """There with the score."""
    events: tuple[FoundEvent, ...] = ()

    @property
    def peak(self) -> float | None:
        """Highest anomaly score."""
        return None if self.score_N is None else float(self.score_N.max())

    @property
    def name(self) -> str:
        """The path or address, as people may see it."""
        return shown(self.location)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write a row per event, videos in order, events in order of time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results:
        for event in result.events:
            row = (result.video_id, result.name, *event_fields(event).values())
            writer.writerow("" if value is None else value for value in row)
    write_text_atomic(path, text.getvalue())


def write_json(results: Sequence[Result], about: Mapping[str, Any], path: Path) -> None:
    """Write `about` (the model, the threshold and what it means) and all videos with their events."""
    videos = [
        {
            "video": result.video_id,
            "path": result.name,
            "status": result.status,
            "note": result.note,
            "num_frames": result.num_frames,
            "fps": result.fps or None,
            "peak_score": None if result.peak is None else _rounded(result.peak),
            "events": [event_fields(event) for event in result.events],
        }
        for result in results
    ]
    write_text_atomic(path, json.dumps({**about, "videos": videos}, indent=2, ensure_ascii=False) + "\n")


def event_fields(event: FoundEvent) -> dict[str, Any]:
    """Return an event as files and servers tell it."""
    return {
        "start_seconds": event.start_seconds,
        "end_seconds": event.end_seconds,
        "start_frame": event.start_frame,
        "end_frame": event.end_frame,
        "class": event.label,
        "class_probability": None if event.probability is None else _rounded(event.probability),
        "peak_score": _rounded(event.peak),
        "mean_score": _rounded(event.mean),
        "by": event.by,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")  # a float32's digits


def print_table(results: Sequence[Result], console: Console) -> None:
    """Print events, the highest peaks first, at most `MOST_ROWS`."""
    found = [(result, event) for result in results for event in result.events]
    if not found:
        return
    ranked = sorted(found, key=lambda pair: (-pair[1].peak, pair[0].video_id, pair[1].start_frame))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (("video", "left"), ("from", "right"), ("to", "right"), ("class", "left"),
                             ("p", "right"), ("peak", "right")):  # fmt: skip
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for result, event in ranked[:MOST_ROWS]:
        probability = "" if event.probability is None else f"{event.probability:.2f}"
        label = f"{event.label} (prompt)" if event.by == "prompt" else event.label
        cells = (result.video_id, clock(event.start_seconds), clock(event.end_seconds), label, probability)
        table.add_row(*(Text(cell) for cell in (*cells, f"{event.peak:.2f}")))
    console.print(table)
    if len(ranked) > MOST_ROWS:
        console.print(f"... and {len(ranked) - MOST_ROWS} more in events.csv")


def clock(seconds: float) -> str:
    """Write a time as players do: 0:07.2, 1:02:07.0."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else str(minutes)
    return f"{head}:{rest // 10:02d}.{rest % 10}"


def describe_threshold(threshold: float | Threshold) -> list[str]:
    """Say in lines where the threshold comes from, which false alarms go with it, and what weakens that."""
    if isinstance(threshold, float):
        return [f"Threshold {threshold:g}, as given; which false alarms go with it is not known."]
    lines = [
        f"Threshold {threshold.value:.4g}: {threshold.flagged} of {threshold.videos} normal validation "
        "videos have a score above it."
    ]
    rate, interval = threshold.alarms_per_hour, threshold.alarms_interval
    if rate is None or interval is None:
        lines.append("False alarms an hour are not known: not all validation videos say their frame rate.")
    else:
        lines.append(
            f"False alarms an hour on those videos: {rate:.2g} (95 % interval {interval[0]:.2g} to "
            f"{interval[1]:.2g}, from {threshold.hours:.2g} hours of them)."
        )
    return lines + [f"This is weaker than it looks: {reason}." for reason in threshold.weak_because]


def threshold_json(threshold: float | Threshold) -> Mapping[str, Any]:
    """Return what events.json says of the threshold."""
    if isinstance(threshold, float):
        return {"value": threshold, "given": True}
    return {
        "value": threshold.value,
        "given": False,
        "normal_videos": threshold.videos,
        "normal_videos_flagged": threshold.flagged,
        "normal_hours": threshold.hours,
        "false_alarms_per_hour": threshold.alarms_per_hour,
        "false_alarms_per_hour_interval": threshold.alarms_interval,
        "weak_because": threshold.weak_because,
    }
