"""Stage 3: manifest.parquet + features/ -> model/: weights, what it takes to use them, how training went."""

import json
from pathlib import Path

import torch

from flows import run_stage
from vadclip.checkout import given_path, shared_cache
from vadclip.clip.frozen import load_clip
from vadclip.config import flatten, load_params
from vadclip.features.reader import FeatureReader
from vadclip.files import sha256_file
from vadclip.manifest import read_manifest
from vadclip.model.folder import save_model
from vadclip.model.inference import class_texts
from vadclip.tracking import runs as tracking
from vadclip.train.history import History
from vadclip.train.imported import import_into
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder, resume_key
from vadclip.train.task import make_task
from vadclip.train.validation import normal_peaks

MANIFEST, FEATURES, MODEL = Path("manifest.parquet"), Path("features"), Path("model")
EXTRACT_METRICS = Path("extract_metrics.json")
LOGGED_SECTIONS = {"dataset", "clip", "ingest", "extract", "model", "train"}


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    features = FeatureReader(FEATURES, manifest)
    extracted = json.loads(EXTRACT_METRICS.read_text()) if EXTRACT_METRICS.is_file() else {}
    device = torch.device(params.execution.device)
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
        if params.train.checkpoint is not None:
            model, notes = import_into(MODEL, given_path(params.train.checkpoint), task, params.clip)
            model, history, summary = model.to(device), History(), {}
            for note in notes:
                print(f"train: {note}")
        else:
            readers = params.execution.reader_threads
            trained = train(task, device=device, resume=resume, logger=run, readers=readers)
            peaks = normal_peaks(task, trained.model)
            save_model(MODEL, trained.model, task.model_info(trained.epoch, trained.figures, peaks))
            model, history, summary = trained.model, trained.history, trained.summary()
        history.write(MODEL)
        run.identity.write(MODEL / "run.json")
        # All is written; the rest is its mirror.
        run.metrics(summary)
        run.metrics(flatten(extracted, "extract_"))
        run.artifacts([MODEL / "epochs.json", MODEL / "steps.csv"])
        run.model(MODEL, class_texts(model, "fp32"), params.clip)
    resume.remove()


if __name__ == "__main__":
    run_stage(main)
