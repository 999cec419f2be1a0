"""The train stage on a tiny project: a manifest and a feature store in, a model folder and a run out."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from clip_helpers import random_state, tiny_config, write_clip
from feature_helpers import write_features
from params_helpers import write_params
from training_helpers import CLASSES, video

import flows.evaluate
import flows.score
import flows.train
from vadclip.clip.frozen import load_clip
from vadclip.errors import InputError
from vadclip.features.provenance import Provenance
from vadclip.manifest import Manifest, write_manifest
from vadclip.model.folder import load_model
from vadclip.tracking.runs import TrainingRun

OUTPUTS = {"epochs.json", "model.json", "model.safetensors", "run.json", "steps.csv"}
VIDEOS = tuple(
    video(f"{split}{number}", label, split=split, rows=3 + 2 * number)
    for split, count in (("test", 1), ("train", 6), ("val", 4))
    for number, label in zip(range(count), ("Normal", "Fighting") * 3, strict=False)
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project as ingest and extract leave it; its tests work on copies, the tracking store included."""
    folder = tmp_path_factory.mktemp("template")
    clip_params = write_clip(folder, tiny_config(width=16, heads=1, layers=1))
    clip = load_clip(clip_params, device="cpu")
    write_manifest(Manifest("table", "videos", CLASSES, VIDEOS), folder / "manifest.parquet")
    write_features(
        folder / "features", Provenance.encoded(clip, "fp32", 1), VIDEOS,
        crops=lambda made: range(5 if made.split == "train" else 1),
        mean=lambda made: made.labels != ("Normal",),
    )  # fmt: skip
    (folder / "extract_metrics.json").write_text('{"rows": 80, "run_seconds_total": 1.5}')
    write_params(
        folder,
        clip=clip_params.model_dump(),
        dataset={"name": "table", "root": "videos", "table": "videos.csv"},
        extract={"train_crops": 5},
        model={"length": 8, "layers": 1, "window": 4},
        train={"batch_size": 5, "epochs": 3, "milestones": [2], "selection": "validation"},
    )
    return folder


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "project"


def _change(section, **changes):
    write_params(Path(), Path("params.yaml"), **{section: changes})


def _interrupt_at(step):
    def logged(self, record, real=TrainingRun.step):
        real(self, record)
        if record.step == step:
            raise KeyboardInterrupt

    return logged


