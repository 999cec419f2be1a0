"""Files of the driver's that workers need: one copy a node, named by its content's hash.

Copies outlive the run: the next one with the same file finds it. The caller brings the bytes.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vadclip.errors import InputError
from vadclip.files import atomic_path, sha256_file

_CHUNK_BYTES = 64 * 2**20


def chunks_of(path: Path) -> Iterator[bytes]:
    """Read a file in pieces that are small beside a machine's memory; InputError if it cannot be read."""
    try:
        with open(path, "rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def node_copy(name: str, sha256: str, chunks: Iterable[bytes]) -> Path:
    """Return this node's copy, called `name`, of a file of that content; made from `chunks` if it is missing.

    Of several processes that want it at once, one makes it and the others wait. A copy that is not what it
    should be is made anew. Raises InputError if this machine has no room for it.
    """
    own = Path(tempfile.gettempdir()) / f"vadclip-{os.getuid()}"
    folder = own / "files" / sha256
    copy = folder / name
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        if own.stat().st_uid != os.getuid():
            raise InputError(f"{own} on {os.uname().nodename} belongs to another user: set TMPDIR there")
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # freed when this process ends, however that is
            if not copy.is_file() or sha256_file(copy) != sha256:
                with atomic_path(copy) as temporary, open(temporary, "wb") as opened:
                    opened.writelines(chunks)
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"{copy} cannot be written on {os.uname().nodename}: {error.strerror}") from None
    return copy
