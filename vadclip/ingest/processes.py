"""A function over many files, each in a process that may crash or hang; every item gets an answer.

Pebble keeps the processes: it blames a crash on the item that was running, and kills what hangs in native
code. A process has no more memory than an honest file needs: a small file can ask for all there is.
"""

import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as TaskTimeoutError
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

Result = TypeVar("Result")

ATTEMPTS = 2
"""A process can die for lack of memory: only an item with which it dies twice is taken for guilty."""
MEMORY_BYTES = 3 * 2**30
"""Beside what a process has when it starts."""
_AHEAD = 4  # items per process that wait in pebble's queue


def run_supervised(
    function: Callable[[str], Result], items: Sequence[str], limit_seconds: Mapping[str, float], workers: int
) -> Iterator[tuple[str, Result | None, str | None]]:
    """Yield (item, result, None), or (item, None, what went wrong), in the order in which they are done.

    `function` must be importable by name; what it raises is raised here. Leaving the iterator early (Ctrl-C
    too) ends all processes.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal that is blocked below
    waiting = list(reversed(items))
    attempts = dict.fromkeys(items, 0)
    busy: dict[Future[Result], str] = {}
    future: Future[Result]
    pool = ProcessPool(
        min(workers, len(items)), context=multiprocessing.get_context("spawn"), initializer=limit_memory
    )
    try:
        while waiting or busy:
            while waiting and len(busy) < _AHEAD * workers:
                item = waiting.pop()
                # Processes inherit the blocked signal: Ctrl-C reaches this one alone, which ends them.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    future = pool.schedule(function, args=[item], timeout=limit_seconds[item])
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                busy[future] = item
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                item, failure = busy.pop(future), None
                try:
                    yield item, future.result(), None
                    continue
                except TaskTimeoutError:
                    failure = f"no answer in {limit_seconds[item]:.0f} s; it was given up"
                except ProcessExpired as death:
                    failure = f"it makes the decoder crash ({_cause(death.exitcode)})"
                attempts[item] += 1
                if attempts[item] < ATTEMPTS:
                    waiting.append(item)
                else:
                    yield item, None, failure
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def limit_memory() -> None:
    """Have this process refuse memory beyond `MEMORY_BYTES` more than it has now; on Linux only."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere the limit would not hold
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        most = int(lines["VmData"].split()[0]) * 1024 + MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
