"""The pool against workers that crash, raise, hang with the GIL held, or cannot start."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import ray
from conftest import wait_for
from params_helpers import execution_params
from pool_workers import FaultyWorker
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from vadclip.errors import InputError
from vadclip.pool.cluster import Cluster
from vadclip.pool.pool import Pool

# Actors and child processes import the workers from here.
PATH = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parent}"
EXECUTION = execution_params(actors=2, max_attempts=2, stall_seconds=2.5)


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATH)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def split(task):
    return [(word,) for word in task]


def run(folder, tasks, execution=EXECUTION, max_losses=5, **more):
    with Pool(partial(FaultyWorker, folder, "well"), execution, max_losses=max_losses) as started:
        return list(started.run(tasks, split=split, **more))


def runs(folder, word):
    return len(list(folder.glob(f"{word}.*")))


def test_only_the_guilty_are_blamed_and_nothing_is_done_twice_in_vain(tmp_path):
    """40 good words in units of 4, and among them one of each fault."""
    good = [f"good{number}" for number in range(40)]
    bad = ["poison", "once", "raise", "hang", "slow"]
    words = [*good]
    for place, word in zip((5, 12, 20, 27, 33), bad, strict=True):
        words.insert(place, word)
    tasks = [tuple(words[at : at + 4]) for at in range(0, len(words), 4)]
    told = []
    amounts = []
    outcomes = run(tmp_path, tasks, progress=amounts.append, tell=told.append)

    done = [word for outcome in outcomes if outcome.error is None for word in outcome.result or []]
    assert sorted(done) == sorted(word.upper() for word in [*good, "once", "slow"])
    errors = {outcome.task: outcome.error for outcome in outcomes if outcome.error is not None}
    assert errors == {
        ("poison",): "the worker process died (at each of 2 attempts)",
        ("raise",): "KeyError: 'no such thing' (at each of 2 attempts)",
        ("hang",): "nothing got done for 2.5 s (at each of 2 attempts)",
    }
    # Once in its unit, which is split, then alone until max_attempts.
    assert [runs(tmp_path, word) for word in ("poison", "raise", "hang", "once", "slow")] == [3, 3, 3, 2, 1]
    # A good word runs again only if it stood before the guilty one in its unit.
    for task in tasks:
        guilty = [at for at, word in enumerate(task) if word in ("poison", "raise", "hang", "once")]
        for at, word in enumerate(task):
            if word.startswith("good"):
                assert runs(tmp_path, word) == (2 if guilty and at < guilty[0] else 1), word
    assert sum(amounts) == len(done)
    assert any("no such thing" in line and "pool_workers.py" in line for line in told)


def test_a_task_that_takes_its_node_along_is_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(Cluster, "lost", lambda self, node_id: True)
    outcomes = run(tmp_path, [("poison",), ("good",)], max_losses=1)
    assert {outcome.task: outcome.error for outcome in outcomes} == {
        ("good",): None,
        ("poison",): "its node died, 2 times (at each of 2 attempts)",
    }
    assert runs(tmp_path, "poison") == 3  # one for nothing, and two attempts


def test_a_users_mistake_in_a_worker_ends_the_run(tmp_path):
    with pytest.raises(InputError, match="the disk is full"):
        run(tmp_path, [("good",), ("full",), *[(f"slow{number}",) for number in range(9)]])
    assert runs(tmp_path, "slow8") == 0


def test_a_worker_that_cannot_start_ends_the_run(tmp_path):
    with (
        Pool(partial(FaultyWorker, tmp_path, "bad input"), EXECUTION) as started,
        pytest.raises(InputError, match="the weights are of another model"),
    ):
        list(started.run([("good",)]))
    with (
        Pool(partial(FaultyWorker, tmp_path, "die"), EXECUTION) as started,
        pytest.raises(
            InputError,
            match=r"workers do not start on node .*: the worker process died; asked: 2 actors of 1",
        ),
    ):
        list(started.run([("good",)]))


def test_tasks_no_longer_wanted_are_dropped(tmp_path):
    finished = []
    with Pool(partial(FaultyWorker, tmp_path, "well"), EXECUTION) as started:
        tasks = [("first",), *[(f"slow{number}",) for number in range(6)]]
        for outcome in started.run(tasks, wanted=lambda task: not finished):
            finished.extend(outcome.result or [])
    assert "FIRST" in finished
    assert runs(tmp_path, "slow5") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actors": 5}, "asked: 5 actors of 1 CPUs and 0 GPUs each; there: 2 CPUs, 0 GPUs"),
        ({"actors": None, "cpus_per_actor": 8}, "asked: any number of actors of 8 CPUs"),
        ({"gpus_per_actor": 0.5}, "of 1 CPUs and 0.5 GPUs each; there: 2 CPUs, 0 GPUs"),
    ],
)
def test_what_does_not_fit_says_what_is_there(tmp_path, options, message):
    changed = EXECUTION.model_copy(update=options)
    with pytest.raises(InputError, match=message):
        run(tmp_path, [("good",)], changed)


def test_no_actor_is_left_behind(tmp_path):
    run(tmp_path, [("good",)])
    wait_for(lambda: ray.available_resources().get("CPU") == 2, seconds=10)


def test_parts_of_a_failed_task_come_next_and_what_is_tried_again_comes_last(tmp_path):
    one = EXECUTION.model_copy(update={"actors": 1})
    outcomes = run(tmp_path, [("raise1",), ("raise2", "a"), ("b",)], one)
    assert [outcome.task for outcome in outcomes] == [("a",), ("b",), ("raise1",), ("raise2",)]


def asked():
    """What the pool asks of the cluster's autoscaler; without one, Ray keeps it."""
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


