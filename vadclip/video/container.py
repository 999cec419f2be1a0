"""Opening a video file with FFmpeg, guarded; its packets, and the frames that they decode to."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vadclip.errors import VideoError

MAX_SIDE = 8192
MAX_PIXELS = 36_000_000  # 8K is 33; a decoder may hold 17 pictures
# Playlists (hls, concat, dash) are no videos: they would make FFmpeg open other files and addresses.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,mpegvideo,mjpeg,ivf,obu,nut,mxf,rm,dv,"
    "wtv,gif,dhav,ifv,mpjpeg,mxg,nuv"
)

UNWRITABLE_NAME = (
    "its name has characters that this machine's locale cannot write: rename it, or set LC_ALL to C.UTF-8"
)

# Messages are counted at any level (see `faults_told`), and none is shown.
av.logging.set_level(av.logging.PANIC)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None


@contextmanager
def tables_apart() -> Iterator[None]:
    """While a file is opened, have glibc keep large blocks apart from its heap.

    FFmpeg makes a table of all frames at each opening, 17 MB for eight hours. In the heap such tables leave
    holes that are not given back: 0.8 GB in an actor. A block apart goes back when the file is closed.
    Afterwards the limits are those that glibc comes to by itself where large tensors come and go.
    """
    if _MALLOPT is None:
        yield
        return
    _MALLOPT(_M_MMAP_THRESHOLD, 2**20)
    try:
        yield
    finally:
        _MALLOPT(_M_MMAP_THRESHOLD, 32 * 2**20)
        _MALLOPT(_M_TRIM_THRESHOLD, 64 * 2**20)


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the main video stream of a file, with one decoding thread and a limit on the picture's size.

    Raises VideoError if the file is missing, empty, no video, or declares absurd dimensions or lengths.
    """
    try:
        size = os.path.getsize(path)
        if size == 0:
            raise VideoError("the file is empty")
        with tables_apart():
            container = av.open(
                path,
                metadata_errors="replace",
                options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            )
    except FileNotFoundError:
        raise VideoError("there is no such file") from None
    except UnicodeEncodeError:
        raise VideoError(UNWRITABLE_NAME) from None
    except av.ArgumentError:
        raise VideoError(
            "FFmpeg cannot read it as a video (its format is none of those that are allowed): if it is one, "
            "ffmpeg -i FILE -map 0:v:0 -c copy FILE.nut makes a file that can be read"
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
        if stream.frames > size:  # FFmpeg has listed them by now: do not walk the list
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


def read_packets(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """Yield packets up to the file's end or to where it is cut off, and the end marker (an empty packet).

    Other empty packets are left out: they hold no picture, and a decoder takes each for the end. Raises
    VideoError if the track does not stay what it was.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.InvalidDataError:
            return
        except IndexError:
            raise VideoError("its table of tracks is damaged") from None
        if packet is None:
            return
        if packet.size or packet.dts is None:
            yield packet


def decode(
    container: InputContainer,
    stream: VideoStream,
    faulty: "Callable[[Packet[VideoStream]], None]" = lambda packet: None,
) -> Iterator[VideoFrame]:
    """Yield decoded frames from the container's position on; packets that cannot be decoded are passed over.

    `faulty` gets each packet at which the decoder complained, before the frames that it gave. Raises
    VideoError on a picture over the size limit, OSError if the file cannot be read.
    """
    for packet in read_packets(container, stream):
        told = faults_told()
        try:
            frames = packet.decode()
        except av.FFmpegError:
            frames = []
            faulty(packet)
        else:
            if faults_told() != told or any(frame.is_corrupt for frame in frames):
                faulty(packet)
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            check_size(frame.width, frame.height)
            yield frame


def faults_told() -> int:
    """Count FFmpeg's error messages in this process so far.

    Most decoders conceal damage, and only their messages tell. Another thread's may be among them.
    """
    return int(av.logging.get_last_error()[0])


def _few_words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0].lower()
