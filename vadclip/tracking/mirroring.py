"""How tracking fails: with a line, in bounded time, and without stopping the work that it mirrors."""

import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PASSWORD = re.compile(r"://[^/\s]+@")


def say(line: str) -> None:
    """Print a line about tracking."""
    print(f"tracking: {line}", flush=True)


class Forgiving:
    """A block whose failure is said and forgiven; `ok` tells how it ended.

    Any Exception is: a store may sit behind a database, a server, a cloud's own library, each with its own
    errors, and none of them may cost a finished training. Interrupts and our own broken invariants pass.
    """

    def __init__(self, complaint: str) -> None:
        self.complaint = complaint
        self.ok = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.ok = error is None
        if error is None or not isinstance(error, Exception) or isinstance(error, AssertionError):
            return False
        say(f"{self.complaint} ({type(error).__name__}: {first_line(error)}); files are written all the same")
        return True


def within(seconds: float, action: Callable[[], object]) -> None:
    """Run an action and wait for it no longer than this: name look-ups and retries know no common limit.

    Raises TimeoutError, or what the action raised.
    """
    outcome: list[Exception | None] = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:g} s")
    if outcome[0]:
        raise outcome[0]


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without passwords."""
    lines = str(error).strip().splitlines()
    return _PASSWORD.sub("://", lines[0])[:300] if lines else "no message"
