"""A corpus with everything that goes wrong with video files, from a table through ingest to features.

CORPUS is the documentation: how each file ends. The good ones get all their rows, whatever stands beside
them, and the index says why the others have none.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from extract_helpers import extract_here, extract_params, tiny_clip
from feature_helpers import all_rows, index_rows
from ingest_helpers import table_params
from video_helpers import declare_frames, rotate_mp4, truncate, write_audio, write_video

from vadclip.config import IngestParams
from vadclip.errors import InputError
from vadclip.features.reader import FeatureReader
from vadclip.ingest.rows import ingest

VIDEOS = Path(__file__).parent / "data" / "video"
UNREADABLE = "FFmpeg cannot read it as a video (invalid data found when processing input)"
FASTSTART = {"movflags": "faststart"}


@dataclass(frozen=True)
class Case:
    """A file, and how it ends: so many frames counted, and a status, rows and an error in the index."""

    make: Callable[[Path], object]
    frames: int
    rows: int
    status: str = "ok"
    error: str | None = None


def short(frames):
    return f"too short: {frames} of the 16 frames of a snippet can be decoded"


def failed(error):
    return {"frames": 0, "rows": 0, "status": "failed", "error": error}


CORPUS = {
    "zero bytes.mp4": Case(Path.touch, **failed("the file is empty")),
    "text.mp4": Case(lambda path: path.write_text("no video\n" * 500), **failed(UNREADABLE)),
    "cut off, index at the end.mp4": Case(
        lambda path: truncate(write_video(path, 100), 0.6), **failed(UNREADABLE)
    ),
    "cut off, index in front.mp4": Case(
        lambda path: truncate(write_video(path, 100, container_options=FASTSTART), 0.6), frames=60, rows=3
    ),
    "cut off.mkv": Case(lambda path: truncate(write_video(path, 100), 0.6), frames=60, rows=3),
    "audio only.mp4": Case(write_audio, **failed("there is no video track in it")),
    "with audio.mp4": Case(lambda path: write_video(path, 40, audio=True), frames=40, rows=2),
    "1 frame.mp4": Case(lambda path: write_video(path, 1), frames=1, rows=0, error=short(1)),
    "15 frames.mp4": Case(lambda path: write_video(path, 15), frames=15, rows=0, error=short(15)),
    "16 frames.mp4": Case(lambda path: write_video(path, 16), frames=16, rows=1),
    "odd size.mp4": Case(lambda path: write_video(path, 40, size=(95, 63)), frames=40, rows=2),
    "variable rate.mp4": Case(
        lambda path: write_video(path, 60, durations=[20, 40, 100] * 20), frames=60, rows=3
    ),
    "on its side.mp4": Case(lambda path: rotate_mp4(write_video(path, 40), 90), frames=40, rows=2),
    "declares more.avi": Case(
        lambda path: declare_frames(write_video(path, 50, codec="mpeg4"), 100), frames=50, rows=3
    ),
    "declares fewer.avi": Case(
        lambda path: declare_frames(write_video(path, 50, codec="mpeg4"), 20), frames=50, rows=3
    ),
    "declares none.mp4": Case(
        lambda path: write_video(path, 50, container_options={"movflags": "frag_keyframe+empty_moov"}),
        frames=50,
        rows=3,
    ),
    "spaces, ünïcödé 視頻 #=@.b.mp4": Case(lambda path: write_video(path, 33), frames=33, rows=2),
    "one picture lost.mp4": Case(
        lambda path: shutil.copy(VIDEOS / "flip24.mp4", path),
        frames=200,
        rows=12,
        error="1 of 200 pictures cannot be decoded",
    ),
    "many pictures lost.mp4": Case(
        lambda path: shutil.copy(VIDEOS / "noise_zeroed265.mp4", path),
        frames=200,
        rows=0,
        status="failed",
        error="74 of 200 pictures cannot be decoded, more than extract.max_lost_fraction 0.05 allows",
    ),
    "recorder.dav": Case(lambda path: shutil.copy(VIDEOS / "cam264.dav", path), frames=200, rows=12),
    "too wide.mp4": Case(
        lambda path: write_video(path, [np.zeros((16, 16384, 3), np.uint8)] * 20, size=(16384, 16)),
        **failed("its picture of 16384x16 is over the limit of 8192 px a side and 36 million pixels"),
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name, case in CORPUS.items():
        case.make(folder / name)
    return folder


def test_each_file_ends_as_documented(corpus, tmp_path):
    table = [
        f'"{name}",{"Fire" if number % 3 == 0 else "Normal"},train,' for number, name in enumerate(CORPUS)
    ]
    params = table_params(corpus, table, tmp_path)
    manifest = ingest(params, IngestParams(val_fraction=0, seed=0), probe_cache=tmp_path / "probe").manifest
    by_name = {video.uri: video for video in manifest.videos}
    assert {name: by_name[name].num_frames for name in CORPUS} == {
        name: case.frames for name, case in CORPUS.items()
    }

    clip = tiny_clip(tmp_path / "clip")
    stores = {}
    for decoder in ("decord", "pyav"):
        folder = tmp_path / decoder
        filled, runner = extract_here(
            folder, manifest, corpus, clip, extract_params(train_crops=1), decoder=decoder, unit_images=8
        )
        rows = {row.video_id: row for row in index_rows(folder)}
        ended = {name: rows[by_name[name].video_id] for name in CORPUS}
        assert {name: (row.status, row.rows, row.error or row.note) for name, row in ended.items()} == {
            name: (case.status, case.rows, case.error) for name, case in CORPUS.items()
        }
        # What ingest has found unusable is not even tried.
        tried = {part.video_id for unit in runner.units for part in unit.slices}
        usable = {name for name, case in CORPUS.items() if case.rows or "pictures lost" in name}
        assert tried == {by_name[name].video_id for name in usable}
        assert {name: row.lost_frames for name, row in ended.items() if row.lost_frames} == {
            "one picture lost.mp4": 1,
            "many pictures lost.mp4": 74,
        }
        assert filled.metrics()["lost_frames"] == 75
        assert "75 pictures of 2 cannot be decoded" in filled.summary()
        reader = FeatureReader(folder / "features", manifest)
        assert reader.excluded.keys() == {
            by_name[name].video_id for name, case in CORPUS.items() if not case.rows
        }
        stores[decoder] = all_rows(folder, manifest)
        failures = [name for name, case in CORPUS.items() if case.status == "failed"]
        filled.check_budget(0.3)
        with pytest.raises(InputError, match=rf"{len(failures)} of {len(CORPUS)} videos failed") as raised:
            filled.check_budget(0.2)
        unreadable, damaged = str(raised.value).split("damaged in too many pictures: ")
        lossy = by_name["many pictures lost.mp4"].video_id
        assert lossy in damaged
        assert all(by_name[name].video_id in unreadable for name in failures if "pictures lost" not in name)
        assert reader.lost_frames.keys() == {lossy, by_name["one picture lost.mp4"].video_id}
    assert stores["decord"] == stores["pyav"]
    # More is allowed now: its rows are there.
    filled, runner = extract_here(
        folder, manifest, corpus, clip, extract_params(train_crops=1, max_lost_fraction=0.5), unit_images=8
    )
    assert not runner.units
    kept = {row.video_id: (row.status, row.rows, row.note) for row in index_rows(folder)}
    assert kept[lossy] == ("ok", 12, "74 of 200 pictures cannot be decoded")
