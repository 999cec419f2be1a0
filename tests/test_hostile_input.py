"""Input that attacks: files that ask for all memory, time or other files, names that lie, tables that flood.

What is broken by accident stands in test_broken_corpus.py and test_video.py.
"""

import ctypes
import http.server
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from ingest_helpers import table_params
from video_helpers import frame_number, numbered_frame, write_video

from vadclip.config import IngestParams
from vadclip.datasets.table import MAX_BYTES, load, video_ids
from vadclip.errors import InputError
from vadclip.files import safe_name
from vadclip.ingest.probe_cache import Probe
from vadclip.ingest.probe_pool import MEMORY_BYTES, run_supervised
from vadclip.ingest.probing import probe_files
from vadclip.ingest.rows import ingest
from vadclip.manifest import Manifest
from vadclip.video import frame_index
from vadclip.video.reader import FrameReader, VideoError, probe

# Files that are small and ask for much

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}


def edit_boxes(data: bytes, replace: dict[bytes, bytes]) -> bytes:
    """Give boxes of an mp4 other contents, at whatever depth they stand."""
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        body = edit_boxes(body, replace) if kind in _CONTAINERS else replace.get(kind, body)
        out += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return out


def declare_samples(path: Path, count: int) -> Path:
    """Make an mp4 of some frames declare `count` frames of a byte each."""
    data = write_video(path, 20, b_frames=0).read_bytes()
    times, chunks, sizes = (1, count, 1), (1, 1, count, 1), (1, count)
    path.write_bytes(
        edit_boxes(
            data,
            {
                b"stts": struct.pack(">4I", 0, *times),
                b"stsc": struct.pack(">5I", 0, *chunks),
                b"stsz": struct.pack(">3I", 0, *sizes),
                b"stss": struct.pack(">3I", 0, 1, 1),
            },
        )
    )
    return path


def write_gif(path: Path, width: int, height: int) -> Path:
    """Two frames of one pixel on a canvas of any size: 60 bytes."""
    picture = b"\x21\xf9\x04\0\1\0\0\0\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0"
    path.write_bytes(
        b"GIF89a" + struct.pack("<2H3B", width, height, 0x80, 0, 0) + bytes(6) + 2 * picture + b";"
    )
    return path


def encode_picture(codec: str, pixels: str, width: int = 96, height: int = 64) -> bytes:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, pixels, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
    return bytes(encoder.encode(frame.reformat(format=pixels))[0])


def write_bomb(path: Path, codec: str, pixels: str, side: int) -> Path:
    """A Matroska file that says 96x64 and holds one packet: an empty picture of side x side."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        container.start_encoding()
        packet = av.Packet(encode_picture(codec, pixels, side, side))
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), 0, 0
        packet.is_keyframe = True
        container.mux(packet)
    return path


LIMIT = "is over the limit of 8192 px a side and 36 million pixels"
NOT_ALLOWED = "FFmpeg cannot read it as a video (its format is none of those that are allowed)"
INVALID = "FFmpeg cannot read it as a video (invalid data found when processing input)"

GREEDY: dict[str, tuple[Callable[[Path], object], str]] = {
    "million.mp4": (lambda path: declare_samples(path, 1_000_000), "declares 1,000,000 frames in "),
    # Its list alone would take 4 GB.
    "too many to list.mp4": (lambda path: declare_samples(path, 170_000_000), "declares 170,000,000 frames in "),
    "wide.gif": (lambda path: write_gif(path, 16000, 16000), f"its picture of 16000x16000 {LIMIT}"),
    "widest.gif": (lambda path: write_gif(path, 65535, 65535), "no frame of it can be decoded"),
    "bomb.mkv": (
        lambda path: write_bomb(path, "mjpeg", "yuvj420p", 8000), f"its picture of 8000x8000 {LIMIT}"
    ),
    "picture.mp4": (lambda path: path.write_bytes(encode_picture("mjpeg", "yuvj420p")), NOT_ALLOWED),
    "picture.avi": (lambda path: path.write_bytes(encode_picture("png", "rgb24")), NOT_ALLOWED),
}  # fmt: skip


def peak_mb_of(path: Path) -> tuple[float, str]:
    """Probe a file in a process of its own: MB that it took beside what any file takes, and what was said."""
    code = (
        "import resource, sys\n"
        "from vadclip.video.reader import VideoError, probe\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: print(probe(sys.argv[1]))\n"
        "except VideoError as error: print(error)\n"
        "print((peak() - before) / 1024)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    said, peak = run.stdout.splitlines()
    return float(peak), said


def test_small_files_that_ask_for_much(tmp_path: Path) -> None:
    for name, (make, _) in GREEDY.items():
        make(tmp_path / name)
        assert (tmp_path / name).stat().st_size < 2_000_000
    found = probe_files([str(tmp_path / name) for name in GREEDY], tmp_path / "cache", workers=2)
    for name, (_, message) in GREEDY.items():
        error = found[str(tmp_path / name)].error
        assert error is not None, name
        assert message in error, name
        assert found[str(tmp_path / name)].content_hash
