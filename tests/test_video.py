"""Frames by number: every decoder, container and structure gives the same pictures, and counts are true."""

import struct
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from video_helpers import (
    declare_frames,
    frame_number,
    numbered_frame,
    orient_mp4,
    truncate,
    write_video,
)

from vadclip.errors import VideoError
from vadclip.video import container, frame_index
from vadclip.video.frame_reader import FrameReader, probe, read_frames

# name -> (frames, file name, how it is made, whether decord's seeking can be trusted with it)
KINDS = {
    "mp4": (70, "a.mp4", {}, True),
    "fragmented mp4": (70, "a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}, True),
    "mkv": (70, "a.mkv", {}, True),
    "webm": (50, "a.webm", {"codec": "libvpx-vp9"}, False),
    "variable rate": (60, "a.mp4", {"durations": [20, 40, 100] * 20}, True),
    "odd size": (40, "a.mp4", {"size": (95, 63)}, False),
    "transport stream": (70, "a.ts", {}, False),
    "avi, no B frames": (50, "a.avi", {"codec": "mpeg4", "b_frames": 0}, False),
    "avi with B frames": (50, "a.avi", {"codec": "mpeg4"}, False),
    "open groups": (70, "a.mp4", {"codec_options": {"x264-params": "open-gop=1"}}, False),
    "intra refresh": (70, "a.mp4", {"codec_options": {"x264-params": "intra-refresh=1"}}, False),
    "hevc": (60, "a.mp4", {"codec": "libx265", "codec_options": {"x265-params": "log-level=none"}}, False),
    "av1": (40, "a.mp4", {"codec": "libsvtav1", "codec_options": {"preset": "12"}}, False),
    "raw stream": (40, "a.h264", {}, False),
    "frames never shown": (
        60,
        "a.webm",
        {"codec": "libvpx", "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}},
        False,
    ),
}

FROM_THE_START = {
    "avi, no B frames",
    "avi with B frames",
    "open groups",
    "intra refresh",
    "raw stream",
    "frames never shown",
}


def in_order(path, rotation=0):
    """Every frame, decoded from the start by a few lines of PyAV."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.rot90(frame, rotation) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_by_its_number(kind, tmp_path, monkeypatch):
    """Whatever is asked for, and wherever reading starts, the picture is that of decoding from the start."""
    monkeypatch.setenv("SVT_LOG", "0")
    count, name, options, simple = KINDS[kind]
    path = write_video(tmp_path / name, count, **options)
    frames = in_order(path)
    assert [frame_number(frame) for frame in frames] == list(range(count))
    info = probe(path)
    assert (info.num_frames, info.intact, info.seekable) == (count, simple, kind not in FROM_THE_START)
    for decoder in ("decord", "pyav"):
        for indices in (range(count), range(8, count, 16), range(37, count, 5), [count - 1], [12, 13, 30]):
            with FrameReader(path, decoder=decoder, intact=info.intact, expected_frames=count) as reader:
                assert reader.decoder == ("decord" if simple and decoder == "decord" else "pyav")
                batches = list(reader.read(indices, batch_frames=7, since=indices[0], until=count))
                assert (reader.reached, reader.lost) == (count, 0)
            assert all(batch.dtype == np.uint8 and len(batch) <= 7 for batch in batches)
            got = np.concatenate(batches)
            assert len(got) == len(indices)
            for picture, index in zip(got, indices, strict=True):
                np.testing.assert_array_equal(picture, frames[index], err_msg=f"{decoder} {index}")


def test_real_clips_are_equal_with_both_decoders(shared_folder):
    bound = 2**30  # the longer ones too
    paths = sorted((shared_folder / "data" / "videos").rglob("*.mp4"))[::9]
    assert len(paths) > 10
    for path in paths:
        info = probe(path, decord_max_bytes=bound)
        count = info.num_frames
        indices = range(8, count, 16)
        decoded = {}
        for decoder in ("decord", "pyav"):
            with FrameReader(
                path, decoder=decoder, intact=info.intact, expected_frames=count, decord_max_bytes=bound
            ) as reader:
                assert reader.decoder == decoder
                decoded[decoder] = np.concatenate(list(reader.read(indices, batch_frames=4)))
        np.testing.assert_array_equal(decoded["decord"], decoded["pyav"], err_msg=str(path))


# Matrix a, b, c, d of a track header (x' = ax + cy, y' = bx + dy) -> what it does to a picture [H, W, 3].
ORIENTATIONS = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),  # clockwise
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (0, -1, 1, 0): lambda picture: np.rot90(picture),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: picture.transpose(1, 0, 2)[::-1, ::-1],
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_pictures_are_turned_and_mirrored_as_players_do(matrix, tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    stored = in_order(path)
    orient_mp4(path, matrix)
    info = probe(path)
    assert (info.width, info.height) == ((96, 64) if matrix[0] else (64, 96))
    assert info.intact == (matrix == (1, 0, 0, 1))
    for decoder in ("decord", "pyav"):
        got = next(read_frames(path, [3, 8], decoder=decoder, intact=info.intact))
        np.testing.assert_array_equal(got, [ORIENTATIONS[matrix](stored[number]) for number in (3, 8)])


def test_a_reader_goes_on_where_it_stands_and_back(tmp_path):
    path = write_video(tmp_path / "a.mkv", 100)
    with FrameReader(path, decoder="pyav") as reader:
        for indices in ([3, 9], [10, 11], [40, 60], [5], [99], [0]):
            got = np.concatenate(list(reader.read(indices, batch_frames=8)))
            assert [frame_number(frame) for frame in got] == indices


def test_reading_a_slice_does_not_decode_what_lies_before(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 120, gop=20)
    decoded = []
    real = container.decode

    def counted(*args):
        for frame in real(*args):
            decoded.append(frame)
            yield frame

    with FrameReader(path, decoder="pyav") as reader:
        monkeypatch.setattr("vadclip.video.run.decode", counted)
        list(reader.read([90], batch_frames=1))
        assert len(decoded) == 11  # 80, the key frame before it, to 90
        decoded.clear()
        list(reader.read([10, 118], batch_frames=1))
        assert len(decoded) == 11 + 19
    with FrameReader(path, decoder="pyav") as reader:  # a slice, whose rows are those of one pass even so
        decoded.clear()
        list(reader.read([98], batch_frames=1, since=90))
        assert len(decoded) == 99  # 0 is the last key frame 64 before 80
        list(reader.read([110], batch_frames=1, since=99))
        assert len(decoded) == 111


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path):
    """An mp4 may say that showing starts later: here 5 frames are cut off, in mid-group."""
    path = write_video(tmp_path / "a.mp4", 50, b_frames=0)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4  # type, version and flags, number of entries
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)[0]
    struct.pack_into(">i", data, at + 4, timescale // 25 * 5)
    path.write_bytes(data)
    numbers = [frame_number(frame) for frame in in_order(path)]
    assert numbers == list(range(5, 50))
    assert probe(path).num_frames == 45
    for decoder in ("decord", "pyav"):
        got = np.concatenate(list(read_frames(path, [0, 8, 44], decoder=decoder, expected_frames=45)))
        assert [frame_number(frame) for frame in got] == [5, 13, 49]


@pytest.mark.parametrize(("declared", "b_frames"), [(100, 0), (20, 0), (100, 2), (20, 2), (0, 0)])
def test_a_header_that_lies_about_its_frames(declared, b_frames, tmp_path):
    path = write_video(tmp_path / "a.avi", 50, codec="mpeg4", b_frames=b_frames)
    declare_frames(path, declared)
    assert probe(path).num_frames == 50
    for decoder in ("decord", "pyav"):
        got = np.concatenate(list(read_frames(path, range(8, 50, 16), decoder=decoder, expected_frames=50)))
        assert [frame_number(frame) for frame in got] == [8, 24, 40]


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", {"container_options": {"movflags": "faststart"}}), ("a.mkv", {}), ("a.ts", {})],
)
def test_a_cut_off_file_ends_where_its_frames_do(name, options, tmp_path):
    path = truncate(write_video(tmp_path / name, 100, **options), 0.6)
    count = probe(path).num_frames
    assert 50 < count < 70
    whole = {}
    for decoder in ("decord", "pyav"):
        with FrameReader(path, decoder=decoder, expected_frames=count) as reader:
            got = np.concatenate(list(reader.read(range(100), batch_frames=8, until=100)))
            assert reader.reached == count
            whole[decoder] = got
            # From the middle on, as another slice of the video would read it.
            late = np.concatenate(list(reader.read(range(40, 100), batch_frames=8, until=100)))
            assert reader.reached == count
        np.testing.assert_array_equal(late, got[40:])
    np.testing.assert_array_equal(whole["decord"], whole["pyav"])
    # The last one may be damaged, the others are whole.
    assert [frame_number(frame) for frame in got[:-1]] == list(range(count - 1))


def test_damage_in_the_middle_shows_the_frame_before(tmp_path):
    """Numbers stay true after a gap of packets that cannot be decoded, from wherever one reads."""
    whole = write_video(tmp_path / "whole.mkv", 80, b_frames=0, gop=10)
    path = tmp_path / "a.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size == 0:
                continue
            if 44 <= number < 50:
                damaged = av.Packet(b"\xff" * packet.size)
                damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
                packet = damaged
            packet.stream = stream
            target.mux(packet)
    assert probe(path).num_frames == 80
    with FrameReader(path, decoder="pyav", expected_frames=80) as reader:
        got = np.concatenate(list(reader.read(range(80), batch_frames=16, since=0)))
        assert reader.lost == 6
        late = np.concatenate(list(reader.read(range(46, 80), batch_frames=16, since=46)))
        assert reader.lost == 4
    assert [frame_number(frame) for frame in got] == [*range(44), *[43] * 6, *range(50, 80)]
    np.testing.assert_array_equal(late, got[46:])


def test_a_change_of_size_in_mid_stream(tmp_path):
    """Two H.264 streams, one after the other: a batch has one size."""
    first = write_video(tmp_path / "1.h264", 20)
    frames = [numbered_frame(20 + number, 64, 48) for number in range(20)]
    second = write_video(tmp_path / "2.h264", frames, size=(64, 48))
    path = tmp_path / "a.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    batches = list(read_frames(path, range(12, 30), batch_frames=16))
    assert [batch.shape for batch in batches] == [(8, 64, 96, 3), (10, 48, 64, 3)]
    assert [frame_number(frame) for batch in batches for frame in batch] == list(range(12, 30))


def test_absurd_dimensions_are_refused(tmp_path, monkeypatch):
    message = "its picture of 16384x16 is over the limit of 8192 px a side and 36 million pixels"
    wide = write_video(tmp_path / "wide.mp4", [np.zeros((16, 16384, 3), np.uint8)] * 2, size=(16384, 16))
    with monkeypatch.context() as patch:
        patch.setattr(frame_index, "decode", lambda *_: pytest.fail("a frame was decoded"))
        with pytest.raises(VideoError, match=message):
            probe(wide)
    # One that begins harmlessly and grows in mid-stream.
    small = write_video(tmp_path / "1.h264", 20)
    wide = write_video(tmp_path / "2.h264", [np.zeros((16, 16384, 3), np.uint8)] * 2, size=(16384, 16))
    small.write_bytes(small.read_bytes() + wide.read_bytes())
    with pytest.raises(VideoError, match=message):
        probe(small)
    container.check_size(8192, 4394)
    with pytest.raises(VideoError, match="its picture of 8192x4395 is over the limit"):
        container.check_size(8192, 4395)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\na.mp4\n", "ffconcat version 1.0\nfile a.mp4\n"])
def test_a_playlist_is_no_video_and_opens_nothing(text, tmp_path):
    write_video(tmp_path / "a.mp4", 20)
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(VideoError, match="FFmpeg cannot read it as a video"):
        probe(tmp_path / "list.mp4")


def test_of_two_tracks_both_decoders_take_the_same(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((48, 32), (96, 64)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for number in range(20):
            for stream in streams:
                picture = numbered_frame(number, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    width = probe(path).width
    for decoder in ("decord", "pyav"):
        with FrameReader(path, decoder=decoder, expected_frames=20) as reader:
            (batch,) = reader.read([3, 17], batch_frames=2)
        assert [(frame.shape[1], frame_number(frame)) for frame in batch] == [(width, 3), (width, 17)]


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    write_video(tmp_path / "picture.mp4", 1)
    path = tmp_path / "a.m4a"
    with av.open(str(tmp_path / "picture.mp4")) as source, av.open(str(path), "w", format="mp4") as target:
        sound = target.add_stream("aac", rate=8000)
        cover = target.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        for frame in source.decode(video=0):
            frame.pts = 0
            target.mux(cover.encode(frame.reformat(format="rgb24")))
        target.mux(cover.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        target.mux(sound.encode(samples))
        target.mux(sound.encode())
    with pytest.raises(VideoError, match="there is no video track in it"):
        probe(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(VideoError, match="there is no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="FFmpeg cannot read it as a video"):
        probe(tmp_path)


def test_without_decord_pyav_reads(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with FrameReader(path, decoder="decord", intact=True) as reader:
        assert reader.decoder == "pyav"


@pytest.mark.parametrize("spare", [0, -1])
def test_a_video_that_does_not_fit_into_memory_is_read_with_pyav(spare, tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    bound = 20 * 96 * 64 * 3 + spare
    assert probe(path, decord_max_bytes=bound).intact == (spare == 0)
    reader = FrameReader(path, intact=True, decord_max_bytes=bound)
    assert reader.decoder == ("decord" if spare == 0 else "pyav")


def test_decord_failing_on_the_way_leaves_the_rest_to_pyav(tmp_path):
    import decord

    path = write_video(tmp_path / "a.mp4", 60)
    with FrameReader(path, decoder="decord", intact=True) as reader:
        real = reader._decord

        class Failing:
            def get_batch(self, indices):
                if indices[0] > 20:
                    raise decord.DECORDError("no more")
                return real.get_batch(indices)

        reader._decord = Failing()
        got = np.concatenate(list(reader.read(range(0, 60, 3), batch_frames=4, until=60)))
        assert reader.decoder == "pyav"
        assert reader.reached == 60
    assert [frame_number(frame) for frame in got] == list(range(0, 60, 3))


def test_signs_of_life_come_while_frames_are_passed_over(tmp_path):
    path = write_video(tmp_path / "a.avi", 600, codec="mpeg4")
    beats = []
    with FrameReader(path) as reader:
        list(reader.read([590], batch_frames=1, beat=lambda: beats.append(time.monotonic())))
    assert len(beats) == 3  # after 256 and 512 frames, and with the batch
