"""Extraction on a cluster of several nodes that do not have this project, through all that happens on one."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import cluster_helpers
import pytest
import ray
from cluster_helpers import Errands, Sabotaged, running_cluster
from conftest import PROJECT, wait_for
from extract_helpers import BATCH, extract_here, extract_params, tiny_clip
from feature_helpers import all_rows, contents, index_rows
from manifest_helpers import make_manifest, make_video
from params_helpers import execution_params, write_params
from test_hostile_input import declare_samples
from video_helpers import numbered_frame, write_video

from vadclip.clip.identity import identify_clip
from vadclip.errors import InputError
from vadclip.extract.fill import fill_store
from vadclip.extract.on_ray import clip_files
from vadclip.extract.store import FeatureStore
from vadclip.extract.units import split_unit
from vadclip.features.provenance import Provenance
from vadclip.ingest import probing
from vadclip.ingest.probing import probe_files
from vadclip.manifest import write_manifest
from vadclip.pool.pool import Pool

ray.cloudpickle.register_pickle_by_value(cluster_helpers)  # nodes do not have the tests either


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def options(nodes, **changes):
    settings = {
        "max_attempts": 2, "stall_seconds": 20,
    }  # fmt: skip
    return execution_params(ray_address=nodes.address, **{**settings, **changes})


def test_code_and_files_travel_to_nodes_that_have_neither(nodes, tmp_path):
    """Each node keeps one copy of a file, which the next run finds; none has the project."""
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(100_000))

    def import_it():
        import vadclip  # noqa: F401

    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    with pytest.raises(ray.exceptions.RayTaskError, match="No module named 'vadclip'"):
        ray.get(ray.remote(import_it).remote())
    ray.shutdown()
    make = partial(Errands, tmp_path)
    with Pool(make, options(nodes), [str(path)]) as pool:
        assert {outcome.result for outcome in pool.run(["meet 3"] * 3)} == nodes.ids
        results = [outcome.result for outcome in pool.run([f"read {path}"] * 3)]
    for copy, content, code in results:
        assert content == path.read_bytes()
        assert Path(copy).is_relative_to(nodes.folder)
        assert Path(copy).name == "weights.bin"
        assert "py_modules_files" in code
    times = {copy: Path(copy).stat().st_mtime_ns for copy, _, _ in results}
    next(iter(map(Path, times))).write_bytes(b"damaged")
    with Pool(partial(Errands, tmp_path / "again"), options(nodes), [str(path)]) as pool:
        assert {outcome.result for outcome in pool.run(["meet 3"] * 3)} == nodes.ids
    assert all(Path(copy).read_bytes() == path.read_bytes() for copy in times)
    assert sum(Path(copy).stat().st_mtime_ns != time for copy, time in times.items()) == 1
    assert len(list(nodes.folder.rglob("weights.bin"))) == 3


def test_nodes_that_join_get_workers(nodes, tmp_path):
    told = []
    added = []

    def progress(amount):
        if not added and len(list((tmp_path / "at work").glob("*"))) == 3:
            added.append(nodes.add())

    with Pool(partial(Errands, tmp_path), options(nodes)) as pool:
        outcomes = list(pool.run(["meet 4"] * 4, progress=progress, tell=told.append))
    assert {outcome.result for outcome in outcomes} == nodes.ids
    [news] = [line for line in told if line.startswith("node ")]
    assert news.endswith(" joined; room for 4 workers now")
    nodes.remove(added[0], orderly=True)


def test_without_a_node_that_fits_the_run_waits_then_gives_up(nodes, tmp_path):
    """The one node with a GPU holds two workers by halves; then it is gone."""
    halves = options(nodes, cpus_per_actor=0.5, gpus_per_actor=0.5)
    with pytest.raises(InputError, match=r"any number of actors of 0\.5 CPUs and 0\.5 GPUs each; there: "):
        Pool(partial(Errands, tmp_path), halves).__enter__()
    gpu = nodes.add(num_gpus=1)
    with pytest.raises(InputError, match="the workers do not fit; asked: 3 actors"):
        Pool(partial(Errands, tmp_path), options(nodes, gpus_per_actor=0.5, actors=3)).__enter__()
    told = []

    def progress(amount):
        if gpu in nodes.ids and len(list((tmp_path / "at work").glob(f"{gpu}*"))) == 2:
            nodes.remove(gpu, orderly=True)

    with (
        Pool(partial(Errands, tmp_path), halves, quiet_seconds=0.5, no_room_seconds=3) as pool,
        pytest.raises(InputError, match=r"no node has been left .* what is done is kept, run the same"),
    ):
        list(pool.run(["wait never"] * 4, progress=progress, tell=told.append))
    [gone] = [line for line in told if line.startswith("node ")]
    assert gone.endswith("is gone, its work starts again elsewhere; room for 0 workers now")
    assert told[-1].startswith("waiting for nodes; asked: any number of actors")


def test_other_work_on_the_cluster_is_waited_for(nodes, tmp_path):
    class Other:
        def ready(self): ...

    told = []
    with Pool(partial(Errands, tmp_path), options(nodes), quiet_seconds=0.5) as pool:
        others = [ray.remote(num_cpus=1)(Other).remote() for _ in nodes.ids]
        ray.get([other.ready.remote() for other in others])

        def tell(line):
            told.append(line)
            for other in others:
                ray.kill(other)

        outcomes = list(pool.run(["go"] * 3, tell=tell))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert told[0].startswith(
        "waiting for a place (other work on the cluster may hold it); asked: any number"
    )
    assert "3 nodes of 1 CPUs, 0 GPUs" in told[0]
    assert "free of that: 0 CPUs" in told[0]


def test_an_interrupted_run_leaves_the_cluster_free(nodes, tmp_path):
    code = """
