"""Identities of remote files: one listing a folder (1,000 files a request), not one request a file."""

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from vadclip.errors import InputError
from vadclip.ingest.probe_cache import Identity
from vadclip.remote import open_filesystem, plain_faults, shown, stamp

_UNLISTED = ("http://", "https://")


def identify_remote(paths: Iterable[str]) -> dict[str, Identity | OSError]:
    """Return size and stamp of each remote file, or why there is none (FileNotFoundError: it is not there).

    Raises InputError for an address that cannot be opened or a folder that cannot be listed.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Identity | OSError] = {}
    for path in paths:
        if path.startswith(_UNLISTED):
            found[path] = _ask(path)
        else:
            folders[posixpath.dirname(path)].append(path)
    for folder, members in folders.items():
        found.update(_list(folder, members))
    return found


def _ask(path: str) -> Identity | OSError:
    filesystem, inner = open_filesystem(path)
    try:
        with plain_faults(path):
            return _identity(filesystem.info(inner))
    except OSError as error:
        return error


def _list(folder: str, members: list[str]) -> dict[str, Identity | OSError]:
    filesystem, inner = open_filesystem(folder)
    try:
        with plain_faults(folder):
            listed = {entry["name"]: entry for entry in filesystem.ls(inner, detail=True)}
    except FileNotFoundError as error:
        return dict.fromkeys(members, error)
    except OSError as error:  # its videos must not count as gone
        raise InputError(f"{shown(folder)} cannot be listed: {error.strerror or error}") from None
    found: dict[str, Identity | OSError] = {}
    for path in members:
        entry = listed.get(f"{inner.rstrip('/')}/{posixpath.basename(path)}")
        found[path] = _identity(entry) if entry is not None else FileNotFoundError(path)
    return found


def _identity(entry: dict[str, Any]) -> Identity | OSError:
    if entry.get("type") == "directory":
        return IsADirectoryError(entry["name"])
    size = entry.get("size")
    return Identity(size=-1 if size is None else size, stamp=stamp(entry))
