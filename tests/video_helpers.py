"""Tiny videos whose frames carry their own number, and files that are broken in known ways.

Each frame of `write_video` shows its number as 12 black or white blocks above a moving pattern, so a test can
tell exactly which frame a decoder delivered, whatever the codec did to the picture.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUMBER_BITS = 12


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Return uint8 [height, width, 3]: `number` as 2 x 6 blocks above, a moving gradient below."""
    frame = np.zeros((height, width, 3), np.uint8)
    block_h, block_w = height // 4, width // 6
    for bit in range(NUMBER_BITS):
        row, column = divmod(bit, 6)
        if number >> bit & 1:
            frame[row * block_h : (row + 1) * block_h, column * block_w : (column + 1) * block_w] = 255
    ramp = (np.arange(width) * 2 + number * 5) % 256
    lower = frame[2 * block_h :]
    lower[..., 0] = ramp
    lower[..., 1] = np.linspace(0, 255, lower.shape[0])[:, None]
    lower[..., 2] = 255 - ramp
    return frame


def frame_number(frame: np.ndarray) -> int:
    """Read the number back from a decoded frame, at any size."""
    height, width = frame.shape[:2]
    block_h, block_w = height // 4, width // 6
    number = 0
    for bit in range(NUMBER_BITS):
        row, column = divmod(bit, 6)
        centre = frame[
            row * block_h + block_h // 4 : row * block_h + block_h * 3 // 4,
            column * block_w + block_w // 4 : column * block_w + block_w * 3 // 4,
        ]
        number |= int(centre.mean() > 127) << bit
    return number


def write_video(
    path: Path,
    frames: int | Sequence[np.ndarray],
    *,
    size: tuple[int, int] = (96, 64),
    fps: int = 25,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    durations: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    audio: bool = False,
) -> Path:
    """Write `frames` (a count of numbered ones, or pictures) and return `path`.

    `durations` gives each frame's duration in 1/1000 s, for a variable frame rate.
    """
    width, height = size
    pictures = (
        [numbered_frame(i, width, height) for i in range(frames)] if isinstance(frames, int) else frames
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = width, height
        # 4:2:0 needs even sides; odd ones are stored as 4:4:4.
        stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
        stream.gop_size = gop
        if codec in ("libx264", "mpeg4"):
            stream.max_b_frames = b_frames
        if codec == "libx264":
            stream.options = {
                "preset": "ultrafast",
                "crf": "12",
                "bf": str(b_frames),
                **(codec_options or {}),
            }
        elif codec_options:
            stream.options = dict(codec_options)
        stream.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=8000) if audio else None
        time_base = Fraction(1, 1000) if durations else Fraction(1, fps)
        stream.codec_context.time_base = time_base
        when = 0
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = when, time_base
            when += durations[number] if durations else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate = 8000
            container.mux(sound.encode(samples))
            container.mux(sound.encode())
    return path


def write_audio(path: Path) -> Path:
    """Write a file with a sound track only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for block in range(20):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 8000, block * 1024
            container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def truncate(path: Path, fraction: float) -> Path:
    """Cut the file's end off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def rotate_mp4(path: Path, degrees: int) -> Path:
    """Write the rotation into an mp4's track header, as a phone held sideways does (clockwise to show)."""
    return orient_mp4(path, {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees])


def orient_mp4(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix a, b, c, d into an mp4's track header: x' = ax + cy, y' = bx + dy."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (0x10000 * value for value in matrix)
    at = data.index(b"tkhd")
    # After the type: version and flags, five times and ids, reserved, layer, group, volume: 40 bytes.
    struct.pack_into(">9i", data, at + 4 + 40, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def declare_frames(path: Path, count: int) -> Path:
    """Make an AVI's headers declare `count` frames, whatever it holds."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, count)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, count)
    path.write_bytes(data)
    return path


def write_recording(path: Path, count: int) -> Path:
    """Write numbered frames of 96x64, 25 a second, into a recorder's container: ifv, mpjpeg, mxg or nuv."""
    kind = path.suffix[1:]
    if kind == "nuv":  # header, tables of a codec that is not used, raw pictures
        parts = [
            struct.pack(
                "<12s5s3x4ic3x2d4i", b"NuppelVideo", b"0.05", 96, 64, 96, 64, b"P", 1, 25, count, 0, 0, 1
            )
        ]
        parts.append(struct.pack("<2s6xI512x", b"DR", 512))
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            picture = frame.reformat(format="yuv420p").to_ndarray().tobytes()
            parts += [struct.pack("<2s2xII", b"V0", 40 * number, len(picture)), picture]
        path.write_bytes(b"".join(parts))
        return path
    options = {} if kind == "ifv" else {"codec": "mjpeg", "codec_options": {"strict": "unofficial"}}
    raw = write_video(path.with_suffix(".h264" if kind == "ifv" else ".mjpeg"), count, b_frames=0, **options)
    with av.open(str(raw)) as source:
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    if kind == "ifv":  # header, table of places and times, H.264
        head = bytearray(0xF8)
        head[:17] = bytes.fromhex("11d2d3abbaa9cf118ee600c00c20536544")
        struct.pack_into("<HH8x4s", head, 0x5C, 96, 64, b"H264")
        struct.pack_into("<4s", head, 0x9C, b"PCMU")
        struct.pack_into("<I", head, 0xE4, count)
        places = np.cumsum([len(head) + 28 * count, *map(len, packets)])
        table = [
            struct.pack("<II8xI8x", int(places[number]), len(packet), 40 * number)
            for number, packet in enumerate(packets)
        ]
        path.write_bytes(b"".join([head, *table, *packets]))
    elif kind == "mxg":  # JPEGs with a comment each that says when; FFmpeg leaves out the last kilobyte
        times = [
            struct.pack(">2sH4s4x", b"\xff\xfe", 18, b"MXF") + struct.pack("<Q", 10**15 + 40_000 * number)
            for number in range(count)
        ]
        parts = [packet[:2] + time + packet[2:] for packet, time in zip(packets, times, strict=True)]
        path.write_bytes(b"".join(parts) + bytes(2048))
    else:
        head = b"--x\r\nContent-type: image/jpeg\r\nContent-length: %d\r\n\r\n"
        path.write_bytes(b"".join(head % len(packet) + packet + b"\r\n" for packet in packets))
    return path
