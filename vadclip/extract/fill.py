"""Bringing a feature store up to date with a manifest: plan what is missing, run it, publish it, account.

Who does the work is a parameter (`run_units`): a pool of actors, or whatever else turns units into shards.
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from vadclip.config import ExtractParams
from vadclip.extract.failures import Failure
from vadclip.extract.plan import Plan
from vadclip.extract.store import FeatureStore
from vadclip.extract.tally import Filled, Tally
from vadclip.extract.units import Unit, plan_units
from vadclip.extract.worker import UnitReport
from vadclip.manifest import Videos, locate
from vadclip.pool.work import Outcome, Tasks
from vadclip.progress import track


class RunUnits(Protocol):
    """Runs units somewhere; shards go to a folder or an address. See `pool.Pool.run` for the rest."""

    def __call__(
        self,
        units: Tasks[Unit],
        folder: Path | str,
        *,
        wanted: Callable[[Unit], bool],
        progress: Callable[[float], None],
        tell: Callable[[str], None],
    ) -> Generator[Outcome[Unit, UnitReport], None, None]:
        """Yield how each unit, or each part of one that was split, ended."""


def crops_by_split(params: ExtractParams) -> dict[str, tuple[int, ...]]:
    """Crops that each split's videos get."""
    return {
        "train": tuple(range(params.train_crops)),
        "val": (params.test_crop,),
        "test": (params.test_crop,),
    }


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

    `videos` are gone through three times, and never all held. Where nothing is missing `run_units` is not
    called. What workers write is checked and taken in as it comes, so an interrupt loses no more than the
    units at work. Failed videos are rows of the index.
    """
    started = time.monotonic()
    crops = crops_by_split(params)
    gaps = (
        (video, locate(video, root), gap)
        for video in videos
        if video.probe_error is None
        for gap in store.missing(video, crops[video.split])
    )
    plan = Plan(plan_units(gaps, frames_per_snippet=params.frames_per_snippet, unit_images=unit_images))
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    if len(plan):
        folder = store.temporary(uuid.uuid4().hex[:12])
        with track(plan.images, "extract", "images") as progress:
            outcomes = run_units(
                plan,
                folder,
                wanted=lambda unit: any(not store.failed(part.video_id) for part in unit.slices),
                progress=progress.advance,
                tell=progress.message,
            )
            with closing(outcomes):  # whatever happens here, the workers end
                for outcome in outcomes:
                    for failure in _take_in(store, outcome, seconds, counts):
                        store.fail(failure)
                        progress.message(f"{failure.video_id}: {failure.error}")
    plan.close()
    tally = Tally()
    store.finish(videos, crops, tally.add)
    seconds["total"] = time.monotonic() - started
    return Filled(tally, seconds, counts)


def _take_in(
    store: FeatureStore,
    outcome: Outcome[Unit, UnitReport],
    seconds: dict[str, float],
    counts: Counter[str],
) -> Sequence[Failure]:
    """Publish what a unit gave; return the failures of its videos."""
    unit, report, error = outcome.task, outcome.result, outcome.error
    if report is not None:
        for phase, spent in report.seconds.items():
            seconds[phase] += spent
        counts.update(report.counts)
        counts["units"] += 1
        try:
            if report.shard is not None:
                store.publish(report.shard, unit.blocks())
            return report.failures
        except ValueError as mismatch:
            error = str(mismatch)
    assert error is not None
    return [Failure(part.video_id, part.content_hash, error, lasting=False) for part in unit.slices]
