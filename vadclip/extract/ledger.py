"""Every block of a store and the shard it lies in, in a table on disk.

The table is made anew from the shards' footers each time a store is opened, and is gone with the process: the
shards are the truth. In memory is what is known of each shard, never of each video.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from vadclip.extract.coverage import Coverage, Placed
from vadclip.features.shards import BLOCK_FIELDS, Block, Shard, block_values
from vadclip.manifest import Video
from vadclip.scratch import open_scratch

# In the order of the key, rows are in the order of manifest, crop and snippet.
_SCHEMA = """
CREATE TABLE blocks (
  video_id TEXT, crop INTEGER, start INTEGER, stop INTEGER, rows INTEGER, frames INTEGER, content_hash TEXT,
  decoder TEXT, shard TEXT, number INTEGER, kept INTEGER DEFAULT 0,
  PRIMARY KEY (video_id, content_hash, crop, start)
) WITHOUT ROWID
"""
_BLOCK = ", ".join(BLOCK_FIELDS)


@dataclass(frozen=True)
class ShardSize:
    """What is known of a shard without opening it."""

    blocks: int
    row_bytes: int


class Ledger:
    """The blocks of a store, by video, content and crop; what is there twice counts once."""

    def __init__(self) -> None:
        self.shards: dict[str, ShardSize] = {}
        self._table = open_scratch(_SCHEMA)

    def add(self, shard: Shard) -> None:
        """Take in a shard's blocks; of those that share snippets the one that holds all of the others counts.

        Without such a one it is the one that was there first.
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
        """Return what there is of a video as it is now."""
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


def _placed(row: tuple[str, int, int, int, int, int, str, str, str, int]) -> Placed:
    return Placed(Block(*row[:8]), *row[8:])
