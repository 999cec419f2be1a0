"""A pool of processes for drawing that neither minds Ctrl-C nor outlives the process that started it."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def drawing_pool(most: int) -> ProcessPoolExecutor:
    """Return a pool of at most `most` workers, one a core; spawned, since the caller may have threads."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max(1, min(os.cpu_count() or 1, most)), context, _begin)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and watch it: workers would wait for a dead one for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
