"""What a dataset hands to ingest: its videos as annotated, before any of their files is opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vadclip.labels import Classes
from vadclip.manifest import Segment


@dataclass(frozen=True)
class RawVideo:
    """A video as the dataset describes it."""

    uri: str
    """Relative to the dataset's root, or absolute, or remote. With official features: what the video's crop
    files begin with, up to `__<crop>.npy`."""
    labels: tuple[str, ...]
    split: str
    """train, val or test."""
    segments: tuple[Segment, ...]
    """What happens when, in frames, half-open; ingest keeps those of test videos only."""
    video_id: str
    """Unique, safe as a file name, the same on every machine."""
    source_id: str
    """Videos of one source never stand on both sides of the train/val cut."""
    spans: tuple[tuple[int, int], ...] | None = None
    """Frame truth where it differs from the segments, as on XD-Violence; None: the union of the segments."""
    origin: str = ""
    """Where the user finds this video's entry, such as `row 7`; error messages begin with it."""


@dataclass(frozen=True)
class RawDataset:
    """A dataset's videos, in any order, and its classes."""

    name: str
    classes: Classes
    videos: tuple[RawVideo, ...]
    problems: Mapping[str, str] = field(default_factory=dict)
    """Bad rows, origin -> what is wrong: ingest adds what only the files can show, then stops with all."""
    may_overrun: bool = False
    """Segments may end behind the last frame, as some official annotations do; otherwise that is a bad
    row."""
    notes: tuple[str, ...] = ()
    """What the user should know though nothing is wrong."""
