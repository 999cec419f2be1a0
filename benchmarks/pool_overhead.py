"""How many empty tasks a second the supervised pool runs: what supervision costs a unit of work.

    .venv/bin/python -m benchmarks.pool_overhead

Two actors, one task in flight each, on a Ray of their own on this machine. For comparison the same calls of
two bare Ray actors, kept busy in the same way, with nobody watching over them. A unit of extraction takes
seconds, so what counts is that the overhead is milliseconds.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from benchmarks.measuring import Figure, arguments, report, timing_of
from vadclip.config import load_params
from vadclip.pool.pool import Pool

ACTORS = 2
CPUS = 0.5  # of each, as Ray counts: both kinds fit on two cores, and one of them is always idle


class Idle:
    """A worker whose tasks are empty, made of whatever a pool hands to its workers."""

    def __init__(self, *handed: object) -> None:
        pass

    def run(self, task: int, beat: Callable[[float], None]) -> int:
        """Do nothing, and say so."""
        beat(1)
        return task


@ray.remote(num_cpus=CPUS)
class Bare:
    """An actor of plain Ray."""

    def run(self, task: int) -> int:
        """Do nothing."""
        return task


def supervised(pool: "Pool[int, int]", tasks: int) -> float:
    """Run empty tasks through the pool; seconds."""
    started = time.perf_counter()
    done = sorted(outcome.task for outcome in pool.run(range(tasks)))
    assert done == list(range(tasks))
    return time.perf_counter() - started


def bare(actors: Sequence[Any], tasks: int) -> float:
    """Run as many empty calls of bare actors, one in flight each; seconds."""
    started = time.perf_counter()
    left = iter(range(tasks))
    busy = {actor.run.remote(next(left)): actor for actor in actors}
    while busy:
        (ref,), _ = ray.wait(list(busy))
        actor = busy.pop(ref)
        ray.get(ref)
        task = next(left, None)
        if task is not None:
            busy[actor.run.remote(task)] = actor
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments("benchmarks.pool_overhead", __doc__).parse_args(argv)
    tasks, rounds, repeats = (20, 1, 1) if args.quick else (1000, 3, 3)
    execution = load_params().execution.model_copy(update={"actors": ACTORS, "cpus_per_actor": CPUS})
    with Pool(Idle, execution) as pool:
        supervised(pool, 2 * ACTORS)  # its actors have started
        ours = timing_of([[supervised(pool, tasks) for _ in range(repeats)] for _ in range(rounds)])
        actors = [Bare.remote() for _ in range(ACTORS)]
        bare(actors, 2 * ACTORS)
        plain = timing_of([[bare(actors, tasks) for _ in range(repeats)] for _ in range(rounds)])
    figures = [
        Figure.rate("supervised pool", "tasks/s", tasks, ours, ms_a_task=1000 * ours.median / tasks),
        Figure.rate("bare Ray actors", "tasks/s", tasks, plain, ms_a_task=1000 * plain.median / tasks),
    ]
    settings = {"actors": ACTORS, "tasks": tasks, "ray": ray.__version__}
    report("pool_overhead", f"Empty tasks on {ACTORS} actors", figures, settings, args)


if __name__ == "__main__":
    main()
