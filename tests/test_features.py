"""The feature store: layout, reading, resume, growth, removal, supersession, and a bad end at any moment."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_helpers import PARAMS, PROVENANCE, WIDTH, Runner, contents, fill, index_rows, made_up_rows
from manifest_helpers import make_manifest, make_video

from vadclip.errors import InputError
from vadclip.extract import merge
from vadclip.extract.encode import Extracted
from vadclip.extract.merge import ShardLimits
from vadclip.extract.store import FeatureStore
from vadclip.features.index import feature_fingerprint, read_index
from vadclip.features.provenance import Provenance
from vadclip.features.reader import FeatureReader
from vadclip.features.shards import Block, Shard, write_shard
from vadclip.pool.work import Outcome

MANIFEST = make_manifest(
    [
        make_video("long", 16 * 90 + 5),
        make_video("b#1=2", 40),
        make_video("été", 33, "val"),
        make_video("c", 16 * 30, "test"),
        make_video("short", 15, "test"),
        make_video("bad", 0, "test", probe_error="the file is empty", content_hash=""),
    ]
)
# Of each crop; the train videos get 5 crops, the others 1.
ROWS = {"long": 90, "b#1=2": 2, "été": 2, "c": 30}


def check_all_rows(folder, manifest=MANIFEST, rows=ROWS, train_crops=5):
    reader = FeatureReader(folder / "features", manifest)
    for video in manifest.videos:
        if video.video_id not in rows:
            continue
        assert reader.rows(video.video_id) == rows[video.video_id]
        crops = tuple(range(train_crops)) if video.split == "train" else (0,)
        assert reader.crops(video.video_id) == crops
        for crop in crops:
            got = reader.array(video.video_id, crop)
            assert got.dtype == np.float16
            np.testing.assert_array_equal(got, made_up_rows(video.video_id, crop, 0, rows[video.video_id]))


def test_a_run_fills_the_store_and_readers_find_every_row(tmp_path):
    runner = Runner()
    filled = fill(tmp_path, MANIFEST, runner)
    check_all_rows(tmp_path)
    reader = FeatureReader(tmp_path / "features", MANIFEST)
    assert [video.video_id for video in reader.videos("train")] == ["b#1=2", "long"]
    assert [video.video_id for video in reader.videos("test")] == ["c"]
    assert reader.excluded == {
        "bad": "the file is empty",
        "short": "too short: 15 of the 16 frames of a snippet can be decoded",
    }
    assert (reader.width, reader.provenance) == (WIDTH, PROVENANCE)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "features").iterdir()) == [
        "index.parquet", "shard",
    ]  # fmt: skip
    assert filled.metrics() == {
        "videos_ok": 4, "videos_failed": 1, "videos_too_short": 1, "rows": 90 * 5 + 2 * 5 + 2 + 30,
        "lost_frames": 0,
        "run_images": 492, "run_units": 11, "run_seconds_encode": 5.5,
        "run_seconds_write": pytest.approx(0, abs=5),
        "run_seconds_total": pytest.approx(0, abs=5),
        "run_images_per_second": pytest.approx(492 / filled.seconds["total"], rel=0.01),
    }  # fmt: skip
    assert filled.summary().startswith("4 videos with 492 rows, 1 failed, 1 too short; 492 images in ")
    # No unit of more than 50 images but one of a single snippet; the largest come first.
    sizes = [unit.images for unit in runner.units]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= 50


def test_the_schema_is_that_of_the_contract(tmp_path):
    fill(tmp_path, MANIFEST, Runner())
    (path,) = (tmp_path / "features").glob("shard-*")
    table = pq.read_table(path)
    assert {field.name: field.type for field in table.schema} == {
        "video_id": pa.string(),
        "crop": pa.uint8(),
        "snippet": pa.int32(),
        "embedding": pa.list_(pa.field("element", pa.float16(), nullable=False), WIDTH),
    }
    assert Provenance.from_json(table.schema.metadata[b"vadclip.provenance"]) == PROVENANCE
    keys = list(
        zip(*(table.column(name).to_pylist() for name in ("video_id", "crop", "snippet")), strict=True)
    )
    assert keys == sorted(keys)  # by manifest, crop, snippet
    for (video_id, crop, snippet), values in zip(keys, table.column("embedding").to_pylist(), strict=True):
        assert values == made_up_rows(video_id, crop, snippet, snippet + 1)[0].tolist()


def test_rows_are_mapped_not_read(tmp_path, monkeypatch):
    fill(tmp_path, MANIFEST, Runner())
    reader = FeatureReader(tmp_path / "features", MANIFEST)
    monkeypatch.setattr(pq, "ParquetFile", lambda *_: pytest.fail("a row group was decoded"))
    array = reader.array("long", 3)
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"data_page_size": 64, "compression": "none"}])
def test_a_shard_with_another_layout_is_read_all_the_same(options, tmp_path):
    """Such as one rewritten by another tool: compressed, or in many pages."""
    blocks = [Block("a", crop, 0, 50, 50, 800, "h") for crop in range(3)]
    arrays = [made_up_rows("a", crop, 0, 50) for crop in range(3)]
    path = write_shard(tmp_path, "shard", PROVENANCE, blocks, arrays)
    pq.write_table(pq.read_table(path), path, write_batch_size=5, use_dictionary=False, **options)
    shard = Shard(path)
    for crop in range(3):
        np.testing.assert_array_equal(shard.rows(crop), arrays[crop])
        np.testing.assert_array_equal(shard.read(crop), arrays[crop])
    assert not shard.intact()


def test_blocks_over_many_row_groups(tmp_path):
    rows = [0, 5, 100, 0, 1, 30, 30, 0]
    blocks = [Block(f"v{number}", 0, 7, 7 + count, count, 1, "h") for number, count in enumerate(rows)]
    arrays = [made_up_rows(block.video_id, 0, 7, 7 + block.rows) for block in blocks]
    shard = Shard(write_shard(tmp_path, "part", PROVENANCE, blocks, arrays, row_group_bytes=300))
    assert shard.blocks == tuple(blocks)
    assert shard._metadata.num_row_groups > 2
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(shard.read(number), array)
    assert "_bytes" not in vars(shard)  # nothing was mapped
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(shard.rows(number), array)


@pytest.mark.parametrize("options", [None, {"compression": "zstd", "row_group_size": 20}])
def test_a_long_block_is_divided_among_row_groups(options, tmp_path):
    """Writing a row group takes ten times its size, so that of a video of hours must not be one."""
    rows = [7, 100, 30, 5]
    blocks = [Block(f"v{number}", 0, 7, 7 + count, count, 1, "h") for number, count in enumerate(rows)]
    arrays = [made_up_rows(block.video_id, 0, 7, 7 + block.rows) for block in blocks]
    limits = dict.fromkeys(("row_group_bytes", "long_block_bytes"), 30 * WIDTH * 2)
    path = write_shard(tmp_path, "part", PROVENANCE, blocks, arrays, **limits)
    groups = pq.read_metadata(path)
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [
        37, 30, 30, 40, 5,
    ]  # fmt: skip
    if options is not None:
        pq.write_table(pq.read_table(path), path, use_dictionary=False, **options)
    shard = Shard(path)
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(shard.read(number), array)
        np.testing.assert_array_equal(shard.rows(number), array)
    snippets = pq.read_table(path).column("snippet").to_pylist()
    assert snippets == [7 + snippet for count in rows for snippet in range(count)]


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file; the extract stage writes it"):
        FeatureReader(tmp_path / "features", MANIFEST)
    fill(tmp_path, MANIFEST, Runner())
    reader = FeatureReader(tmp_path / "features", MANIFEST)
    with pytest.raises(InputError, match=r"crop 7 of long are not there, it has crops \[0, 1, 2, 3, 4\]"):
        reader.array("long", 7)
    with pytest.raises(InputError, match="crop 0 of short are not there, it has none: too short"):
        reader.array("short", 0)
    with pytest.raises(InputError, match="has no features of a video 'other'"):
        reader.rows("other")
    grown = make_manifest([*MANIFEST.videos, make_video("new", 99)])
    with pytest.raises(InputError, match="has no features of new as the manifest knows it"):
        FeatureReader(tmp_path / "features", grown)
    edited = make_manifest([replace(MANIFEST.videos[0], content_hash="other"), *MANIFEST.videos[1:]])
    with pytest.raises(InputError, match="as the manifest knows it: run the extract stage again"):
        FeatureReader(tmp_path / "features", edited)
    (tmp_path / "features" / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is no readable index"):
        FeatureReader(tmp_path / "features", MANIFEST)


def test_a_run_that_adds_nothing_changes_no_byte_and_calls_nobody(tmp_path):
    fill(tmp_path, MANIFEST, Runner())
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    runner = Runner()
    filled = fill(tmp_path, MANIFEST, runner)
    assert runner.units == []
    assert contents(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == times
    assert filled.summary() == "4 videos with 492 rows, 1 failed, 1 too short; nothing was missing"


def test_equal_bytes_however_the_work_is_cut_and_ordered(tmp_path):
    fill(tmp_path / "a", MANIFEST, Runner(), unit_images=50)
    fill(tmp_path / "b", MANIFEST, Runner(order=lambda units: units[::-1]), unit_images=7)
    fill(tmp_path / "c", MANIFEST, Runner(order=lambda units: units[1::2] + units[::2]), unit_images=10_000)
    assert contents(tmp_path / "a" / "features") == contents(tmp_path / "b" / "features")
    assert contents(tmp_path / "a" / "features") == contents(tmp_path / "c" / "features")


@pytest.mark.parametrize("units_done", [0, 1, 5, 10])
def test_an_interrupted_run_is_gone_on_with(units_done, tmp_path):
    first, second = Runner(), Runner()
    first.stop_after = units_done
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a", MANIFEST, first)
    fill(tmp_path / "a", MANIFEST, second, unit_images=33)
    assert first.snippets + second.snippets == 492  # nothing twice
    fill(tmp_path / "b", MANIFEST, Runner())
    assert contents(tmp_path / "a" / "features") == contents(tmp_path / "b" / "features")


def test_many_shards(tmp_path):
    """Shards are cut at a size, between crops; a later run leaves full ones alone."""
    limits = ShardLimits(row_bytes=90 * WIDTH * 2)
    fill(tmp_path, MANIFEST, Runner(), shard_limits=limits)
    names = {path.name for path in (tmp_path / "features").glob("shard-*")}
    assert len(names) == 6  # one per crop of `long`, and one with what is small
    check_all_rows(tmp_path)
    grown = make_manifest([*MANIFEST.videos, make_video("a", 50)])
    runner = Runner()
    fill(tmp_path, grown, runner, shard_limits=limits)
    assert [part.video_id for unit in runner.units for part in unit.slices] == ["a"]
    check_all_rows(tmp_path, grown, {**ROWS, "a": 3})
    later = {path.name for path in (tmp_path / "features").glob("shard-*")}
    assert len(names & later) == 5


def test_shards_are_cut_at_a_number_of_blocks_too(tmp_path):
    """Very short videos: what lists them must not grow beyond bounds, and what is full stays as it is."""
    videos = [make_video(f"v{number:02d}", 16 + number, "test") for number in range(10)]
    limits = ShardLimits(blocks=4)
    fill(tmp_path, make_manifest(videos), Runner(), shard_limits=limits)
    shards = {path.name: Shard(path) for path in (tmp_path / "features").glob("shard-*")}
    assert sorted(len(shard.blocks) for shard in shards.values()) == [2, 4, 4]
    grown = make_manifest([*videos, make_video("w", 40, "test")])
    fill(tmp_path, grown, Runner(), shard_limits=limits)
    later = {path.name for path in (tmp_path / "features").glob("shard-*")}
    assert len(later - set(shards)) == 1
    full = {name for name, shard in shards.items() if len(shard.blocks) == 4}
    assert full <= later
    check_all_rows(tmp_path, grown, {video.video_id: video.num_frames // 16 for video in grown.videos})


def test_videos_that_leave_or_change(tmp_path):
    fill(tmp_path, MANIFEST, Runner())
    edited = make_manifest(
        [replace(video, content_hash="new", num_frames=64) if video.video_id == "c" else video
         for video in MANIFEST.videos if video.video_id != "long"]
    )  # fmt: skip
    runner = Runner()
    fill(tmp_path, edited, runner)
    assert [part.video_id for unit in runner.units for part in unit.slices] == ["c"]
    check_all_rows(tmp_path, edited, {"b#1=2": 2, "été": 2, "c": 4})
    table = pq.read_table(next((tmp_path / "features").glob("shard-*")))
    assert set(table.column("video_id").to_pylist()) == {"b#1=2", "été", "c"}
    assert table.num_rows == 2 * 5 + 2 + 4
    # All gone: no shard is left, and the index is empty.
    fill(tmp_path, make_manifest([]), Runner())
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["index.parquet"]
    assert read_index(tmp_path / "features")[0] == ()


@pytest.mark.parametrize("hashed", [False, True])
def test_rows_of_a_video_whose_file_is_away_wait_for_it(hashed, tmp_path):
    """Its disk may not be mounted, or fail in passing. A video that left the manifest is gone (see above)."""
    fill(tmp_path, MANIFEST, Runner())
    before = contents(tmp_path / "features")
    missing = {"num_frames": 0, "probe_error": "it cannot be read (Input/output error)"}
    missing |= {} if hashed else {"content_hash": ""}
    away = make_manifest(replace(video, **missing) for video in MANIFEST.videos)
    runner = Runner()
    filled = fill(tmp_path, away, runner)
    assert filled.kinds == {"failed": 6}
    assert {(row.rows, row.shards) for row in index_rows(tmp_path)} == {(0, ())}
    fill(tmp_path, MANIFEST, runner)
    assert runner.units == []
    assert contents(tmp_path / "features") == before


@pytest.mark.parametrize("number", range(4))
def test_half_a_video_that_waited_is_not_in_the_way_of_the_whole(number, tmp_path, monkeypatch):
    """Killed as the whole one is there already and the half one still is, whichever is found first."""
    video = make_video(f"v{number}", 1600, "test")
    first = Runner()
    first.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, make_manifest([video]), first)
    fill(
        tmp_path, make_manifest([replace(video, num_frames=0, content_hash="", probe_error="away")]), Runner()
    )
    assert len(list((tmp_path / "features").glob("shard-*"))) == 1

    real = Path.unlink

    def killed(path, missing_ok=False):
        if path.name.startswith(("shard-", "part-")):
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path, make_manifest([video]), Runner())
    for path in (tmp_path / "features").glob("part-*"):
        path.unlink()
    assert len(list((tmp_path / "features").glob("shard-*"))) == 2
    runner = Runner()
    fill(tmp_path, make_manifest([video]), runner)
    assert runner.units == []
    check_all_rows(tmp_path, make_manifest([video]), {video.video_id: 100})


def test_more_crops_are_added_and_fewer_are_only_hidden(tmp_path):
    one, ten = (PARAMS.model_copy(update={"train_crops": crops}) for crops in (1, 10))
    fill(tmp_path, MANIFEST, Runner(), one)
    first = FeatureReader(tmp_path / "features", MANIFEST).fingerprint
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, ten)
    assert {part.crops for unit in runner.units for part in unit.slices} == {tuple(range(1, 10))}
    check_all_rows(tmp_path, train_crops=10)
    assert FeatureReader(tmp_path / "features", MANIFEST).fingerprint != first
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, one)
    assert runner.units == []
    check_all_rows(tmp_path, train_crops=1)
    assert FeatureReader(tmp_path / "features", MANIFEST).fingerprint == first
    with pytest.raises(InputError, match="crop 3 of long are not there"):
        FeatureReader(tmp_path / "features", MANIFEST).array("long", 3)
    # A test crop other than the train crops' first.
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, one.model_copy(update={"test_crop": 5}))
    assert {(part.video_id, part.crops) for unit in runner.units for part in unit.slices} == {
        ("c", (5,)), ("été", (5,)),
    }  # fmt: skip


def test_another_provenance_never_mixes_and_comes_back(tmp_path):
    fill(tmp_path, MANIFEST, Runner())
    before = contents(tmp_path / "features")
    other = replace(PROVENANCE, frames_per_snippet=16)
    empty = make_manifest([])
    fill(tmp_path, empty, Runner(), provenance=other)
    superseded = tmp_path / ".cache" / "superseded" / PROVENANCE.fingerprint
    assert set(contents(superseded)) == set(before) - {"index.parquet"}
    assert list((tmp_path / "features").glob("shard-*")) == []
    runner = Runner()
    fill(tmp_path, MANIFEST, runner)
    assert runner.units == []
    assert contents(tmp_path / "features") == before
    assert not superseded.exists()


def test_a_damaged_shard_is_put_aside_and_made_again(tmp_path):
    for damage in ("cut", "flipped bit", "no parquet"):
        folder = tmp_path / damage
        fill(folder, MANIFEST, Runner())
        before = contents(folder / "features")
        (path,) = (folder / "features").glob("shard-*")
        data = bytearray(path.read_bytes())
        if damage == "cut":
            data = data[: len(data) // 2]
        elif damage == "flipped bit":
            data[len(data) // 2] ^= 1
        else:
            data = bytearray(b"hello")
        path.write_bytes(data)
        told = []
        runner = Runner()
        fill(folder, MANIFEST, runner, tell=told.append)
        assert runner.snippets == 492
        assert contents(folder / "features") == before
        assert (folder / ".cache" / "damaged" / path.name).read_bytes() == bytes(data)
        assert len(told) == 1
        assert "its videos are extracted again" in told[0]


def test_a_kill_while_merging_doubles_no_row(tmp_path, monkeypatch):
    """The merged shard is there already, and the unmerged ones are there still."""
    real = Path.unlink

    def killed(path, missing_ok=False):
        if path.name.startswith("part-"):
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path, MANIFEST, Runner())
    names = [path.name.split("-")[0] for path in (tmp_path / "features").glob("*-*.parquet")]
    assert sorted(set(names)) == ["part", "shard"]
    runner = Runner()
    fill(tmp_path, MANIFEST, runner)
    assert runner.units == []
    assert [path.name.split("-")[0] for path in (tmp_path / "features").glob("*-*.parquet")] == ["shard"]
    check_all_rows(tmp_path)


def test_a_video_that_ends_before_the_manifest_says(tmp_path):
    """Decoding finds 700 of 1,445 frames: 43 rows, in whichever slices; nothing is asked for again."""
    runner = Runner(ends={"long": 700, "c": 12})
    fill(tmp_path, MANIFEST, runner)
    check_all_rows(tmp_path, rows={"long": 43, "b#1=2": 2, "été": 2})
    rows = {row.video_id: row for row in index_rows(tmp_path)}
    assert (rows["long"].status, rows["long"].rows, rows["long"].decoded_frames) == ("ok", 43, 700)
    assert rows["long"].note == "cut off: only 700 of 1445 frames can be decoded"
    assert rows["c"].note == "too short: 12 of the 16 frames of a snippet can be decoded"
    again = Runner()
    fill(tmp_path, MANIFEST, again)
    assert again.units == []


def test_failed_videos_are_rows_and_the_rest_is_kept(tmp_path):
    runner = Runner()
    runner.failing = {
        "long": ("no frame of it can be decoded", True),
        "c": ("the worker process died", False),
    }
    filled = fill(tmp_path, MANIFEST, runner)
    rows = {row.video_id: row for row in index_rows(tmp_path)}
    assert (rows["long"].status, rows["long"].error) == ("failed", "no frame of it can be decoded")
    assert sum(part.video_id == "long" for unit in runner.units for part in unit.slices) == 1, "slices after"
    check_all_rows(tmp_path, rows={"b#1=2": 2, "été": 2})
    message = (
        r"3 of 6 videos failed, more than extract.max_failed_fraction 0.4 allows: bad \(the file is empty\), "
        r"c \(the worker process died\), long \(no frame of it can be decoded\). The good ones are kept"
    )
    with pytest.raises(InputError, match=message):
        filled.check_budget(0.4)
    filled.check_budget(0.5)
    lines = (tmp_path / "features" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["c", "long"]
    # What lies in the file is not tried again until the file changes; what the machine did is.
    again = Runner()
    fill(tmp_path, MANIFEST, again)
    assert {part.video_id for unit in again.units for part in unit.slices} == {"c"}
    repaired = make_manifest(
        [
            replace(video, content_hash="repaired") if video.video_id == "long" else video
            for video in MANIFEST.videos
        ]
    )
    fill(tmp_path, repaired, Runner())
    check_all_rows(tmp_path, repaired)
    assert not (tmp_path / "features" / "failures.jsonl").exists()


def test_a_long_video_that_kills_its_worker_is_given_up_once(tmp_path):
    """Its other slices are not tried any more, those there leave the store, and the rest is whole."""

    class Deadly(Runner):
        def run(self, unit):
            (part,) = unit.slices
            if (part.video_id, part.start) == ("long", 20):
                return Outcome(unit, None, "the worker process died (at each of 3 attempts)")
            return super().run(unit)

    runner = Deadly()
    fill(tmp_path, MANIFEST, runner, unit_images=10)
    rows = {row.video_id: row for row in index_rows(tmp_path)}
    assert rows["long"].error == "the worker process died (at each of 3 attempts)"
    starts = [part.start for unit in runner.units for part in unit.slices if part.video_id == "long"]
    assert starts == list(range(0, 22, 2))
    check_all_rows(tmp_path, rows={name: count for name, count in ROWS.items() if name != "long"})
    table = pq.read_table(next((tmp_path / "features").glob("shard-*")))
    assert "long" not in table.column("video_id").to_pylist()


def test_a_failure_line_cut_off_by_a_kill(tmp_path):
    runner = Runner()
    runner.failing = {"c": ("broken", True)}
    fill(tmp_path, MANIFEST, runner)
    with open(tmp_path / "features" / "failures.jsonl", "a") as opened:
        opened.write('{"video_id": "lo')
    again = Runner()
    fill(tmp_path, MANIFEST, again)
    assert again.units == []


def test_only_what_was_asked_for_is_taken_in(tmp_path):
    """A worker gone wrong publishes nothing."""
    rows = made_up_rows("x", 0, 0, 1)

    class Wrong(Runner):
        def run(self, unit):
            outcome = super().run(unit)
            if self.kind == "other rows":
                result = Extracted([unit.slices[0].block(9, rows=1, frames=16)], [rows])
            elif self.kind == "other width":
                result = Extracted(outcome.result.blocks, [array[:, 1:] for array in outcome.result.arrays])
            else:
                result = Extracted(outcome.result.blocks, [rows.astype(np.float32)] * 5)
            return replace(outcome, result=result)

    for kind, error in {
        "other rows": "the worker returned what was not asked for",
        "other width": "the worker returned rows of another shape than it says",
        "other type": "the worker returned rows of another shape than it says",
    }.items():
        runner = Wrong()
        runner.kind = kind
        fill(tmp_path / kind, make_manifest([make_video("long", 99)]), runner)
        assert [(row.status, row.error) for row in index_rows(tmp_path / kind)] == [("failed", error)]
        assert list((tmp_path / kind / "features").glob("*-*.parquet")) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge, "write_shard", full)
    with pytest.raises(InputError, match="features cannot be written: No space left on device"):
        fill(tmp_path, MANIFEST, Runner())
    monkeypatch.undo()
    runner = Runner()
    fill(tmp_path, MANIFEST, runner)
    assert runner.units == []  # all rows were there, unmerged
    check_all_rows(tmp_path)


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    (features / ".part.0123.tmp").write_bytes(b"half")
    (features / ".index.0123.tmp.parquet").write_bytes(b"half")
    FeatureStore(features, tmp_path / ".cache", PROVENANCE)
    assert list(features.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "copy"),
    [
        ("s3://b/f", "aws s3 cp --recursive s3://b/f {}/ && rm {}/store.json"),
        ("gs://b/f", "gcloud storage cp gs://b/f/*.parquet {}/ && rm {}/store.json"),
    ],
)
def test_a_store_in_a_bucket_is_brought_home(uri, copy, tmp_path):
    (tmp_path / "store.json").write_text(json.dumps({"version": 1, "uri": uri, "shards": []}))
    command = re.escape(copy.format(tmp_path, tmp_path))
    with pytest.raises(InputError, match=command):
        FeatureStore(tmp_path, tmp_path / ".cache", PROVENANCE)
    with pytest.raises(InputError, match=command):
        FeatureReader(tmp_path, MANIFEST)


def test_fingerprints_tell_what_features_were_made_from(tmp_path):
    fill(tmp_path, MANIFEST, Runner())
    rows = index_rows(tmp_path)
    same = feature_fingerprint(rows, PROVENANCE)
    assert feature_fingerprint(rows[::-1], PROVENANCE) == same
    moved = [replace(row, shards=("elsewhere",), lost_frames=3, note="x") for row in rows]
    assert feature_fingerprint(moved, PROVENANCE) == same
    for change in ({"rows": 1}, {"content_hash": "x"}, {"crops": (0,)}, {"video_id": "x"}):
        changed = [replace(row, **change) if row.video_id == "long" else row for row in rows]
        assert feature_fingerprint(changed, PROVENANCE) != same, change
    assert feature_fingerprint(rows, replace(PROVENANCE, recipe_version=3)) != same
    assert len({replace(PROVENANCE, **{name: "other"}).fingerprint for name in PROVENANCE.__dict__}) == 10


def test_the_store_of_another_version_is_an_input_error():
    with pytest.raises(InputError, match="were written by another version of this program"):
        Provenance.from_json('{"clip_name": "x", "of_the_future": 1}')
