"""Stage 2: the manifest's videos -> features/ (Parquet shards and index) and extract_metrics.json."""

import json
from functools import partial
from pathlib import Path

from flows import run_stage
from vadclip.checkout import CACHE, shared_cache
from vadclip.clip.identity import clip_width, identify_clip
from vadclip.config import load_params
from vadclip.extract.fill import fill_store
from vadclip.extract.ledger import scratch_faults
from vadclip.extract.on_ray import run_units
from vadclip.extract.store import FeatureStore
from vadclip.features.provenance import Provenance
from vadclip.files import write_text_atomic
from vadclip.manifest import ManifestFile, dataset_root

MANIFEST, FEATURES, METRICS = Path("manifest.parquet"), Path("features"), Path("extract_metrics.json")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = ManifestFile(MANIFEST)
    if manifest.source == "videos":
        clip = identify_clip(params.clip, shared_cache())
        provenance = Provenance.encoded(clip, params.clip.precision, params.extract.frames_per_snippet)
    else:
        provenance = Provenance.imported(clip_width(params.clip))
    with scratch_faults():
        filled = fill_store(
            FeatureStore(FEATURES, CACHE, provenance, tell=print),
            manifest,
            dataset_root(params.dataset),
            params.extract,
            unit_images=params.execution.unit_images,
            run_units=partial(run_units, params.clip, params.execution, provenance),
        )
    write_text_atomic(METRICS, json.dumps(filled.metrics(), indent=2) + "\n")
    print(f"extract: {filled.summary()}")
    filled.check_budget(params.extract.max_failed_fraction)


if __name__ == "__main__":
    run_stage(main)
