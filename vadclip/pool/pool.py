"""A supervised pool of Ray actors: every task ends once, in a result or with the reason why there is none.

The pool does not know its tasks. A worker is any object with `run(task, beat)`, made in the actor
by a factory; it calls `beat(amount)` whenever something got done. What the pool adds to Ray:

- An actor has one task in flight, and a dead actor is replaced, never restarted, so that a crash is blamed on
  the task that was running and on no other.
- A task that fails (its actor died, it raised, it gave no sign of life for `stall_seconds`) is split where it
  can be, and its parts are tried alone, at most `max_attempts` times each: the guilty part is found. An actor
  stuck in native code is killed, since nothing else ends it.
- A task whose node died, or whose result was lost on its way, is tried again first of all; that counts as no
  attempt.
- Nodes that join get actors, as long as there are tasks for them.
- An InputError from a worker ends the run: no other attempt would do better.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from vadclip.config import ExecutionParams
from vadclip.errors import InputError
from vadclip.pool.actor import POLL_SECONDS, Done, Ended, Job, Member, Raised, Shipped, actor_class
from vadclip.pool.cluster import Cluster
from vadclip.pool.work import Beat, Outcome, R, T, Worker

_CHUNK_BYTES = 64 * 2**20  # of a file that travels: small beside a machine's memory
_MAX_DEATHS_AT_START = 3
_VERDICT_SECONDS = 1.0
"""How long after an actor's death its node is looked at: they seldom die at the very same moment."""
_REPEAT_SECONDS = 60.0
"""How long after it was said that workers wait that is said again."""


