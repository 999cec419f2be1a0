"""The authors' world through all five stages, without a video: both datasets, their whole test lists.

In the normal suite features are 64 wide and sequences 64 long; `make soak` has the official 512 and 256.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from clip_helpers import random_state, tiny_config, write_clip
from conftest import PROJECT
from official_tree import TEST_CROP, OfficialTree

import flows.evaluate
import flows.extract
import flows.ingest
import flows.score
import flows.train
from vadclip.clip.frozen import load_clip_weights
from vadclip.config import ClipParams
from vadclip.extract.import_worker import ImportWorker
from vadclip.features.npy_files import crop_path
from vadclip.features.reader import FeatureReader
from vadclip.manifest import read_manifest
from vadclip.model.folder import read_model_info
from vadclip.model.official import export_state, write_checkpoint
from vadclip.pool.work import Outcome
from vadclip.score.scores import read_scores

DATASETS = {"ucf": "ucf_crime", "xd": "xd_violence"}
COUNTS = {"ucf": (28, 290, 14), "xd": (14, 800, 7)}


class Project:
    """A folder with an official tree in it and the recipe's params, cut to what two cores do in seconds."""

    def __init__(self, code, width, length, folder, shared):
        self.code, self.folder = code, folder
        self.tree = OfficialTree(folder / "data", shared, code, width=width)
        config = tiny_config(layers=1) | {"embed_dim": width}
        self.clip = write_clip(folder, config, random_state(config))
        recipe = PROJECT / "vadclip" / "recipes" / f"{DATASETS[code]}.yaml"
        self.content = yaml.safe_load(recipe.read_text())
        self.content["dataset"].update(
            root="data/features", annotations="data/list", source="official_features"
        )
        self.content["clip"] = self.clip.model_dump()
        self.content["ingest"]["val_fraction"] = 0
        self.content["model"]["length"] = length
        # 3 steps: UCF has 20 normal rows, XD 140 rows of 14 videos.
        batch = {"ucf": 6, "xd": 60}[code]
        self.content["train"].update(epochs=1, milestones=[9], batch_size=batch)
        self.content["train"]["selection"] = {"ucf": "last", "xd": "official"}[code]
        self.content["evaluate"].update(bootstrap_resamples=20, timelines=1)
        self.content["execution"].update(device="cpu", gpus_per_actor=0, cpus_per_actor=1, unit_images=20000)
        self.content["tracking"]["uri"] = "nonsense://store"
        self.write()

    def write(self):
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.content))

    def reader(self):
        return FeatureReader(self.folder / "features", read_manifest(self.folder / "manifest.parquet"))

    def metrics(self):
        return json.loads((self.folder / "metrics.json").read_text())


def _import_here(clip, execution, provenance, units, **callbacks):
    """What flows.extract does with Ray, in this process."""
    worker = ImportWorker(provenance, False)
    for unit in units:
        yield Outcome(unit, worker.run(unit, callbacks["progress"]), None)


def _through_all_stages(project, monkeypatch, *, ray):
    monkeypatch.chdir(project.folder)
    if not ray:
        monkeypatch.setattr(flows.extract, "run_units", _import_here)
    flows.ingest.main()
    _check_truth(project)
    flows.extract.main()
    _check_features(project)
    told = {}
    opened = flows.train.tracking.training_run
    monkeypatch.setattr(
        flows.train.tracking, "training_run", lambda **settings: told.update(settings) or opened(**settings)
    )
    flows.train.main()
    assert told["tags"]["test-selected"] == {"ucf": "false", "xd": "true"}[project.code]
    steps = (project.folder / "model" / "steps.csv").read_text().splitlines()
    assert len(steps) == 1 + 3
    flows.score.main()
    flows.evaluate.main()
    _check_figures(project)


def _check_truth(project):
    """Every test video's spans and segments, by vadclip.md's rules from the authors' own ground truth."""
    manifest, tree = read_manifest("manifest.parquet"), project.tree
    train, test = manifest.split("train"), manifest.split("test")
    assert (len(train), len(test), len(manifest.classes)) == COUNTS[project.code]
    assert {video.video_id: video.num_snippets for video in test} == tree.test_rows
    assert {video.video_id: video.num_snippets for video in train} == tree.train_rows
    assert all(video.probe_error is None for video in manifest.videos)
    total = 0
    for video in test:
        length = 16 * tree.test_rows[video.video_id]
        annotated = tree.spans(video.video_id)
        starts_and_ends = sorted((part.start_frame, part.end_frame) for part in video.segments)
        assert starts_and_ends == sorted(annotated)  # mAP truth: neither clamped nor merged
        inside = np.zeros(length, bool)
        for start, end in video.frame_spans:
            assert 0 <= start < end <= length
            inside[start:end] = True
        total += int(inside.sum())
        if project.code == "ucf":  # one file for both truths
            expected = np.zeros(length, bool)
            for start, end in annotated:
                expected[start:end] = True
            assert np.array_equal(inside, expected)
        else:
            assert bool(annotated) == bool(video.frame_spans)
    # What is lost against 84,189 and 538,324 lies behind the last whole snippet of a video.
    assert total == {"ucf": 84_160, "xd": 537_805}[project.code]
    # The rows of the anomalous test videos were counted by others: XD's rows are 1,146 below the official.
    assert 16 * sum(tree.test_rows.values()) == {"ucf": 1_109_872, "xd": 2_330_736}[project.code]


