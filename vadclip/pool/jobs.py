"""The jobs of a pool: tasks, and what became of each so far."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from vadclip.pool.work import T


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A task, and what became of it so far."""

    task: T
    attempts: int = 0
    """Failed ones, of this task alone."""
    losses: int = 0
    """Attempts that ended because their node did; they count for nothing else."""


class Jobs(Generic[T]):
    """A queue over tasks, in their order; what is tried again goes before or behind all others."""

    def __init__(self, tasks: Iterable[T]) -> None:
        self._waiting = deque(tasks)
        self._first: deque[Job[T]] = deque()
        self._last: deque[Job[T]] = deque()

    def __len__(self) -> int:
        return len(self._first) + len(self._waiting) + len(self._last)

    def take(self) -> Job[T]:
        """Return the next job; there must be one."""
        if self._first:
            return self._first.popleft()
        return Job(self._waiting.popleft()) if self._waiting else self._last.popleft()

    def put_first(self, jobs: Sequence[Job[T]]) -> None:
        """Have some jobs done before all others, in the given order."""
        self._first.extendleft(reversed(jobs))

    def put_last(self, job: Job[T]) -> None:
        """Have a job done after all others."""
        self._last.append(job)

    def drop_until(self, wanted: Callable[[T], bool]) -> None:
        """Drop jobs until the next one is wanted, or none is left."""
        while len(self):
            job = self.take()
            if wanted(job.task):
                self.put_first([job])
                return
