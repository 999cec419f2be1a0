"""Files of the driver's that workers need: one copy a node, named by its content's hash.

Copies outlive the run: the next one with the same file finds it. The caller brings the bytes.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from vadclip.errors import InputError
from vadclip.files import atomic_path, held_alone, sha256_file


def node_copy(name: str, sha256: str, chunks: Iterable[bytes]) -> Path:
    """Return this node's copy, called `name`, of a file of that content; made from `chunks` if it is missing.

    Of several processes that want it at once, one makes it and the others wait. A copy that is not what it
    should be is made anew. Raises InputError if this machine has no room for it.
    """
    own = Path(tempfile.gettempdir()) / f"vadclip-{os.getuid()}"
    copy = own / "files" / sha256 / name
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        if own.stat().st_uid != os.getuid():
            raise InputError(f"{own} on {os.uname().nodename} belongs to another user: set TMPDIR there")
        with held_alone(copy.parent.with_suffix(".lock"), f"copying {name}", wait=True):
            if not copy.is_file() or sha256_file(copy) != sha256:
                with atomic_path(copy) as temporary, open(temporary, "wb") as opened:
                    opened.writelines(chunks)
    except OSError as error:
        raise InputError(f"{copy} cannot be written on {os.uname().nodename}: {error.strerror}") from None
    return copy
