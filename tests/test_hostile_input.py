"""Input that attacks: files that ask for all memory, time or other files, names that lie, tables that flood.

What is broken by accident stands in test_broken_corpus.py and test_video.py.
"""

import ctypes
import http.server
import os
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import python
from ingest_helpers import table_params
from video_helpers import frame_number, numbered_frame, write_video

from vadclip.config import IngestParams
from vadclip.datasets.table import MAX_BYTES, load, video_ids
from vadclip.errors import InputError, VideoError
from vadclip.files import safe_name
from vadclip.ingest.probing import probe_files
from vadclip.ingest.processes import MEMORY_BYTES, run_supervised
from vadclip.ingest.rows import ingest
from vadclip.video.frame_index import scan
from vadclip.video.frame_reader import FrameReader, probe

# Files that are small and ask for much

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}


def edit_boxes(data, replace):
    """Give boxes of an mp4 other contents, at whatever depth they stand."""
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        body = edit_boxes(body, replace) if kind in _CONTAINERS else replace.get(kind, body)
        out += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return out


def declare_samples(path, count):
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


def write_gif(path, width, height):
    """Two frames of one pixel on a canvas of any size: 60 bytes."""
    picture = b"\x21\xf9\x04\0\1\0\0\0\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0"
    path.write_bytes(
        b"GIF89a" + struct.pack("<2H3B", width, height, 0x80, 0, 0) + bytes(6) + 2 * picture + b";"
    )
    return path


def encode_picture(codec, pixels, width=96, height=64):
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, pixels, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
    return bytes(encoder.encode(frame.reformat(format=pixels))[0])


def write_bomb(path, codec, pixels, side):
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

GREEDY = {
    "million.mp4": (lambda path: declare_samples(path, 1_000_000), "declares 1,000,000 frames in "),
    # Its list alone would take 4 GB.
    "endless.mp4": (lambda path: declare_samples(path, 170_000_000), "declares 170,000,000 frames in "),
    "wide.gif": (lambda path: write_gif(path, 16000, 16000), f"its picture of 16000x16000 {LIMIT}"),
    "widest.gif": (lambda path: write_gif(path, 65535, 65535), "no frame of it can be decoded"),
    "bomb.mkv": (
        lambda path: write_bomb(path, "mjpeg", "yuvj420p", 8000), f"its picture of 8000x8000 {LIMIT}"
    ),
    "picture.mp4": (lambda path: path.write_bytes(encode_picture("mjpeg", "yuvj420p")), NOT_ALLOWED),
    "picture.avi": (lambda path: path.write_bytes(encode_picture("png", "rgb24")), NOT_ALLOWED),
}  # fmt: skip


def peak_mb_of(path):
    """Probe a file in a process of its own: MB that it took beside what any file takes, and what was said."""
    code = (
        "import resource, sys\n"
        "from vadclip.errors import VideoError\nfrom vadclip.video.frame_reader import probe\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: print(probe(sys.argv[1]))\n"
        "except VideoError as error: print(error)\n"
        "print((peak() - before) / 1024)"
    )
    said, peak = python("-c", code, path).stdout.splitlines()
    return float(peak), said


def test_small_files_that_ask_for_much(tmp_path):
    for name, (make, _) in GREEDY.items():
        make(tmp_path / name)
        assert (tmp_path / name).stat().st_size < 2_000_000
    found = probe_files([str(tmp_path / name) for name in GREEDY], tmp_path / "cache", workers=2)
    for name, (_, message) in GREEDY.items():
        error = found[str(tmp_path / name)].error
        assert error is not None, name
        assert message in error, name
        assert found[str(tmp_path / name)].content_hash


def test_refusing_takes_no_memory(tmp_path):
    for name in ("bomb.mkv", "wide.gif", "million.mp4"):
        make, message = GREEDY[name]
        make(tmp_path / name)
        peak_mb, said = peak_mb_of(tmp_path / name)
        assert message in said
        assert peak_mb < 150, name  # a picture of 16000x16000 has 1 GB, a list of a million frames 50 MB


