"""From a unit of work to feature rows, with any encoder; where it runs is decided elsewhere.

`extract` decodes and resizes frames in a thread while the encoder works on the batch before. Importing this
module loads neither torch nor open_clip nor Ray.

A video's own fault (VideoError) makes a failure of that video, beside the rows of the others in the unit.
What may be the machine's fault is raised: another attempt may do better.

Legend of shape suffixes: N frames, H height, W width, C crops, R rows (snippets), D width of a feature.
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vadclip.errors import VideoError
from vadclip.extract.background import in_background
from vadclip.extract.failures import Failure
from vadclip.extract.units import Slice, Unit
from vadclip.extract.video_cache import FetchError, Held, VideoCache, default_cache
from vadclip.features.shards import Block
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.pool.work import Beat
from vadclip.remote import is_remote
from vadclip.video.frame_reader import FrameReader

_MIDDLE = 8  # the frame of a snippet's 16 that stands for it
_READ_BYTES = 32 * 2**20  # decoded frames of a batch
_QUEUED_BATCHES = 3  # resized ones waiting for the encoder


class Encoder(Protocol):
    """What turns frames into features; `clip.Clip` is one."""

    @property
    def image_size(self) -> int:
        """Side S of the crops in pixels."""

    @property
    def embed_dim(self) -> int:
        """Width D of a feature."""

    def encode_crops(
        self, frames_NHW3: NDArray[np.uint8], crops: Sequence[int], batch_images: int
    ) -> NDArray[np.float32]:
        """Return features_NCD of frames that `crops.resize_frames` resized."""


@dataclass
class Extracted:
    """What a unit gave; a worker's result."""

    blocks: list[Block] = field(default_factory=list)
    arrays: list[NDArray[np.float16]] = field(default_factory=list)
    """One [rows, D] per block."""
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))
    """Spent by phase: open, decode, resize in one thread; wait, encode in the other."""
    counts: dict[str, int] = field(default_factory=partial(defaultdict, int))
    """Frames decoded, images encoded, units done, and videos read with each decoder."""

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the time spent within to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


class OpenVideo:
    """Keeps the video read last open: the next slice of a long one then need not be looked up anew.

    A remote video is read from the cache that `make_cache` opens, and held there until `rest` or the next.
    """

    def __init__(self, decoder: str, make_cache: Callable[[], VideoCache] = default_cache) -> None:
        self._decoder, self._make_cache = decoder, make_cache
        self._reader: FrameReader | None = None
        self._key: tuple[str, str, int] | None = None
        self._held: Held | None = None

    def reader(self, part: Slice, beat: Beat = lambda amount: None) -> FrameReader:
        """Return the reader of a slice's video; raises VideoError if it cannot be read."""
        self.rest()  # no worker waits for a video while it holds another
        path, file = part.location, 0
        if is_remote(part.location):
            self._held = self._make_cache().hold(part.location, part.content_hash, beat)
            path, file = str(self._held.path), self._held.path.stat().st_ino
        key = (path, part.content_hash, file)
        if self._reader is None or self._key != key:
            self._close_reader()
            self._reader = FrameReader(
                path, decoder=self._decoder, intact=part.intact, expected_frames=part.num_frames
            )
            self._key = key
        return self._reader

    def rest(self) -> None:
        """Let a remote video be removed from the cache; if it is still there it need not be opened anew.

        The bytes of one that is removed stay on disk until another video is opened here.
        """
        if self._held is not None:
            self._held.release()
        self._held = None

    def close(self) -> None:
        """Close the video."""
        self._close_reader()
        self.rest()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._key = None


_Frames = tuple[int, NDArray[np.uint8]]
"""The number of a slice within its unit, and resized frames_NHW3 of it."""


@dataclass(frozen=True)
class _End:
    """How the reading of a slice ended."""

    reached: int = 0
    lost: int = 0
    error: VideoError | None = None


