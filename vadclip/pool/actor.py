"""One actor of a pool, from both sides: the driver's record of it, and what runs on the node."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import ray
from ray.exceptions import (
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from vadclip.config import ExecutionParams
from vadclip.pool.node_files import node_copy
from vadclip.pool.work import Beat, T

POLL_SECONDS = 0.5
_START_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A task, and what became of it so far."""

    task: T
    attempts: int = 0
    """Failed ones, of this task alone."""
    losses: int = 0
    """Attempts that ended because their node did; they count for nothing else."""


@dataclass(frozen=True)
class Shipped:
    """A file of the driver's in Ray's object store."""

    sha256: str
    chunks: tuple[Any, ...]


@dataclass(frozen=True)
class Done:
    """The job ended; the actor is idle."""

    result: Any


@dataclass(frozen=True)
class Raised:
    """The worker raised an exception, from its job or at its start; the actor lives on."""

    error: RayTaskError


@dataclass(frozen=True)
class Ended:
    """The actor is dead or must be killed."""

    reason: str
    blameless: bool = False
    """Whether the actor, or its result on the way here, was lost by no fault of the job."""


class Member(Generic[T]):
    """The driver's record of an actor: it waits for a place, starts, and then is idle or has a job."""

    def __init__(self, actor: Any, start: Callable[[Any], Any], stall_seconds: float) -> None:
        self.actor, self._start, self._stall_seconds = actor, start, stall_seconds
        self.ref: Any = actor.place.remote()
        """The call under way."""
        self.node: str | None = None
        """Where it runs; None while it waits for a place."""
        self.started = False
        self.job: Job[T] | None = None
        self.waiting_since = self._alive_at = time.monotonic()
        self._amount = 0.0
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
        self._poll, self._beats, self._amount, self._alive_at = None, -1, 0.0, time.monotonic()

    def step(self, returned: bool, progress: Beat) -> Done | Raised | Ended | None:
        """Take what the call under way brought if it returned, else look how far it is; None if all is well.

        `progress` gets what the job got done since the last step, and takes it back if the job failed.
        """
        event: Done | Raised | Ended | None
        try:
            event = self._take(progress) if returned else self._look(progress)
        except RayTaskError as error:
            event = Raised(error)
        except RayError as error:
            event = Ended(_reason(error), _blameless(error))
        if isinstance(event, Raised | Ended):
            progress(-self._amount)
            self._amount = 0.0
        if isinstance(event, Raised | Done):
            self.job = None
        return event

    def _take(self, progress: Beat) -> Done | None:
        ref, self.ref = self.ref, None
        amount, result = ray.get(ref)
        if self.node is None:
            self.node, self._alive_at = result, time.monotonic()
            self.ref = self._start(self.actor)
            return None
        self.started = True
        if self.job is None:
            return None
        progress(amount - self._amount)
        return Done(result)

    def _look(self, progress: Beat) -> Ended | None:
        if self.node is None or self.idle:
            return None  # a place is waited for without end
        if self.job is not None and self._poll is None:
            if time.monotonic() - self._polled_at >= POLL_SECONDS:
                self._polled_at = time.monotonic()
                self._poll = self.actor.progress.options(concurrency_group="progress").remote()
        elif self.job is not None and ray.wait([self._poll], timeout=0)[0]:
            beats, amount = ray.get(self._poll)
            self._poll = None
            if beats != self._beats:
                self._beats, self._alive_at = beats, time.monotonic()
            progress(amount - self._amount)
            self._amount = amount
        patience = self._stall_seconds if self.started else _START_SECONDS
        stalled = time.monotonic() - self._alive_at > patience
        return Ended(f"nothing got done for {patience:g} s") if stalled else None


def _reason(error: RayError) -> str:
    if isinstance(error, OutOfMemoryError):
        return "its node ran out of memory, and Ray ended the worker"
    unable = isinstance(error, RayActorError) and error.actor_init_failed
    if unable or isinstance(error, RuntimeEnvSetupError):
        return str(error).strip().splitlines()[-1]
    return "the worker process died"


def _blameless(error: RayError) -> bool:
    return isinstance(error, ObjectLostError) or (isinstance(error, RayActorError) and error.preempted)


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
