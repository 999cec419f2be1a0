"""A supervised pool of Ray actors: every task ends once, in a result or with the reason why there is none.

The pool knows nothing of what its tasks are. A worker is any object with `run(task, beat)`, made in the actor
by a factory; it calls `beat(amount)` whenever something got done. What the pool adds to Ray:

- An actor has one task in flight, and a dead actor is replaced, never restarted, so that a crash is blamed on
  the task that was running and on no other.
- A task that fails (its actor died, it raised, it gave no sign of life for `stall_seconds`) is split where it
  can be, and its parts are tried alone, at most `max_attempts` times each: the guilty part is found. An actor
  stuck in native code is killed, since nothing else ends it.
- An InputError from a worker ends the run: no other attempt would do better.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from vadclip.errors import InputError
from vadclip.extract.work import Outcome, PoolOptions, R, T, Worker

__all__ = ["Outcome", "Pool", "PoolOptions"]

_POLL_SECONDS = 0.5
_START_SECONDS = 300.0
_CONNECT_SECONDS = 5.0
_MAX_DEATHS_AT_START = 3
_OBJECT_STORE_BYTES = 100 * 2**20  # tasks and results are small; rows go through files


class Pool(Generic[T, R]):
    """Use as a context manager: Ray is connected within, and shut down after if it was not running before.

    Raises InputError if there is no cluster at the address, or it cannot place the actors asked for.
    """

    def __init__(self, make_worker: Callable[[], Worker[T, R]], options: PoolOptions) -> None:
        self._make_worker, self._options = make_worker, options
        self._members: list[_Member[T]] = []
        self._own_ray = False

    def __enter__(self) -> "Pool[T, R]":
        if not ray.is_initialized():
            self._connect()
        try:
            self._limit = self._capacity()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self._members:
            ray.kill(member.actor)
        self._members = []
        if self._own_ray:
            ray.shutdown()

    def run(
        self,
        tasks: Iterable[T],
        *,
        split: Callable[[T], Sequence[T]] = lambda task: [task],
        wanted: Callable[[T], bool] = lambda task: True,
        progress: Callable[[float], None] = lambda amount: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Outcome[T, R]]:
        """Yield one outcome per task, or per part of a task that was split, as they end.

        Tasks start in the given order. `split` cuts a task into parts that can be blamed alone ([task] if it
        is one). A task no longer `wanted` when its turn comes is dropped. `progress` gets what workers report
        by `beat`, and takes it back (negative) when the task fails; `tell` gets a text about that.
        """
        jobs = deque(_Job(task, 0) for task in tasks)
        deaths_at_start = 0
        while True:
            while jobs and not wanted(jobs[0].task):
                jobs.popleft()
            if not jobs and not any(member.job for member in self._members):
                return
            self._assign(jobs)
            refs = [member.ref for member in self._members if member.ref is not None]
            ended, _ = ray.wait(refs, timeout=_POLL_SECONDS)
            for member in list(self._members):
                job, outcome, reason = member.job, None, None
                patience = self._options.stall_seconds if member.started else _START_SECONDS
                try:
                    if member.ref is not None and member.ref in ended:
                        amount, result = member.take()
                        deaths_at_start = 0
                        progress(amount)
                        outcome = Outcome(job.task, result, None) if job is not None else None
                    else:
                        progress(member.poll())
                        if member.silent_seconds() > patience:
                            raise _StalledError(f"nothing got done for {patience:g} s")
                except RayTaskError as error:
                    if isinstance(error.cause, InputError):
                        raise error.cause from None
                    if job is None:
                        raise
                    member.job = None
                    reason = f"{type(error.cause).__name__}: {error.cause}".splitlines()[0]
                    tell(str(error))
                except (RayError, _StalledError) as error:
                    self._members.remove(member)
                    ray.kill(member.actor)
                    reason = str(error) if isinstance(error, _StalledError) else "the worker process died"
                    deaths_at_start += not member.started
                    if deaths_at_start == _MAX_DEATHS_AT_START:
                        raise InputError(f"workers do not start: {reason}; {self._situation()}") from None
                    tell(f"a worker is replaced: {reason}")
                if outcome is not None:
                    yield outcome
                if reason is not None and job is not None:
                    progress(-member.amount)
                    yield from self._blame(job, reason, jobs, split)

    def _assign(self, jobs: "deque[_Job[T]]") -> None:
        """Give each idle worker a job, and start as many workers as there are jobs for."""
        for member in self._members:
            if jobs and member.idle:
                member.give(jobs.popleft())
        starting = sum(not member.started for member in self._members)
        for _ in range(min(self._limit - len(self._members), len(jobs) - starting)):
            actor = _actor_class(self._options).remote()
            self._members.append(_Member(actor, actor.start.remote(self._make_worker)))

    def _blame(
        self, job: "_Job[T]", reason: str, jobs: "deque[_Job[T]]", split: Callable[[T], Sequence[T]]
    ) -> Iterator[Outcome[T, R]]:
        parts = split(job.task)
        if len(parts) > 1:  # any of them may be guilty: each is tried alone, with a clean record
            jobs.extendleft(_Job(part, 0) for part in reversed(parts))
        elif job.attempts + 1 < self._options.max_attempts:
            jobs.append(_Job(job.task, job.attempts + 1))
        else:
            yield Outcome(job.task, None, f"{reason} (at each of {job.attempts + 1} attempts)")

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get("RAY_ADDRESS") or self._options.address or "local"
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address == "local":
            settings |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        handler = signal.getsignal(signal.SIGTERM)
        host, colon, port = address.rpartition("://")[2].rpartition(":")
        try:
            if colon:  # Ray itself would try for more than a minute
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            ray.init(address, **settings)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}): start it, or unset "
                "RAY_ADDRESS and execution.ray_address to use this machine alone"
            ) from None
        self._own_ray = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray put its own there

    def _capacity(self) -> int:
        """How many actors to have; InputError if they do not fit."""
        asked = self._options
        fit = 0
        for node in _nodes():
            shares = [node.get("CPU", 0.0) / asked.cpus_per_actor]
            if asked.gpus_per_actor:
                # A fraction must fit one GPU: two GPUs with 0.4 free each do not make room for 0.8.
                per_gpu = 1 / asked.gpus_per_actor
                shares.append(node.get("GPU", 0.0) * (math.floor(per_gpu + 1e-9) if per_gpu > 1 else per_gpu))
            fit += math.floor(min(shares) + 1e-9)
        if fit == 0 or (asked.actors or 0) > fit:
            raise InputError(f"the workers do not fit; {self._situation()}")
        return asked.actors or fit

    def _situation(self) -> str:
        asked = self._options
        nodes = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in _nodes())
        return (
            f"asked: {asked.actors or 'any number of'} actors of {asked.cpus_per_actor:g} CPUs and "
            f"{asked.gpus_per_actor:g} GPUs each; there: {nodes}. Lower execution.actors, cpus_per_actor or "
            "gpus_per_actor, or add nodes"
        )


@dataclass(frozen=True)
class _Job(Generic[T]):
    task: T
    attempts: int
    """Failed ones so far, of this task alone."""


class _StalledError(Exception):
    """A worker gave no sign of life for too long."""


class _Member(Generic[T]):
    """An actor and what it is doing."""

    def __init__(self, actor: Any, start: Any) -> None:
        self.actor = actor
        self.ref: Any = start
        self.job: _Job[T] | None = None
        self.started = False
        self.amount = 0.0
        self._poll: Any = None
        self._polled_at = 0.0
        self._beats = -1
        self._alive_at = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.started and self.job is None

    def give(self, job: _Job[T]) -> None:
        self.job, self.ref = job, self.actor.run.remote(job.task)
        self._poll, self._beats, self.amount, self._alive_at = None, -1, 0.0, time.monotonic()

    def take(self) -> tuple[float, Any]:
        """Return what the ended call reported beyond the latest poll, and its result."""
        ref, self.ref = self.ref, None
        amount, result = ray.get(ref)
        self.started, self.job = True, None
        return amount - self.amount, result

    def poll(self) -> float:
        """Ask the busy actor for its progress, without waiting; return what came since the last answer."""
        if self.job is None:
            return 0.0
        if self._poll is None:
            if time.monotonic() - self._polled_at < _POLL_SECONDS:
                return 0.0
            self._polled_at = time.monotonic()
            self._poll = self.actor.progress.options(concurrency_group="progress").remote()
        elif ray.wait([self._poll], timeout=0)[0]:
            beats, amount = ray.get(self._poll)
            self._poll = None
            if beats != self._beats:
                self._beats, self._alive_at = beats, time.monotonic()
            amount, self.amount = amount - self.amount, amount
            return float(amount)
        return 0.0

    def silent_seconds(self) -> float:
        return 0.0 if self.idle else time.monotonic() - self._alive_at


class _Actor:
    """The actor's side: one thread for the task, another to answer how far it is."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._beats, self._amount = 0, 0.0

    def start(self, make_worker: Callable[[], Any]) -> tuple[float, None]:
        self._worker = make_worker()
        return 0.0, None

    def run(self, task: Any) -> tuple[float, Any]:
        self._beats, self._amount = 0, 0.0
        result = self._worker.run(task, self._beat)
        return self._amount, result

    def progress(self) -> tuple[int, float]:
        return self._beats, self._amount

    def _beat(self, amount: float) -> None:
        self._beats += 1
        self._amount += amount


def _actor_class(options: PoolOptions) -> Any:
    remote: Any = ray.remote  # its type stubs know no concurrency groups
    return remote(
        num_cpus=options.cpus_per_actor,
        num_gpus=options.gpus_per_actor,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"progress": 1},
    )(_Actor)


def _nodes() -> list[dict[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