def _check_features(project):
    reader, tree = project.reader(), project.tree
    assert not reader.excluded
    assert reader.provenance.source == "imported"
    test_crop = TEST_CROP[project.code]
    for split in ("train", "test"):
        for video in reader.videos(split)[:: 1 if split == "train" else 50]:
            for crop in range(10) if split == "train" else (test_crop,):
                file = np.load(crop_path(str(tree.root / video.uri), crop))
                assert file.dtype == np.float16
                assert file.tobytes() == reader.array(video.video_id, crop).tobytes()
    assert json.loads(Path("extract_metrics.json").read_text())["videos_ok"] == sum(COUNTS[project.code][:2])
    before = {path: path.read_bytes() for path in (project.folder / "features").iterdir()}
    flows.extract.main()  # nothing is missing: no byte changes
    assert {path: path.read_bytes() for path in (project.folder / "features").iterdir()} == before


def _check_figures(project):
    metrics, selected = project.metrics(), project.code == "xd"
    assert metrics["test_selected"] == selected
    assert ("Test-selected." in (project.folder / "report.html").read_text()) == selected
    info = read_model_info(project.folder / "model")
    assert (info.test_selected, info.selection) == (selected, "official" if selected else "last")
    assert metrics["videos_excluded"] == 0
    expected = {"auc", "ap", "ano_auc", "align_auc", "align_ap", "map_official_avg", "map_avg"}
    assert expected | {"zero_shot_auc", "gain_auc"} <= metrics.keys()
    labels = read_manifest("manifest.parquet").classes.labels
    figures = json.loads(Path("figures.json").read_text())
    assert figures["class"].keys() == {f"auc_{label}" for label in labels[1:]}
    scores = read_scores("scores.parquet")
    assert len(scores.video_ids) == COUNTS[project.code][1]
    assert len(scores.main_score_N) == sum(project.tree.test_rows.values())
    if selected:
        epochs = json.loads((project.folder / "model" / "epochs.json").read_text())
        # What picked the weights is the figure that evaluate reports.
        assert epochs[0]["best_on_test"] == pytest.approx(metrics["align_ap"], abs=1e-6)


def _imported_with_test_features_alone(project):
    """train.checkpoint: the same model by way of a .pth gives the same scores, without any training video."""
    before = read_scores("scores.parquet")
    state = export_state(project.folder / "model", load_clip_weights(project.clip))
    write_checkpoint(state, project.folder / "m.pth")
    for video in read_manifest("manifest.parquet").split("train"):
        for crop in range(10):
            Path(crop_path(str(project.tree.root / video.uri), crop)).unlink()
    project.content["train"]["checkpoint"] = "m.pth"
    project.content["extract"]["max_failed_fraction"] = 0.9
    project.write()
    flows.ingest.main()
    assert "train.checkpoint" in json.loads((project.folder / "inputs.json").read_text())
    flows.extract.main()
    shutil.rmtree(project.folder / "model")
    flows.train.main()
    info = read_model_info(project.folder / "model")
    assert (info.selection, info.epoch, info.test_selected) == ("checkpoint", None, True)
    assert json.loads((project.folder / "model" / "epochs.json").read_text()) == []
    flows.score.main()
    flows.evaluate.main()
    after = read_scores("scores.parquet")
    assert np.array_equal(before.anomaly_score_N, after.anomaly_score_N)
    assert np.array_equal(before.class_probabilities_NK, after.class_probabilities_NK)
    assert (project.metrics()["test_selected"], project.metrics()["videos_excluded"]) == (1, 0)


@pytest.mark.parametrize("code", ["ucf", "xd"])
def test_official_features_to_figures(code, tmp_path, shared_folder, monkeypatch):
    project = Project(code, 64, 64, tmp_path, shared_folder)
    _through_all_stages(project, monkeypatch, ray=code == "xd")
    if code == "ucf":
        _imported_with_test_features_alone(project)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("code", ["ucf", "xd"])
def test_official_features_to_figures_at_full_width(code, tmp_path, shared_folder, monkeypatch):
    project = Project(code, 512, 256, tmp_path, shared_folder)
    assert isinstance(project.clip, ClipParams)
    torch.set_num_threads(2)
    _through_all_stages(project, monkeypatch, ray=True)
