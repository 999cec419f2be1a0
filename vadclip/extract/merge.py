"""Bringing a store's shards to rest: rows that no video needs go, and small shards become large ones.

Merged shards hold the kept blocks in the order of manifest, crop and snippet and are cut by size, so equal
content gives equal files. Of the store, only the shards being written and their sources' footers are in
memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadclip.extract.coverage import Placed, joined
from vadclip.extract.ledger import Ledger, ShardSize
from vadclip.features.provenance import Provenance
from vadclip.features.shards import Block, Shard, write_shard

_THREADS = 2
_OPEN_SHARDS = 4

Run = list[Placed]
"""Adjacent blocks of one crop of a video, which become one block."""


@dataclass(frozen=True)
class ShardLimits:
    """A shard is cut where it reaches either of them."""

    row_bytes: int = 128 * 2**20
    blocks: int = 4096
    """Their list is held while the shard is written."""

    def far_below(self, size: ShardSize) -> bool:
        """Whether a shard is so small that it is merged with others."""
        return size.row_bytes < self.row_bytes // 2 and size.blocks < self.blocks // 2


SHARD_LIMITS = ShardLimits()


def merge_shards(ledger: Ledger, folder: Path, provenance: Provenance, limits: ShardLimits) -> None:
    """Rewrite shards that hold blocks which are not kept, unmerged shards and small ones.

    Raises OSError if the disk is full or read-only.
    """
    kept = ledger.kept()
    rewrite = {
        name
        for name, size in ledger.shards.items()
        if kept[name] > 0 and (name.startswith("part-") or kept[name] < size.blocks)
    }
    if rewrite:
        rewrite |= {name for name, size in ledger.shards.items() if kept[name] > 0 and limits.far_below(size)}
    gone = {name for name, count in kept.items() if count == 0} | rewrite
    if not gone:
        return
    written = [path.name for path in _write_merged(ledger, rewrite, folder, provenance, limits)]
    for name in sorted(gone - set(written)):
        (folder / name).unlink()
    ledger.drop(gone)
    for name in written:
        ledger.add(Shard(folder / name))


def _write_merged(
    ledger: Ledger, rewrite: set[str], folder: Path, provenance: Provenance, limits: ShardLimits
) -> Iterator[Path]:
    """Write the kept blocks of some shards into new ones; yield each as it is there."""
    waiting: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:  # pyarrow encodes without the GIL
        for runs in _cut(_join(ledger.kept_blocks(rewrite)), provenance.embed_dim, limits):
            if len(waiting) == _THREADS:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_write, runs, folder, provenance))
        while waiting:
            yield waiting.popleft().result()


def _join(blocks: Iterable[Placed]) -> Iterator[Run]:
    run: Run = []
    for placed in blocks:
        if run and not _adjoins(run[-1].block, placed.block):
            yield run
            run = []
        run.append(placed)
    if run:
        yield run


def _adjoins(one: Block, other: Block) -> bool:
    same = one.video_id == other.video_id and one.content_hash == other.content_hash
    return same and one.crop == other.crop and one.stop == other.start


def _cut(runs: Iterable[Run], width: int, limits: ShardLimits) -> Iterator[list[Run]]:
    """Gather runs until they make a shard."""
    gathered: list[Run] = []
    size = 0
    for run in runs:
        if size >= limits.row_bytes or len(gathered) >= limits.blocks:
            yield gathered
            gathered, size = [], 0
        gathered.append(run)
        size += 2 * width * joined(run).rows
    if gathered:
        yield gathered


def _write(runs: list[Run], folder: Path, provenance: Provenance) -> Path:
    @lru_cache(_OPEN_SHARDS)
    def opened(name: str) -> Shard:
        return Shard(folder / name)

    def rows(run: Run) -> NDArray[np.float16]:
        return np.concatenate([opened(placed.shard).read(placed.number) for placed in run])

    return write_shard(folder, "shard", provenance, [joined(run) for run in runs], map(rows, runs))
