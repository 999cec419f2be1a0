"""Writing the feature store: what is there, what is missing, and how new shards get in.

Where the shards lie is the store's `ShardStorage`: the folder itself, or a bucket. A run opens the store
(`FeatureStore`), asks what is missing, publishes shards that workers wrote under tmp/, and finishes: rows of
videos that left the manifest go, small shards are merged, index.parquet is written.
What is known of each video lies in tables on disk (`ledger`, `failures`): memory does not grow with them.
Every step moves a whole file, so a kill at any moment leaves a store that the next run goes on with.
An empty store is filled with the same bytes however the work is cut, ordered, and however often killed.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vadclip.errors import InputError
from vadclip.extract.coverage import Coverage, Gap, Placed, decoders
from vadclip.extract.failures import Failure, Failures
from vadclip.extract.ledger import Ledger
from vadclip.extract.merge import merge_shards
from vadclip.features.provenance import Provenance
from vadclip.features.reader import IndexRow, write_index
from vadclip.features.shards import Block
from vadclip.features.storage import LocalStorage, ShardStorage
from vadclip.manifest import SNIPPET_FRAMES, Video, Videos


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
        self._ledger = Ledger()
        self._storage.clear_temporary()
        self._exchange_superseded()
        for name in self._storage.names():
            self._take_from(name)
        self._failures = Failures(folder, provenance)

    def temporary(self, run_id: str) -> Path | str:
        """Folder, or its address, for the shards that this run's workers write; published ones leave it."""
        return self._storage.temporary(run_id)

    def missing(self, video: Video, crops: Sequence[int]) -> list[Gap]:
        """Snippets of a usable video that are not there, unless it is known to be beyond help."""
        failure = self._failures.of(video)
        if failure is not None and failure.lasting:
            return []
        return self._ledger.of(video).gaps(crops)

    def failed(self, video_id: str) -> bool:
        """Whether a video has failed since the store was opened."""
        return self._failures.fresh(video_id)

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
        self._ledger.add(self._storage.publish(left))

    def fail(self, failure: Failure) -> None:
        """Note a failed video at once, so that a kill does not forget it."""
        self._failures.add(failure)

    def finish(
        self,
        videos: Videos,
        crops: Mapping[str, Sequence[int]],
        note: Callable[[IndexRow], None] = lambda row: None,
    ) -> None:
        """Bring the files to rest: drop what is not needed, merge small shards, write the index.

        `videos` are the manifest's, sorted by `video_id`; they are gone through twice, and `note` gets each
        one's row. `crops` says which crops each split wants; others that are there stay, unseen by readers.
        Every usable video must be complete or failed. A video whose file could not be looked into keeps all
        that there is of it, unseen too: its disk may just not be mounted. Changes no byte where there is
        nothing to do. Raises InputError if the disk is full or read-only.
        """
        for video in videos:
            if video.probe_error is not None:
                self._ledger.keep_all(video)
                continue
            there = self._ledger.of(video)
            if there.crops and self._outcome(there, crops[video.split]).status == "ok":
                self._ledger.keep(video, there.complete())
        try:
            merge_shards(self._ledger, self._storage, self.provenance)
            self._storage.settle(sorted(self._ledger.shards))
            rows = (self._outcome(self._ledger.of(video), crops[video.split]) for video in videos)
            write_index(self.folder, self._noted(rows, note), self.provenance)
            self._failures.settle()
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}") from None
        self._storage.clear_temporary()

    def _noted(self, rows: Iterable[IndexRow], note: Callable[[IndexRow], None]) -> Iterator[IndexRow]:
        for row in rows:
            note(row)
            if row.status == "failed":
                self._failures.keep(row.video_id)
            yield row

    def _outcome(self, there: Coverage, crops: Sequence[int]) -> IndexRow:
        video = there.video
        error, rows, frames, placed = video.probe_error, 0, video.num_frames, list[Placed]()
        if error is None and not video.too_short:
            failure = self._failures.of(video)
            error = there.disagreement(crops)
            if failure is not None and error is not None:
                error = failure.error
            placed = there.blocks(crops)
            rows, frames = there.end, max((one.block.frames for one in placed), default=0)
        row = IndexRow(
            video_id=video.video_id,
            status="ok" if error is None else "failed",
            error=error,
            shards=tuple(sorted({one.shard for one in placed})),
            rows=rows,
            decoded_frames=frames,
            crops=tuple(crops),
            decoder=decoders(placed),
            content_hash=video.content_hash,
        )
        if error is not None:
            return replace(row, shards=(), rows=0, crops=(), decoder="", decoded_frames=0)
        if rows == 0:
            short = f"too short: {frames} of the {SNIPPET_FRAMES} frames of a snippet can be decoded"
            return replace(row, error=short, shards=(), crops=())
        if frames < video.num_frames:
            return replace(row, error=f"cut off: only {frames} of {video.num_frames} frames can be decoded")
        return row

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
            self._ledger.add(shard)


def _plan_key(block: Block) -> tuple[object, ...]:
    return (block.video_id, block.content_hash, block.crop, block.start, block.stop)
