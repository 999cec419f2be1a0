"""The feature store in a bucket keeps all promises of the local one; against real servers on loopback."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from bucket_helpers import make_folder, objects, put, remove
from feature_helpers import (
    PARAMS,
    PROVENANCE,
    Runner,
    contents,
    fill,
    index_rows,
    made_up_rows,
    make_manifest,
    make_video,
)

from vadclip.config import load_params
from vadclip.errors import InputError
from vadclip.extract import merge
from vadclip.features import remote_storage
from vadclip.features.reader import FeatureReader
from vadclip.features.shards import write_shard

MANIFEST = make_manifest(
    [
        make_video("long", 16 * 90 + 5),
        make_video("b#1=2", 40),
        make_video("été", 33, "val"),
        make_video("c", 16 * 30, "test"),
        make_video("bad", 0, "test", probe_error="the file is empty", content_hash=""),
    ]
)
ROWS = {"long": 90, "b#1=2": 2, "été": 2, "c": 30}
SNIPPETS = (90 + 2) * 5 + 2 + 30


def check_rows(folder: Path, cache: Path | None = None) -> None:
    reader = FeatureReader(folder / "features", MANIFEST, cache)
    for name, rows in ROWS.items():
        for crop in reader.crops(name):
            np.testing.assert_array_equal(reader.array(name, crop), made_up_rows(name, crop, 0, rows))


def test_the_rows_are_those_of_a_local_store_and_dvc_gets_only_their_list(
    bucket: str, tmp_path: Path
) -> None:
    uri = f"{bucket}/a store"
    fill(tmp_path / "here", MANIFEST, Runner())
    fill(tmp_path / "there", MANIFEST, Runner(), uri=uri)
    local, remote = contents(tmp_path / "here" / "features"), contents(tmp_path / "there" / "features")
    assert set(remote) == {"index.parquet", "store.json"}
    assert remote["index.parquet"] == local["index.parquet"]
    (name,) = set(local) - {"index.parquet"}
    assert objects(uri) == {name: local[name]}  # no lease, no leftovers
    assert json.loads(remote["store.json"]) == {
        "version": 1,
        "uri": uri,
        "shards": [
            {"name": name, "bytes": len(local[name]), "sha256": hashlib.sha256(local[name]).hexdigest()}
        ],
    }
    check_rows(tmp_path / "there")
    check_rows(tmp_path / "there", cache=tmp_path / "another machine")
    assert (tmp_path / "another machine" / "shards" / name).read_bytes() == local[name]


def test_a_run_that_adds_nothing_changes_no_byte_and_fetches_none(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), uri=uri)
    before, there = contents(tmp_path), objects(uri)
    with monkeypatch.context() as patch:
        patch.setattr(remote_storage, "download_atomic", lambda *_: pytest.fail("fetched again"))
        runner = Runner()
        fill(tmp_path, MANIFEST, runner, uri=uri)
    assert runner.units == []
    assert contents(tmp_path) == before
    assert objects(uri) == there
    # Another machine that has only what DVC tracks.
    other = tmp_path / "other"
    (other / "features").mkdir(parents=True)
    for name in ("index.parquet", "store.json"):
        (other / "features" / name).write_bytes(before[f"features/{name}"])
    fill(other, MANIFEST, runner, uri=uri)
    assert runner.units == []
    assert contents(other / "features") == contents(tmp_path / "features")


@pytest.mark.parametrize("units_done", [1, 5])
def test_an_interrupted_run_is_gone_on_with(units_done: int, bucket: str, tmp_path: Path) -> None:
    first, second = Runner(), Runner()
    first.stop_after = units_done
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a", MANIFEST, first, uri=f"{bucket}/a")
    fill(tmp_path / "a", MANIFEST, second, unit_images=33, uri=f"{bucket}/a")
    assert first.snippets + second.snippets == SNIPPETS  # nothing twice
    fill(tmp_path / "b", MANIFEST, Runner())
    index = "index.parquet"
    assert contents(tmp_path / "a" / "features")[index] == contents(tmp_path / "b" / "features")[index]
    check_rows(tmp_path / "a")


KILLED = """
import os, signal, sys
from pathlib import Path
from feature_helpers import Runner, fill
from test_remote_store import MANIFEST

class Killed(Runner):
    def run(self, unit, folder):
        if len(self.units) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(unit, folder)

fill(Path(sys.argv[1]), MANIFEST, Killed(), uri=sys.argv[2])
"""


def test_kill_9_and_the_same_command_again(bucket: str, tmp_path: Path) -> None:
    """The dead run's lease is no hindrance to its own project, and what workers left is cleared."""
    uri = f"{bucket}/store"
    path = f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1]}"
    environment = {**os.environ, "PYTHONPATH": path}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), uri], env=environment, check=False)
    assert killed.returncode == -9
    left = objects(uri)
    assert "lease.json" in left
    assert sum(name.startswith("part-") for name in left) == 5
    make_folder(f"{uri}/tmp")
    put(f"{uri}/tmp/orphan/part-0123456789abcdef.parquet", b"of a worker that lives on")
    runner = Runner()
    started = time.monotonic()
    fill(tmp_path, MANIFEST, runner, uri=uri)
    assert time.monotonic() - started < 60  # the bounded silence was not waited for
    assert len(runner.units) == 11 - 5
    check_rows(tmp_path)
    assert [name.partition("-")[0] for name in objects(uri)] == ["shard"]