class Pool(Generic[T, R]):
    """Use as a context manager: Ray is connected within, and shut down after if it was not running before.

    `make_worker` gets a map from each path of `files` to where the actor's machine has that file; it is empty
    where all actors run on this machine. `result_bytes` bounds a task's result: one per actor may wait in
    Ray's object store until the caller takes it.

    A task whose node died more than `max_losses` times may be what kills nodes: from then on it counts as its
    fault. Workers that wait for a place for `quiet_seconds` are told of, and after `no_room_seconds` without
    any node that fits them the run ends.

    Raises InputError if there is no cluster at the address, or it cannot place the actors asked for.
    """

    def __init__(
        self,
        make_worker: Callable[[Mapping[str, str]], Worker[T, R]],
        execution: ExecutionParams,
        files: Sequence[str] = (),
        result_bytes: int = 0,
        *,
        max_losses: int = 5,
        quiet_seconds: float = 30.0,
        no_room_seconds: float = 600.0,
    ) -> None:
        self._make_worker, self._execution, self._files = make_worker, execution, files
        self._max_losses, self._quiet_seconds, self._no_room_seconds = (
            max_losses, quiet_seconds, no_room_seconds,
        )  # fmt: skip
        self._cluster = Cluster(execution, result_bytes)
        self._members: list[Member[T]] = []
        self._fallen: deque[tuple[float, Member[T], Ended]] = deque()
        """Workers that ended before their jobs did, and when."""
        self._jobs: deque[Job[T]] = deque()
        self._split: Callable[[T], Sequence[T]] = lambda task: [task]
        self._tell: Callable[[str], None] = lambda line: None
        self._deaths_at_start = 0
        self._told, self._told_at, self._room_at = "", 0.0, 0.0

    def __enter__(self) -> "Pool[T, R]":
        self._cluster.__enter__()
        try:
            if self._cluster.room < (self._execution.actors or 1):
                raise InputError(f"the workers do not fit; {self._cluster.situation()}")
            self._shipped = {} if self._cluster.local else {path: _ship(path) for path in self._files}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self._members:
            ray.kill(member.actor)
        self._members = []
        self._shipped = {}
        with suppress(RayError):  # a cluster that is gone needs no taking back
            self._cluster.ask_for(0)
        self._cluster.__exit__()

    def run(
        self,
        tasks: Sequence[T],
        *,
        split: Callable[[T], Sequence[T]] = lambda task: [task],
        wanted: Callable[[T], bool] = lambda task: True,
        progress: Callable[[float], None] = lambda amount: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Outcome[T, R]]:
        """Yield one outcome per task, or per part of a task that was split, as they end.

        Tasks start in the given order. `split` cuts a task into parts that can be blamed alone ([task] if it
        is one). A task no longer `wanted` when its turn comes is dropped.
        `progress` gets what workers report by `beat`, and takes it back (negative) when the task fails;
        `tell` gets a line about that, and about nodes that come and go. Raises InputError if no node is left
        for long.
        """
        self._jobs, self._fallen = deque(Job(task) for task in tasks), deque()
        self._split, self._tell = split, tell
        self._room_at = time.monotonic()
        self._cluster.ask_for(min(len(self._jobs), self._execution.actors or len(self._jobs)))
        while True:
            while self._jobs and not wanted(self._jobs[0].task):
                self._jobs.popleft()
            if not self._jobs and not self._fallen and not any(member.job for member in self._members):
                return
            for line in self._cluster.news():
                tell(line)
            self._assign()
            self._mind_waiting()
            returned = self._wait()
            for member in list(self._members):
                yield from self._step(member, member in returned, progress)
            while self._fallen and time.monotonic() - self._fallen[0][0] > _VERDICT_SECONDS:
                yield from self._judge(*self._fallen.popleft()[1:])

    def _assign(self) -> None:
        """Give each idle worker a job, and start as many workers as there are jobs and places for."""
        for member in self._members:
            if self._jobs and member.idle:
                member.give(self._jobs.popleft())
        starting = sum(not member.started for member in self._members)
        limit = min(self._execution.actors or self._cluster.room, self._cluster.room)
        for _ in range(min(limit - len(self._members), len(self._jobs) - starting)):
            actor = actor_class(self._execution).remote()
            self._members.append(Member(actor, self._start, self._execution.stall_seconds))

    def _start(self, actor: Any) -> Any:
        return actor.start.remote(self._make_worker, self._shipped)

    def _wait(self) -> list[Member[T]]:
        """Wait a little; return the workers whose call returned."""
        refs = {member.ref: member for member in self._members if member.ref is not None}
        if not refs:
            time.sleep(POLL_SECONDS)
            return []
        return [refs[ref] for ref in ray.wait(list(refs), num_returns=1, timeout=POLL_SECONDS)[0]]

    def _step(self, member: Member[T], returned: bool, progress: Beat) -> Iterator[Outcome[T, R]]:
        job, event = member.job, member.step(returned, progress)
        if returned and member.started:
            self._deaths_at_start = 0
        if isinstance(event, Ended):
            self._members.remove(member)
            ray.kill(member.actor)
            self._fallen.append((time.monotonic(), member, event))
        elif isinstance(event, Raised):
            _raise_if_final(event.error, self._cluster.name(member.node or ""), starting=job is None)
            assert job is not None
            self._tell(str(event.error))
            reason = f"{type(event.error.cause).__name__}: {event.error.cause}".splitlines()[0]
            yield from self._blame(job, reason)
        elif isinstance(event, Done):
            assert job is not None
            yield Outcome(job.task, event.result, None)

    def _mind_waiting(self) -> None:
        """Say so where workers wait for a place; InputError if there has been no node for them for long."""
        now = time.monotonic()
        if self._cluster.room > 0:
            self._room_at = now
        waiting = [member for member in self._members if member.node is None]
        since = min([self._room_at, *(member.waiting_since for member in waiting)])
        what = "nodes" if self._cluster.room == 0 else "a place (other work on the cluster may hold it)"
        again = what == self._told and now - self._told_at < _REPEAT_SECONDS
        working = self._cluster.room > 0 and len(waiting) < len(self._members)
        if now - since >= self._quiet_seconds and not again and not working:
            self._tell(f"waiting for {what}; {self._cluster.situation()}")
            self._told, self._told_at = what, now
        if now - self._room_at > self._no_room_seconds:
            raise InputError(
                f"no node has been left for the workers for {self._no_room_seconds / 60:g} minutes; "
                f"what is done is kept, run the same command again; {self._cluster.situation()}"
            )

    def _judge(self, member: Member[T], event: Ended) -> Iterator[Outcome[T, R]]:
        """Decide whether a worker's end was its job's fault."""
        job, reason = member.job, event.reason
        lost = event.blameless or (member.node is not None and self._cluster.lost(member.node))
        if lost and (job is None or job.losses < self._max_losses):
            if job is not None:
                self._jobs.appendleft(Job(job.task, job.attempts, job.losses + 1))
            return
        if lost:
            reason = f"its node died, {self._max_losses + 1} times"
        if not member.started:
            self._deaths_at_start += 1
            if self._deaths_at_start == _MAX_DEATHS_AT_START:
                where = f" on node {self._cluster.name(member.node)}" if member.node else ""
                raise InputError(f"workers do not start{where}: {reason}; {self._cluster.situation()}")
        self._tell(f"a worker is replaced: {reason}")
        if job is not None:
            yield from self._blame(job, reason)

    def _blame(self, job: Job[T], reason: str) -> Iterator[Outcome[T, R]]:
        parts = self._split(job.task)
        if len(parts) > 1:  # any of them may be guilty: each is tried alone, with a clean record
            self._jobs.extendleft(Job(part) for part in reversed(parts))
        elif job.attempts + 1 < self._execution.max_attempts:
            self._jobs.append(Job(job.task, job.attempts + 1, job.losses))
        else:
            yield Outcome(job.task, None, f"{reason} (at each of {job.attempts + 1} attempts)")


def _ship(path: str) -> Shipped:
    """Put a file into the object store once, for all nodes to fetch; InputError if it cannot be read."""
    digest, chunks = hashlib.sha256(), []
    try:
        with open(path, "rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
                chunks.append(ray.put(chunk))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return Shipped(digest.hexdigest(), tuple(chunks))


def _raise_if_final(error: RayTaskError, node: str, *, starting: bool) -> None:
    """Raise what no other attempt can mend: the user's mistake, and whatever a worker raises at its start."""
    cause = error.cause
    if isinstance(cause, InputError):
        raise cause from None
    if starting and isinstance(cause, ImportError):
        raise InputError(
            f"node {node} lacks what the workers need ({cause}): install the project's requirements there"
        ) from None
    if starting:
        raise error