import sys
from test_cluster import *
from flows import run_stage
def main():
    here = execution_params(ray_address=sys.argv[2], max_attempts=2, stall_seconds=60)
    with Pool(partial(Errands, Path(sys.argv[1])), here) as pool:
        list(pool.run(["wait never"] * 3))
run_stage(main)
"""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    command = [sys.executable, "-c", code, tmp_path, nodes.address]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        wait_for(lambda: len(list((tmp_path / "at work").glob("*"))) == 3, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    wait_for(lambda: ray.available_resources().get("CPU") == 3)
    assert ray.cluster_resources()["CPU"] == 3
    ray.shutdown()


# The real stage


def make_corpus(folder, names):
    """Write a video of 48 frames and a few for each name, no two alike."""
    videos = []
    for number, name in enumerate(names):
        frames = [numbered_frame(37 * number + index) for index in range(48 + number % 5)]
        write_video(folder / f"{name}.mp4", frames, gop=30)
        videos.append(make_video(name, len(frames)))
    return make_manifest(videos)


def test_all_that_goes_wrong_on_a_cluster_in_one_run(nodes, tmp_path):
    """A video kills every worker, one sticks in native code, a SIGKILL; a node is lost and one joins."""
    good = [f"good{number}" for number in range(6)]
    manifest = make_corpus(tmp_path / "videos", [*good, "killed", "lost", "poison", "stuck"])
    clip, params = tiny_clip(tmp_path / "clip"), extract_params(train_crops=5, max_failed_fraction=0.5)
    provenance = Provenance.encoded(identify_clip(clip, tmp_path), clip.precision, params.frames_per_snippet)
    notes = tmp_path / "notes"
    notes.mkdir()
    told = []

    def run_units(
        units, *, progress,
        tell, **more
    ):  # fmt: skip
        def act(amount):
            progress(amount)
            doomed = notes / "node to remove"
            if doomed.exists() and doomed.read_text() in nodes.ids:
                nodes.remove(doomed.read_text(), orderly=False)

        def listen(line):
            told.append(line)
            if " is gone, " in line:
                nodes.add()
            if " joined; " in line:
                (notes / "node joined").touch()

        one_try = options(nodes, max_attempts=1, stall_seconds=6, encoder_batch=BATCH)
        worker = partial(Sabotaged, notes, clip, one_try, provenance)
        with Pool(worker, one_try, clip_files(clip)) as pool:
            yield from pool.run(units, split=split_unit, progress=act, tell=listen, **more)

    store = FeatureStore(tmp_path / "features", tmp_path / ".cache", provenance)
    # Units of two videos each, in the manifest's order.
    fill_store(store, manifest.videos, str(tmp_path / "videos"), params, unit_images=30, run_units=run_units)
    rows = index_rows(tmp_path)
    assert {row.video_id: row.error for row in rows if row.status == "failed"} == {
        "poison": "the worker process died (at each of 1 attempts)",
        "stuck": "nothing got done for 6 s (at each of 1 attempts)",
    }
    # The lost node is nobody's fault: one attempt was all that anyone had.
    assert [row.video_id for row in rows if row.status == "ok"] == sorted([*good, "killed", "lost"])
    assert sum(row.rows * len(row.crops) for row in rows) == 8 * 3 * 5
    news = [line.partition("; ")[2] for line in told if line.startswith("node ")]
    assert news == ["room for 2 workers now", "room for 3 workers now"]

    undisturbed = make_manifest(
        [video for video in manifest.videos if video.video_id not in ("poison", "stuck")]
    )
    extract_here(tmp_path / "quiet", undisturbed, tmp_path / "videos", clip, params)
    assert all_rows(tmp_path, manifest) == all_rows(tmp_path / "quiet", undisturbed)


def test_remote_videos_are_looked_into_by_the_nodes(nodes, tmp_path, monkeypatch):
    """With what this machine would find, and the same bound of memory; not one is read here."""
    write_video(tmp_path / "set" / "a#1.mp4", 40)
    (tmp_path / "set" / "text.mp4").write_text("no video")
    declare_samples(tmp_path / "set" / "endless.mp4", 170_000_000)
    paths = [f"file://{tmp_path}/set/{name}" for name in ("a#1.mp4", "text.mp4", "endless.mp4", "none.mp4")]
    here = probe_files(paths, tmp_path / "here")
    assert here[paths[0]].num_frames == 40
    assert [here[path].error is None for path in paths] == [True, False, False, False]
    monkeypatch.setattr(probing, "run_supervised", lambda *_: pytest.fail("a remote video was read here"))
    assert probe_files(paths, tmp_path / "there", execution=options(nodes)) == here
    # What was found is remembered.
    assert probe_files(paths, tmp_path / "there", execution=execution_params(ray_address="no:1")) == here


def make_stage(folder, videos):
    """A project whose CLIP is named by paths that only it knows; its videos lie elsewhere."""
    manifest = make_corpus(videos, [f"v{number:02d}" for number in range(30)])
    write_manifest(manifest, folder / "manifest.parquet")
    clip = tiny_clip(folder / "clip")
    write_params(
        folder,
        dataset={"name": "table", "table": "unused.csv", "root": str(videos)},
        clip=clip.model_dump() | {"model": "clip/clip.json", "pretrained": "clip/clip.safetensors"},
        extract={"train_crops": 5},
        execution={"unit_images": 15, "encoder_batch": BATCH},
    )
    return manifest, clip


def test_a_driver_killed_while_its_actors_live_and_the_same_command_again(nodes, tmp_path):
    """Nodes see no project. A second driver is refused meanwhile; before the third, a shard is damaged."""
    project = nodes.project
    manifest, clip = make_stage(project, tmp_path / "videos")
    with Pool(partial(Errands, tmp_path), options(nodes)) as pool:
        seen = [outcome.result for outcome in pool.run([f"look {project / 'params.yaml'}"] * 3)]
    assert seen == [not nodes.hidden] * 3
    command = [sys.executable, "-m", "flows.extract"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_ADDRESS": nodes.address}
    settings = {"cwd": project, "env": environment, "text": True, "stderr": subprocess.PIPE}
    killed = subprocess.Popen(command, **settings)
    features = project / "features"
    wait_for(lambda: len(list(features.glob("part-*"))) >= 3, killed)
    killed.send_signal(signal.SIGSTOP)  # it holds the lock, and will not end before it is killed
    second = subprocess.run(command, **settings, timeout=120, check=False)
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: stage extract is at work here as process {killed.pid}: ")
    killed.kill()
    killed.wait()
    parts = sorted(features.glob("part-*"))
    assert not (features / "index.parquet").exists()
    assert 3 <= len(parts) < 30
    parts[0].write_bytes(parts[0].read_bytes()[:-100])

    third = subprocess.run(command, **settings, timeout=300, stdout=subprocess.PIPE, check=False)
    assert third.returncode == 0, third.stderr
    [damaged] = [line for line in third.stdout.splitlines() if "moved to .cache/damaged" in line]
    assert damaged.startswith(f"features/{parts[0].name} ")
    done = json.loads((project / "extract_metrics.json").read_text())
    assert done["videos_ok"] == 30
    assert done["run_units"] == 30 - (len(parts) - 1)
    extract_here(tmp_path / "quiet", manifest, tmp_path / "videos", clip, extract_params(train_crops=5))
    assert contents(features) == contents(tmp_path / "quiet" / "features")
