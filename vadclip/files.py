"""Files that are whole or absent: each write goes to a temporary neighbour, then is renamed into place."""

import fcntl
import filecmp
import hashlib
import json
import os
import socket
import sys
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vadclip.errors import InputError


@contextmanager
def atomic_path(path: Path, *, keep_equal: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    With `keep_equal` a file that holds the same bytes already stays as it is. On any exception the temporary
    file is removed and `path` keeps what it held. A kill leaves at most a hidden `.<name>.<random>.tmp`,
    never a half-written `path`. The suffix of `path` stays last, since some writers choose their format by
    it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.stem}.{uuid.uuid4().hex[:12]}.tmp{path.suffix}"
    try:
        yield temporary
        if keep_equal and path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            return
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def remembered(path: Path, look: Callable[[], Any]) -> Any:
    """Return what `look` found when it was asked first, as JSON; `path` remembers it and may be deleted."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["found"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        found = look()
        write_text_atomic(path, json.dumps({"found": found}))
        return found


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_utf8(name: str) -> bool:
    """Whether a file's name can stand in a table: on some disks lie names in other encodings."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def safe_name(name: str) -> bool:
    """Say whether `name` can stand as one file name inside a folder, cannot climb out of it, and looks like
    what it is: no control characters, nothing that turns or hides text, no accent before the first letter.
    """
    return (
        0 < len(name.encode()) <= 200
        and name not in {".", ".."}
        and name.isprintable()
        and not unicodedata.category(name[0]).startswith("M")
        and not {"/", "\\"} & set(name)
    )


@contextmanager
def held_alone(lock: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the file `lock` as the only one, until the block or the process ends, however that is.

    `what` says who holds it ("stage train"). Others get an InputError with the process id and how to stop
    that process; with `wait` they say so and wait.
    """
    handle = _taken(lock, wait)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, f"{what}\n{os.getpid()}\n{socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _taken(lock: Path, wait: bool) -> int:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who, process = _holder(handle)
            if not wait:
                os.close(handle)
                raise InputError(
                    f"{who}: wait for it, or stop it with `kill {process}` (nothing done is lost); "
                    "then run the same command again"
                ) from None
            print(f"waiting: {who}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        # The lock's file may have been removed with its folder meanwhile: a new file is another lock.
        if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
        os.close(handle)


def _holder(handle: int) -> tuple[str, str]:
    what, process, host = [*os.pread(handle, 1000, 0).decode().splitlines(), "", "", ""][:3]
    place = "" if host == socket.gethostname() else f" on {host}"
    return f"{what} is at work here as process {process}{place}", process
