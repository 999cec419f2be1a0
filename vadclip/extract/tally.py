"""What became of the videos of a run: counts, figures and the budget of failures."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from vadclip.errors import InputError
from vadclip.features.index import IndexRow
from vadclip.progress import format_seconds

_NAMED = 20


@dataclass
class Filled:
    """The store after a run, as sums over its index, and what the run did."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Videos by what became of them: ok, failed, too_short."""
    rows: int = 0
    """Of all crops."""
    lost_frames: int = 0
    damaged: int = 0
    """Videos of which pictures cannot be decoded."""
    failed: list[str] = field(default_factory=list)
    """Failed videos; the first ones with their errors."""
    too_damaged: list[str] = field(default_factory=list)
    """Those that failed because too many of their pictures cannot be decoded."""
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))
    """By phase, summed over workers; `total` is the time that passed."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the run did: units, images, frames and the like."""

    def add(self, row: IndexRow) -> None:
        """Count one video."""
        kind = "failed" if row.status == "failed" else "ok" if row.rows else "too_short"
        self.kinds[kind] += 1
        self.rows += row.rows * len(row.crops)
        self.lost_frames += row.lost_frames
        self.damaged += row.lost_frames > 0
        if kind == "failed":
            names = self.too_damaged if row.lost_frames else self.failed
            names.append(f"{row.video_id} ({row.error})" if len(names) < _NAMED else "")

    def metrics(self) -> dict[str, float]:
        """Flat figures for extract_metrics.json; rates only of what was done."""
        kinds = ("ok", "failed", "too_short")
        figures: dict[str, float] = {f"videos_{kind}": self.kinds[kind] for kind in kinds}
        figures |= {"rows": self.rows, "lost_frames": self.lost_frames}
        figures |= {f"run_{name}": count for name, count in sorted(self.counts.items())}
        figures |= {f"run_seconds_{name}": round(value, 3) for name, value in sorted(self.seconds.items())}
        for what in ("images", "frames", "rows_imported"):
            if self.counts[what]:
                figures[f"run_{what}_per_second"] = round(self.counts[what] / self.seconds["total"], 2)
        return figures

    def summary(self) -> str:
        """One line about the run."""
        kinds_of_work = {"images": "images", "rows_imported": "imported rows"}
        done = [f"{self.counts[key]:,} {what}" for key, what in kinds_of_work.items() if self.counts[key]]
        took = format_seconds(self.seconds["total"])
        work = f"{', '.join(done)} in {took}" if done else "nothing was missing"
        ended = (
            f"{self.kinds['ok']:,} videos with {self.rows:,} rows, {self.kinds['failed']:,} failed, "
            f"{self.kinds['too_short']:,} too short"
        )
        if self.lost_frames:
            ended += f", {self.lost_frames:,} pictures of {self.damaged:,} cannot be decoded"
        return f"{ended}; {work}"

    def check_budget(self, max_failed_fraction: float) -> None:
        """Raise InputError, naming them, if more than the given fraction of the videos failed."""
        failed, count = self.kinds["failed"], self.kinds.total()
        if failed <= max_failed_fraction * count:
            return
        kinds = [_named(self.failed)] if self.failed else []
        if self.too_damaged:
            kinds.append(f"damaged in too many pictures: {_named(self.too_damaged)}")
        raise InputError(
            f"{failed} of {count} videos failed, more than extract.max_failed_fraction "
            f"{max_failed_fraction:g} allows: {'; '.join(kinds)}. The good ones are kept; repair or remove "
            "these"
        )


def _named(videos: Sequence[str]) -> str:
    more = f" and {len(videos) - _NAMED} more, see index.parquet" if len(videos) > _NAMED else ""
    return ", ".join(videos[:_NAMED]) + more
