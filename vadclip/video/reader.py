"""Frames of a video by number: probing, and reading in bounded batches with decord or PyAV.

Both decoders deliver the same pictures: native size, RGB, rotation applied. decord is used where its own
seeking is right (`FrameIndex.simple`), it counts the same frames, and the video is not long; PyAV for every
other file. decord is installed on Linux x86-64 only. See `frame_index` for how frames are numbered.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from vadclip.errors import VideoError
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.video.frame_index import FrameIndex, decode, open_video, scan

__all__ = ["SNIPPET_FRAMES", "FrameReader", "VideoInfo", "probe", "read_frames"]

# While nobody asks for the next batch, decord goes on decoding into memory, up to the video's end (measured:
# 5 GB of a 30-minute video of 320x240), and PyAV is as fast. So decord gets only videos that fit as a whole.
DECORD_MAX_BYTES = 2**28

# How often a stretch of frames that nobody asked for reports that it is alive.
_BEAT_FRAMES = 256


@dataclass(frozen=True)
class VideoInfo:
    """What ingest wants to know of a video."""

    num_frames: int
    """Frames that can be shown, counted."""
    fps: float
    """0 if the file does not say."""
    width: int
    height: int
    """As shown, rotation applied."""


def probe(path: str | Path) -> VideoInfo:
    """Count a video's frames: from the packets of an ordinary file, by decoding all frames of any other.

    Raises VideoError with a short reason if the file cannot be used.
    """
    index = scan(str(path))
    num_frames = index.num_frames
    if not index.ordered:
        with open_video(str(path)) as (container, stream):
            num_frames = sum(1 for _ in decode(container, stream))
    turned = index.rotation % 2 == 1
    width, height = (index.height, index.width) if turned else (index.width, index.height)
    return VideoInfo(num_frames=num_frames, fps=index.fps, width=width, height=height)


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    decoder: str = "decord",
    expected_frames: int | None = None,
    batch_frames: int = 32,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames numbered `indices` (ascending) as uint8 [n, H, W, 3], n <= batch_frames.

    The short form of FrameReader, which says more.
    """
    with FrameReader(path, decoder=decoder, expected_frames=expected_frames) as reader:
        yield from reader.read(indices, batch_frames=batch_frames)


