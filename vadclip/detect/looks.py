"""What people see of a video: thumbnails, and at which second of its playing each snippet begins.

Both are kept by the file's content, so a second run opens no video again.

Legend of shape suffixes: N snippets.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vadclip.files import atomic_path, write_text_atomic
from vadclip.manifest import SNIPPET_FRAMES, Video
from vadclip.video.frame_reader import FrameReader
from vadclip.video.times import snippet_edges

MOST_THUMBNAILS = 60
_SNIPPETS_EACH = 3  # a thumbnail every two seconds of a short video
_WIDTH, _QUALITY = 192, 72
_LIST = "look.json"


@dataclass(frozen=True)
class Look:
    """Of one video."""

    edges: npt.NDArray[np.float64]
    """Seconds at which each snippet begins, and the last one ends: shape [N + 1]."""
    note: str | None
    """Where the file does not say its frames' times: what the seconds are then."""
    thumbnails: tuple[tuple[int, str], ...]
    """(frame number, file name) in order of time; the files lie in `folder`."""
    folder: Path


def look_folder(root: Path, content_hash: str) -> Path:
    """Where a video's thumbnails lie."""
    return root / content_hash[:16]


def look_at(path: str, folder: Path, video: Video, snippets: int) -> Look:
    """Return the look of a video whose file is at `path`, made now or before; `folder` is `look_folder`'s.

    `snippets` are those that have a score. Raises VideoError if the video cannot be read.
    """
    if (known := _read(folder)) is not None and len(known.edges) == snippets + 1:
        return known
    edges, note = snippet_edges(path, video, snippets)
    names = []
    with FrameReader(path) as reader:
        for frame in _choose(reader.index.entries, snippets):
            picture = next(iter(reader.read([frame], batch_frames=1)), None)
            if picture is None:
                break
            image = Image.fromarray(picture[0])
            image.thumbnail((_WIDTH, _WIDTH))
            name = f"{frame:08d}.jpg"
            with atomic_path(folder / name) as temporary:
                image.save(temporary, quality=_QUALITY)
            names.append((frame, name))
    content = {"edges": edges.tolist(), "note": note, "thumbnails": names}
    write_text_atomic(folder / _LIST, json.dumps(content))  # last: with it the folder is whole
    return Look(edges, note, tuple(names), folder)


def clear_others(root: Path, content_hashes: Iterable[str]) -> None:
    """Remove the looks of videos that are not among these."""
    wanted = {look_folder(root, content_hash).name for content_hash in content_hashes}
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name not in wanted:
            shutil.rmtree(folder, ignore_errors=True)


def _choose(entries: npt.NDArray[np.int64], snippets: int) -> list[int]:
    """Middle frames of equal parts, each moved back to a key frame of its part, which is cheap to decode."""
    count = min(MOST_THUMBNAILS, -(-snippets // _SNIPPETS_EACH))
    middles = ((np.arange(count) + 0.5) * snippets * SNIPPET_FRAMES / count).astype(np.int64)
    part = snippets * SNIPPET_FRAMES / count
    places = np.searchsorted(entries, middles, side="right") - 1
    chosen = [
        int(entries[place]) if place >= 0 and middle - entries[place] < part / 2 else int(middle)
        for middle, place in zip(middles, places, strict=True)
    ]
    return sorted(set(chosen))


def _read(folder: Path) -> Look | None:
    try:
        content = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        thumbnails = tuple((int(frame), str(name)) for frame, name in content["thumbnails"])
        return Look(np.array(content["edges"], dtype=np.float64), content["note"], thumbnails, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