def take_memory(item):
    try:
        np.empty(int(item), np.uint8)
    except MemoryError:
        return "refused"
    return "given"


def test_a_process_that_looks_into_files_gets_no_more_memory_than_honest_ones_need():
    sizes = [str(MEMORY_BYTES // 4), str(MEMORY_BYTES * 2)]
    answers = {
        item: result for item, result, _ in run_supervised(take_memory, sizes, dict.fromkeys(sizes, 60), 1)
    }
    assert list(map(answers.get, sizes)) == ["given", "refused"]


def test_a_picture_that_grows_in_mid_stream(tmp_path):
    """decord would scale every picture to the first one's size; and a batch must not grow with them."""
    parts = [
        write_video(tmp_path / f"{side}.h264", [numbered_frame(first + at, side, side) for at in range(20)],
                    size=(side, side), b_frames=0, gop=10)
        for first, side in ((0, 96), (20, 384))
    ]  # fmt: skip
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as target:
        stream, when = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for old in source.demux(source.streams.video[0]):
                    if old.size:
                        packet = av.Packet(bytes(old))
                        packet.stream, packet.time_base, packet.is_keyframe = (
                            stream,
                            Fraction(1, 25),
                            old.is_keyframe,
                        )
                        packet.pts = packet.dts = when
                        when += 1
                        target.mux(packet)
    info = probe(path)
    assert (info.num_frames, info.intact) == (40, False)
    with FrameReader(path, decoder="decord", intact=info.intact, expected_frames=40) as reader:
        assert reader.decoder == "pyav"
        batches = list(reader.read(range(40), batch_frames=32))
    assert [frame_number(frame) for batch in batches for frame in batch] == list(range(40))
    assert max(batch.nbytes for batch in batches) <= 32 * 96 * 96 * 3
    assert {batch.shape[1] for batch in batches} == {96, 384}


def test_a_rate_that_no_camera_has_is_not_known(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20, fps=2000)
    info = probe(path)
    assert (info.num_frames, info.fps) == (20, 0)


def test_a_video_longer_than_any(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", 20))
    assert scan(path, max_frames=20).num_frames == 20
    with pytest.raises(VideoError, match="it has more than 19 frames: cut it into parts"):
        scan(path, max_frames=19)


# Files that name other files and addresses


@contextmanager
def opened_files(folder):
    """Names of the files in a folder that anybody opens meanwhile, native code too."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, str(folder).encode(), 0x20) >= 0  # IN_OPEN
    names = []
    try:
        yield names
        with open(watch, "rb", buffering=0, closefd=False) as events:
            data = events.read(65536) or b""
        while data:
            length = struct.unpack_from("iIII", data)[3]
            names.append(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
    finally:
        os.close(watch)


@contextmanager
def counting_server(folder):
    """An HTTP server of a folder's files; yields its port and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


def reference_files(target, folder):
    """Every format by which FFmpeg can be made to open `target`, each under its own and a video's name."""
    hls = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
    texts = {
        "m3u8": hls,
        "nested.m3u8": hls.replace("#EXTINF:9,", "#EXT-X-STREAM-INF:BANDWIDTH=1"),
        "key.m3u8": hls.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF'),
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "rtsp.mov": f"rtsptext{target}\n",
    }
    files = {f"list.{ending}": text.encode() for ending, text in texts.items()}
    files |= {
        f"{name}.{ending}": text for name, text in files.items() for ending in ("mp4", "mkv", "ts", "avi")
    }
    # An mp4 whose samples lie elsewhere: data references of QuickTime, by URL and by path.
    whole = write_video(folder / "whole.mp4", 20).read_bytes()
    path = target.encode()
    alias = bytes(118) + struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2) + b"\xff\xff\0\0"
    for kind, content in ((b"url ", bytes(4) + path + b"\0"), (b"alis", bytes(4) + alias)):
        entry = struct.pack(">I4s", 8 + len(content), kind) + content
        outside = edit_boxes(whole, {b"dref": struct.pack(">2I", 0, 1) + entry})
        assert outside != whole
        files[f"outside {kind.decode().strip()}.mp4"] = outside
    return files


def test_no_file_makes_ffmpeg_open_another_file_or_address(tmp_path):
    secrets, folder = tmp_path / "secrets", tmp_path / "videos"
    write_video(secrets / "secret.mp4", 60, size=(128, 96))
    write_video(secrets / "secret.ts", 60, size=(128, 96))
    folder.mkdir()
    with counting_server(secrets) as (port, asked):
        roots = (str(secrets), f"file://{secrets}", f"http://127.0.0.1:{port}", "../secrets")
        places = [f"{root}/secret.{ending}" for ending in ("mp4", "ts") for root in roots]
        with opened_files(secrets) as opened:
            for target in places:
                for name, content in reference_files(target, tmp_path / "made").items():
                    (folder / name).write_bytes(content)
                    if name.startswith("list"):
                        with pytest.raises(VideoError):
                            probe(folder / name)
                        continue
                    for decoder in ("decord", "pyav"):  # refused, or read as if the reference were not there
                        with suppress(VideoError), FrameReader(folder / name, decoder=decoder) as reader:
                            assert next(reader.read([3], batch_frames=1)).shape == (1, 64, 96, 3)
            # Names that are FFmpeg's protocols.
            for name in (f"concat:{places[0]}", f"subfile,,start,0,end,999,,:{places[0]}", places[2]):
                with pytest.raises(VideoError, match="there is no such file"):
                    probe(name)
        assert opened == []
        assert asked == []
        with opened_files(secrets) as opened, socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /secret.ts HTTP/1.0\r\n\r\n")
            while client.recv(65536):
                pass
    assert "secret.ts" in opened  # what watches does see
    assert asked == ["/secret.ts"]


# Names and tables


def ingest_table(rows, root, folder):
    classes = {"Normal": "normal", "Fire": "fire"}
    return ingest(
        table_params(root, rows, folder, classes=classes),
        IngestParams(val_fraction=0, seed=0),
        probe_cache=folder / "cache",
    ).manifest


def test_links_are_followed_to_files_only_and_give_away_nothing(tmp_path):
    """People and DVC link videos into place. What is no video is refused, and no byte of it is shown."""
    root, secret = tmp_path / "root", tmp_path / "secret.txt"
    secret.write_text("root:x:0:0:top secret\n" * 50)
    write_video(tmp_path / "store" / "a.mp4", 20)
    root.mkdir()
    os.mkfifo(tmp_path / "pipe")
    targets = {"good": tmp_path / "store" / "a.mp4", "secret": secret, "loop": root / "loop.mp4",
               "device": Path("/dev/zero"), "pipe": tmp_path / "pipe", "folder": tmp_path}  # fmt: skip
    for name, target in targets.items():
        (root / f"{name}.mp4").symlink_to(target)
    manifest = ingest_table([f"{name}.mp4,Normal,train," for name in targets], root, tmp_path)
    assert {video.video_id: video.probe_error for video in manifest.videos} == {
        "good": None,
        "secret": INVALID,
        "loop": "it cannot be read (Too many levels of symbolic links)",
        "device": "it is a folder or a device, not a file",
        "pipe": "it is a folder or a device, not a file",
        "folder": "it is a folder or a device, not a file",
    }


CLIMBING = {
    "../a.mp4": "leaves the root",
    "b/../../a.mp4": "leaves the root",
    "..": "leaves the root",
    "b\\..\\..\\a.mp4": "leaves the root",
    "a\0.mp4": "has control characters",
    "a\x1b[2J.mp4": "has control characters",
    "a\x9b2J.mp4": "has control characters",
    "a\u2028b.mp4": "has control characters",
    "zip://a::http://127.0.0.1/b.zip": "an address within another one",
    "simplecache://::file:///etc/passwd": "an address within another one",
}


def test_paths_that_climb_out_or_command_the_terminal(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InputError) as raised:
        ingest_table([f"{path},Normal,train," for path in CLIMBING], root, tmp_path)
    message = str(raised.value)
    assert message.isprintable()
    assert message.startswith(f"{len(CLIMBING)} bad rows: ")
    for number, wrong in enumerate(CLIMBING.values(), 2):
        assert wrong in message.split(f"row {number} (")[1].split("; row ")[0]


def test_names_that_are_only_odd_are_files_like_others(tmp_path):
    root = tmp_path / "root"
    odd = [
        "..%2fa",
        "%2e%2e%2fa",
        "C:\\a",
        "a\u202e4pm.exe",
        "\u0301\u0302",
        "\u200b",
        "n" * 300,
        "-rf",
        "...",
    ]
    root.mkdir()
    for name in odd:
        with suppress(OSError):  # one is too long for any disk
            (root / f"{name}.mp4").write_text("no video")
    manifest = ingest_table([f"{name}.mp4,Normal,train," for name in odd], root, tmp_path)
    assert all(safe_name(video.video_id) for video in manifest.videos)
    assert [str(video.probe_error)[:33] for video in manifest.videos].count(
        "FFmpeg cannot read it as a video "
    ) == len(odd) - 1
    assert "it cannot be read (File name too long)" in {video.probe_error for video in manifest.videos}
    assert len({video.video_id for video in manifest.videos}) == len(odd)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0", "a\n", "\u0301a", "a\u202eb", "\u200b", "n" * 201]
)
def test_names_that_lie_are_no_ids(name):
    assert not safe_name(name)
    assert safe_name(next(iter(video_ids(iter([f"{name}.mp4"])).values())))


def test_ids_that_look_equal_are_told_apart():
    names = video_ids(iter(["caf\u00e9.mp4", "cafe\u0301.mp4", "CAF\u00c9.mp4", "tea.mp4"]))
    assert names.pop("tea.mp4") == "tea"
    assert len({name[-13:] for name in names.values() if name[-13] == "~"}) == 3


FLOODS = {
    "one line": (lambda: b"path,label\n" + b"a" * 2_000_000 + b"\n", "no CSV: field larger than field"),
    "a million columns": (lambda: b",".join(b"c%d" % i for i in range(10**6)), "the first line is 'c0,c1,"),
    "a million cells": (
        lambda: b"path,label\na.mp4,Normal" + b",x" * 10**6 + b"\nb.mp4,Fire\n", "not as many cells as"
    ),
    "NUL bytes": (lambda: b"path,label\n" + bytes(1000) + b",Normal\nb,Fire\n", "is empty or has control"),
    "a label of a novel": (lambda: b"path,label\na,Normal\nb," + b"x" * 100_000, "label is longer than 80"),
    "a label with a command": (lambda: b"path,label\na.mp4,Normal\nb.mp4,\x1b[2J", "has control characters"),
    "a slow segment": (
        lambda: b'path,label,segments\na.mp4,Normal,\nb.mp4,Fire,"1-2:' + b" " * 100_000 + b'x\ny"\n',
        "is not start-end",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_tables_that_flood(name, tmp_path):
    content, wrong = FLOODS[name]
    params = table_params(tmp_path, [], tmp_path)
    Path(params.table).write_bytes(content())
    with pytest.raises(InputError) as raised:
        raw = load(params)
        raise InputError("; ".join(f"{origin}: {problem}" for origin, problem in raw.problems.items()))
    assert wrong in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500


def test_a_table_of_a_gigabyte_is_not_read(tmp_path):
    params = table_params(tmp_path, [], tmp_path)
    os.truncate(params.table, 2**30)
    with pytest.raises(
        InputError, match=rf"1,073,741,824 bytes are no table of videos; {MAX_BYTES:,} is the limit"
    ):
        load(params)
