"""What a video file really holds: frames counted and numbered from its packets, never from a header's word.

Frames are numbered from 0 in the order in which they are shown. In an ordinary file that number is the rank
of the packet's presentation time, which reading the packets (no decoding) gives; the first frames are decoded
to see whether it is such a file. In other files (time stamps missing or repeated, AVI, two packets a frame, a
damaged end) frames can only be counted by decoding from the start: `ordered` is False.
"""

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vadclip.errors import VideoError

MAX_SIDE = 8192
MAX_PIXELS = 36_000_000  # 8K is 33; a decoder may hold 17 pictures
MAX_FRAMES = 10_000_000  # four and a half days at 25 frames/s
_MAX_FPS = 1000.0
# Playlists (hls, concat, dash) are no videos: they would make FFmpeg open other files and addresses.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,mpegvideo,mjpeg,ivf,obu,nut,mxf,rm,dv,"
    "wtv,gif"
)
_VERIFIED_FRAMES = 4
# H.264 and HEVC reorder at most 16 frames; a larger jump means that the clock was reset in mid-file.
_MAX_REORDER = 32
_IDR_SLICE, _SEQUENCE_SETS = 5, 7  # H.264 NAL unit types

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one file as its packets tell them."""

    ordered: bool
    """Frame numbers follow from `pts`; if not, `pts` is empty: decode to count."""
    pts: NDArray[np.int64]
    """Presentation times, ascending, in the stream's time base; one per frame that is shown."""
    entries: NDArray[np.int64]
    """Numbers of the key frames at which decoding can start: they and all shown later come out right."""
    simple: bool
    """H.264 of one picture size in MP4 or Matroska, one track, every key frame is an entry of a closed group
    and no packet is hidden by an edit list: decord's own seeking, which trusts key frames blindly, lands on
    the right frames, and its scaling of every picture to the first one's size does nothing."""
    fps: float
    """0 if the file does not say, or says what no camera does."""
    width: int
    height: int
    """As stored, before rotation."""
    rotation: int
    """Quarter turns, counter-clockwise, that show the picture upright."""

    @property
    def num_frames(self) -> int:
        """Frames counted from packets; only of an ordered file."""
        return len(self.pts)


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the main video stream of a file, with one decoding thread and a limit on the picture's size.

    Raises VideoError if the file is missing, empty, no video, or declares absurd dimensions or lengths.
    """
    try:
        size = os.path.getsize(path)
        if size == 0:
            raise VideoError("the file is empty")
        container = av.open(
            path,
            metadata_errors="replace",
            options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
        )
    except FileNotFoundError:
        raise VideoError("there is no such file") from None
    except av.ArgumentError:
        raise VideoError(
            "FFmpeg cannot read it as a video (its format is none of those that are allowed)"
        ) from None
    except (av.FFmpegError, PermissionError, IsADirectoryError) as error:
        raise VideoError(f"FFmpeg cannot read it as a video ({_few_words(error)})") from None
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise VideoError("there is no video track in it")
        if stream.codec_context is None:
            raise VideoError("no decoder for its codec")
        check_size(stream.codec_context.width, stream.codec_context.height)
        if stream.frames > size:  # FFmpeg has made a list of them by now, but nobody needs to walk it
            raise VideoError(f"its header declares {stream.frames:,} frames in {size:,} bytes")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def check_size(width: int, height: int) -> None:
    """Raise VideoError for a picture that is too large to be decoded in bounded memory."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise VideoError(
            f"its picture of {width}x{height} is over the limit of {MAX_SIDE} px a side and "
            f"{MAX_PIXELS // 1_000_000} million pixels"
        )


def decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield decoded frames from the container's position on; damaged packets are passed over.

    Raises VideoError on a picture over the size limit, OSError if the file cannot be read.
    """
    for packet in read_packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            check_size(frame.width, frame.height)
            yield frame


def read_packets(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """Yield packets up to the file's end or to where it is cut off, and the end marker (an empty packet)."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.InvalidDataError:
            return
        if packet is None:
            return
        yield packet


def scan(path: str) -> FrameIndex:
    """Read all packets of a file (not decoding them) and decode its first frames.

    Raises VideoError if nothing in it can be shown.
    """
    times, keys, entries = array("q"), 0, array("q")
    ordered, edited = True, False
    with open_video(path) as (container, stream):
        codec = stream.codec_context
        length_size = _unit_length_size(codec)
        one_size = codec.name == "h264"
        first_set = codec.extradata or b""
        for packet in read_packets(container, stream):
            if packet.size == 0 and packet.dts is None:
                continue  # the end marker
            if packet.is_discard:
                edited = True
                continue
            if packet.pts is None or packet.is_corrupt:
                ordered = False
                break
            if packet.has_sidedata("new_extradata"):
                one_size = False
            if packet.is_keyframe:
                keys += 1
                units = list(_units(bytes(packet), length_size)) if codec.name == "h264" else []
                # H.264 files flag recovery points (intra refresh, open groups) as key frames as well.
                if codec.name != "h264" or any(unit[0] & 31 == _IDR_SLICE for unit in units):
                    entries.append(len(times))
                if any(unit[0] & 31 == _SEQUENCE_SETS and unit not in first_set for unit in units):
                    one_size = False
            if len(times) == MAX_FRAMES:
                raise VideoError(f"it has more than {MAX_FRAMES:,} frames: cut it into parts")
            times.append(packet.pts)
        one_track = len(container.streams.video) == 1
        formats = set(container.format.name.split(","))
        declared = stream.frames
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    with open_video(path) as (container, stream):
        first = list(islice(decode(container, stream), _VERIFIED_FRAMES))
    if not first:
        raise VideoError("no frame of it can be decoded")
    in_file = np.frombuffer(times, np.int64) if times else np.empty(0, np.int64)
    pts = np.sort(in_file)
    ordered = (
        ordered
        and "avi" not in formats  # its time stamps are those of decoding
        and declared <= len(pts)
        and _near_order(in_file, pts)
        and [frame.pts for frame in first] == pts[:_VERIFIED_FRAMES].tolist()
    )
    if not ordered:
        in_file = pts = np.empty(0, np.int64)
        entries = array("q")
    numbers, closed = _entry_numbers(np.asarray(entries, np.int64), in_file, pts)
    return FrameIndex(
        ordered=ordered,
        pts=pts,
        entries=numbers,
        simple=ordered
        and one_size
        and not edited
        and one_track
        and int(np.count_nonzero(closed)) == keys
        and not formats.isdisjoint({"mp4", "matroska"}),
        fps=fps if 0 < fps <= _MAX_FPS else 0.0,
        width=first[0].width,
        height=first[0].height,
        rotation=round(first[0].rotation / 90) % 4,
    )


def _few_words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0].lower()


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


def _unit_length_size(codec: VideoCodecContext) -> int:
    """Bytes of each H.264 NAL unit's length prefix; 0 if units are marked by start codes instead."""
    extra = codec.extradata or b""
    return (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield an H.264 packet's NAL units; the first byte's lower five bits are the type."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            stop = at + length_size + int.from_bytes(data[at : at + length_size], "big")
            yield data[at + length_size : stop] or b"\0"
            at = stop
    else:
        for unit in data.split(b"\0\0\1")[1:]:
            yield unit.rstrip(b"\0") or b"\0"
