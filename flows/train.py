"""Stage 3: manifest.parquet + features/ -> model/: weights, what it takes to use them, how training went."""

import json
from pathlib import Path

import torch

from flows import run_stage
from vadclip.clip.frozen import load_clip, load_clip_weights
from vadclip.config import Params, flatten, load_params
from vadclip.features.reader import FeatureReader
from vadclip.files import sha256_file
from vadclip.manifest import read_manifest
from vadclip.model.checkpoints import import_checkpoint, read_checkpoint
from vadclip.model.store import save_model
from vadclip.model.vadclip import VadClip
from vadclip.tracking import runs as tracking
from vadclip.train.history import History
from vadclip.train.inference import class_texts
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder, resume_key
from vadclip.train.task import Task, make_task

MANIFEST, FEATURES, MODEL = Path("manifest.parquet"), Path("features"), Path("model")
EXTRACT_METRICS, UNFINISHED = Path("extract_metrics.json"), Path(".cache/train")
LOGGED_SECTIONS = {"dataset", "clip", "ingest", "extract", "model", "train"}


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    features = FeatureReader(FEATURES, manifest)
    extracted = flatten(json.loads(EXTRACT_METRICS.read_text()), "extract_")
    device = torch.device(params.execution.device)
    clip = load_clip(params.clip, device=params.execution.device)
    task = make_task(params.model, params.train, params.extract, manifest, features, clip)
    resume = ResumeFolder(UNFINISHED / resume_key(task.facts()))
    with tracking.training_run(
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
    ) as run:
        if params.train.checkpoint is not None:
            model, history, summary = _import_checkpoint(task, params), History(), {}
        else:
            trained = train(
                task, device=device, resume=resume, logger=run, readers=params.execution.loader_workers
            )
            save_model(MODEL, trained.model, task.model_info(trained.epoch, trained.figures))
            model, history, summary = trained.model, trained.history, trained.summary()
        history.write(MODEL)
        run.identity.write(MODEL / "run.json")
        # All is written; the rest is its mirror.
        run.metrics(summary)
        run.metrics(extracted)
        run.artifacts([MODEL / "epochs.json", MODEL / "steps.csv"])
        run.model(MODEL, class_texts(model, "fp32"))
    resume.remove()


def _import_checkpoint(task: Task, params: Params) -> VadClip:
    checkpoint = read_checkpoint(Path(params.train.checkpoint or ""))
    weights = load_clip_weights(params.clip)
    imported = import_checkpoint(checkpoint, task.config, task.classes, task.text, weights)
    imported.save(MODEL, task.model_info(None, None))
    for note in imported.notes:
        print(f"train: {note}")
    return imported.model.to(params.execution.device)


if __name__ == "__main__":
    run_stage(main)
