"""A feature store's shards in a bucket.

    <uri>/shard-<hash>.parquet             the store; part-<hash>.parquet while a run is under way
    <uri>/tmp/<run id>/                    what workers left; only the driver copies from there
    <uri>/superseded/<fingerprint>/        shards of other provenance
    <uri>/damaged/                         shards whose bytes changed
    <uri>/lease.json                       who writes (see `lease`)

The driver keeps a copy of each shard on its own disk (see `mirror`), with the bucket's tag of the object
beside it: an object that has the same tag still is not read again.
"""

import json
import os
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vadclip.errors import InputError
from vadclip.features.lease import Lease, Times, hold_lease
from vadclip.features.mirror import (
    STORE_NAME,
    StoreFile,
    describe_shard,
    fetch_shards,
    mirror_folder,
    read_store_file,
)
from vadclip.features.provenance import Provenance
from vadclip.features.shards import HASH_DIGITS, Shard
from vadclip.features.storage import LocalStorage, ShardStorage, in_order, open_left, open_whole
from vadclip.files import write_text_atomic
from vadclip.remote import download_atomic, open_filesystem, plain_faults, stamp

_NAME = re.compile(r"(shard|part)-[0-9a-f]{16}\.parquet")
_THREADS = 8


@contextmanager
def open_storage(
    folder: Path,
    cache: Path,
    uri: str | None,
    tell: Callable[[str], None],
    times: Times | None = None,
) -> Iterator[ShardStorage]:
    """Open the place of a store's shards: `folder` itself, or the bucket at `uri`; `store.lock` must be held.

    Shards that lie where the store was before (in the folder, or at another address) are brought along.
    Raises InputError if another run holds the bucket's lease, or it cannot be reached.
    """
    if uri is None:
        local = LocalStorage(folder, cache)
        _bring_along(folder, cache, None, set(local.names()), lambda path: _into(folder, path), tell)
        yield local
        return
    uri = uri.rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lease(uri, folder, cache, tell, times) as lease:
        storage = RemoteStorage(folder, cache, uri, lease)
        _bring_along(folder, cache, uri, set(storage.names()), storage.add, tell)
        yield storage