def extract(unit: Unit, encoder: Encoder, videos: OpenVideo, *, batch_images: int, beat: Beat) -> Extracted:
    """Return the rows of a unit, as blocks in the order of its slices and crops.

    `beat(images)` is called after each encoder batch, `beat(0)` as frames are decoded. The rows of a slice do
    not depend on the other slices: the encoder's batch has one size, and the last one is padded.
    """
    out = Extracted()
    # The number of frames whose crops fill whole batches.
    at_once = batch_images // math.gcd(batch_images, len(unit.crops))
    features: list[list[NDArray[np.float32]]] = [[] for _ in unit.slices]
    ends: list[_End] = []
    reading = in_background(_read_unit(unit, encoder.image_size, videos, out, ends, beat), _QUEUED_BATCHES)
    with closing(reading):
        for group in _groups(reading, at_once, out):
            with out.clock("encode"):
                frames_NHW3 = np.concatenate([frames_NHW3 for _, frames_NHW3 in group])
                features_NCD = encoder.encode_crops(frames_NHW3, unit.crops, batch_images)
            images, at = features_NCD.shape[0] * features_NCD.shape[1], 0
            for number, frames_NHW3 in group:
                features[number].append(features_NCD[at : at + len(frames_NHW3)])
                at += len(frames_NHW3)
            out.counts["images"] += images
            beat(images)
    none_NCD = np.empty((0, len(unit.crops), encoder.embed_dim), np.float32)
    for part, end, parts in zip(unit.slices, ends, features, strict=True):
        _finish_slice(part, end, np.concatenate([none_NCD, *parts]), unit.frames_per_snippet, out)
    return out


def frame_numbers(part: Slice, frames_per_snippet: int) -> range:
    """Frames of a slice that the encoder sees: the middle one of each snippet, or all."""
    first, stop = part.start * SNIPPET_FRAMES, part.stop * SNIPPET_FRAMES
    if frames_per_snippet == SNIPPET_FRAMES:
        return range(first, stop)
    return range(first + _MIDDLE, stop, SNIPPET_FRAMES)


def _read_unit(
    unit: Unit, image_size: int, videos: OpenVideo, out: Extracted, ends: list[_End], beat: Beat
) -> Generator[_Frames, None, None]:
    """Yield the frames of one slice after the other; note in `ends` how each ended."""
    from vadclip.clip.crops import resize_frames

    for number, part in enumerate(unit.slices):
        beat(0)
        try:
            with out.clock("open"):
                reader = videos.reader(part, beat)
            frame_bytes = 3 * reader.index.width * reader.index.height
            batches = reader.read(
                frame_numbers(part, unit.frames_per_snippet),
                batch_frames=min(64, max(1, _READ_BYTES // frame_bytes)),
                since=part.since_frame,
                until=part.until_frame,
                beat=lambda: beat(0),
            )
            while True:
                with out.clock("decode"):
                    frames_NHW3 = next(batches, None)
                if frames_NHW3 is None:
                    break
                with out.clock("resize"):
                    frames_NHW3 = resize_frames(frames_NHW3, image_size)
                yield number, frames_NHW3
            out.counts["frames"] += max(0, reader.reached - part.since_frame)
            out.counts[f"slices_{reader.decoder}"] += 1
            ends.append(_End(reader.reached, reader.lost))
        except VideoError as error:
            videos.close()
            ends.append(_End(error=error))
        except BaseException:
            videos.close()
            raise


def _groups(read: Iterator[_Frames], at_once: int, out: Extracted) -> Iterator[list[_Frames]]:
    """Cut what is read into groups of exactly `at_once` frames, the last one smaller."""
    group: list[_Frames] = []
    room = at_once
    while True:
        with out.clock("wait"):
            item = next(read, None)
        if item is None:
            break
        number, rest_NHW3 = item
        while len(rest_NHW3):
            group.append((number, rest_NHW3[:room]))
            rest_NHW3 = rest_NHW3[room:]
            room -= len(group[-1][1])
            if room == 0:
                yield group
                group, room = [], at_once
    if group:
        yield group


def _finish_slice(
    part: Slice, end: _End, features_NCD: NDArray[np.float32], frames_per_snippet: int, out: Extracted
) -> None:
    """Turn a slice's frame features into blocks, or into its failure."""
    # Only whole snippets count, even where the middle frame of a cut-off one was read.
    rows = max(0, min(part.stop, end.reached // SNIPPET_FRAMES) - part.start)
    C, D = features_NCD.shape[1:]
    whole_RFCD = features_NCD[: rows * frames_per_snippet].reshape(rows, frames_per_snippet, C, D)
    features_RCD = whole_RFCD.mean(axis=1).astype(np.float16)
    error = str(end.error) if end.error is not None else None
    if error is None and not np.isfinite(features_RCD).all():
        error = "its features are not finite: use clip.precision bf16 or fp32"
    if error is not None:
        # A missing file may come back; a file that cannot be decoded stays so until it changes.
        lasting = not isinstance(end.error, FetchError) and (
            is_remote(part.location) or os.path.exists(part.location)
        )
        out.failures.append(Failure(part.video_id, part.content_hash, error, lasting))
        return
    for position, crop in enumerate(part.crops):
        out.blocks.append(part.block(crop, rows=rows, frames=end.reached, lost=end.lost))
        out.arrays.append(features_RCD[:, position])
