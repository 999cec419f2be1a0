"""Writing the feature store: what is there, what is missing, and how new shards get in.

Where the shards lie is the store's `ShardStorage`: the folder itself, or a bucket. A run opens the store
(`FeatureStore`), asks what is missing, publishes shards that workers wrote under tmp/, and finishes: rows of
videos that left the manifest go, small shards are merged, index.parquet is written.
Every step moves a whole file, so a kill at any moment leaves a store that the next run goes on with.
An empty store is filled with the same bytes however the work is cut, ordered, and however often killed.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadclip.errors import InputError
from vadclip.features.coverage import Coverage, Gap, Placed, decoders, joined
from vadclip.features.failures import Failure, Failures
from vadclip.features.provenance import Provenance
from vadclip.features.reader import IndexRow, read_index, write_index
from vadclip.features.shards import Block, Shard, write_shard
from vadclip.features.storage import LocalStorage, ShardStorage
from vadclip.manifest import SNIPPET_FRAMES, Manifest, Video

SHARD_BYTES = 128 * 2**20
_MERGE_THREADS = 4


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the store alone for as long as this process lives; InputError if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{folder}: another extraction is writing here; wait for it or stop it") from None
    finally:
        os.close(handle)


class FeatureStore:
    """The store of one provenance in `folder`; hold `lock(folder)` while using it.

    Shards lie in `storage`, by default `folder`. Opening moves shards of another provenance aside, to
    `<cache>/superseded/<fingerprint>/` (of a bucket: below its address), those of this one back from there,
    and damaged ones to `damaged/` beside; `tell` gets a line about each damaged one.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        provenance: Provenance,
        tell: Callable[[str], None] = lambda line: None,
        storage: ShardStorage | None = None,
    ) -> None:
        self.folder, self.provenance = folder, provenance
        self._storage = storage or LocalStorage(folder, cache)
        self._tell = tell
        self._shards: dict[str, Shard] = {}
        self._coverage = Coverage()
        self._storage.clear_temporary()
        self._exchange_superseded()
        for name in self._storage.names():
            self._take_from(name)
        self._failures = Failures(folder, provenance)

    def index(self) -> tuple[IndexRow, ...]:
        """Rows of index.parquet, as the latest `finish` wrote it."""
        return read_index(self.folder)[0]

    def temporary(self, run_id: str) -> Path | str:
        """Folder, or its address, for the shards that this run's workers write; published ones leave it."""
        return self._storage.temporary(run_id)

    def missing(self, video: Video, crops: Sequence[int]) -> list[Gap]:
        """Snippets of a usable video that are not there, unless it is known to be beyond help."""
        failure = self._failures.of(video)
        if failure is not None and failure.lasting:
            return []
        return self._coverage.gaps(video, crops)

    def publish(self, left: Path | str, planned: Sequence[Block]) -> None:
        """Check a worker's shard against what it was asked for and take it in.

        Of the planned blocks, what only decoding tells is left aside: rows, frames, decoder. Raises
        ValueError if the shard is another one; nothing is taken in then. InputError means that the storage
        fails, or that another run has taken it over.
        """
        shard = self._storage.inspect(left)
        asked = {_plan_key(block) for block in planned}
        if shard.provenance != self.provenance or not shard.intact():
            raise ValueError("the shard is damaged or of another provenance")
        if {_plan_key(block) for block in shard.blocks} - asked or len(shard.blocks) > len(asked):
            raise ValueError("the shard holds what was not asked for")
        self._take(self._storage.publish(left))

    def fail(self, failure: Failure) -> None:
        """Note a failed video at once, so that a kill does not forget it."""
        self._failures.add(failure)

    def finish(self, manifest: Manifest, crops: Mapping[str, Sequence[int]]) -> tuple[IndexRow, ...]:
        """Bring the files to rest: drop what is not needed, merge small shards, write the index.

        `crops` says which crops each split wants; others that are there stay, unseen by readers. Every usable
        video must be complete or failed. Changes no byte where there is nothing to do.
        Raises InputError if the disk is full or read-only.
        """
        outcomes = {video.video_id: self._outcome(video, crops[video.split]) for video in manifest.videos}
        keep = [
            placed
            for video in manifest.videos
            if outcomes[video.video_id].status == "ok"
            for crop, run in sorted(self._coverage.crops(video).items())
            if not self._coverage.gaps(video, [crop])
            for placed in run
        ]
        try:
            self._merge(keep)
            self._storage.settle(sorted(self._shards))
            rows = tuple(self._with_shards(video, outcomes[video.video_id]) for video in manifest.videos)
            write_index(self.folder, rows, self.provenance)
            self._failures.keep_only({row.video_id for row in rows if row.status == "failed"})
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}") from None
        self._storage.clear_temporary()
        return rows

    def _outcome(self, video: Video, crops: Sequence[int]) -> IndexRow:
        error, rows, frames, decoder = video.probe_error, 0, video.num_frames, ""
        if error is None and not video.too_short:
            failure = self._failures.of(video)
            error = self._coverage.disagreement(video, crops)
            if failure is not None and error is not None:
                error = failure.error
            placed = [one for crop in crops for one in self._coverage.blocks(video, crop)]
            rows, frames = self._coverage.end(video), max((one.block.frames for one in placed), default=0)
            decoder = decoders(placed)
        row = IndexRow(
            video_id=video.video_id,
            status="ok" if error is None else "failed",
            error=error,
            shards=(),
            rows=rows,
            decoded_frames=frames,
            crops=tuple(crops),
            decoder=decoder,
            content_hash=video.content_hash,
        )
        if error is not None:
            return replace(row, rows=0, crops=(), decoder="", decoded_frames=0)
        if rows == 0:
            short = f"too short: {frames} of the {SNIPPET_FRAMES} frames of a snippet can be decoded"
            return replace(row, error=short, crops=())
        if frames < video.num_frames:
            return replace(row, error=f"cut off: only {frames} of {video.num_frames} frames can be decoded")
        return row

    def _with_shards(self, video: Video, row: IndexRow) -> IndexRow:
        names = {placed.shard for crop in row.crops for placed in self._coverage.blocks(video, crop)}
        return replace(row, shards=tuple(sorted(names)))

    def _merge(self, keep: Sequence[Placed]) -> None:
        """Rewrite what holds rows to drop, and unmerged or small shards, if there are any."""
        kept: dict[str, int] = Counter(placed.shard for placed in keep)
        rewrite = {
            name
            for name, shard in self._shards.items()
            if kept[name] > 0 and (name.startswith("part-") or kept[name] < len(shard.blocks))
        }
        if rewrite:
            rewrite |= {name for name in kept if self._shards[name].row_bytes < SHARD_BYTES // 2}
        gone = {name for name in self._shards if kept[name] == 0} | rewrite
        if not gone:
            return
        shards = [shard for name, shard in self._shards.items() if name not in gone]
        written = self._write_merged([placed for placed in keep if placed.shard in rewrite])
        shards += [self._storage.add(path) for path in written]
        for name in sorted(gone - {shard.path.name for shard in shards}):
            self._storage.remove(name)
        self._shards, self._coverage = {}, Coverage()
        for shard in shards:
            self._take(shard)

    def _write_merged(self, placed: Sequence[Placed]) -> list[Path]:
        """Write blocks in the given order, adjacent ones joined, into shards of about SHARD_BYTES."""
        runs: list[list[Placed]] = []
        for one in placed:
            before = runs[-1][-1].block if runs else None
            if before is not None and (before.video_id, before.crop, before.stop) == (
                one.block.video_id,
                one.block.crop,
                one.block.start,
            ):
                runs[-1].append(one)
            else:
                runs.append([one])
        shards: list[list[list[Placed]]] = [[]]
        size = 0
        for run in runs:
            if size >= SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(run)
            size += joined(run).rows * self.provenance.embed_dim * 2

        def write(runs: list[list[Placed]]) -> Path:
            blocks = [joined(run) for run in runs]
            return write_shard(self._storage.scratch, "shard", self.provenance, blocks, map(self._rows, runs))

        with ThreadPoolExecutor(_MERGE_THREADS) as pool:  # pyarrow encodes without the GIL
            return list(pool.map(write, filter(None, shards)))

    def _rows(self, run: Sequence[Placed]) -> NDArray[np.float16]:
        return np.concatenate([self._shards[placed.shard].rows(placed.number) for placed in run])

    def _exchange_superseded(self) -> None:
        for name in self._storage.names():
            try:
                provenance = self._storage.provenance(name)
            except InputError:
                continue  # dealt with when it is taken in
            if provenance != self.provenance:
                self._storage.set_aside(name, f"superseded/{provenance.fingerprint}")
        self._storage.bring_back(f"superseded/{self.provenance.fingerprint}")

    def _take_from(self, name: str) -> None:
        try:
            shard = self._storage.open(name)
        except InputError as error:
            place = self._storage.set_aside(name, "damaged")
            self._tell(f"{error}: moved to {place}; its videos are extracted again")
        else:
            self._take(shard)

    def _take(self, shard: Shard) -> None:
        self._shards[shard.path.name] = shard
        for number, block in enumerate(shard.blocks):
            self._coverage.add(Placed(block, shard.path.name, number))


def _plan_key(block: Block) -> tuple[object, ...]:
    return (block.video_id, block.content_hash, block.crop, block.start, block.stop)
