"""What lies in `features/` of a store in a bucket, and the local copies of its shards.

`store.json` says where the shards are, and their names, sizes and hashes: DVC tracks it in their place. A
shard is fetched into `.cache/shards/` once: its name holds a hash of its bytes, so a copy is never stale.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vadclip.errors import InputError
from vadclip.files import safe_name, sha256_file, write_bytes_if_changed
from vadclip.remote import download_atomic, folder_fault, is_remote

STORE_NAME = "store.json"
STORE_VERSION = 1
_THREADS = 8


@dataclass(frozen=True, order=True)
class StoredShard:
    """A shard as store.json knows it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoreFile:
    """The content of store.json."""

    uri: str
    shards: tuple[StoredShard, ...]

    def write(self, folder: Path) -> bool:
        """Write it into `folder` unless it is there already; return whether it was written."""
        content = {
            "version": STORE_VERSION,
            "uri": self.uri,
            "shards": [asdict(shard) for shard in sorted(self.shards)],
        }
        return write_bytes_if_changed(folder / STORE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def read_store_file(folder: Path) -> StoreFile | None:
    """Read store.json; None if the shards lie in `folder` itself. Raises InputError if it is no such file."""
    path = folder / STORE_NAME
    try:
        content: Any = json.loads(path.read_bytes())
        shards = tuple(StoredShard(**entry) for entry in content["shards"])
        uri, version = content["uri"], content["version"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{path} is no readable store.json: run the extract stage again") from None
    if version != STORE_VERSION or not is_remote(uri) or folder_fault(uri):
        raise InputError(f"{path} is of another version of this program: run the extract stage again")
    if not all(safe_name(shard.name) for shard in shards):
        raise InputError(f"{path} names shards outside the store")
    return StoreFile(uri, shards)


def mirror_folder(cache: Path) -> Path:
    """Folder of the local copies."""
    return cache / "shards"


def fetch_shards(store: StoreFile, names: Iterable[str], mirror: Path) -> dict[str, Path]:
    """Return local paths of the named shards, fetched where they are not there.

    Raises InputError if one is not in store.json, is gone, is another one than store.json says, or cannot be
    fetched.
    """
    known = {shard.name: shard for shard in store.shards}

    def fetch(name: str) -> Path:
        if name not in known:
            raise InputError(
                f"store.json does not know shard {name} of the index: run the extract stage again"
            )
        shard, path, uri = known[name], mirror / name, f"{store.uri}/{name}"
        if path.is_file() and path.stat().st_size == shard.bytes:
            return path  # it was checked when it was fetched
        temporary = mirror / "new" / name
        try:
            digest = download_atomic(uri, temporary)
            if digest != shard.sha256:
                raise InputError(
                    f"{uri} is not the shard that store.json knows: put the right one back (a bucket's "
                    "versions have it), or run `dvc repro -f extract`"
                )
            temporary.replace(path)
        except FileNotFoundError:
            raise InputError(
                f"{uri} is gone, and store.json needs it: put it back (a bucket's versions have it), or run "
                "`dvc repro -f extract`"
            ) from None
        except OSError as error:
            raise InputError(f"{uri} cannot be fetched: {error.strerror or error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return path

    wanted = sorted(set(names))
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(wanted, pool.map(fetch, wanted), strict=True))


def describe_shard(path: Path) -> StoredShard:
    """Describe a local shard for store.json."""
    return StoredShard(path.name, path.stat().st_size, sha256_file(path))
