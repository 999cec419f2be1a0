"""Stage 1: annotations and files -> manifest.parquet; hashes of the files that params name -> inputs.json."""

from pathlib import Path

from flows import run_stage
from vadclip.checkout import shared_cache
from vadclip.config import load_params
from vadclip.ingest.checks import check_plan
from vadclip.ingest.inputs import named_files, write_inputs
from vadclip.ingest.rows import describe, ingest
from vadclip.manifest import dataset_root, write_manifest

MANIFEST, INPUTS = Path("manifest.parquet"), Path("inputs.json")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    write_inputs(named_files(params.clip, params.train), INPUTS)
    cache = shared_cache()
    ingested = ingest(
        params.dataset, params.ingest, probe_cache=cache / "probe.parquet", execution=params.execution
    )
    write_manifest(ingested.manifest, MANIFEST)
    for line in (*ingested.notes, *describe(ingested.manifest, dataset_root(params.dataset))):
        print(f"ingest: {line}")
    for line in check_plan(params, ingested.manifest, cache):
        print(f"ingest: {line}")


if __name__ == "__main__":
    run_stage(main)