def test_interrupted_and_run_again_it_ends_as_if_undisturbed_in_one_run(project, monkeypatch):
    with monkeypatch.context() as interrupted:
        interrupted.setattr(TrainingRun, "step", _interrupt_at(5))  # epochs have three steps
        with pytest.raises(KeyboardInterrupt):
            flows.train.main()
    assert not (project / "model").exists()
    (unfinished,) = (project / ".cache" / "train").iterdir()
    assert {path.name for path in unfinished.iterdir()} == {"state.safetensors", "run.json", "lock"}

    flows.train.main()
    assert {path.name for path in (project / "model").iterdir()} == OUTPUTS
    assert not unfinished.exists()
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vadclip-videos")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("base-videos-")  # no git, so nothing to differ from
    assert run.data.params["train.milestones"] == "[2]"
    assert not any(name.startswith(("execution.", "tracking.")) for name in run.data.params)
    assert run.data.metrics["time/extract_run_seconds_total"] == 1.5
    assert {"dataset", "feature_fingerprint", "device", "seeds", "vadclip.validation"} <= run.data.tags.keys()
    for key, steps in (("train/loss", 9), ("epoch/val_video_auc", 3), ("epoch/rows_per_second", 3)):
        found = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, key))
        assert found == list(range(1, steps + 1)), key
    info = json.loads((project / "model" / "model.json").read_text())
    assert info["validation"]["val_video_auc"] == run.data.metrics["val_video_auc"]
    assert info["epoch"] == run.data.metrics["train/selected_epoch"]
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert {metric.key: metric.value for metric in model.metrics}["val_video_auc"] == info["validation"][
        "val_video_auc"
    ]
    (version,) = client.search_model_versions("name='vadclip-videos'")
    assert (version.run_id, str(version.version)) == (run.info.run_id, "1")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    inputs = {
        {tag.key: tag.value for tag in each.tags}["mlflow.data.context"]: each
        for each in run.inputs.dataset_inputs
    }
    assert inputs["val"].dataset.digest == run.data.tags["vadclip.validation"]
    measured = {metric.key: metric.dataset_digest for metric in model.metrics}
    assert measured["val_video_auc"] == inputs["val"].dataset.digest
    assert not any(name.startswith("system/") for name in measured)
    assert len([name for name in run.data.metrics if "/" not in name]) < 30

    decided = ("model.safetensors", "model.json")  # what score depends on
    first = [(project / "model" / name).read_bytes() for name in decided]
    shutil.rmtree(project / "model")
    _change("tracking", uri="nonsense://store")  # a training without a store, and undisturbed
    flows.train.main()
    assert [(project / "model" / name).read_bytes() for name in decided] == first
    assert {path.name for path in (project / "model").iterdir()} == OUTPUTS
    assert json.loads((project / "model" / "run.json").read_text())["run_id"] is None

    clip = load_clip(flows.train.load_params().clip, device="cpu")
    model, loaded = load_model(project / "model", clip, "cpu")
    assert loaded.feature_provenance["embed_dim"] == 64
    assert not model.training

    # The store is back: the next evaluate tells it all that it has missed, once.
    before = {path: path.read_bytes() for path in (project / "model").iterdir()}
    _change("tracking", uri=None)
    _change("evaluate", bootstrap_resamples=5, timelines=0)
    flows.score.main()
    for _ in range(2):
        flows.evaluate.main()
    assert {path: path.read_bytes() for path in (project / "model").iterdir()} == before
    (caught_up,) = (
        other
        for other in client.search_runs([experiment.experiment_id])
        if other.info.run_id != run.info.run_id
    )
    assert caught_up.info.status == "FINISHED"
    assert run.data.params.items() <= caught_up.data.params.items()
    assert caught_up.data.tags["seeds"] == run.data.tags["seeds"]
    for key in ("train/loss", "train/contrast", "epoch/val_video_auc"):
        one, other = (
            sorted((metric.step, metric.value) for metric in client.get_metric_history(each, key))
            for each in (run.info.run_id, caught_up.info.run_id)
        )
        assert one == other
    assert caught_up.data.metrics["train/selected_epoch"] == info["epoch"]
    assert len(caught_up.inputs.dataset_inputs) == len(run.inputs.dataset_inputs)
    versions = {
        str(each.version): each.run_id for each in client.search_model_versions("name='vadclip-videos'")
    }
    assert versions == {"1": run.info.run_id, "2": caught_up.info.run_id}
    # The first run had no evaluation, so this one's model is the first that can be champion.
    assert str(client.get_model_version_by_alias("vadclip-videos", "champion").version) == "2"


def test_only_what_decides_the_result_starts_a_training_afresh(project, monkeypatch, capsys):
    _change("tracking", uri="nonsense://store")
    monkeypatch.setattr(TrainingRun, "step", _interrupt_at(5))

    def unfinished():
        with pytest.raises(KeyboardInterrupt):
            flows.train.main()
        return {path.name for path in (project / ".cache" / "train").iterdir()}

    first = unfinished()
    _change("execution", reader_threads=2)
    _change("score", precision="bf16")
    assert unfinished() == first
    assert "begins at the start" not in capsys.readouterr().out
    _change("train", seed=235)
    second = unfinished()
    assert len(second) == 2
    said = r"begins at the start: what is unfinished in .*train \(1\) is of other params, features or code"
    assert re.search(said, capsys.readouterr().out)
    write_manifest(
        Manifest("table", "videos", CLASSES, (VIDEOS[0], replace(VIDEOS[1], labels=("Fire",)), *VIDEOS[2:])),
        project / "manifest.parquet",
    )
    assert len(unfinished()) == 3


def test_cuda_without_a_gpu_is_an_error(project, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    _change("execution", device="cuda", gpus_per_actor=1)
    with pytest.raises(InputError, match=r"no CUDA GPU .*; set execution\.device: cpu"):
        flows.train.main()


def test_features_of_another_clip_are_an_error(project):
    write_clip(project, config := tiny_config(width=16, heads=1, layers=1), random_state(config, seed=1))
    _change("clip", model=str(project / "clip.json"), pretrained=str(project / "clip.safetensors"))
    with pytest.raises(
        InputError, match=r"features was made with CLIP .*texts must come from the CLIP of the"
    ):
        flows.train.main()
