"""Damaged videos of many codecs and containers: slices give the pictures and lost counts of one pass."""

import random
from contextlib import suppress
from dataclasses import dataclass

import av
import numpy as np
import pytest
from video_helpers import write_video

from vadclip.errors import VideoError
from vadclip.video.frame_reader import FrameReader, probe

COUNT, FILES = 320, 60
HEVC = "log-level=none"
# codec, container, options of the codec; each is written with groups of 8 to 25 pictures
STREAMS = [
    ("libx264", "mp4", {}),
    ("libx264", "ts", {"slices": "4"}),
    ("libx264", "mkv", {"x264-params": "open-gop=1"}),
    ("libx264", "flv", {}),
    ("libx265", "mp4", {"preset": "ultrafast", "x265-params": HEVC}),
    ("libx265", "ts", {"preset": "medium", "x265-params": HEVC}),
    ("libx265", "mkv", {"preset": "ultrafast", "x265-params": f"{HEVC}:open-gop=0:slices=4"}),
    ("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    ("libsvtav1", "mkv", {"preset": "12"}),
    ("mpeg4", "mp4", {}),
    ("mpeg4", "avi", {}),
    ("mpeg2video", "ts", {}),
]


@dataclass
class Read:
    """What reading gave: pictures by number, and how many were lost."""

    pictures: dict[int, np.ndarray]
    lost: int = 0


def read(path, slices, *, keep, decoder="pyav"):
    """Read slices, with one reader or with one each."""
    out, reader = Read({}), None
    for part in slices:
        if reader is None or not keep:
            reader = FrameReader(path, decoder=decoder, intact=decoder == "decord")
        at = part.start
        for batch in reader.read(part, batch_frames=16, since=part.start, until=part.stop):
            out.pictures.update(enumerate(batch, at))
            at += len(batch)
        out.lost += reader.lost
    return out


def damage(data, rng):
    """Zero, flip or overwrite some bytes, take some out, or cut the end off."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        if len(data) < 2:
            return
        at, length = rng.randrange(len(data)), rng.choice([4, 40, 400, 4000])
        length = min(length, len(data) - at)
        match rng.choice(["zero", "flip", "noise", "gap", "end"]):
            case "zero":
                data[at : at + length] = bytes(length)
            case "flip":
                data[at] ^= 1 << rng.randrange(8)
            case "noise":
                data[at : at + length] = rng.randbytes(length)
            case "gap":
                del data[at : at + length]
            case "end":
                del data[max(at, len(data) // 2) :]


def damaged(whole, path, rng):
    """Write a copy with damage in the file (one in three), or in single packets of it."""
    if rng.random() < 0.3:
        data = bytearray(whole.read_bytes())
        damage(data, rng)
        path.write_bytes(data)
        return
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        packets = [packet for packet in source.demux(video=0) if packet.size]
        chosen = {rng.randrange(len(packets)) for _ in range(rng.choice([1, 2, 4]))}
        if rng.random() < 0.3:
            chosen.add(rng.choice([number for number, packet in enumerate(packets) if packet.is_keyframe]))
        for number, old in enumerate(packets):
            data = bytearray(bytes(old))
            if number in chosen:
                damage(data, rng)
                if not data or rng.random() < 0.2:
                    continue
            packet = av.Packet(bytes(data))
            packet.stream, packet.time_base, packet.is_keyframe = stream, old.time_base, old.is_keyframe
            packet.pts, packet.dts = old.pts, old.dts
            with suppress(av.FFmpegError):  # not even a packet any more
                target.mux(packet)


@pytest.mark.soak
@pytest.mark.parametrize(("codec", "suffix", "options"), STREAMS)
def test_slices_of_damaged_videos(codec, suffix, options, tmp_path, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "0")
    texture = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    pictures = [np.roll(texture, (number, 3 * number), (0, 1))[:64, :96] for number in range(COUNT)]
    looked_at, wrong = 0, []
    for seed in range(FILES):
        rng = random.Random(f"{codec} {suffix} {seed}")
        if seed % 20 == 0:
            gop = (8, 12, 25)[seed // 20 % 3]
            whole = write_video(
                tmp_path / f"whole.{suffix}", pictures, codec=codec, gop=gop, codec_options=options
            )
        path = tmp_path / f"a.{suffix}"
        damaged(whole, path, rng)
        try:
            info = probe(path)
        except VideoError:
            continue
        count = info.num_frames
        cut = {
            size: [range(at, min(at + size, count)) for at in range(0, count, size)] for size in (16, 32, 80)
        }
        once = read(path, [range(count)], keep=True)
        slices = read(path, cut[80], keep=False)
        several = read(path, rng.sample(cut[16], min(4, len(cut[16]))), keep=False)
        shuffled = read(path, rng.sample(cut[32], len(cut[32])), keep=True)
        reads = [slices, several, shuffled]
        if info.intact:
            reads.append(read(path, [range(count)], keep=True, decoder="decord"))
        equal = all(
            np.array_equal(picture, once.pictures[number])
            for other in reads
            for number, picture in other.pictures.items()
        )
        whole_ones = slices.pictures.keys() == shuffled.pictures.keys() == once.pictures.keys()
        if not (equal and whole_ones and slices.lost == shuffled.lost == once.lost):
            wrong.append(seed)
        looked_at += 1
    assert not wrong
    assert looked_at > FILES // 2
