"""Files of cameras and recorders that players forgive: counts, numbers and pictures, however they are read.

`tests/data/video` holds small ones, made for this project; each of their 200 pictures shows its number.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_helpers import frame_number, numbered_frame, write_recording, write_video

from vadclip.errors import VideoError
from vadclip.video.frame_reader import FrameReader, probe, read_frames
from vadclip.video.times import frame_times

VIDEOS = Path(__file__).parent / "data" / "video"
COUNT = 200


@dataclass(frozen=True)
class Case:
    """What is true of a file of 200 pictures at 25 frames/s."""

    decord: bool = False
    """Whether decord may read it."""
    lost: int = 0
    """Pictures that cannot be decoded."""
    upright: Callable[[np.ndarray], np.ndarray] | None = lambda picture: picture
    """How to read the number of each picture; None where damage hides numbers."""


CASES = {
    "base.mp4": Case(decord=True),
    "reolink.mp4": Case(),
    "sei_key.mkv": Case(),
    "sei_10.mp4": Case(),
    "flip24.mp4": Case(lost=1, upright=None),
    "noise_zeroed.mp4": Case(lost=1, upright=None),
    "noise_zeroed265.mp4": Case(lost=74, upright=None),
    "silent265.mp4": Case(upright=None),  # a flipped bit that the decoder does not tell
    "stale264.mp4": Case(upright=None),  # a picture is mended with what was decoded long before
    "hflip.mp4": Case(upright=lambda picture: picture[:, ::-1]),
    "vflip.mp4": Case(upright=lambda picture: picture[::-1]),
    "interlaced.mp4": Case(),
    "ten.mp4": Case(),
    "cam264.dav": Case(),
    "zeroed.mp4": Case(lost=131, upright=None),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Path of a case by its name; `zeroed.mp4` is a healthy one of which a stretch is lost."""
    data = bytearray((VIDEOS / "base.mp4").read_bytes())
    first, stop = len(data) // 4, len(data) * 85 // 100
    data[first:stop] = bytes(stop - first)
    zeroed = tmp_path_factory.mktemp("videos") / "zeroed.mp4"
    zeroed.write_bytes(data)
    return lambda name: zeroed if name == "zeroed.mp4" else VIDEOS / name


def in_order(path):
    """Every picture by number, decoded from the start by a few lines of PyAV, and how many there are not.

    What a decoder leaves in a damaged picture depends on its threads, and on how many others are held.
    """
    packet_times, pictures, held = [], {}, []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for packet in container.demux(video=0):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                # A packet without picture data is no picture: all of these are in files without damage.
                frames = []
                if "sei" in path.name or "reolink" in path.name:
                    continue
            packet_times += [packet.pts] * (packet.size > 0)
            for frame in frames:
                pictures[frame.pts] = frame.to_ndarray(format="rgb24")
                held = [*held[-1:], frame]
    shown = []
    for time in sorted(packet_times):
        shown.append(pictures[time] if time in pictures else shown[-1])
    return shown, len(packet_times) - len(pictures)


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_one_pass_however_read(name, videos):
    case, path = CASES[name], videos(name)
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (COUNT, 25, 192, 128)
    assert info.intact == case.decord
    expected, lost = in_order(path)
    assert (len(expected), lost) == (COUNT, case.lost)
    if name in ("hflip.mp4", "vflip.mp4"):
        expected = [case.upright(picture) for picture in expected]
    for decoder in ("decord", "pyav"):
        # Frames of a slice; where both decoders are PyAV, one is cut once.
        for frames in (16, 80, COUNT) if decoder == "pyav" or case.decord else (80,):
            lost = 0
            for start in range(0, COUNT, frames):
                part = range(start, min(start + frames, COUNT))
                with FrameReader(path, decoder=decoder, intact=info.intact, expected_frames=COUNT) as reader:
                    assert reader.decoder == ("decord" if case.decord and decoder == "decord" else "pyav")
                    batches = list(reader.read(part, batch_frames=32, since=start, until=part.stop))
                    assert reader.reached == part.stop
                    lost += reader.lost
                np.testing.assert_array_equal(
                    np.concatenate(batches), expected[start : part.stop], err_msg=f"{start}"
                )
            assert lost == case.lost
    if case.upright is not None:
        assert [frame_number(case.upright(picture)) for picture in expected] == list(range(COUNT))
    times = frame_times(str(path))
    np.testing.assert_allclose(times, np.arange(COUNT) / 25, atol=1e-9)