class RemoteStorage:
    """Shards as objects below `uri`, held by `lease`.

    Every method raises InputError if the lease is lost before it changes anything, or the bucket fails.
    """

    def __init__(self, folder: Path, cache: Path, uri: str, lease: Lease) -> None:
        self.folder, self.uri = folder, uri
        self.scratch = mirror_folder(cache)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._lease = lease
        self._filesystem, self._path = open_filesystem(uri)

    def temporary(self, run_id: str) -> str:
        """Return `<uri>/tmp/<run id>`."""
        return f"{self.uri}/tmp/{run_id}"

    def clear_temporary(self) -> None:
        """Delete `<uri>/tmp`."""
        for name in self._list("tmp", deep=True):
            self._delete(name)

    def names(self) -> list[str]:
        """List the bucket, and fetch what there is no good local copy of."""
        listed = self._list("")
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._mirror, listed, listed.values()))
        for path in (*self.scratch.glob("*.parquet"), *self.scratch.glob(".*.tmp")):
            if path.name not in listed:
                self._forget(path.name)
        return in_order(listed)

    def open(self, name: str) -> Shard:
        """Open the local copy, which `names` has fetched unless the object is damaged."""
        path = self.scratch / name
        try:
            return open_whole(path)
        except InputError:  # is it the copy or the object?
            self._forget(name)
            with self._faults():
                self._mirror(name, self._filesystem.info(self._at(name)))
            if not path.is_file():
                raise InputError(f"{self.uri}/{name} is damaged") from None
            return open_whole(path)

    def provenance(self, name: str) -> Provenance:
        """Read the local copy's footer."""
        return Shard(self.scratch / name).provenance

    def inspect(self, left: Path | str) -> Shard:
        """Fetch what a worker left and open it."""
        uri = str(left)
        name = posixpath.basename(uri)
        if posixpath.dirname(posixpath.dirname(uri)) != f"{self.uri}/tmp" or not _NAME.fullmatch(name):
            raise ValueError(f"{name} was not left where this run's workers leave their shards")
        with self._faults():
            try:
                download_atomic(uri, self.scratch / name)
            except FileNotFoundError:
                raise ValueError(f"{name}, which a worker left, is gone") from None
        return open_left(self.scratch / name)

    def publish(self, left: Path | str) -> Shard:
        """Copy what a worker left into the store, within the bucket."""
        name = posixpath.basename(str(left))
        source = str(left).removeprefix(f"{self.uri}/")
        self._copy(source, name)
        self._note(name)
        self._delete(source)
        return Shard(self.scratch / name)

    def add(self, path: Path) -> Shard:
        """Upload a shard."""
        self._lease.check()
        with self._faults():
            self._filesystem.put_file(str(path), self._at(path.name))
        if path.parent != self.scratch:
            os.replace(path, self.scratch / path.name)
        self._note(path.name)
        return Shard(self.scratch / path.name)

    def remove(self, name: str) -> None:
        """Delete a shard."""
        self._delete(name)
        self._forget(name)

    def set_aside(self, name: str, to: str) -> str:
        """Move a shard to `<uri>/<to>`."""
        self._copy(name, f"{to}/{name}")
        self.remove(name)
        return f"{self.uri}/{to}"

    def bring_back(self, source: str) -> None:
        """Move shards back from `<uri>/<source>`."""
        for name, entry in self._list(source).items():
            self._copy(f"{source}/{name}", name)
            self._mirror(name, entry)
            self._delete(f"{source}/{name}")

    def settle(self, names: Iterable[str]) -> None:
        """Write store.json."""
        self._lease.check()
        before = read_store_file(self.folder)
        known = {shard.name: shard for shard in before.shards} if before is not None else {}
        shards = [known.get(name) or describe_shard(self.scratch / name) for name in names]
        StoreFile(self.uri, tuple(shards)).write(self.folder)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _list(self, folder: str, *, deep: bool = False) -> dict[str, dict[str, Any]]:
        """Shards in a folder, name -> what the bucket says of it; with `deep` all below, by path."""
        with self._faults():
            try:
                if deep:
                    found = self._filesystem.find(self._at(folder), detail=True)
                    return {name.removeprefix(f"{self._path}/"): entry for name, entry in found.items()}
                entries = self._filesystem.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
        named = {posixpath.basename(entry["name"]): entry for entry in entries}
        return {name: entry for name, entry in named.items() if _NAME.fullmatch(name)}

    def _copy(self, source: str, target: str) -> None:
        self._lease.check()
        with self._faults():
            self._filesystem.cp_file(self._at(source), self._at(target))

    def _delete(self, name: str) -> None:
        self._lease.check()
        # It may be gone already: Google's store says so of a request that was sent twice.
        with self._faults(), suppress(FileNotFoundError):
            self._filesystem.rm_file(self._at(name))

    def _mirror(self, name: str, entry: dict[str, Any]) -> None:
        """Fetch an object unless the copy is that of the object as it is; a damaged one leaves none."""
        note, path = self._note_of(name), self.scratch / name
        mark = json.dumps([self.uri, stamp(entry)])
        if path.is_file() and note.is_file() and note.read_text() == mark:
            return
        fetched = self.scratch / "new" / name
        with self._faults():
            digest = download_atomic(f"{self.uri}/{name}", fetched)
        if name.endswith(f"-{digest[:HASH_DIGITS]}.parquet"):
            os.replace(fetched, path)
            write_text_atomic(note, mark)
        else:
            fetched.unlink()
            self._forget(name)

    def _note(self, name: str) -> None:
        """Remember that the local copy is that of the object as it is."""
        with self._faults():
            entry = self._filesystem.info(self._at(name))
        write_text_atomic(self._note_of(name), json.dumps([self.uri, stamp(entry)]))

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            with plain_faults(self.uri):
                yield
        except OSError as error:
            raise InputError(f"{self.uri} cannot be used: {error.strerror or error}") from None

    def _note_of(self, name: str) -> Path:
        return self.scratch / "tags" / f"{name}.json"

    def _forget(self, name: str) -> None:
        (self.scratch / name).unlink(missing_ok=True)
        self._note_of(name).unlink(missing_ok=True)


def _bring_along(
    folder: Path,
    cache: Path,
    uri: str | None,
    there: set[str],
    take: Callable[[Path], object],
    tell: Callable[[str], None],
) -> None:
    """Bring along the shards of where the store was before, so that nothing is encoded again."""
    try:
        before = read_store_file(folder)
    except InputError as error:
        tell(f"{error.args[0].partition(':')[0]}: it is made anew")
        (folder / STORE_NAME).unlink()
        before = None
    if before is not None and before.uri != uri:
        missing = [shard.name for shard in before.shards if shard.name not in there]
        for name in missing:
            try:
                take(fetch_shards(before, [name], cache / "moving")[name])
            except InputError as error:
                tell(f"{error}; its videos are extracted again")
        shutil.rmtree(cache / "moving", ignore_errors=True)
        if missing:
            tell(f"shards of {before.uri} are copied to {uri or folder}; they stay there as well")
    if uri is not None:
        paths = [folder / name for name in LocalStorage(folder, cache).names()]
        for path in paths:
            if path.name not in there:
                take(path)
            path.unlink(missing_ok=True)
        if paths:
            tell(f"{len(paths)} shards moved from {folder} to {uri}")


def _into(folder: Path, path: Path) -> None:
    os.replace(path, folder / path.name)