@pytest.mark.parametrize(("actors", "expected"), [(None, 5), (1, 1)])
def test_room_is_asked_for_as_many_actors_as_there_is_work_for(actors, expected, tmp_path):
    execution = EXECUTION.model_copy(update={"actors": actors, "cpus_per_actor": 0.5})
    with Pool(partial(FaultyWorker, tmp_path, "well"), execution) as pool:
        outcomes = pool.run([(f"good{number}",) for number in range(5)])
        results = [next(outcomes).result]
        assert asked() == [{"CPU": 0.5}] * expected
        results += [outcome.result for outcome in outcomes]
    assert sorted(results) == [[f"GOOD{number}"] for number in range(5)]
    assert asked() == []


def in_another_process(code, folder):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom test_pool import *\nfrom flows import run_stage\n" + code,
            folder,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATH},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_cluster_at_the_address(tmp_path):
    options = "EXECUTION.model_copy(update={'ray_address': '127.0.0.1:1'})"
    code = f"run_stage(lambda: run(Path(sys.argv[1]), [('good',)], {options}))"
    process = in_another_process(code, tmp_path)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "error: no Ray cluster to use at '127.0.0.1:1'" in stderr


def test_ray_that_cannot_start_here_says_why_and_takes_another_folder_for_its_sockets(tmp_path, monkeypatch):
    code = "run_stage(lambda: run(Path(sys.argv[1]), [('good',)]))"
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    process = in_another_process(code, tmp_path)
    assert (process.communicate(timeout=90)[1], process.returncode) == ("", 0)
    assert list(tmp_path.glob("good.*"))
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("HOME", "/proc/1/nowhere")
    process = in_another_process(code, tmp_path)
    stderr = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert stderr.startswith("error: Ray does not start on this machine (")
    assert stderr.endswith("and /proc/1/nowhere cannot be written: set HOME to a folder that can\n")


def test_an_interrupt_ends_the_process_with_130(tmp_path):
    code = "run_stage(lambda: run(Path(sys.argv[1]), [('slow1', 'slow2', 'slow3', 'slow4')]))"
    process = in_another_process(code, tmp_path)
    wait_for((tmp_path / "slow1.0").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
