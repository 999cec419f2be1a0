"""What a video file really holds: frames counted and numbered from its packets, never from a header's word.

Frames are numbered from 0 in the order in which they are shown. In an ordinary file that number is the rank
of the packet's presentation time among the packets that hold a picture, which reading the packets (no
decoding) gives; the first frames are decoded to see whether it is such a file. In other files (time stamps
missing or repeated, AVI, two packets a frame) frames can only be counted by decoding from the start:
`ordered` is False.
"""

from array import array
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from vadclip.errors import VideoError
from vadclip.video.container import decode, open_video, read_packets
from vadclip.video.nal import NalStream
from vadclip.video.orientation import Orientation

MAX_FRAMES = 10_000_000  # four and a half days at 25 frames/s
_MAX_FPS = 1000.0
_VERIFIED_FRAMES = 4
# H.264 and HEVC reorder at most 16 frames; a larger jump means that the clock was reset in mid-file.
_MAX_REORDER = 32
# What a decoder shows for a damaged picture depends on its memory, and not all damage is reported. At a key
# frame after so many frames the memory is that of a decoder from the file's start (3,000 damaged files).
SETTLING_FRAMES = 64
# Here damage outlives key frames: VP8's decoder does not report it, MPEG-4's goes on guessing headers.
_FROM_THE_START = ("vp8", "mpeg4")


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one file as its packets tell them."""

    ordered: bool
    """Frame numbers follow from `pts`; if not, `pts` is empty: decode to count."""
    pts: NDArray[np.int64]
    """Presentation times, ascending, in units of `time_base`; one per frame that is shown."""
    time_base: Fraction
    """Seconds."""
    start: int
    """Where the file begins, on the clock of `pts`."""
    entries: NDArray[np.int64]
    """Numbers of the key frames at which decoding can start: they and all shown later come out right."""
    simple: bool
    """H.264 in MP4 or Matroska, one track, every packet a picture and shown, every key frame an entry of a
    closed group: decord's own seeking, which trusts key frames blindly, lands on the right frames."""
    fps: float
    """0 if the file does not say, or says what no camera does."""
    width: int
    height: int
    """As stored, not turned."""
    orientation: Orientation

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of a picture as it is shown."""
        return (self.height, self.width) if self.orientation.transpose else (self.width, self.height)

    @property
    def num_frames(self) -> int:
        """Frames counted from packets; only of an ordered file."""
        return len(self.pts)

    @property
    def seekable(self) -> bool:
        """Whether decoding can begin elsewhere than at the start."""
        return bool(np.any(self.entries > 0))

    def entry_for(self, number: int, *, settled: bool) -> int:
        """Return the last entry from which decoding comes by frame `number`; 0 if there is none.

        With `settled`, one so far before it that decoding settles (`Run.settled`) in between.
        """
        entry = self._entry_before(number)
        return self._entry_before(entry - SETTLING_FRAMES) if settled else entry

    def settles_at(self, entry: int) -> int | None:
        """Return the frame at which a decoder that began at `entry` is settled; None if it never is."""
        at = int(np.searchsorted(self.entries, entry + SETTLING_FRAMES))
        return int(self.entries[at]) if at < len(self.entries) else None

    def _entry_before(self, number: int) -> int:
        at = int(np.searchsorted(self.entries, number, "right")) - 1
        return int(self.entries[at]) if at >= 0 else 0


def scan(path: str, *, max_frames: int = MAX_FRAMES) -> FrameIndex:
    """Read all packets of a file (not decoding them) and decode its first frames.

    Raises VideoError if nothing in it can be shown, or it has more than `max_frames` frames.
    """
    times, keys, entries = array("q"), 0, array("q")
    ordered, edited, others = True, False, 0
    with open_video(path) as (container, stream):
        codec = stream.codec_context
        units = NalStream.of(codec)
        for packet in read_packets(container, stream):
            if packet.size == 0:
                continue  # the end marker
            if packet.is_discard:
                edited = True
                continue
            entry = packet.is_keyframe and (codec.name not in _FROM_THE_START or not times)
            if units is not None:
                kind = units.picture_type(bytes(packet))
                if kind is None:
                    others += 1
                    continue
                entry = entry and units.is_entry(kind)
            elif codec.name == "vp8" and not bytes(packet)[0] & 16:
                others += 1  # a reference, never shown
                continue
            if packet.pts is None:
                ordered = False
                break
            keys += packet.is_keyframe
            if entry:
                entries.append(len(times))
            if len(times) == max_frames:
                raise VideoError(f"it has more than {max_frames:,} frames: cut it into parts")
            times.append(packet.pts)
        one_track = len(container.streams.video) == 1
        formats = set(container.format.name.split(","))
        declared = stream.frames
        rates = [float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate)]
        time_base = stream.time_base or Fraction(0)
        start = _start(container, time_base)
    faults: list[object] = []
    with open_video(path) as (container, stream):
        first = list(islice(decode(container, stream, faults.append), _VERIFIED_FRAMES))
    if not first:
        raise VideoError("no frame of it can be decoded")
    in_file = np.frombuffer(times, np.int64) if times else np.empty(0, np.int64)
    pts = np.sort(in_file)
    ordered = (
        ordered
        and "avi" not in formats  # its time stamps are those of decoding
        and declared <= len(pts) + others
        and _near_order(in_file, pts)
        and _as_shown([frame.pts for frame in first], pts, gaps=bool(faults))
    )
    fps = rates[0] or rates[1]
    if others and ordered and len(pts) > 1:
        # The declared rates may count packets, not pictures.
        shown = (len(pts) - 1) / float(int(pts[-1] - pts[0]) * time_base)
        fps = min([*rates, shown], key=lambda rate: (abs(rate - shown) > 0.005 * shown, rate == shown))
    if not ordered:
        in_file = pts = np.empty(0, np.int64)
        entries = array("q")
    numbers, closed = _entry_numbers(np.asarray(entries, np.int64), in_file, pts)
    return FrameIndex(
        ordered=ordered,
        pts=pts,
        time_base=time_base,
        start=start,
        entries=numbers,
        simple=ordered
        and codec.name == "h264"
        and not (edited or others)
        and one_track
        and int(np.count_nonzero(closed)) == keys
        and not formats.isdisjoint({"mp4", "matroska"}),
        fps=fps if 0 < fps <= _MAX_FPS else 0.0,
        width=first[0].width,
        height=first[0].height,
        orientation=Orientation.of(first[0]),
    )


def _start(container: InputContainer, time_base: Fraction) -> int:
    """Return the time that a player counts from: the earliest of all tracks."""
    return round(Fraction(container.start_time or 0, av.time_base) / time_base) if time_base else 0


def _as_shown(first: list[int | None], pts: NDArray[np.int64], *, gaps: bool) -> bool:
    """Whether the first decoded frames are the first of `pts`, or after a fault some of them in order."""
    if not gaps:
        return bool(first == pts[:_VERIFIED_FRAMES].tolist())
    known = [time for time in first if time is not None]
    return len(known) == len(first) and known == sorted(set(known)) and bool(np.isin(known, pts).all())


def _near_order(in_file: NDArray[np.int64], pts: NDArray[np.int64]) -> bool:
    """Whether all times differ and each packet stands near its rank."""
    if len(pts) == 0 or bool(np.any(np.diff(pts) <= 0)):
        return False
    ranks = np.searchsorted(pts, in_file)
    return bool(np.all(np.abs(ranks - np.arange(len(pts))) <= _MAX_REORDER))


def _entry_numbers(
    positions: NDArray[np.int64], in_file: NDArray[np.int64], pts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the frame numbers of key packets, and for each whether its group is closed.

    A closed group has all earlier frames before it in the file and all later ones after it. In an open one
    (x265's default) some frames that are shown before the key frame follow it in the file, and cannot be
    decoded when decoding starts there.
    """
    if len(positions) == 0:
        return positions, np.empty(0, np.bool_)
    times = in_file[positions]
    positions = positions[np.maximum.accumulate(in_file)[positions] == times]
    numbers = np.searchsorted(pts, in_file[positions])
    return numbers, numbers == positions
