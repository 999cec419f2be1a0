"""The feature store as the extract stage fills it: which rows are missing, and how new ones get in.

A run opens the store (`FeatureStore`), asks what is missing, adds the rows that workers return, and
finishes: rows of videos that left the manifest go, small shards are merged, index.parquet is written. One
process writes the folder, and each of its steps moves a whole file: a kill at any moment leaves a store that
the next run goes on with.
An empty store is filled with the same bytes however the work is cut, ordered, and however often killed.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadclip.errors import InputError
from vadclip.extract.coverage import Coverage, Gap
from vadclip.extract.failures import Failure, Failures
from vadclip.extract.ledger import Ledger
from vadclip.extract.merge import SHARD_LIMITS, ShardLimits, merge_shards
from vadclip.features.index import IndexRow, refuse_bucket_store, write_index
from vadclip.features.provenance import Provenance
from vadclip.features.shards import Block, Shard, write_shard
from vadclip.manifest import SNIPPET_FRAMES, Video, Videos


class FeatureStore:
    """The store of one provenance in `folder`, which no other process may use meanwhile.

    Opening moves shards of another provenance aside, to `<cache>/superseded/<fingerprint>/`, those of this
    one back from there, and damaged ones to `<cache>/damaged/`; `tell` gets a line about each damaged one.
    Raises InputError for a store of an earlier version whose shards lie in a bucket.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        provenance: Provenance,
        tell: Callable[[str], None] = lambda line: None,
        shard_limits: ShardLimits = SHARD_LIMITS,
    ) -> None:
        refuse_bucket_store(folder)
        self.folder, self.provenance = folder, provenance
        self._cache, self._tell, self._shard_limits = cache, tell, shard_limits
        self._ledger = Ledger()
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.tmp*"):
            unfinished.unlink()
        back = cache / "superseded" / provenance.fingerprint
        for path in back.glob("*.parquet"):
            shutil.move(path, folder / path.name)
        if back.is_dir() and not any(back.iterdir()):
            back.rmdir()
        there = sorted(path.name for path in folder.glob("*.parquet"))
        for kind in ("shard-", "part-"):  # merged ones first: a kill leaves what they hold twice
            for name in there:
                if name.startswith(kind):
                    self._take_in(name)
        self._failures = Failures(folder, provenance)

    def missing(self, video: Video, crops: Sequence[int]) -> list[Gap]:
        """Snippets of a usable video that are not there, unless it is known to be beyond help."""
        failure = self._failures.of(video)
        if failure is not None and failure.lasting:
            return []
        return self._ledger.of(video).gaps(crops)

    def failed(self, video_id: str) -> bool:
        """Whether a video has failed since the store was opened."""
        return self._failures.fresh(video_id)

    def add(
        self, blocks: Sequence[Block], arrays: Sequence[NDArray[np.float16]], planned: Sequence[Block]
    ) -> None:
        """Check what a worker returned, one array [rows, D] per block, against what was asked; write it.

        Of the planned blocks, what only decoding tells is left aside: rows, frames, lost frames. Raises
        ValueError if the rows are others; nothing is taken in then. Raises InputError if the disk is full or
        read-only.
        """
        asked = {_plan_key(block) for block in planned}
        if {_plan_key(block) for block in blocks} - asked or len(blocks) > len(asked):
            raise ValueError("the worker returned what was not asked for")
        shapes = [(block.rows, self.provenance.embed_dim) for block in blocks]
        if [array.shape for array in arrays] != shapes or any(array.dtype != np.float16 for array in arrays):
            raise ValueError("the worker returned rows of another shape than it says")
        if blocks:
            with self._disk_faults():
                self._ledger.add(Shard(write_shard(self.folder, "part", self.provenance, blocks, arrays)))

    def fail(self, failure: Failure) -> None:
        """Note a failed video at once, so that a kill does not forget it."""
        self._failures.add(failure)

    def finish(
        self,
        videos: Videos,
        crops: Mapping[str, Sequence[int]],
        max_lost_fraction: float,
        note: Callable[[IndexRow], None] = lambda row: None,
    ) -> None:
        """Bring the files to rest: drop what is not needed, merge small shards, write the index.

        `videos` are the manifest's, sorted by `video_id` and iterated twice; `note` gets the row of each.
        `crops` says which crops each split wants; other crops stay, unseen by readers. A video of which more
        than `max_lost_fraction` of the pictures cannot be decoded has failed; its rows stay too, should more
        be allowed one day. Every usable video must be complete or failed. A video whose file could not be
        read keeps all its rows: its disk may just not be mounted. Where there is nothing to do no byte
        changes. Raises InputError if the disk is full or read-only.
        """
        for video in videos:
            if video.probe_error is not None:
                self._ledger.keep_all(video)
                continue
            there = self._ledger.of(video)
            outcome = self._outcome(there, crops[video.split], max_lost_fraction)
            if there.crops and (outcome.status == "ok" or outcome.lost_frames):
                self._ledger.keep(video, there.complete())
        failed: set[str] = set()

        def rows() -> Iterator[IndexRow]:
            for video in videos:
                row = self._outcome(self._ledger.of(video), crops[video.split], max_lost_fraction)
                note(row)
                if row.status == "failed":
                    failed.add(row.video_id)
                yield row

        with self._disk_faults():
            merge_shards(self._ledger, self.folder, self.provenance, self._shard_limits)
            write_index(self.folder, rows(), self.provenance)
            self._failures.settle(failed)

    @contextmanager
    def _disk_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}") from None

    def _outcome(self, there: Coverage, crops: Sequence[int], max_lost_fraction: float) -> IndexRow:
        video = there.video
        failed = IndexRow(
            video_id=video.video_id, status="failed", error=video.probe_error, note=None, lost_frames=0,
            shards=(), rows=0, decoded_frames=0, crops=(), content_hash=video.content_hash,
        )  # fmt: skip
        if video.probe_error is not None:
            return failed
        if not video.too_short and (error := there.disagreement(crops)) is not None:
            failure = self._failures.of(video)
            return replace(failed, error=error if failure is None else failure.error)
        placed = there.blocks(crops)
        lost = sum(one.block.lost for one in placed if one.block.crop == crops[0])
        frames = max((one.block.frames for one in placed), default=video.num_frames if video.too_short else 0)
        ok = replace(failed, status="ok", lost_frames=lost, decoded_frames=frames)
        if there.end == 0:
            short = f"too short: {frames} of the {SNIPPET_FRAMES} frames of a snippet can be decoded"
            return replace(ok, note=short)
        notes = []
        if frames < video.num_frames:
            notes.append(f"cut off: only {frames} of {video.num_frames} frames can be decoded")
        if lost:
            notes.append(f"{lost} of {video.num_frames} pictures cannot be decoded")
        if lost > max_lost_fraction * video.num_frames:
            error = f"{notes[-1]}, more than extract.max_lost_fraction {max_lost_fraction:g} allows"
            return replace(failed, error=error, lost_frames=lost)
        shards = tuple(sorted({one.shard for one in placed}))
        return replace(ok, note="; ".join(notes) or None, shards=shards, rows=there.end, crops=tuple(crops))

    def _take_in(self, name: str) -> None:
        """Enter a shard into the ledger, or move it aside if it is damaged or of another provenance."""
        path = self.folder / name
        try:
            shard = Shard(path)
            if shard.provenance != self.provenance:
                self._set_aside(path, f"superseded/{shard.provenance.fingerprint}")
                return
            if not shard.intact():
                raise InputError(f"{path} is damaged")
        except InputError as error:
            place = self._set_aside(path, "damaged")
            self._tell(f"{error}: moved to {place}; its videos are extracted again")
        else:
            self._ledger.add(shard)

    def _set_aside(self, path: Path, kind: str) -> Path:
        place = self._cache / kind
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place / path.name)
        return place


def _plan_key(block: Block) -> tuple[object, ...]:
    return (block.video_id, block.content_hash, block.crop, block.start, block.stop)
