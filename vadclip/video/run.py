"""One decoder (PyAV) going forward through a file from an entry, and what went wrong on its way."""

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vadclip.video.container import decode, open_video
from vadclip.video.frame_index import FrameIndex
from vadclip.video.nal import NalStream

# Decoded frames between two signs of life, where no frame is asked for.
_BEAT_FRAMES = 256
_MAX_LATE = 16  # frames that H.264 reorders; damage can bring one of them late


class Run:
    """Frames of a file in the order in which they are shown, from frame `entry` on.

    `entry` is 0 or a number of `index.entries`; of these, `begins` must be asked first.
    """

    def __init__(self, path: str, index: FrameIndex, entry: int, beat: Callable[[], None]) -> None:
        self.entry, self.beat = entry, beat
        self.number = -1
        """The frame that was decoded last; at an ordered file's end one more than there are."""
        self.low = 0
        """Frames from this number up to `number` can be shown; those between were not decoded."""
        self.position = 0
        """All frames before this number were decoded or passed over."""
        self.faulty = False
        """Whether anything went wrong since `entry`."""
        self.settled = entry == 0
        """Whether all from here on is shown as by a decoder that came from the start."""
        self.astray = False
        """Whether that is no longer so. What H.264's decoder shows for a damaged picture depends on pictures
        of any age: the filter over its block edges reads memory that is not cleared."""
        self.ended = False
        self._index = index
        self._settles_at = index.settles_at(entry)
        self._current: VideoFrame | None = None
        self._before: VideoFrame | None = None
        self._to_rgb = VideoReformatter()
        self._decoded_count = 0
        self._waiting: list[tuple[int, int, VideoFrame]] = []
        self._file = ExitStack()
        container, stream = self._file.enter_context(open_video(path))
        self._units = NalStream.of(stream.codec_context)
        # So many later frames are looked at before a number is given up.
        self._late = _MAX_LATE if stream.codec_context.name == "h264" else 1
        if entry > 0:
            container.seek(int(index.pts[entry]), stream=stream)
        self._decoded: Iterator[VideoFrame] = decode(container, stream, self._note_fault)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def begins(self) -> bool:
        """Go to the entry, past frames shown before it, and say whether decoding can begin there.

        A container may land on a later key frame than asked for, and the key frame may be damaged.
        """
        while self.number < self.entry and self.advance():
            pass
        self._before, self.low = None, self.entry
        is_key = self._current is not None and self._current.pict_type == PictureType.I
        return self.number == self.entry and is_key and not self.faulty

    def advance(self) -> bool:
        """Go on by one frame; False at the end."""
        waiting = self._waiting
        while waiting and waiting[0][0] < self.position:
            heapq.heappop(waiting)
        while not waiting or (waiting[0][0] > self.position >= self.entry and len(waiting) < self._late):
            frame = next(self._decoded, None)
            if frame is None:
                break
            number = self._number_of(frame)
            if number is not None and number >= self.position:
                heapq.heappush(waiting, (number, self._decoded_count, frame))
            self._decoded_count += 1
            if self._decoded_count % _BEAT_FRAMES == 0:
                self.beat()
        if waiting:
            number, _, frame = heapq.heappop(waiting)
            self.faulty |= number > self.position >= self.entry
            self._step(frame, number, number + 1)
            self.settled |= not self.faulty and self._settles_at is not None and number >= self._settles_at
            return True
        if not self.ended and self._index.ordered:
            self.faulty |= self.position < self._index.num_frames
            self._step(None, self._index.num_frames, self._index.num_frames)
        self.ended = True
        return False

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Return frame `number`, or the one shown in its place, as uint8 [H, W, 3], upright.

        That is the one before it; of the first ones the one after them.
        """
        assert self.low <= number < self.position, (self.low, number, self.position)
        held = self._current if number == self.number else self._before or self._current
        assert held is not None
        # One reformatter for all frames: making one takes longer than using it.
        rgb = self._to_rgb.reformat(held, format="rgb24", threads=1).to_ndarray()
        return self._index.orientation.apply(np.asarray(rgb, np.uint8))

    def _step(self, frame: VideoFrame | None, number: int, position: int) -> None:
        self.low = self.number + 1
        self._before, self._current = self._current, frame
        self.number, self.position = number, position

    def _number_of(self, frame: VideoFrame) -> int | None:
        if not self._index.ordered:
            return self.position
        if frame.pts is None:
            return None
        number = int(np.searchsorted(self._index.pts, frame.pts))
        return number if number < len(self._index.pts) and self._index.pts[number] == frame.pts else None

    def _note_fault(self, packet: "Packet[VideoStream]") -> None:
        if self.entry == 0:
            return
        if packet.pts is not None and packet.pts < self._index.pts[self.entry]:
            return  # a leading picture, shown before the entry
        if self._units is None or not packet.size or self._units.picture_type(bytes(packet)) is not None:
            self.faulty = True
            self.astray |= self.settled and self._units is not None and not self._units.hevc
