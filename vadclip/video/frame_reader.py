"""Frames of a video by number: probing, and reading in bounded batches with decord or PyAV.

PyAV is the reference. decord shows damage otherwise, and does not tell: it gets a video only if PyAV has
decoded every picture of it before without a fault (`VideoInfo.intact`), its own seeking is right there
(`FrameIndex.simple`), it counts the same frames, and the video is not long. Both then deliver the same
pictures: native size, RGB, upright. decord is installed on Linux x86-64 only. See `frame_index` for how
frames are numbered.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadclip.errors import VideoError
from vadclip.video.container import decode, open_video, tables_apart
from vadclip.video.frame_index import FrameIndex, scan
from vadclip.video.orientation import Orientation
from vadclip.video.run import Run

# While nobody asks for the next batch, decord goes on decoding into memory, up to the video's end (measured:
# 5 GB of a 30-minute video of 320x240), and PyAV is as fast. So decord gets only videos that fit as a whole.
DECORD_MAX_BYTES = 2**28

# Frames further apart than this are each sought from the last key frame before them.
_FAR = 64


@dataclass(frozen=True)
class VideoInfo:
    """What ingest wants to know of a video."""

    num_frames: int
    """Frames that can be shown, counted."""
    fps: float
    """0 if the file does not say."""
    width: int
    height: int
    """As shown, turned."""
    intact: bool
    """Every picture was decoded without a fault, and decord may read it. Only short, ordinary videos are
    decoded to find out."""
    seekable: bool
    """Decoding can begin elsewhere than at the start."""


def probe(path: str | Path, *, decord_max_bytes: int = DECORD_MAX_BYTES) -> VideoInfo:
    """Count a video's frames: from the packets of an ordinary file, by decoding all frames of any other.

    Raises VideoError with a short reason if the file cannot be used.
    """
    index = scan(str(path))
    num_frames = index.num_frames
    if not index.ordered:
        with open_video(str(path)) as (container, stream):
            num_frames = sum(1 for _ in decode(container, stream))
    intact = _fits_decord(index, decord_max_bytes) and _decodes_whole(str(path), index)
    return VideoInfo(num_frames, index.fps, *index.shown_size, intact, index.seekable)


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    decoder: str = "decord",
    intact: bool = False,
    expected_frames: int | None = None,
    batch_frames: int = 32,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames numbered `indices` (ascending) as uint8 [n, H, W, 3], n <= batch_frames.

    The short form of FrameReader, which says more.
    """
    with FrameReader(path, decoder=decoder, intact=intact, expected_frames=expected_frames) as reader:
        yield from reader.read(indices, batch_frames=batch_frames)