def test_a_kill_while_merging_doubles_no_row(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/store"

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote_storage.RemoteStorage, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path, MANIFEST, Runner(), uri=uri)
    assert {name.partition("-")[0] for name in objects(uri)} == {"part", "shard"}
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, uri=uri)
    assert runner.units == []
    assert [name.partition("-")[0] for name in objects(uri)] == ["shard"]
    check_rows(tmp_path)


def test_a_damaged_shard_is_put_aside_and_made_again(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), uri=uri)
    before, there = contents(tmp_path / "features"), objects(uri)
    (name,) = there
    flipped = bytearray(there[name])
    flipped[len(flipped) // 2] ^= 1
    for damage in (bytes(flipped), b"hello"):
        put(f"{uri}/{name}", damage)
        told: list[str] = []
        runner = Runner()
        fill(tmp_path, MANIFEST, runner, uri=uri, tell=told.append)
        assert runner.snippets == SNIPPETS
        assert contents(tmp_path / "features") == before
        assert objects(uri) == {f"damaged/{name}": damage, name: there[name]}
        assert told == [f"{uri}/{name} is damaged: moved to {uri}/damaged; its videos are extracted again"]
    # A fault of the copy on this disk is not the bucket's.
    (tmp_path / ".cache" / "shards" / name).write_bytes(bytes(flipped))
    fill(tmp_path, MANIFEST, runner := Runner(), uri=uri)
    assert runner.units == []
    check_rows(tmp_path)


def test_another_provenance_never_mixes_and_comes_back(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), uri=uri)
    before, there = contents(tmp_path / "features"), objects(uri)
    other = replace(PROVENANCE, frames_per_snippet=16)
    fill(tmp_path, make_manifest([]), Runner(), provenance=other, uri=uri)
    assert objects(uri) == {f"superseded/{PROVENANCE.fingerprint}/{n}": data for n, data in there.items()}
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, uri=uri)
    assert runner.units == []
    assert contents(tmp_path / "features") == before
    assert objects(uri) == there


def test_many_shards_and_videos_that_come_and_go(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "SHARD_BYTES", 90 * 8 * 2)
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), uri=uri)
    names = set(objects(uri))
    assert len(names) == 6
    check_rows(tmp_path)
    grown = make_manifest([*MANIFEST.videos, make_video("a", 50)])
    runner = Runner()
    fill(tmp_path, grown, runner, uri=uri)
    assert [part.video_id for unit in runner.units for part in unit.slices] == ["a"]
    assert len(names & set(objects(uri))) == 5
    # Copies of what left the bucket leave the disk.
    assert {path.name for path in (tmp_path / ".cache" / "shards").glob("*.parquet")} == set(objects(uri))
    fill(tmp_path, make_manifest([]), Runner(), uri=uri)
    assert objects(uri) == {}
    assert json.loads((tmp_path / "features" / "store.json").read_text())["shards"] == []


def test_only_the_driver_publishes_what_was_asked_for(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"

    class Wrong(Runner):
        def run(self, unit, folder):
            outcome = super().run(unit, folder)
            shard = outcome.result.shard
            assert shard.startswith(f"{uri}/tmp/")
            assert not [name for name in objects(uri) if name.startswith("part-")]
            if self.kind == "gone":
                remove(shard)
            elif self.kind == "cut":
                put(shard, b"PAR1")
            else:
                other = write_shard(tmp_path, "part", replace(PROVENANCE, precision="bf16"), [], [])
                put(shard := f"{uri}/{other.name}", other.read_bytes())
            return replace(outcome, result=replace(outcome.result, shard=shard))

    manifest = make_manifest([make_video("v", 99)])
    for kind, error in {
        "gone": "which a worker left, is gone",
        "cut": "is no readable Parquet file",
        "elsewhere": "was not left where this run's workers leave their shards",
    }.items():
        runner = Wrong()
        runner.kind = kind
        fill(tmp_path, manifest, runner, uri=uri)
        (row,) = index_rows(tmp_path)
        assert error in str(row.error)
        assert json.loads((tmp_path / "features" / "store.json").read_text())["shards"] == []


def test_readers_say_in_a_line_that_a_shard_is_gone_or_another(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), uri=uri)
    (name,) = objects(uri)
    put(f"{uri}/{name}", b"something else")
    with pytest.raises(InputError, match=f"{name} is not the shard that store.json knows: put the right one"):
        FeatureReader(tmp_path / "features", MANIFEST, tmp_path / "elsewhere")
    remove(f"{uri}/{name}")
    with pytest.raises(InputError, match=f"{name} is gone, and store.json needs it"):
        FeatureReader(tmp_path / "features", MANIFEST, tmp_path / "elsewhere")
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []
    check_rows(tmp_path)  # where a copy is, the bucket is not asked
    (tmp_path / "features" / "store.json").write_text('{"uri": "../elsewhere"}')
    with pytest.raises(InputError, match=r"store.json is no readable store.json: run the extract stage"):
        FeatureReader(tmp_path / "features", MANIFEST)
    put(f"{uri}/{name}", (tmp_path / ".cache" / "shards" / name).read_bytes())
    fill(tmp_path, MANIFEST, runner := Runner(), uri=uri)
    assert runner.units == []
    check_rows(tmp_path)


