"""An iterator that runs ahead in a thread of its own."""

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Iterate in a thread of its own, at most `depth` items ahead; the thread ends with the iteration.

    What the thread raises is raised here. Close the result (`contextlib.closing`) to be sure that `items` is
    closed and the thread gone, whatever happens to the caller.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                waiting.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    break
        except BaseException as error:
            put(None, error)
        else:
            put(None, None)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
