"""A long run with everything at once: broken videos among good ones, and actors killed from start to end."""

import os
import random
import time
from itertools import cycle, islice
from pathlib import Path

import pytest
import ray
from extract_helpers import BATCH, extract_here, extract_params, tiny_clip
from feature_helpers import contents, index_rows
from ingest_helpers import table_params
from params_helpers import execution_params
from soak_helpers import BROKEN, CHANGED, GROUPS, Clips, KilledActors

from vadclip.clip.identity import identify_clip
from vadclip.config import IngestParams
from vadclip.extract.fill import fill_store
from vadclip.extract.store import FeatureStore
from vadclip.features.provenance import Provenance
from vadclip.ingest.rows import ingest

PATH = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parent}"

# A video whose actor is killed by chance is rightly tried again, and given up after max_attempts. Here a run
# of a video is hit about once in 20: with 3 attempts one of some thousand would be blamed for nothing.
EXECUTION = execution_params(actors=2, max_attempts=10, stall_seconds=120, encoder_batch=BATCH)


@pytest.fixture
def own_ray(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("count", "between"),
    [
        pytest.param(60, (6, 10), id="60"),
        pytest.param(2000, (6, 18), id="2000", marks=pytest.mark.soak),
    ],
)
def test_every_video_is_accounted_for(count, between, own_ray, tmp_path):
    kinds = [*BROKEN, *CHANGED]
    broken = dict(zip(range(0, count, 20 if count > 200 else 6), cycle(kinds), strict=False))
    assert len(broken) == count // 20 or set(broken.values()) == set(kinds)
    clips, chance, root = Clips(), random.Random(count), tmp_path / "videos"
    seen = set()
    groups = {}
    for number in range(count):
        path = root / f"v{number:04d}.mp4"
        root.mkdir(exist_ok=True)
        if broken.get(number) in BROKEN:
            BROKEN[broken[number]][0](path, clips, number)
            continue
        while True:
            groups[number], tail = (
                chance.choices(range(GROUPS), k=chance.randint(1, 4)),
                chance.randint(0, 15),
            )
            if (*groups[number], tail) not in seen:
                break
        seen.add((*groups[number], tail))
        clips.write(path, groups[number], tail)

    table = [f"v{number:04d}.mp4,{'Fire' if number % 3 else 'Normal'},train," for number in range(count)]
    manifest = ingest(
        table_params(root, table, tmp_path), IngestParams(val_fraction=0, seed=0), probe_cache=tmp_path / "p"
    ).manifest
    assert len({video.content_hash for video in manifest.videos}) >= count - sum(
        kind == "zero bytes" for kind in broken.values()
    )
    for number, kind in broken.items():
        if kind in CHANGED:
            CHANGED[kind][0](root / f"v{number:04d}.mp4")

    clip, params = tiny_clip(tmp_path / "clip"), extract_params(train_crops=1)
    provenance = Provenance.encoded(identify_clip(clip, tmp_path / ".cache"), clip.precision, 1)
    killed = KilledActors(clip, provenance, EXECUTION, tmp_path / "marks", seed=count, between=between)
    started = time.monotonic()
    store = FeatureStore(tmp_path / "features", tmp_path / ".cache", provenance)
    filled = fill_store(
        store, manifest.videos, str(root), params, unit_images=5 if count < 200 else 8, run_units=killed
    )
    memory = ", ".join(
        f"{rss:.0f}" for rss in islice(killed.rss_mb, 0, None, max(1, len(killed.rss_mb) // 12))
    )
    print(
        f"\n{count} videos in {time.monotonic() - started:.0f} s: {killed.kills} kills, {killed.split} units "
        f"split, {filled.counts['units']} done; the driver's MB over time: {memory}"
    )

    # Each video once, the broken ones with their own reason and the good ones whole.
    rows = {row.video_id: row for row in index_rows(tmp_path)}
    assert sorted(rows) == [f"v{number:04d}" for number in range(count)]
    reasons = {kind: error for kind, (_, error) in (BROKEN | CHANGED).items()}
    assert {name: (row.status, row.error, row.rows) for name, row in rows.items()} == {
        f"v{number:04d}": ("failed", reasons[broken[number]], 0)
        if number in broken
        else ("ok", None, len(groups[number]))
        for number in range(count)
    }
    assert killed.kills >= count // 30
    # Not a byte differs from a run that nobody disturbed.
    extract_here(tmp_path / "quiet", manifest, root, clip, params)
    assert contents(tmp_path / "features") == contents(tmp_path / "quiet" / "features")
