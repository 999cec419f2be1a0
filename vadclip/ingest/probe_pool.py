"""A function over many files, each in a process that may crash or hang; every item gets an answer.

`concurrent.futures` cannot do it: one crash breaks its pool and hides which task was guilty, and a task that
holds the interpreter's lock in native code cannot be cancelled. Here a process has one item at a time, and no
more memory than an honest file needs: a small file can ask for all there is.
"""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

Result = TypeVar("Result")

ATTEMPTS = 2  # a process can die for lack of memory: only an item that is there twice is taken for guilty
POLL_SECONDS = 1.0
MEMORY_BYTES = 3 * 2**30  # beside what the process has when it starts


def run_supervised(
    function: Callable[[str], Result],
    items: Sequence[str],
    limit_seconds: Mapping[str, float],
    workers: int,
) -> Iterator[tuple[str, Result | None, str | None]]:
    """Yield (item, result, None), or (item, None, what went wrong), in the order in which they are done.

    `function` must be importable by name. Leaving the iterator early (Ctrl-C too) ends all processes.
    """
    waiting = list(reversed(items))
    attempts = dict.fromkeys(items, 0)
    pool = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        for worker in pool:
            worker.give(waiting.pop(), limit_seconds)
        busy = {worker.connection: worker for worker in pool}
        while busy:
            done = wait(list(busy), timeout=POLL_SECONDS)
            late = [worker for worker in busy.values() if time.monotonic() > worker.deadline]
            for worker in {
                *(busy[connection] for connection in done if isinstance(connection, Connection)),
                *late,
            }:
                del busy[worker.connection]
                item = worker.item
                result, failure = worker.answer(limit_seconds)
                if failure is not None:
                    worker.stop()
                    pool.remove(worker)
                    attempts[item] += 1
                    if attempts[item] < ATTEMPTS:
                        waiting.append(item)
                if failure is None or attempts[item] == ATTEMPTS:
                    yield item, result, failure
                if waiting:
                    if failure is not None:
                        worker = _Worker(function)
                        pool.append(worker)
                    worker.give(waiting.pop(), limit_seconds)
                    busy[worker.connection] = worker
    finally:
        for worker in pool:
            worker.stop()


class _Worker(Generic[Result]):
    """One process and the item it has."""

    def __init__(self, function: Callable[[str], Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.item = ""
        self.deadline = 0.0
        self._ready = False
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _no_interrupts():
            self._process.start()
        theirs.close()

    def give(self, item: str, limit_seconds: Mapping[str, float]) -> None:
        """Hand over an item; a process that could not even start is our failure, not the item's."""
        if not self._ready:
            try:
                self.connection.recv()
            except (EOFError, ConnectionResetError):
                raise RuntimeError(f"a process did not start ({self._cause_of_death()})") from None
            self._ready = True
        self.item = item
        self.deadline = time.monotonic() + limit_seconds[item]
        # One that died while it had nothing to do is found out when the answer is due.
        with suppress(BrokenPipeError):
            self.connection.send(item)

    def answer(self, limit_seconds: Mapping[str, float]) -> tuple[Result | None, str | None]:
        """Return (result, None), or (None, what went wrong); for a worker that is done, dead or late."""
        try:
            if not self.connection.poll():
                return None, f"no answer in {limit_seconds[self.item]:.0f} s; it was given up"
            return self.connection.recv(), None
        except (EOFError, ConnectionResetError):
            return None, f"it makes the decoder crash ({self._cause_of_death()})"

    def _cause_of_death(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start a process that Ctrl-C does not reach, from its first moment on: its parent ends it.

    A signal that comes meanwhile is delivered to this process afterwards.
    """
    resource_tracker.ensure_running()  # by itself it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, function: Callable[[str], Result]) -> None:
    _limit_memory()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone, or was interrupted
        connection.send("ready")
        while True:
            connection.send(function(connection.recv()))


def _limit_memory() -> None:
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere than on Linux the limit would not hold
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        most = int(lines["VmData"].split()[0]) * 1024 + MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