class FrameReader:
    """One open video file.

    `decoder` ("decord" or "pyav") is what is wanted; the attribute `decoder` says what is used, and turns to
    "pyav" if decord fails on the way. Reading forward is cheap, reading backward starts anew at a key frame.
    Raises VideoError if the file cannot be used or no longer holds `expected_frames` frames.
    """

    def __init__(
        self, path: str | Path, *, decoder: str = "decord", expected_frames: int | None = None
    ) -> None:
        assert decoder in ("decord", "pyav"), decoder
        self.path = str(path)
        self.index: FrameIndex = scan(self.path)
        if self.index.ordered and expected_frames not in (None, self.index.num_frames):
            raise VideoError(
                f"it has {self.index.num_frames} frames and the manifest says {expected_frames}: the file "
                "changed after ingest, which must run again"
            )
        self.reached = 0
        """After a `read`: how many of the frames [0, until) there are."""
        self._frames: _PyavFrames | None = None
        decoded_bytes = 3 * self.index.width * self.index.height * self.index.num_frames
        trusted = self.index.simple and decoded_bytes <= DECORD_MAX_BYTES
        self._decord: Any = self._open_decord() if decoder == "decord" and trusted else None
        self.decoder = "decord" if self._decord is not None else "pyav"

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._decord = None
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    def read(
        self,
        indices: Sequence[int],
        *,
        batch_frames: int,
        until: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames numbered `indices` (ascending) as uint8 [n, H, W, 3], n <= batch_frames.

        A number that the decoder never delivers (damage in mid-file) shows the frame before it, as a player
        does; numbers past the last frame are left out. Reads on up to frame `until` (exclusive; default: just
        past the last index), so that `reached` then tells where the video ends. `beat` is called as frames
        are decoded. A change of the picture's size starts a new batch, of fewer frames where they are larger
        than the first: no batch but of one frame takes more memory than `batch_frames` frames of that size.
        """
        assert all(a < b for a, b in pairwise(indices)), "indices must rise"
        until = until if until is not None else (indices[-1] + 1 if len(indices) else 0)
        done = 0
        if self._decord is not None:
            for batch in self._read_decord(indices, batch_frames):
                done += len(batch)
                yield batch
                beat()
            self.reached = min(until, self.index.num_frames)
        if self._decord is None:
            yield from self._read_pyav(indices[done:], batch_frames, until, beat)

    def _open_decord(self) -> Any:
        if importlib.util.find_spec("decord") is None:
            return None
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        try:
            video = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError):  # such as AV1
            return None
        # It would wait for ever for frames that only a header promises.
        return video if len(video) == self.index.num_frames else None

    def _read_decord(self, indices: Sequence[int], batch_frames: int) -> Iterator[NDArray[np.uint8]]:
        import decord

        indices = [index for index in indices if index < self.index.num_frames]
        for start in range(0, len(indices), batch_frames):
            try:
                batch = self._decord.get_batch(indices[start : start + batch_frames]).asnumpy()
            except (decord.DECORDError, RuntimeError, IndexError, StopIteration):
                self._decord, self.decoder = None, "pyav"
                return
            yield batch

    def _read_pyav(
        self, indices: Sequence[int], batch_frames: int, until: int, beat: Callable[[], None]
    ) -> Iterator[NDArray[np.uint8]]:
        start = indices[0] if len(indices) else max(0, until - 1)
        if self._frames is None or not self._frames.ready_for(start):
            self.close()
            self._frames = _PyavFrames(self.path, self.index, start)
        frames = self._frames
        wanted = list(reversed(indices))
        most_bytes = batch_frames * 3 * self.index.width * self.index.height
        batch: list[NDArray[np.uint8]] = []
        while True:
            while wanted and wanted[-1] < frames.position:
                picture = frames.picture(wanted.pop())
                full = len(batch) == batch_frames or (len(batch) + 1) * picture.nbytes > most_bytes
                if batch and (full or batch[0].shape != picture.shape):
                    yield np.stack(batch)
                    beat()
                    batch = []
                batch.append(picture)
            if not wanted and frames.position >= until:
                break
            if not frames.advance():
                break
            if frames.position % _BEAT_FRAMES == 0:
                beat()
        self.reached = min(frames.position, until)
        if batch:
            yield np.stack(batch)
            beat()


class _PyavFrames:
    """A decoder that stands somewhere in a file and goes forward frame by frame."""

    def __init__(self, path: str, index: FrameIndex, start: int) -> None:
        self._index = index
        entries = index.entries[index.entries <= start][::-1]
        # A container may land on a later key frame than asked for; then an earlier one is tried.
        for entry in [*entries[:3].tolist(), 0]:
            self.position = 0
            """All frames before this number were delivered or passed over."""
            self._number = -1
            self._current: VideoFrame | None = None
            self._before: VideoFrame | None = None
            self._file = ExitStack()
            container, stream = self._file.enter_context(open_video(path))
            if entry > 0:
                container.seek(int(index.pts[entry]), stream=stream)
            self._decoded: Iterator[VideoFrame] = decode(container, stream)
            if entry == 0 or self._begins_with(entry):
                return
            self.close()

    def close(self) -> None:
        self._file.close()

    def ready_for(self, start: int) -> bool:
        """Whether going forward from here is the best way to frame `start`."""
        if start < self.position:
            return False
        ahead = (self._index.entries > self.position) & (self._index.entries <= start)
        return not bool(np.any(ahead))

    def advance(self) -> bool:
        """Decode one more frame; False at the end."""
        for frame in self._decoded:
            number = self.position
            if self._index.ordered:
                if frame.pts is None:
                    continue
                number = int(np.searchsorted(self._index.pts, frame.pts))
                if number >= len(self._index.pts) or self._index.pts[number] != frame.pts:
                    continue
                if number < self.position:
                    continue
            self._before, self._current, self._number = self._current, frame, number
            self.position = number + 1
            return True
        return False

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Return frame `number`, or the one shown in its place, as uint8 [H, W, 3], upright."""
        held = self._before if number < self._number and self._before is not None else self._current
        assert held is not None
        rgb = np.asarray(held.to_ndarray(format="rgb24"), np.uint8)
        return np.ascontiguousarray(np.rot90(rgb, self._index.rotation)) if self._index.rotation else rgb

    def _begins_with(self, entry: int) -> bool:
        """Go to key frame `entry`, past frames shown before it that lack what they refer to."""
        while self.advance():
            if self._number >= entry:
                self._before = None
                assert self._current is not None
                return self._number == entry and self._current.pict_type == PictureType.I
        return False
