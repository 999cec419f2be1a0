import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from params_helpers import dataset_params

from vadclip.errors import InputError
from vadclip.labels import XD_VIOLENCE
from vadclip.manifest import (
    _ROW_GROUP,
    Manifest,
    ManifestFile,
    Segment,
    Video,
    dataset_root,
    frame_spans,
    locate,
    read_manifest,
    write_manifest,
)

VIDEO = Video(
    video_id="v=S-7r__#1_label_B4-0-0",
    uri="films/v=S-7r__#1_label_B4-0-0.mp4",
    split="test",
    source_id="v=S-7r",
    labels=("B4", "G"),
    segments=(Segment(10, 40, "B4"), Segment(30, 9000, "G")),
    frame_spans=((10, 96),),
    num_frames=100,
    fps=24.0,
    width=640,
    height=360,
    bytes=1234,
    content_hash="ab" * 32,
    probe_error=None,
)
BROKEN = replace(
    VIDEO, video_id="kaputt", split="train", labels=("A",), segments=(), frame_spans=(), num_frames=0,
    probe_error="the file is empty",
)  # fmt: skip


def _manifest(*videos):
    return Manifest(dataset="xd_violence", source="videos", classes=XD_VIOLENCE, videos=videos)


def test_what_is_written_is_read_back_and_equal_content_is_not_written_again(tmp_path):
    path = tmp_path / "manifest.parquet"
    manifest = _manifest(BROKEN, replace(VIDEO, untimed=True))
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest
    before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    write_manifest(read_manifest(path), path)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    write_manifest(_manifest(BROKEN), path)
    assert read_manifest(path) == _manifest(BROKEN)


def test_a_manifest_that_stays_on_disk(tmp_path):
    """In batches that end within row groups; as often as wanted."""
    path = tmp_path / "manifest.parquet"
    count = _ROW_GROUP + 3
    manifest = _manifest(*(replace(VIDEO, video_id=f"v{number:05d}") for number in range(count)))
    write_manifest(manifest, path)
    file = ManifestFile(path)
    assert (file.dataset, file.source, file.classes) == ("xd_violence", "videos", XD_VIOLENCE)
    assert tuple(file) == tuple(file) == manifest.videos
    assert len(file) == count
    write_manifest(_manifest(BROKEN), path)  # as ingest does, while a stage goes through the other one
    assert tuple(file) == manifest.videos
    assert tuple(ManifestFile(path)) == (BROKEN,)
    write_manifest(manifest, path)
    assert pq.ParquetFile(path).num_row_groups == 2
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(len(whole) - 1000) + whole[len(whole) - 900 :])
    with pytest.raises(InputError, match=r"manifest.parquet is not a readable manifest: "):
        list(ManifestFile(path))


def test_splits_and_lengths():
    manifest = _manifest(BROKEN, VIDEO)
    assert manifest.split("test") == (VIDEO,)
    assert manifest.split("val") == ()
    assert VIDEO.num_snippets == 6  # 100 frames: six snippets of 16, a tail of 4 dropped
    assert not VIDEO.too_short
    assert replace(VIDEO, num_frames=15).too_short
    assert not replace(VIDEO, num_frames=16).too_short
    assert not BROKEN.too_short  # a failure is not a short video


def test_frame_spans_are_the_clamped_union():
    # 5-20 and 10-30 overlap, 30-40 touches, 90-200 is cut at 96, 96-120 lies behind the last snippet.
    spans = [(90, 200), (5, 20), (30, 40), (10, 30), (96, 120)]
    assert frame_spans(spans, 96) == ((5, 40), (90, 96))
    assert frame_spans([], 96) == ()


def test_a_file_that_is_no_manifest(tmp_path):
    path = tmp_path / "manifest.parquet"
    with pytest.raises(InputError, match=r"no such manifest; the ingest stage writes it"):
        read_manifest(path)
    path.write_text("video_id,uri\n")
    with pytest.raises(InputError, match=r"is not a readable manifest"):
        read_manifest(path)
    pq.write_table(pa.table({"video_id": ["a"]}), path)
    with pytest.raises(InputError, match=r"is no manifest of version 2; run the ingest stage again"):
        read_manifest(path)


def test_a_manifest_that_breaks_its_own_rules_is_a_bug():
    for bad in (
        replace(VIDEO, video_id="a/b"),
        replace(VIDEO, split="dev"),
        replace(VIDEO, labels=(), split="train", segments=(), frame_spans=()),
        replace(VIDEO, labels=("Fighting",)),
        replace(VIDEO, segments=(Segment(0, 5, "B7"),)),
        replace(VIDEO, split="train"),
    ):
        with pytest.raises(AssertionError):
            _manifest(bad)
    with pytest.raises(AssertionError, match="unique and sorted"):
        _manifest(VIDEO, VIDEO)


@pytest.mark.parametrize(
    ("uri", "root", "place"),
    [
        ("a/v#1.mp4", "/data", "/data/a/v#1.mp4"),
        ("/elsewhere/v.mp4", "/data", "/elsewhere/v.mp4"),
        ("s3://bucket/v.mp4", "/data", "s3://bucket/v.mp4"),
        ("a/v=1__#2.mp4", "s3://bucket/videos/", "s3://bucket/videos/a/v=1__#2.mp4"),
        ("a/v=1__#2.mp4", "https://host/videos", "https://host/videos/a/v%3D1__%232.mp4"),
        ("a/../v.mp4", "/data", "/data/a/../v.mp4"),
    ],
)
def test_locate(uri, root, place):
    assert locate(uri, root) == place


@pytest.mark.parametrize("uri", ["../v.mp4", "a/../../v.mp4", "..", "a\\..\\..\\v.mp4"])
@pytest.mark.parametrize("root", ["/data", "s3://bucket/videos"])
def test_locate_refuses_to_leave_the_root(uri, root):
    with pytest.raises(InputError, match=r"leaves the dataset's root"):
        locate(uri, root)


def test_dataset_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    here = os.getcwd()
    table = dataset_params("table", table="lists/v.csv")
    assert dataset_root(table) == f"{here}/lists"
    assert dataset_root(table.model_copy(update={"root": "videos"})) == f"{here}/videos"
    assert dataset_root(table.model_copy(update={"root": "~/videos"})) == "/home/someone/videos"
    assert dataset_root(table.model_copy(update={"root": "s3://bucket/v"})) == "s3://bucket/v"
    assert dataset_root(table.model_copy(update={"name": "sample", "table": None})) == here
