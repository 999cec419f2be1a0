"""How tracking fails: in one line, and without harm to the stage."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_PASSWORD = re.compile(r"://[^/\s]+@")


def say(line: str) -> None:
    """Print a line about tracking."""
    print(f"tracking: {line}", flush=True)


@contextmanager
def forgiven(complaint: str) -> Iterator[None]:
    """Say that the block failed, and go on after it.

    Any Exception is forgiven: a store may sit behind a database, a server, a cloud's own library, each with
    its own errors, and none of them may cost a finished training. Interrupts and broken invariants pass.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        say(f"{complaint} ({type(error).__name__}: {first_line(error)}); files are written all the same")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without passwords."""
    lines = str(error).strip().splitlines()
    return _PASSWORD.sub("://", lines[0])[:300] if lines else "no message"
