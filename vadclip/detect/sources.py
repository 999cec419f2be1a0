"""Which videos a command line means: files, folders, globs and addresses, each with a name of its own."""

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from vadclip.datasets.class_folders import VIDEO_SUFFIXES, videos_in
from vadclip.datasets.raw import RawVideo
from vadclip.datasets.table import video_ids
from vadclip.errors import InputError
from vadclip.files import is_utf8
from vadclip.remote import address_fault, is_remote, open_filesystem, plain_faults, shown


def unlabelled(video_id: str, location: str) -> RawVideo:
    """Return a video, at an absolute path or an address, of which nothing else is known."""
    return RawVideo(location, labels=(), split="test", segments=(), video_id=video_id, source_id=video_id)


def find_sources(paths: Sequence[str], tell: Callable[[str], None]) -> list[RawVideo]:
    """Return the videos that `paths` mean, each once, sorted by `video_id`: folder and name joined by `__`.

    A path is a file, a folder (searched to its bottom for files that end like videos), a glob, or an
    address: of a file, or in a bucket of a folder or a glob. `tell` gets a line about files that are left out
    since no table can hold their names. Raises InputError that names every path which is not there or holds
    no video.
    """
    found: dict[str, str] = {}  # location -> what its name is made of
    faults, unwritable = [], []
    for path in paths:
        try:
            locations = list(_remote(path) if is_remote(path) else _local(path))
        except OSError as error:
            faults.append(f"{shown(path)} cannot be read ({error.strerror or type(error).__name__})")
            continue
        if not locations:
            faults.append(_absence(path))
        unwritable += [location for location, _ in locations if not is_utf8(location)]
        found.update(each for each in locations if is_utf8(each[0]))
    if unwritable:
        files = f"{len(unwritable)} videos" if len(unwritable) > 1 else "a video"
        line = f"{files} with a name that is not UTF-8, such as {unwritable[0]}: rename what is to be seen"
        if found and not faults:
            tell(f"left out: {line}")
        else:
            faults.append(line)
    if faults:
        raise InputError("; ".join(faults))
    # Equal names are told apart by a hash, which `video_ids` takes of the whole location.
    times = Counter(found.values())
    uris = {location: name if times[name] == 1 else location for location, name in found.items()}
    ids = video_ids(iter(uris.values()))
    sources = (unlabelled(ids[uri], location) for location, uri in uris.items())
    return sorted(sources, key=lambda source: source.video_id)


def _local(path: str) -> Iterator[tuple[str, str]]:
    """Yield (absolute path, name) of each video that a local path means."""
    expanded = os.path.expanduser(path)
    # A file may be called `clip[1].mp4`.
    is_glob = has_magic(expanded) and not os.path.lexists(expanded)
    matches = sorted(glob(expanded, recursive=True)) if is_glob else [expanded]
    for match in map(os.path.abspath, matches):
        if os.path.isdir(match):
            parent = os.path.dirname(match)
            for file in videos_in(Path(match)):
                yield str(file), os.path.relpath(file, parent)
        elif os.path.lexists(match):
            yield match, os.path.join(os.path.basename(os.path.dirname(match)), os.path.basename(match))


def _remote(address: str) -> Iterator[tuple[str, str]]:
    """Yield (address, name) of each video behind an address."""
    if (fault := address_fault(address)) is not None:
        raise InputError(f"{shown(address)}: {fault}")
    if address.startswith(("http://", "https://")):
        yield address, "/".join(shown(address).split("/")[-2:])
        return
    scheme, _, inner = address.partition("://")
    filesystem, root = open_filesystem(address)
    with plain_faults(address):
        if has_magic(inner) and not filesystem.exists(root):
            matches = filesystem.glob(root)
        elif filesystem.isdir(root):
            matches = filesystem.find(root)
        else:
            matches = None if filesystem.exists(root) else []
    if matches is None:
        yield address, "/".join(inner.split("/")[-2:])
        return
    for match in sorted(matches):
        if posixpath.splitext(match)[1].lower() in VIDEO_SUFFIXES:
            # As for a local folder, the name begins with the folder's own.
            name = (
                match if has_magic(inner) else posixpath.relpath(match, posixpath.dirname(root.rstrip("/")))
            )
            yield f"{scheme}://{match}", "/".join(name.split("/")[-2:]) if has_magic(inner) else name


def _absence(path: str) -> str:
    if not is_remote(path) and os.path.isdir(os.path.expanduser(path)):
        return f"{path}: the folder holds no video (files that end in {', '.join(VIDEO_SUFFIXES)})"
    what = "there is nothing that it matches" if has_magic(path) else "there is no such file or folder"
    return f"{shown(path)}: {what}"