@pytest.mark.parametrize("name", ["noise_zeroed.mp4", "zeroed.mp4"])
def test_one_reader_of_slices_in_any_order(name, videos):
    expected, _ = in_order(videos(name))
    lost = 0
    with FrameReader(videos(name), expected_frames=COUNT) as reader:
        for start in np.random.default_rng(0).permutation(range(0, COUNT, 8)).tolist():
            got = np.concatenate(list(reader.read([start + 3], batch_frames=1, since=start, until=start + 8)))
            np.testing.assert_array_equal(got, [expected[start + 3]])
            lost += reader.lost
    assert lost == CASES[name].lost


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_parameter_sets_and_messages_alone_are_no_frames(codec, name, tmp_path):
    """As RTSP recorders write them: what stands before the first picture again before later ones."""
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else None
    whole = write_video(tmp_path / "whole.ts", 60, codec=codec, b_frames=0, codec_options=quiet)
    path = tmp_path / name
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        head = bytes(packets[0]).split(b"\0\0\1")
        kinds = [unit[0] >> 1 & 63 if codec == "libx265" else unit[0] & 31 for unit in head[1:]]
        pictures = range(32) if codec == "libx265" else range(1, 6)
        sets = b"\0\0\1".join(
            [head[0], *(unit for unit, kind in zip(head[1:], kinds, strict=True) if kind not in pictures)]
        )
        for number, old in enumerate(packets):
            for data in ([sets] if number in (7, 20, 37) else []) + [bytes(old)]:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, old.time_base, old.is_keyframe
                packet.pts = old.pts - (old.duration // 2 if data is sets else 0)
                packet.dts = packet.pts if codec == "libx264" else old.dts - (old.pts - packet.pts)
                target.mux(packet)
    info = probe(path)
    assert (info.num_frames, info.fps) == (60, 25)
    got = np.concatenate(list(read_frames(path, range(60), expected_frames=60)))
    assert [frame_number(picture) for picture in got] == list(range(60))


@pytest.mark.parametrize("kind", ["ifv", "mpjpeg", "mxg", "nuv"])
def test_recorders_containers(kind, tmp_path):
    """Dahua's is among the cases."""
    path = write_recording(tmp_path / f"a.{kind}", 80)
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height, info.intact) == (80, 25, 96, 64, False)
    with av.open(str(path)) as container, suppress(av.error.InvalidDataError):  # so FFmpeg's NUV ends
        expected = []
        for frame in container.decode(video=0):
            expected.append(frame.to_ndarray(format="rgb24"))
    assert [frame_number(picture) for picture in expected] == list(range(80))
    for frames in (16, 80):
        for start in range(0, 80, frames):
            with FrameReader(path, expected_frames=80) as reader:
                part = range(start, start + frames)
                got = np.concatenate(list(reader.read(part, batch_frames=32, since=start)))
            np.testing.assert_array_equal(got, expected[start : start + frames])
            assert reader.lost == 0
    times = frame_times(str(path))
    np.testing.assert_allclose(times, np.arange(80) / 25, atol=1e-9)


def test_a_clock_that_begins_anew_and_a_size_that_changes(tmp_path):
    """A transport stream's clock counts 33 bits, 26 hours: here it ends after a second; so does the size."""
    path = tmp_path / "a.ts"
    with av.open(str(path), "w", options={"mpegts_copyts": "1"}) as target:
        stream = None
        for first, width, height in ((0, 96, 64), (80, 64, 48)):
            pictures = [numbered_frame(first + number, width, height) for number in range(80)]
            part = write_video(tmp_path / f"{width}.ts", pictures, size=(width, height))
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                packets = [packet for packet in source.demux(video=0) if packet.size]
                ahead = 2**33 - 225_000 + first * 3600 - packets[0].pts
                for packet in packets:
                    packet.stream, packet.pts, packet.dts = stream, packet.pts + ahead, packet.dts + ahead
                    target.mux(packet)
    info = probe(path)
    assert (info.num_frames, info.fps, info.seekable) == (160, 25, True)
    for start in (0, 48, 112):
        with FrameReader(path, expected_frames=160) as reader:
            batches = list(reader.read(range(start, start + 48), batch_frames=16, since=start))
            assert reader.lost == 0
        shown = [picture for batch in batches for picture in batch]
        assert [frame_number(picture) for picture in shown] == list(range(start, start + 48))
        assert [picture.shape[1] for picture in shown] == [
            96 if n < 80 else 64 for n in range(start, start + 48)
        ]
    times = frame_times(str(path))
    np.testing.assert_allclose(times, np.arange(160) / 25, atol=1e-3)


def test_seconds_are_those_of_presentation(tmp_path):
    durations = [20, 40, 100] * 20
    path = write_video(tmp_path / "a.mp4", 60, durations=durations)
    times = frame_times(str(path))
    np.testing.assert_allclose(times, np.cumsum([0, *durations[:-1]]) / 1000, atol=1e-4)
    # Neither of these containers has times: a rate is all that is known.
    assert frame_times(str(write_video(tmp_path / "a.h264", 20))) is None


def test_a_thumbnail_before_the_video_is_not_the_video(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        small, large = (container.add_stream("libx264", rate=25) for _ in range(2))
        for stream, width, height in ((small, 48, 32), (large, 96, 64)):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(20):
            for stream in (small, large) if number == 0 else (large,):
                picture = numbered_frame(number, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in (small, large):
            container.mux(stream.encode())
    info = probe(path)
    assert (info.num_frames, info.width, info.height, info.intact) == (20, 96, 64, False)


def test_a_file_that_tells_neither_rate_nor_length(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20, container_options={"movflags": "frag_keyframe+empty_moov"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.nut"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    info = probe(tmp_path / "b.nut")
    assert info.num_frames == 20
    assert info.fps == 25


def test_a_container_that_is_refused_can_be_remuxed(tmp_path):
    path = write_video(tmp_path / "a.h263", 20, size=(176, 144), codec="h263")
    with pytest.raises(VideoError, match=r"ffmpeg -i FILE -map 0:v:0 -c copy FILE\.nut"):
        probe(path)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.nut"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 25)
            target.mux(packet)
    assert probe(tmp_path / "b.nut").num_frames == 20


def test_a_name_that_the_locale_cannot_write(tmp_path):
    with pytest.raises(VideoError, match="its name has characters that this machine's locale cannot write"):
        probe(f"{tmp_path}/\ud800.mp4")
