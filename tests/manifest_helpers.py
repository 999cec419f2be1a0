"""Rows of a manifest, made up: nothing of them has to lie on a disk."""

from collections.abc import Iterable

from vadclip.labels import Classes
from vadclip.manifest import Manifest, Video

CLASSES = Classes(labels=("Normal", "Fire", "Theft"), prompts=("normal", "fire", "theft"))


def make_video(name: str, frames: int = 32, split: str = "train", **changes: object) -> Video:
    """A video of so many frames, normal unless `changes` say otherwise."""
    settings: dict = {
        "video_id": name, "uri": f"{name}.mp4", "split": split, "source_id": name, "labels": ("Normal",),
        "segments": (), "frame_spans": (), "num_frames": frames, "fps": 25.0, "width": 96, "height": 64,
        "bytes": 1, "content_hash": f"hash of {name}", "probe_error": None,
    }  # fmt: skip
    return Video(**(settings | changes))


def make_manifest(
    videos: Iterable[Video], classes: Classes = CLASSES, dataset: str = "table", source: str = "videos"
) -> Manifest:
    """A manifest of videos in any order."""
    return Manifest(dataset, source, classes, tuple(sorted(videos, key=lambda video: video.video_id)))
