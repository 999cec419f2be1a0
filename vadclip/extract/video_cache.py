"""Remote videos on this machine's disk: each is fetched once for all workers, within a bound of size.

Decoders open a video again and again by its path, so the file must stay while a worker reads it. For each
video:

    <key>.lock    flock: readers share it, fetching and removing need it alone; its time: the last use
    <key>.video   the whole file; renamed from <key>.part, which has its final size from the start

Files in use are never removed. A worker that needs room while all videos are in use waits and holds
`room.lock`, so that no other worker takes room meanwhile; a video larger than the bound gets the disk for
itself that way. A waiting worker holds no video, so the others go on. All locks end with their process.
"""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vadclip.errors import InputError, VideoError
from vadclip.remote import download, remote_size

DEFAULT_BYTES = 50 * 2**30
_POLL_SECONDS = 0.1


class FetchError(VideoError):
    """A remote video is not what ingest saw, which is no lasting fault of it."""


@dataclass(frozen=True)
class Held:
    """A video on disk that stays there until `release`."""

    path: Path
    _lock: int

    def release(self) -> None:
        """Let it be removed when room is needed."""
        os.close(self._lock)


def default_cache(limit_bytes: int = DEFAULT_BYTES) -> "VideoCache":
    """Open the cache in `$VADCLIP_CACHE/videos`, or in this user's folder among the temporary files."""
    chosen = os.environ.get("VADCLIP_CACHE")
    if chosen:
        return VideoCache(Path(chosen).expanduser().absolute() / "videos", limit_bytes)
    return VideoCache(Path(tempfile.gettempdir()) / f"vadclip-videos-{os.getuid()}", limit_bytes)


class VideoCache:
    """The cache in `folder`, of at most `limit_bytes`.

    Raises InputError if the folder cannot be made or is another user's.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self._limit = folder, limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror}): set VADCLIP_CACHE") from None
        if folder.stat().st_uid != os.getuid():
            raise InputError(f"{folder} belongs to another user: set VADCLIP_CACHE")

    def hold(self, uri: str, content_hash: str, beat: Callable[[float], None]) -> Held:
        """Return the video at `uri`, fetched if it is not there; `beat(0)` is called while that lasts.

        Raises FetchError if it is not there or its SHA-256 is not `content_hash`, InputError if the disk is
        full, OSError if the network fails.
        """
        key = hashlib.sha256(f"{uri}\n{content_hash}".encode()).hexdigest()[:32]
        path = self.folder / f"{key}.video"
        while True:
            # A waiting worker asks for a reader's lock each time: the one that fetched may read for long.
            if (lock := self._try_lock(key, fcntl.LOCK_SH)) is not None:
                if path.exists():
                    os.utime(lock)
                    return Held(path, lock)
                os.close(lock)
                if (lock := self._try_lock(key, fcntl.LOCK_EX)) is not None:
                    try:
                        if not path.exists():
                            self._fetch(uri, content_hash, path, beat)
                    finally:
                        os.close(lock)  # the next turn takes a reader's lock; the file is seldom gone by then
                    continue
            beat(0)  # another worker fetches, with signs of life of its own
            time.sleep(_POLL_SECONDS)

    def _fetch(self, uri: str, content_hash: str, path: Path, beat: Callable[[float], None]) -> None:
        part = path.with_suffix(".part")
        try:
            size = remote_size(uri)
            with self._room(size, beat), open(part, "wb") as reserved:
                reserved.truncate(size)
            digest = download(uri, part, beat=beat, reserved=True)
            if digest != content_hash:
                raise FetchError(
                    "what was fetched is not what ingest saw: it changed since, or the transfer was cut; run "
                    "the ingest stage again"
                )
            os.replace(part, path)
        except FileNotFoundError:
            raise FetchError("there is no such file") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"{self.folder} is full: lower execution.video_cache_gib, or set VADCLIP_CACHE to a "
                    "larger disk"
                ) from None
            raise
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _room(self, size: int, beat: Callable[[float], None]) -> Iterator[None]:
        """Make room for `size` bytes more, and keep it until the caller has made its file."""
        while (lock := self._try_lock("room", fcntl.LOCK_EX)) is None:
            beat(0)
            time.sleep(_POLL_SECONDS)
        try:
            while not self._make_room(size):
                beat(0)
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    def _make_room(self, size: int) -> bool:
        """Remove the videos that were used least recently and are not in use; say whether there is room now.

        A video larger than the bound has room once nothing else is there.
        """
        there = self._entries()
        used = sum(there.values())
        for key in sorted(there, key=self._last_use):
            if used == 0 or used + size <= self._limit:
                break
            if self._remove(key):
                used -= there[key]
        return used == 0 or used + size <= self._limit

    def _entries(self) -> dict[str, int]:
        """Bytes by key, those of videos that are being fetched included."""
        sizes: dict[str, int] = {}
        for path in self.folder.iterdir():
            if path.suffix in (".video", ".part"):
                try:
                    sizes[path.stem] = sizes.get(path.stem, 0) + path.stat().st_size
                except FileNotFoundError:
                    continue
        return sizes

    def _last_use(self, key: str) -> float:
        try:
            return (self.folder / f"{key}.lock").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _remove(self, key: str) -> bool:
        lock = self._try_lock(key, fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            for suffix in (".video", ".part", ".lock"):
                (self.folder / f"{key}{suffix}").unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True

    def _try_lock(self, key: str, kind: int) -> int | None:
        """Return a locked descriptor of `<key>.lock`, which goes with its lock when closed; None if taken."""
        path = self.folder / f"{key}.lock"
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == os.stat(path).st_ino:
                    return lock
            except BlockingIOError:
                os.close(lock)
                return None
            except FileNotFoundError:
                pass
            os.close(lock)  # the file was removed meanwhile: lock the new one
