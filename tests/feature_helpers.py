"""Feature stores filled with made-up rows that tell their own video, crop and snippet."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np

from vadclip.config import ExtractParams
from vadclip.extract.encode import Extracted
from vadclip.extract.failures import Failure
from vadclip.extract.fill import fill_store
from vadclip.extract.merge import SHARD_LIMITS, ShardLimits
from vadclip.extract.store import FeatureStore
from vadclip.extract.tally import Filled
from vadclip.extract.units import Unit
from vadclip.features.index import IndexRow, read_index, write_index
from vadclip.features.provenance import Provenance
from vadclip.features.reader import FeatureReader
from vadclip.features.shards import Block, write_shard
from vadclip.manifest import SPLITS, Manifest, Video
from vadclip.pool.work import Outcome

WIDTH = 8
PROVENANCE = Provenance(
    source="encoded",
    clip_name="tiny",
    clip_fingerprint="f" * 64,
    quick_gelu=True,
    precision="fp32",
    image_size=32,
    embed_dim=WIDTH,
    frames_per_snippet=1,
    recipe="made up",
)
PARAMS = ExtractParams(
    frames_per_snippet=1, train_crops=5, test_crop=0, max_failed_fraction=0.0, max_lost_fraction=0.05
)


def made_up_rows(video_id: str, crop: int, start: int, stop: int) -> np.ndarray:
    """Rows [stop - start, WIDTH] that no other video, crop or snippet has."""
    seed = sum(map(ord, video_id)) % 500
    snippets = np.arange(start, stop, dtype=np.float64)[:, None]
    return (seed + crop / 16 + snippets / 4 + np.arange(WIDTH) * 1000).astype(np.float16)


class Runner:
    """Runs units without a decoder; keeps what it was given."""

    def __init__(
        self, ends: dict[str, int] | None = None, order: Callable[[list[Unit]], list[Unit]] = list
    ) -> None:
        self.ends = ends or {}
        """Frames that decoding finds of a video, where fewer than the manifest says."""
        self.order = order
        self.failing: dict[str, tuple[str, bool]] = {}
        self.stop_after: int | None = None
        self.units: list[Unit] = []

    def __call__(self, units: Sequence[Unit], **callbacks: object) -> Generator[Outcome, None, None]:
        for number, unit in enumerate(self.order(list(units))):
            if number == self.stop_after:
                raise KeyboardInterrupt
            if not callbacks["wanted"](unit):
                continue
            self.units.append(unit)
            yield self.run(unit)

    def run(self, unit: Unit) -> Outcome:
        blocks, arrays, failures = [], [], []
        for part in unit.slices:
            if part.video_id in self.failing:
                error, lasting = self.failing[part.video_id]
                failures.append(Failure(part.video_id, part.content_hash, error, lasting))
                continue
            frames = min(part.until_frame, self.ends.get(part.video_id, part.num_frames))
            rows = max(0, min(part.stop, frames // 16) - part.start)
            for crop in part.crops:
                blocks.append(part.block(crop, rows=rows, frames=frames))
                arrays.append(made_up_rows(part.video_id, crop, part.start, part.start + rows))
        out = Extracted(blocks, arrays, failures, {"encode": 0.5}, {"images": unit.images})
        return Outcome(unit, out, None)

    @property
    def snippets(self) -> int:
        """Snippets extracted so far, of each crop."""
        return sum((part.stop - part.start) * len(part.crops) for unit in self.units for part in unit.slices)


def fill(
    folder: Path,
    manifest: Manifest,
    runner: Runner,
    params: ExtractParams = PARAMS,
    unit_images: int = 50,
    provenance: Provenance = PROVENANCE,
    tell: Callable[[str], None] = print,
    shard_limits: ShardLimits = SHARD_LIMITS,
) -> Filled:
    """One run of the extract stage in `folder`/features, with a runner in the workers' place."""
    features, cache = folder / "features", folder / ".cache"
    store = FeatureStore(features, cache, provenance, tell, shard_limits)
    return fill_store(store, manifest.videos, "/videos", params, unit_images=unit_images, run_units=runner)


def write_features(
    folder: Path,
    provenance: Provenance,
    videos: Sequence[Video],
    crops: Callable[[Video], Sequence[int]],
    mean: Callable[[Video], float] = lambda video: 0.0,
) -> None:
    """Fill `folder` as the extract stage leaves it, with noise around each video's mean."""
    random, blocks, arrays, rows = np.random.default_rng(0), [], [], []
    there = {video.video_id: tuple(crops(video)) if video.num_snippets else () for video in videos}
    for video in videos:
        count = video.num_snippets
        for crop in there[video.video_id]:
            blocks.append(Block(video.video_id, crop, 0, count, count, video.num_frames, video.content_hash))
            arrays.append(random.normal(mean(video), 0.5, (count, provenance.embed_dim)).astype(np.float16))
    name = write_shard(folder, "shard", provenance, blocks, arrays).name
    for video in videos:
        found, error = there[video.video_id], video.probe_error
        rows.append(
            IndexRow(
                video.video_id, "failed" if error else "ok", error,
                None if found else f"too short: {video.num_frames} frames", 0, (name,) if found else (),
                video.num_snippets, video.num_frames, found, video.content_hash,
            )
        )  # fmt: skip
    write_index(folder, rows, provenance)


def index_rows(folder: Path) -> tuple[IndexRow, ...]:
    """Rows of the index in `folder`/features."""
    return read_index(folder / "features")[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def all_rows(folder: Path, manifest: Manifest) -> dict[tuple[str, int], bytes]:
    """Every row that a reader finds in `folder`/features, by video and crop."""
    reader = FeatureReader(folder / "features", manifest)
    return {
        (video.video_id, crop): reader.array(video.video_id, crop).tobytes()
        for split in SPLITS
        for video in reader.videos(split)
        for crop in reader.crops(video.video_id)
    }
