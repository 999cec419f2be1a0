"""Stage 3: manifest.parquet + features/ -> model/: weights, what it takes to use them, how training went."""

import json
from pathlib import Path

from flows import run_stage
from vadclip.checkout import shared_cache
from vadclip.clip.frozen import load_clip
from vadclip.config import flatten, load_params
from vadclip.features.reader import FeatureReader
from vadclip.files import sha256_file
from vadclip.manifest import read_manifest
from vadclip.model.inference import class_texts
from vadclip.tracking import runs as tracking
from vadclip.train.fit import fit_or_import
from vadclip.train.resume import ResumeFolder, resume_key
from vadclip.train.task import make_task

MANIFEST, FEATURES, MODEL = Path("manifest.parquet"), Path("features"), Path("model")
EXTRACT_METRICS = Path("extract_metrics.json")
LOGGED_SECTIONS = {"dataset", "clip", "ingest", "extract", "model", "train"}


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    features = FeatureReader(FEATURES, manifest)
    extracted = json.loads(EXTRACT_METRICS.read_text()) if EXTRACT_METRICS.is_file() else {}
    clip = load_clip(params.clip, device=params.execution.device)
    task = make_task(params, manifest, features, clip)
    resume = ResumeFolder(shared_cache() / "train" / resume_key(task.facts()))
    with (
        resume.held(),
        tracking.training_run(
            name=f"{manifest.dataset}-{task.settings_name()}",
            params=flatten(params.model_dump(include=LOGGED_SECTIONS)),
            tags={
                "dataset_fingerprint": sha256_file(MANIFEST),
                "feature_fingerprint": features.fingerprint,
                "device": params.execution.device,
                "test-selected": str(task.test_selected).lower(),
            },
            tracking=params.tracking,
            identity_file=resume.folder / "run.json",
        ) as run,
    ):
        made = fit_or_import(MODEL, task, params, resume, run)
        run.identity.write(MODEL / "run.json")
        # All is written; the rest is its mirror.
        run.metrics(made.summary)
        run.metrics(flatten(extracted, "extract_"))
        run.artifacts([MODEL / "epochs.json", MODEL / "steps.csv"])
        run.model(MODEL, class_texts(made.model, "fp32"), params.clip)
    resume.remove()


if __name__ == "__main__":
    run_stage(main)
