"""The last two stages on a tiny project of their own: files in, files out, no tracking store."""

import doctest
import json
import sys
from dataclasses import asdict, replace

import pytest
import torch
from clip_helpers import tiny_config, write_clip
from feature_helpers import write_features
from manifest_helpers import CLASSES, make_manifest
from params_helpers import write_params
from score_helpers import make_video

import flows.evaluate
import flows.score
from vadclip.clip.frozen import load_clip
from vadclip.errors import InputError
from vadclip.evaluate.metrics import evaluate
from vadclip.features.provenance import Provenance
from vadclip.features.reader import FeatureReader
from vadclip.labels import Classes
from vadclip.manifest import write_manifest
from vadclip.model.folder import ModelInfo, load_model, named_clip, save_model
from vadclip.model.vadclip import VadClip, VadClipConfig
from vadclip.score.scores import read_scores
from vadclip.tracking import runs as tracking

VIDEOS = (
    make_video("broken", 0, split="test", num_frames=0, probe_error="no frame", content_hash=""),
    make_video("fire", 12, [(64, 128, "Fire")]),
    make_video("normal", 9),
    make_video("tiny", 0, num_frames=10),
    make_video("trained", 5, split="train"),
    make_video("val", 3, labels=["Theft"], split="val"),
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as ingest, extract and train leave it, and what the stages tell the tracking store."""
    clip_params = write_clip(tmp_path, tiny_config())
    clip = load_clip(clip_params, device="cpu")
    write_manifest(make_manifest(VIDEOS), tmp_path / "manifest.parquet")
    provenance = Provenance.encoded(clip, "fp32", 1)
    write_features(tmp_path / "features", provenance, VIDEOS, lambda video: [5])
    write_params(
        tmp_path,
        clip=clip_params.model_dump(),
        dataset={"name": "table", "root": str(tmp_path), "table": "videos.csv"},
        evaluate={"bootstrap_resamples": 20, "timelines": 2},
        extract={"test_crop": 5},
    )
    config = VadClipConfig(64, length=8, layers=1, window=4, heads=1, prompt_prefix=2, prompt_suffix=1)
    named = named_clip(clip, clip_params)
    info = ModelInfo(config, CLASSES, named, asdict(provenance), "f", "last", 1, {}, True, 5, "fp32")
    torch.manual_seed(0)
    save_model(tmp_path / "model", VadClip(config, CLASSES, clip.text), info)
    told = []
    monkeypatch.setattr(tracking, "add_to_run", lambda run_file, **rest: told.append((str(run_file), rest)))
    monkeypatch.chdir(tmp_path)
    return tmp_path, told, provenance


@pytest.mark.parametrize("documented", [Classes, load_clip, FeatureReader, load_model, evaluate])
def test_examples_of_the_library_run_in_a_project(project, documented):
    """What one meets first; docs/library.md has Detector's."""
    flows.score.main()
    module = vars(sys.modules[documented.__module__])
    example = doctest.DocTestParser().get_doctest(documented.__doc__, module, documented.__name__, None, None)
    assert len(example.examples) >= 2
    told = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert told == []


def test_score_then_evaluate(project):
    folder, told, _ = project
    flows.score.main()
    scores = read_scores("scores.parquet")
    assert scores.video_ids == ("val", "fire", "normal")
    assert scores.info.excluded == {"broken": "no frame", "tiny": "too short: 10 frames"}
    assert scores.info.test_selected is True
    flows.evaluate.main()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"auc", "ap", "map_avg", "zero_shot_auc", "gain_auc"} <= set(metrics)
    figures = json.loads((folder / "figures.json").read_text())
    assert figures.keys() == {"intervals", "iou", "class", "undefined"}
    assert figures["class"]["auc_Fire"] >= 0
    assert len(figures["intervals"]["auc"]) == 2
    assert (metrics["videos_excluded"], metrics["test_selected"]) == (2, 1)
    assert "Test-selected." in (folder / "report.html").read_text()
    assert len(list((folder / "plots" / "timelines").iterdir())) == 2

    [(run_file, evaluated)] = told
    assert run_file == "model/run.json"
    by_class = json.loads((folder / "figures.json").read_text())["class"]
    assert evaluated["metrics"] == metrics | {f"class/{name}": value for name, value in by_class.items()}
    assert [str(path) for path in evaluated["artifacts"]] == [
        "manifest.parquet", "scores.parquet", "metrics.json", "figures.json", "plots", "report.html",
    ]  # fmt: skip
    assert evaluated["description"].startswith("| figure | value | 95 % interval |")
    assert evaluated["stage"] == "evaluate"

    # Again: the same bytes, as DVC's cache wants them.
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    flows.score.main()
    flows.evaluate.main()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_score_refuses_features_made_otherwise_and_another_clip(project):
    folder, _, provenance = project
    for path in (folder / "features").iterdir():
        path.unlink()
    made_otherwise = replace(provenance, frames_per_snippet=16)
    write_features(folder / "features", made_otherwise, VIDEOS, lambda video: [5])
    with pytest.raises(InputError, match=r"made otherwise .*frames_per_snippet 16, not 1"):
        flows.score.main()
    assert not (folder / "scores.parquet").exists()
    other = {**tiny_config(), "vision_cfg": {**tiny_config()["vision_cfg"], "layers": 1}}
    write_clip(folder, other)
    with pytest.raises(InputError, match=r"the model was trained with CLIP .* put the other one back"):
        flows.score.main()