class FrameReader:
    """One open video file.

    `decoder` ("decord" or "pyav") is what is wanted; `intact` is what `probe` found. The attribute `decoder`
    says what is used, and turns to "pyav" if decord fails on the way. Reading forward is cheap; reading
    backward, or far ahead, starts anew at a key frame well before, in a damaged stretch farther back, and in
    damaged H.264 at the file's start, from where the reader then only goes on. What is shown depends neither
    on the decoder nor on where reading begins. Raises VideoError if the file cannot be used or no longer
    holds `expected_frames` frames.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        decoder: str = "decord",
        intact: bool = False,
        expected_frames: int | None = None,
        decord_max_bytes: int = DECORD_MAX_BYTES,
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
        self.lost = 0
        """After a `read`: for how many of the frames [since, until) no picture was decoded."""
        self._run: Run | None = None
        self._unfit: set[int] = set()  # entries at which decoding cannot begin
        trusted = decoder == "decord" and intact and _fits_decord(self.index, decord_max_bytes)
        self._decord: Any = self._open_decord() if trusted else None
        self.decoder = "decord" if self._decord is not None else "pyav"

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._decord = None
        self._close_run()

    def read(
        self,
        indices: Sequence[int],
        *,
        batch_frames: int,
        since: int | None = None,
        until: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames numbered `indices` (ascending) as uint8 [n, H, W, 3], n <= batch_frames.

        A number that the decoder never delivers (damage) shows the frame before it, as a player does; numbers
        past the last frame are left out. With `since`, all frames from there on are decoded, as one pass from
        the start would, and `lost` tells how many could not be. Without, those far between two that are asked
        for are not, and damage that no decoder tells may show otherwise. Reads on up to frame
        `until` (exclusive; default: just past the last index), so that `reached` then tells where the video
        ends. `beat` is called as frames are decoded. A change of the picture's size starts a new batch, of
        fewer frames where they are larger than the first: no batch but of one frame takes more memory than
        `batch_frames` frames of that size.
        """
        assert all(a < b for a, b in pairwise(indices)), "indices must rise"
        until = until if until is not None else (indices[-1] + 1 if len(indices) else 0)
        first = since if since is not None else indices[0] if len(indices) else until
        assert first <= min(until, *indices[:1])
        self.lost, done = 0, 0
        if self._decord is not None:
            for batch in self._read_decord(indices, batch_frames):
                done += len(batch)
                yield batch
                beat()
            self.reached = min(until, self.index.num_frames)
        if self._decord is None:
            pictures = self._pictures(indices[done:], first, until, beat, all_frames=since is not None)
            most_bytes = batch_frames * 3 * self.index.width * self.index.height
            for batch in _batches(pictures, batch_frames, most_bytes):
                yield batch
                beat()

    def _open_decord(self) -> Any:
        if importlib.util.find_spec("decord") is None:
            return None
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        try:
            with tables_apart():
                video = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            return None
        # decord would wait for ever for frames that only a header promises.
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

    def _pictures(
        self, indices: Sequence[int], since: int, until: int, beat: Callable[[], None], *, all_frames: bool
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures of `indices` one by one, with PyAV; count what is lost of [since, until)."""
        wanted = list(reversed(indices))
        run = self._run_to(since, beat, settled=all_frames)
        seen = sought = since  # frames before `seen` are counted
        while True:
            self.lost += max(0, min(run.number, until) - seen)
            seen = max(seen, run.position)
            while wanted and wanted[-1] < run.position:
                yield run.picture(wanted.pop())
            if run.ended or (not wanted and run.position >= until):
                break
            if not all_frames and wanted and wanted[-1] > max(run.position + _FAR, sought):
                sought = wanted[-1]
                run = self._run_to(sought, beat, settled=False)
                seen = max(seen, run.low)
                continue
            run.advance()
            if run.astray or (run.faulty and not run.settled):
                self._leave(run)
                run = self._run_to(seen, beat, settled=True)
                while run.position <= seen and run.advance():
                    pass
        self.reached = min(run.position, until)

    def _run_to(self, number: int, beat: Callable[[], None], *, settled: bool) -> Run:
        """Return a decoder that comes by frame `number` next, by the shortest way there is."""
        run = self._run
        if run is not None and (run.low > number or (settled and not run.settled)):
            self._close_run()
            run = None
        # In a damaged file a settled decoder goes on: an unsettled one may have to come back to this place.
        goes_on = run is not None and run.settled and not settled and bool(self._unfit)
        for entry in () if goes_on else self._entries_up_to(self.index.entry_for(number, settled=settled)):
            if run is not None and entry <= run.position:
                break
            ahead = Run(self.path, self.index, entry, beat)
            fit = ahead.begins()
            while fit and settled and not ahead.settled:
                fit = ahead.advance() and not ahead.faulty
            if fit:
                self._close_run()
                self._run = ahead
                return ahead
            ahead.close()
            self._unfit.add(entry)
        if run is None:
            run = self._run = Run(self.path, self.index, 0, beat)
        run.beat = beat
        return run

    def _leave(self, run: Run) -> None:
        self._unfit.update(self.index.entries if run.astray else (run.entry,))
        self._close_run()

    def _close_run(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None

    def _entries_up_to(self, number: int) -> Iterator[int]:
        """Yield fit entries backward, ever further apart: in a damaged stretch there may be many bad ones."""
        entries, step = self.index.entries, 1
        at = int(np.searchsorted(entries, number, "right")) - 1
        while at >= 0 and entries[at] > 0:
            if int(entries[at]) in self._unfit:
                at -= 1
                continue
            yield int(entries[at])
            at -= step
            step *= 2


def _fits_decord(index: FrameIndex, max_bytes: int) -> bool:
    plain = index.simple and index.orientation == Orientation()
    return plain and 3 * index.width * index.height * index.num_frames <= max_bytes


def _decodes_whole(path: str, index: FrameIndex) -> bool:
    """Whether every picture can be decoded without a fault, and is one that decord shows as PyAV does."""
    faults: list[object] = []
    kinds: set[object] = set()
    times: list[int | None] = []
    with open_video(path) as (container, stream):
        for frame in decode(container, stream, faults.append):
            if faults:
                return False
            times.append(frame.pts)
            kinds.add((frame.width, frame.height, frame.format.name, frame.interlaced_frame))
    formats = {"yuv420p", "yuvj420p"}
    usual = {(index.width, index.height, name, False) for name in formats}
    return not faults and len(kinds) == 1 and kinds <= usual and times == index.pts.tolist()


def _batches(
    pictures: Iterator[NDArray[np.uint8]], batch_frames: int, most_bytes: int
) -> Iterator[NDArray[np.uint8]]:
    batch: list[NDArray[np.uint8]] = []
    for picture in pictures:
        full = len(batch) == batch_frames or (len(batch) + 1) * picture.nbytes > most_bytes
        if batch and (full or batch[0].shape != picture.shape):
            yield np.stack(batch)
            batch = []
        batch.append(picture)
    if batch:
        yield np.stack(batch)