def test_from_local_to_a_bucket_to_another_and_back_nothing_is_encoded_again(
    bucket: str, tmp_path: Path
) -> None:
    fill(tmp_path, MANIFEST, Runner())
    local = contents(tmp_path / "features")
    (name,) = set(local) - {"index.parquet"}
    runner = Runner()
    told: list[str] = []
    fill(tmp_path, MANIFEST, runner, uri=f"{bucket}/one", tell=told.append)
    assert told == [f"1 shards moved from {tmp_path / 'features'} to {bucket}/one"]
    assert set(contents(tmp_path / "features")) == {"index.parquet", "store.json"}
    fill(tmp_path, MANIFEST, runner, uri=f"{bucket}/two", tell=told.append)
    assert told[1] == f"shards of {bucket}/one are copied to {bucket}/two; they stay there as well"
    assert objects(f"{bucket}/one") == objects(f"{bucket}/two") == {name: local[name]}
    fill(tmp_path, MANIFEST, runner, tell=told.append)
    assert contents(tmp_path / "features") == local
    assert runner.units == []
    # Where the old place has lost it, it is made again.
    fill(tmp_path, MANIFEST, runner, uri=f"{bucket}/two")
    remove(f"{bucket}/two/{name}")
    fill(tmp_path, MANIFEST, runner, tell=told.append)
    assert "is gone, and store.json needs it" in told[-2]
    assert runner.snippets == SNIPPETS
    assert contents(tmp_path / "features") == local


def test_a_bucket_that_is_not_there_or_does_not_answer(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = bucket.partition(":")[0]
    nowhere = f"{scheme}://nowhere-to-be-found/x"
    with pytest.raises(InputError, match=rf"{nowhere}/lease.json cannot be written: .* bucket") as raised:
        fill(tmp_path, MANIFEST, Runner(), uri=nowhere)
    assert "http" not in str(raised.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0)))
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    try:
        with pytest.raises(
            InputError, match=r"cannot be written: bucket-.* does not answer \((Endp|ClientConn)"
        ) as raised:
            fill(tmp_path, MANIFEST, Runner(), uri=f"{bucket}/x")
    finally:
        clients.clear_instance_cache()
    assert "secret" not in str(raised.value)


ONLY = "conditional writes, which are built for s3:// and gs:// only"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gcs://bucket/x", ONLY),  # another spelling of one place
        ("s3a://bucket/x", ONLY),
        ("/mnt/features", ONLY),
        ("s3://me:secret@bucket/x", "must not hold a name or password"),
        ("gs://me:secret@bucket/x", "must not hold a name or password"),
        ("gs://bucket/x?key=secret", "has no [?] and no #"),
        ("gs://bucket/x#12", "has no [?] and no #"),
        ("s3://bucket/x/../y", "must not hold '..'"),
        ("s3://bucket", "must name a folder: s3://bucket/folder"),
        ("gs://bucket/", "must name a folder: s3://bucket/folder, gs://bucket/folder"),
        ("gs://bucket//x", "must name a folder"),
    ],
)
def test_addresses_that_are_refused(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_params(with_features_uri(tmp_path / "params.yaml", uri))
    assert "secret" not in str(raised.value)


def test_addresses_that_are_taken(tmp_path: Path) -> None:
    for uri in ("s3://bucket/x", "gs://bucket/x/y/"):
        params = load_params(with_features_uri(tmp_path / "params.yaml", uri))
        assert params.execution.features_uri == uri


def with_features_uri(path: Path, uri: str) -> Path:
    text = (Path(__file__).parents[1] / "params.yaml").read_text()
    path.write_text(text.replace("features_uri: null", f"features_uri: {json.dumps(uri)}"))
    return path


def test_one_crop_more_is_added(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/store"
    fill(tmp_path, MANIFEST, Runner(), PARAMS.model_copy(update={"train_crops": 1}), uri=uri)
    runner = Runner()
    fill(tmp_path, MANIFEST, runner, uri=uri)
    assert {part.crops for unit in runner.units for part in unit.slices} == {(1, 2, 3, 4)}
    check_rows(tmp_path)
