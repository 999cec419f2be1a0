"""One actor of a pool, from both sides: the driver's record of it, and what runs on the node."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from vadclip.config import ExecutionParams
from vadclip.pool.jobs import Job
from vadclip.pool.node_files import node_copy
from vadclip.pool.work import T

POLL_SECONDS = 0.5
_START_SECONDS = 300.0


class StalledError(Exception):
    """A worker gave no sign of life for too long."""


@dataclass(frozen=True)
class Shipped:
    """A file of the driver's in Ray's object store."""

    sha256: str
    chunks: tuple[Any, ...]


@dataclass(frozen=True)
class Event(Generic[T]):
    """What a look at a member found."""

    kind: Literal["busy", "done", "raised", "died"]
    """`died` as well when it stalled or its result was lost; the member is of no more use then."""
    job: Job[T] | None
    """The one that it had; None while it starts."""
    amount: float
    """Progress since the last look, taken back (negative) where the job failed."""
    result: Any = None
    error: Exception | None = None


class Member(Generic[T]):
    """An actor and what it is doing: it waits for a place, starts, and then is idle or has a job."""

    def __init__(self, actor: Any, start: Callable[[Any], Any], execution: ExecutionParams) -> None:
        self.actor, self._start, self._stall_seconds = actor, start, execution.stall_seconds
        self.ref: Any = actor.place.remote()
        """The call under way."""
        self.node: str | None = None
        """Where it runs; None while it waits for a place."""
        self.started = False
        self.job: Job[T] | None = None
        self.amount = 0.0
        self.waiting_since = self._alive_at = time.monotonic()
        self._poll: Any = None
        self._polled_at = 0.0
        self._beats = -1

    @property
    def idle(self) -> bool:
        """Whether it has started and has no job."""
        return self.started and self.job is None

    def give(self, job: Job[T]) -> None:
        """Let it do a job."""
        self.job, self.ref = job, self.actor.run.remote(job.task)
        self._poll, self._beats, self.amount, self._alive_at = None, -1, 0.0, time.monotonic()

    def look(self, *, ended: bool) -> Event[T]:
        """Return what happened since the last look; `ended` says that the call under way has."""
        job = self.job
        try:
            if ended:
                amount, result = self._take()
                return Event("done", job, amount, result)
            amount = self._poll_progress()
            self._check_alive()
            return Event("busy", job, amount)
        except RayTaskError as error:
            self.job = None
            return Event("raised", job, -self.amount, error=error)
        except (RayError, StalledError) as error:
            return Event("died", job, -self.amount if job is not None else 0.0, error=error)

    def _take(self) -> tuple[float, Any]:
        """Return what the ended call brought: progress beyond the latest poll, and a job's result or None."""
        ref, self.ref = self.ref, None
        amount, result = ray.get(ref)
        if self.node is None:
            self.node, self._alive_at = result, time.monotonic()
            self.ref = self._start(self.actor)
            return 0.0, None
        self.started, self.job = True, None
        return amount - self.amount, result

    def _poll_progress(self) -> float:
        """Ask the busy actor for its progress, without waiting; return what came since the last answer."""
        if self.job is None:
            return 0.0
        if self._poll is None:
            if time.monotonic() - self._polled_at < POLL_SECONDS:
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

    def _check_alive(self) -> None:
        """Raise StalledError after too long without a sign of life; a place is waited for without end."""
        if self.node is None or self.idle:
            return
        patience = self._stall_seconds if self.started else _START_SECONDS
        if time.monotonic() - self._alive_at > patience:
            raise StalledError(f"nothing got done for {patience:g} s")


class _Actor:
    """The actor's side: one thread for the task, another to answer how far it is."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._beats, self._amount = 0, 0.0

    def place(self) -> tuple[float, str]:
        return 0.0, ray.get_runtime_context().get_node_id()

    def start(
        self, make_worker: Callable[[Mapping[str, str]], Any], shipped: Mapping[str, Shipped]
    ) -> tuple[float, None]:
        copies = {
            path: node_copy(Path(path).name, file.sha256, map(ray.get, file.chunks))
            for path, file in shipped.items()
        }
        self._worker = make_worker({path: str(copy) for path, copy in copies.items()})
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


def actor_class(execution: ExecutionParams) -> Any:
    """Return the class of actors; it is never restarted and never tries twice, since the pool does."""
    remote: Any = ray.remote  # its type stubs know no concurrency groups
    return remote(
        num_cpus=execution.cpus_per_actor,
        num_gpus=execution.gpus_per_actor,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"progress": 1},
    )(_Actor)
