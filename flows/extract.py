"""Stage 2: the manifest's videos -> features/ (Parquet shards and index) and extract_metrics.json."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flows import run_stage
from vadclip.clip.identity import identify_clip
from vadclip.config import Params, load_params
from vadclip.extract.fill import check_budget, fill_store, summary
from vadclip.extract.import_worker import ImportWorker, is_vit_b16
from vadclip.extract.units import Unit, split_unit
from vadclip.extract.work import Outcome, Worker
from vadclip.extract.worker import ExtractWorker, UnitReport, WorkerSettings
from vadclip.features.provenance import Provenance
from vadclip.features.remote_storage import open_storage
from vadclip.features.store import FeatureStore, lock
from vadclip.files import write_text_atomic
from vadclip.manifest import dataset_root, read_manifest

MANIFEST, FEATURES, METRICS = Path("manifest.parquet"), Path("features"), Path("extract_metrics.json")
CACHE = Path(".cache")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    clip = identify_clip(params.clip, CACHE)
    if manifest.source == "videos":
        provenance = Provenance.encoded(clip, params.clip.precision, params.extract.frames_per_snippet)
    else:
        provenance = Provenance.imported(clip.embed_dim)
    place = params.execution.features_uri
    with lock(FEATURES), open_storage(FEATURES, CACHE, place, tell=print) as storage:
        filled = fill_store(
            FeatureStore(FEATURES, CACHE, provenance, tell=print, storage=storage),
            manifest,
            dataset_root(params.dataset),
            params.extract,
            unit_images=params.execution.unit_images,
            run_units=partial(_run_units, params, provenance),
        )
    write_text_atomic(METRICS, json.dumps(filled.metrics(), indent=2) + "\n")
    print(f"extract: {summary(filled)}")
    check_budget(filled.rows, params.extract.max_failed_fraction)


def _run_units(
    params: Params, provenance: Provenance, units: Sequence[Unit], folder: Path | str, **callbacks: Any
) -> Generator[Outcome[Unit, UnitReport], None, None]:
    from vadclip.extract.pool import (  # Ray takes seconds, and is not needed where nothing is missing
        Pool,
        PoolOptions,
    )

    options = PoolOptions.of(params.execution)
    place = folder if isinstance(folder, str) else str(folder.absolute())
    make_worker: Callable[[], Worker[Unit, UnitReport]]
    if provenance.source == "encoded":
        settings = WorkerSettings.of(params.clip, params.execution, provenance, place)
        make_worker = partial(ExtractWorker, settings)
    else:  # reading arrays needs no GPU
        make_worker = partial(ImportWorker, provenance, place, is_vit_b16(params.clip))
        options = replace(options, gpus_per_actor=0.0)
    with Pool(make_worker, options) as pool:
        yield from pool.run(units, split=split_unit, **callbacks)


if __name__ == "__main__":
    run_stage(main)
