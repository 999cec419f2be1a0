"""Tables that may grow longer than memory: a private SQLite database on disk, gone with the process.

SQLite keeps a few megabytes of it in memory and the rest in a nameless file of the temporary folder, so that
what a stage holds in hand does not grow with the number of videos.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from vadclip.errors import InputError

_CACHE_KIB = 4096
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


class _Scratch(sqlite3.Connection):
    """Gives its disk space back with the last reference to it."""

    def __del__(self) -> None:
        self.close()


def open_scratch(schema: str) -> sqlite3.Connection:
    """Open a new database with one table, as `schema` (CREATE TABLE ...) says; for one thread only."""
    # Of whatever thread the garbage collector runs in, it may be the one that closes it.
    database = sqlite3.connect("", isolation_level=None, factory=_Scratch, check_same_thread=False)
    # Nothing in it outlives the process, so nothing is journalled or flushed.
    for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
        database.execute(f"PRAGMA {setting}")
    database.execute(schema)
    database.execute("BEGIN")  # one transaction for good: each of its own would write all it touched
    return database


@contextmanager
def scratch_faults() -> Iterator[None]:
    """Turn a full disk under the database into an InputError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM:
            raise
        raise InputError(
            f"the temporary folder cannot hold the stage's tables ({error}): make room there, or name "
            "another folder in SQLITE_TMPDIR"
        ) from None
