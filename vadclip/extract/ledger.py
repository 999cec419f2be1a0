"""Every block of a store and the shard it lies in, in a table on disk: blocks can outgrow memory.

The table is made anew from the shards' footers each time a store is opened, and is gone with the process: the
shards are the truth. In memory is what is known of each shard, never of each video.
"""

import sqlite3
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vadclip.errors import InputError
from vadclip.extract.coverage import Coverage, Placed
from vadclip.features.shards import BLOCK_FIELDS, Block, Shard, block_values
from vadclip.manifest import Video

# In the order of the key, rows are in the order of manifest, crop and snippet. The table ends with the
# process: nothing is journalled or flushed. One transaction for good: each of its own would write to disk.
_OPEN = """
PRAGMA cache_size = -4096;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE blocks (
  video_id TEXT, crop INTEGER, start INTEGER, stop INTEGER, rows INTEGER, frames INTEGER, content_hash TEXT,
  lost INTEGER, shard TEXT, number INTEGER, kept INTEGER DEFAULT 0,
  PRIMARY KEY (video_id, content_hash, crop, start)
) WITHOUT ROWID;
BEGIN;
"""
_BLOCK = ", ".join(BLOCK_FIELDS)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


@dataclass(frozen=True)
class ShardSize:
    """What is known of a shard without opening it."""

    blocks: int
    row_bytes: int


class Ledger:
    """The blocks of a store, by video, content and crop; a block that lies in two shards counts once."""

    def __init__(self) -> None:
        self.shards: dict[str, ShardSize] = {}
        # Whatever thread the garbage collector runs in may close it.
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._table.close)  # gives its disk space back
        self._table.executescript(_OPEN)

    def add(self, shard: Shard) -> None:
        """Take in a shard's blocks.

        Of blocks that share snippets the one that holds all of the others counts, or else the earliest.
        """
        self.shards[shard.path.name] = ShardSize(len(shard.blocks), shard.row_bytes)
        for number, block in enumerate(shard.blocks):
            key = (block.video_id, block.content_hash, block.crop)
            overlapping = self._table.execute(
                "SELECT start, stop FROM blocks WHERE video_id = ? AND content_hash = ? AND crop = ? "
                "AND start < ? AND stop > ?",
                (*key, block.stop, block.start),
            ).fetchall()
            inside = all(block.start <= start and stop <= block.stop for start, stop in overlapping)
            if not inside or sum(stop - start for start, stop in overlapping) >= block.stop - block.start:
                continue
            self._table.executemany(
                "DELETE FROM blocks WHERE video_id = ? AND content_hash = ? AND crop = ? AND start = ?",
                [(*key, start) for start, _ in overlapping],
            )
            self._table.execute(
                f"INSERT INTO blocks ({_BLOCK}, shard, number) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*block_values(block), shard.path.name, number),
            )

    def of(self, video: Video) -> Coverage:
        """Return the blocks of a video as it is now."""
        found = self._table.execute(
            f"SELECT {_BLOCK}, shard, number FROM blocks WHERE video_id = ? AND content_hash = ? "
            "ORDER BY crop, start",
            (video.video_id, video.content_hash),
        )
        crops: dict[int, list[Placed]] = {}
        for row in found:
            crops.setdefault(row[1], []).append(_placed(row))
        return Coverage(video, crops)

    def keep(self, video: Video, crops: Iterable[int]) -> None:
        """Mark the blocks of some crops as needed."""
        self._table.executemany(
            "UPDATE blocks SET kept = 1 WHERE video_id = ? AND content_hash = ? AND crop = ?",
            [(video.video_id, video.content_hash, crop) for crop in crops],
        )

    def keep_all(self, video: Video) -> None:
        """Mark all blocks of a video, whatever its content was."""
        self._table.execute("UPDATE blocks SET kept = 1 WHERE video_id = ?", (video.video_id,))

    def kept(self) -> dict[str, int]:
        """Return how many blocks of each shard are marked."""
        counts = dict.fromkeys(self.shards, 0)
        counts.update(self._table.execute("SELECT shard, COUNT(*) FROM blocks WHERE kept GROUP BY shard"))
        return counts

    def kept_blocks(self, shards: Collection[str]) -> Iterator[Placed]:
        """Yield the marked blocks of some shards in the order of manifest, crop and snippet."""
        found = self._table.execute(
            f"SELECT {_BLOCK}, shard, number FROM blocks WHERE kept "
            "ORDER BY video_id, content_hash, crop, start"
        )
        return (_placed(row) for row in found if row[8] in shards)

    def drop(self, shards: Collection[str]) -> None:
        """Forget some shards and their blocks."""
        for name in shards:
            del self.shards[name]
        self._table.create_function("gone", 1, shards.__contains__, deterministic=True)
        self._table.execute("DELETE FROM blocks WHERE gone(shard)")


def _placed(row: tuple[str, int, int, int, int, int, str, int, str, int]) -> Placed:
    return Placed(Block(*row[:8]), *row[8:])


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
