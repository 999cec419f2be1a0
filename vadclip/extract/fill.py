"""Bringing a feature store up to date with a manifest: plan what is missing, run it, take it in, account.

`run_units` does the work: a pool of actors as a rule (`on_ray.run_units`), any function in tests.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol

from vadclip.config import ExtractParams
from vadclip.extract.encode import Extracted
from vadclip.extract.failures import Failure
from vadclip.extract.store import FeatureStore
from vadclip.extract.tally import Filled
from vadclip.extract.units import Unit, plan_units
from vadclip.manifest import SPLITS, Videos, locate
from vadclip.pool.work import Outcome
from vadclip.progress import track

UNIT_BYTES = 64 * 2**20
"""Bound of a unit's rows, whatever `execution.unit_images` says. An actor holds the rows of one unit, and one
unit more per actor may wait to be written."""


class RunUnits(Protocol):
    """Runs units somewhere; see `pool.Pool.run`."""

    def __call__(
        self,
        units: Sequence[Unit],
        *,
        wanted: Callable[[Unit], bool],
        progress: Callable[[float], None],
        tell: Callable[[str], None],
    ) -> Generator[Outcome[Unit, Extracted], None, None]:
        """Yield how each unit, or each part of one that was split, ended."""


def fill_store(
    store: FeatureStore,
    videos: Videos,
    root: str,
    params: ExtractParams,
    *,
    unit_images: int,
    run_units: RunUnits,
) -> Filled:
    """Extract what the store lacks of a manifest's videos, and bring the store's files to rest.

    `videos` are iterated three times and never all held in memory; the units of work are, sorted by size, the
    largest first. Where nothing is missing `run_units` is not called. Rows are checked and written when their
    unit ends: an interrupt loses the units at work and no other. Failed videos are rows of the index.
    """
    started = time.monotonic()
    crops = {split: params.crops(split) for split in SPLITS}
    filled = Filled()
    gaps = (
        (video, locate(video.uri, root), gap)
        for video in videos
        if video.probe_error is None
        for gap in store.missing(video, crops[video.split])
    )
    row_bytes = 2 * store.provenance.embed_dim
    most = max(1, UNIT_BYTES // row_bytes) * params.frames_per_snippet
    planned = plan_units(gaps, params.frames_per_snippet, min(unit_images, most), most_images=most)
    units = sorted(planned, key=lambda unit: -unit.images)
    if units:
        with track(sum(unit.images for unit in units), "extract", "images") as progress:
            outcomes = run_units(
                units,
                wanted=lambda unit: any(not store.failed(part.video_id) for part in unit.slices),
                progress=progress.advance,
                tell=progress.message,
            )
            with closing(outcomes):  # the workers end, whatever happens here
                for outcome in outcomes:
                    for failure in _take_in(store, outcome, filled):
                        store.fail(failure)
                        progress.message(f"{failure.video_id}: {failure.error}")
                    del outcome  # frees its rows in Ray's object store before the next wait
    store.finish(videos, crops, params.max_lost_fraction, filled.add)
    filled.seconds["total"] = time.monotonic() - started
    return filled


def _take_in(store: FeatureStore, outcome: Outcome[Unit, Extracted], filled: Filled) -> Sequence[Failure]:
    """Write what a unit gave; return the failures of its videos."""
    unit, result, error = outcome.task, outcome.result, outcome.error
    if result is not None:
        for phase, spent in result.seconds.items():
            filled.seconds[phase] += spent
        filled.counts.update(result.counts)
        filled.counts["units"] += 1
        started = time.monotonic()
        try:
            store.add(result.blocks, result.arrays, unit.blocks())
            return result.failures
        except ValueError as mismatch:
            error = str(mismatch)
        finally:
            filled.seconds["write"] += time.monotonic() - started
    assert error is not None
    return [Failure(part.video_id, part.content_hash, error, lasting=False) for part in unit.slices]
