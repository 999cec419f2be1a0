"""The jobs of a pool: tasks not begun yet, and before and after them those that are tried again."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from vadclip.pool.work import T, Tasks


@dataclass(frozen=True)
class Job(Generic[T]):
    """A task, and what became of it so far."""

    task: T
    attempts: int = 0
    """Failed ones, of this task alone."""
    losses: int = 0
    """Attempts that ended because their node did; they count for nothing else."""


class Jobs(Generic[T]):
    """A queue over tasks of any number: they are fetched one by one, as their turn comes."""

    def __init__(self, tasks: Tasks[T]) -> None:
        self._fresh, self._waiting = iter(tasks), len(tasks)
        self._first: deque[Job[T]] = deque()
        self._last: deque[Job[T]] = deque()

    def __len__(self) -> int:
        return len(self._first) + self._waiting + len(self._last)

    def take(self) -> Job[T]:
        """Return the next job; there must be one."""
        self._fetch()
        return self._first.popleft()

    def put_first(self, jobs: Sequence[Job[T]]) -> None:
        """Have some jobs done before all others, in the given order."""
        self._first.extendleft(reversed(jobs))

    def put_last(self, job: Job[T]) -> None:
        """Have a job done after all others."""
        self._last.append(job)

    def drop_until(self, wanted: Callable[[T], bool]) -> None:
        """Drop jobs until the next one is wanted, or none is left."""
        while len(self):
            self._fetch()
            if wanted(self._first[0].task):
                return
            self._first.popleft()

    def _fetch(self) -> None:
        if self._first:
            return
        if self._waiting:
            self._waiting -= 1
            self._first.append(Job(next(self._fresh)))
        else:
            self._first.append(self._last.popleft())
