"""Bringing a feature store up to date with a manifest: plan what is missing, run it, publish it, account.

Who does the work is a parameter (`run_units`): a pool of actors, or whatever else turns units into shards.
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vadclip.config import ExtractParams
from vadclip.errors import InputError
from vadclip.extract.units import Unit, plan_units
from vadclip.extract.work import Outcome
from vadclip.extract.worker import UnitReport
from vadclip.features.failures import Failure
from vadclip.features.reader import IndexRow
from vadclip.features.store import FeatureStore
from vadclip.manifest import Manifest, locate
from vadclip.progress import format_seconds, track

_NAMED = 20


class RunUnits(Protocol):
    """Runs units somewhere; shards go to a folder or an address. See `pool.Pool.run` for the rest."""

    def __call__(
        self,
        units: Sequence[Unit],
        folder: Path | str,
        *,
        wanted: Callable[[Unit], bool],
        progress: Callable[[float], None],
        tell: Callable[[str], None],
    ) -> Generator[Outcome[Unit, UnitReport], None, None]:
        """Yield how each unit, or each part of one that was split, ended."""


@dataclass(frozen=True)
class Filled:
    """The store after a run, and what the run did."""

    rows: tuple[IndexRow, ...]
    seconds: Mapping[str, float]
    """By phase, summed over workers; `total` is the time that passed."""
    counts: Mapping[str, int]

    def metrics(self) -> dict[str, float]:
        """Flat figures for extract_metrics.json; rates only of what was done."""
        kinds = Counter(_kind(row) for row in self.rows)
        figures: dict[str, float] = {f"videos_{kind}": kinds[kind] for kind in ("ok", "failed", "too_short")}
        figures["rows"] = sum(row.rows * len(row.crops) for row in self.rows)
        figures |= {f"run_{name}": count for name, count in sorted(self.counts.items())}
        figures |= {f"run_seconds_{name}": round(value, 3) for name, value in sorted(self.seconds.items())}
        for what in ("images", "frames", "rows_imported"):
            if self.counts.get(what):
                figures[f"run_{what}_per_second"] = round(self.counts[what] / self.seconds["total"], 2)
        return figures


def crops_by_split(params: ExtractParams) -> dict[str, tuple[int, ...]]:
    """Crops that each split's videos get."""
    return {
        "train": tuple(range(params.train_crops)),
        "val": (params.test_crop,),
        "test": (params.test_crop,),
    }


def fill_store(
    store: FeatureStore,
    manifest: Manifest,
    root: str,
    params: ExtractParams,
    *,
    unit_images: int,
    run_units: RunUnits,
) -> Filled:
    """Extract what the store lacks of a manifest's videos, and bring the store's files to rest.

    Where nothing is missing `run_units` is not called. What workers write is checked and taken in as it
    comes, so an interrupt loses no more than the units at work. Failed videos are rows of the index.
    """
    started = time.monotonic()
    crops = crops_by_split(params)
    gaps = [
        (video, locate(video, root), gap)
        for video in manifest.videos
        if video.probe_error is None
        for gap in store.missing(video, crops[video.split])
    ]
    units = plan_units(gaps, frames_per_snippet=params.frames_per_snippet, unit_images=unit_images)
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    failed: set[str] = set()

    def note(failure: Failure) -> None:
        store.fail(failure)
        failed.add(failure.video_id)

    if units:
        folder = store.temporary(uuid.uuid4().hex[:12])
        with track(sum(unit.images for unit in units), "extract", "images") as progress:
            outcomes = run_units(
                units,
                folder,
                wanted=lambda unit: any(part.video_id not in failed for part in unit.slices),
                progress=progress.advance,
                tell=progress.message,
            )
            with closing(outcomes):  # whatever happens here, the workers end
                for outcome in outcomes:
                    for failure in _take_in(store, outcome, seconds, counts):
                        note(failure)
                        progress.message(f"{failure.video_id}: {failure.error}")
    rows = store.finish(manifest, crops)
    seconds["total"] = time.monotonic() - started
    return Filled(rows, seconds, counts)


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
        except InputError:  # a ValueError too, but the storage's and not the unit's
            raise
        except ValueError as mismatch:
            error = str(mismatch)
    assert error is not None
    return [Failure(part.video_id, part.content_hash, error, lasting=False) for part in unit.slices]


def check_budget(rows: Sequence[IndexRow], max_failed_fraction: float) -> None:
    """Raise InputError, naming them, if more than the given fraction of the videos failed."""
    failed = [row for row in rows if row.status == "failed"]
    if len(failed) <= max_failed_fraction * len(rows):
        return
    names = ", ".join(f"{row.video_id} ({row.error})" for row in failed[:_NAMED])
    more = f" and {len(failed) - _NAMED} more, see index.parquet" if len(failed) > _NAMED else ""
    raise InputError(
        f"{len(failed)} of {len(rows)} videos failed, more than extract.max_failed_fraction "
        f"{max_failed_fraction:g} allows: {names}{more}. The good ones are kept; repair or remove these"
    )


def summary(filled: Filled) -> str:
    """One line about the run."""
    kinds = Counter(_kind(row) for row in filled.rows)
    rows = sum(row.rows * len(row.crops) for row in filled.rows)
    kinds_of_work = {"images": "images", "rows_imported": "imported rows"}
    done = [f"{filled.counts[key]:,} {what}" for key, what in kinds_of_work.items() if filled.counts.get(key)]
    took = format_seconds(filled.seconds["total"])
    work = f"{', '.join(done)} in {took}" if done else "nothing was missing"
    there = f"{kinds['ok']:,} videos with {rows:,} rows"
    return f"{there}, {kinds['failed']:,} failed, {kinds['too_short']:,} too short; {work}"


def _kind(row: IndexRow) -> str:
    if row.status == "failed":
        return "failed"
    return "ok" if row.rows else "too_short"
