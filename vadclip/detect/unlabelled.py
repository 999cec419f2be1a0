"""A video of which nothing is known but its file."""

from dataclasses import dataclass

from vadclip.ingest.probe_cache import Probe
from vadclip.manifest import Video


@dataclass(frozen=True)
class Source:
    """One video to look at."""

    video_id: str
    """Folder and name joined by `__`, unique among the videos of a run."""
    location: str
    """Absolute path or address."""


def unlabelled(source: Source, probe: Probe) -> Video:
    """Return the row of a video of which nothing but the file is known."""
    return Video(
        video_id=source.video_id,
        uri=source.location,
        split="test",
        source_id=source.video_id,
        labels=(),
        segments=(),
        frame_spans=(),
        num_frames=0 if probe.error is not None else probe.num_frames,
        fps=probe.fps,
        width=probe.width,
        height=probe.height,
        bytes=probe.bytes,
        content_hash=probe.content_hash,
        probe_error=probe.error,
        intact=probe.intact,
        seekable=probe.seekable,
    )
