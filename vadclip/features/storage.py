"""Where the shards of a feature store lie: what a store needs of such a place, and the local folder.

Every step is whole or absent, and a kill between two of them leaves a place that the next run goes on with.
A shard's name holds a hash of its bytes (see `shards`).
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from vadclip.errors import InputError
from vadclip.features.mirror import STORE_NAME
from vadclip.features.provenance import Provenance
from vadclip.features.shards import Shard


class ShardStorage(Protocol):
    """The place of a store's shards; `folder` is local in any case and holds index.parquet."""

    folder: Path
    scratch: Path
    """Local folder with each shard of the store, or a copy; merged ones are written there before `add`."""

    def temporary(self, run_id: str) -> Path | str:
        """Where this run's workers leave their shards: a folder, or the address of one."""

    def clear_temporary(self) -> None:
        """Remove what workers left and nobody published."""

    def names(self) -> list[str]:
        """Return the shards that are there: merged ones first, since a kill leaves what they hold twice."""

    def open(self, name: str) -> Shard:
        """Open a shard whose bytes are whole; raises InputError if they are not."""

    def provenance(self, name: str) -> Provenance:
        """Read a shard's provenance, whether its bytes are whole or not; raises InputError."""

    def inspect(self, left: Path | str) -> Shard:
        """Open what a worker left, without taking it in; raises ValueError if it is no shard."""

    def publish(self, left: Path | str) -> Shard:
        """Take in what `inspect` has seen."""

    def add(self, path: Path) -> Shard:
        """Take in a shard that was written into `scratch`."""

    def remove(self, name: str) -> None:
        """Remove a shard."""

    def set_aside(self, name: str, to: str) -> str:
        """Move a shard to `damaged` or `superseded/<fingerprint>`; return where that is, for a message."""

    def bring_back(self, source: str) -> None:
        """Move all shards from `superseded/<fingerprint>` back."""

    def settle(self, names: Iterable[str]) -> None:
        """Note the shards that make up the store now, before the index is written."""


class LocalStorage:
    """Shards in the folder itself, what is set aside under the cache."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = self.scratch = folder
        self._cache = cache
        folder.mkdir(parents=True, exist_ok=True)

    def temporary(self, run_id: str) -> Path:
        """Return `<folder>/tmp/<run id>`, made."""
        path = self.folder / "tmp" / run_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def clear_temporary(self) -> None:
        """Remove `<folder>/tmp`."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    def names(self) -> list[str]:
        """List the folder."""
        return in_order(path.name for path in self.folder.glob("*.parquet"))

    def open(self, name: str) -> Shard:
        """Open and hash a file of the folder."""
        return open_whole(self.folder / name)

    def provenance(self, name: str) -> Provenance:
        """Read the file's footer."""
        return Shard(self.folder / name).provenance

    def inspect(self, left: Path | str) -> Shard:
        """Open a worker's file."""
        return open_left(Path(left))

    def publish(self, left: Path | str) -> Shard:
        """Rename a worker's file into the folder."""
        target = self.folder / Path(left).name
        os.replace(left, target)
        return Shard(target)

    def add(self, path: Path) -> Shard:
        """Open it: it was written into the folder."""
        return Shard(path)

    def remove(self, name: str) -> None:
        """Delete the file."""
        (self.folder / name).unlink()

    def set_aside(self, name: str, to: str) -> str:
        """Move the file to `<cache>/<to>`."""
        target = self._cache / to
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(self.folder / name, target / name)
        return str(target)

    def bring_back(self, source: str) -> None:
        """Move files back from `<cache>/<source>`."""
        folder = self._cache / source
        for path in folder.glob("*.parquet"):
            shutil.move(path, self.folder / path.name)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def settle(self, names: Iterable[str]) -> None:
        """Forget that the shards lay elsewhere before."""
        (self.folder / STORE_NAME).unlink(missing_ok=True)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of shards among `names`, merged ones first."""
    there = sorted(name for name in names if name.endswith(".parquet"))
    merged = [name for name in there if name.startswith("shard-")]
    return [*merged, *(name for name in there if name.startswith("part-"))]


def open_left(path: Path) -> Shard:
    """Open what a worker left; raises ValueError, which is the work's fault and not the user's."""
    try:
        return Shard(path)
    except InputError as error:
        raise ValueError(str(error)) from None


def open_whole(path: Path) -> Shard:
    """Open a shard and check its bytes against the hash in its name; raises InputError."""
    shard = Shard(path)
    if not shard.intact():
        raise InputError(f"{path} is damaged")
    return shard
