"""Stage 3: manifest.parquet + features/ -> model/: weights, what it takes to use them, how training went."""

import json
from pathlib import Path

from flows import run_stage
from vadclip.checkout import shared_cache
from vadclip.clip.frozen import load_clip
from vadclip.config import flatten, load_params
from vadclip.features.reader import FeatureReader
from vadclip.manifest import read_manifest
from vadclip.model.inference import class_texts
from vadclip.tracking import runs as tracking
from vadclip.tracking.naming import training_facts
from vadclip.train.fit import fit_or_import
from vadclip.train.resume import ResumeFolder, resume_key
from vadclip.train.task import make_task

MANIFEST, FEATURES, MODEL = Path("manifest.parquet"), Path("features"), Path("model")
EXTRACT_METRICS = Path("extract_metrics.json")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    features = FeatureReader(FEATURES, manifest)
    extracted = json.loads(EXTRACT_METRICS.read_text()) if EXTRACT_METRICS.is_file() else {}
    clip = load_clip(params.clip, device=params.execution.device)
    task = make_task(params, manifest, features, clip)
    resume = ResumeFolder(shared_cache() / "train" / resume_key(task.facts()))
    facts = training_facts(params, manifest, features.fingerprint, test_selected=task.test_selected)
    identity_file = resume.folder / "run.json"
    with resume.held(), tracking.training_run(**facts, identity_file=identity_file) as run:
        model, summary = fit_or_import(MODEL, task, params, resume, run)
        run.identity.write(MODEL / "run.json")
        # All is written; the rest is its mirror.
        run.model(MODEL, class_texts(model, "fp32"), params.clip)
        run.metrics({**summary, **flatten(extracted, "time/extract_")})
        run.artifacts([MANIFEST, MODEL / "epochs.json", MODEL / "steps.csv"])
    resume.remove()


if __name__ == "__main__":
    run_stage(main)
