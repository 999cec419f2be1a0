"""One row of the manifest: a video's annotation and what its file says, together."""

from vadclip.datasets.raw import RawVideo
from vadclip.ingest.probe_cache import Probe
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES, Segment, Video, frame_spans


def is_untimed(video: RawVideo, classes: Classes) -> bool:
    """Whether an anomalous test video does not say when its anomaly happens."""
    anomalous = any(label != classes.normal for label in video.labels)
    return video.split == "test" and anomalous and not (video.segments or video.spans)


def video_row(video: RawVideo, probe: Probe, classes: Classes) -> Video:
    """Return the manifest's row of a video, from its annotation and what its file says."""
    num_frames = 0 if probe.error is not None else probe.num_frames
    untimed = is_untimed(video, classes)
    segments = video.segments if video.split == "test" else ()
    if untimed and num_frames:
        segments = tuple(Segment(0, num_frames, label) for label in video.labels if label != classes.normal)
    spans = video.spans if video.split == "test" else ()
    if spans is None or untimed:
        spans = tuple((part.start_frame, part.end_frame) for part in segments)
    return Video(
        video_id=video.video_id,
        uri=video.uri,
        split=video.split,
        source_id=video.source_id,
        labels=video.labels,
        segments=segments,
        frame_spans=frame_spans(spans, num_frames // SNIPPET_FRAMES * SNIPPET_FRAMES),
        num_frames=num_frames,
        fps=probe.fps,
        width=probe.width,
        height=probe.height,
        bytes=probe.bytes,
        content_hash=probe.content_hash,
        probe_error=probe.error,
        untimed=untimed,
        intact=probe.intact,
        seekable=probe.seekable,
    )
