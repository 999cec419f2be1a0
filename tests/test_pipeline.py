"""The whole pipeline as users run it: repro, again, experiments, and kill -9 in its middle."""

import json
import sqlite3

import numpy as np
import pytest
from pipeline_helpers import dvc, fingerprints, git, make_project, repro_killed_when
from safetensors.numpy import load_file

from vadclip.features.reader import FeatureReader
from vadclip.manifest import read_manifest

OUTS = ["manifest.parquet", "inputs.json", "features", "extract_metrics.json", "model", "scores.parquet",
        "plots", "report.html", "metrics.json", "dvc.lock", "mlflow.db"]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after its first `dvc repro`."""
    folder = make_project(tmp_path_factory.mktemp("pipeline") / "project")
    dvc(folder, "repro")
    return folder


def _runs(folder):
    with sqlite3.connect(folder / "mlflow.db") as store:
        return store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'").fetchall()


def _steps(folder, run_id):
    """Every (metric, step) that the run logged while training, with how often it was logged."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        return store.execute(
            "select key, step, count(*) from metrics"
            " where run_uuid = ? and key not like 'system/%' group by key, step",
            (run_id,),
        ).fetchall()


def _arrays(folder):
    manifest = read_manifest(folder / "manifest.parquet")
    reader = FeatureReader(folder / "features", manifest)
    return {
        (video.video_id, crop): reader.array(video.video_id, crop).copy()
        for video in manifest.videos
        for crop in (range(5) if video.split == "train" else [0])
    }


def test_one_run_holds_what_all_stages_found(project):
    figures = json.loads((project / "metrics.json").read_text())
    assert {"auc", "ap", "map_avg", "map_official_avg", "zero_shot_auc", "gain_auc"} <= figures.keys()
    [(run_id, status)] = _runs(project)
    assert status == "FINISHED"
    with sqlite3.connect(project / "mlflow.db") as store:
        logged = dict(store.execute("select key, value from latest_metrics where run_uuid = ?", (run_id,)))
        params = dict(store.execute("select key, value from params where run_uuid = ?", (run_id,)))
    assert logged["auc"] == pytest.approx(figures["auc"])
    assert params["train.learning_rate"] == "0.001"
    assert (project / "report.html").stat().st_size > 10_000
    assert {path.name for path in (project / "plots").glob("*.png")} == {"roc.png", "pr.png", "confusion.png"}
    assert len(list((project / "plots" / "timelines").glob("*.png"))) == 2


def test_a_second_repro_changes_no_file(project):
    before = fingerprints(project, OUTS)
    run = dvc(project, "repro")
    assert fingerprints(project, OUTS) == before
    assert "flows.extract" not in run.stdout


def test_kill_9_while_extracting_and_while_training_ends_in_the_same_rows_weights_and_run(project, tmp_path):
    again = make_project(tmp_path / "killed")
    shards, unfinished = again / "features", again / ".cache" / "train"
    repro_killed_when(again, lambda: len(list(shards.glob("part-*.parquet"))) >= 2)
    repro_killed_when(again, lambda: any(unfinished.glob("*/state.safetensors")))

    expected_rows, rows = _arrays(project), _arrays(again)
    assert expected_rows.keys() == rows.keys()
    for key, expected in expected_rows.items():
        np.testing.assert_array_equal(rows[key], expected)
    # What was published before the kill was not extracted again.
    images, all_images = (
        json.loads((folder / "extract_metrics.json").read_text())["run_images"] for folder in (again, project)
    )
    assert 0 < images < all_images

    dvc(again, "repro")
    expected_weights, weights = (
        load_file(folder / "model" / "model.safetensors") for folder in (project, again)
    )
    assert expected_weights.keys() == weights.keys()
    for name, expected in expected_weights.items():
        np.testing.assert_array_equal(weights[name], expected)
    [(run_id, status)] = _runs(again)
    assert status == "FINISHED"
    assert all(count == 1 for _, _, count in _steps(again, run_id))
    assert not any(unfinished.glob("*"))


def test_an_experiment_changes_the_figures_and_joins_the_comparison(project):
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "first run")
    dvc(project, "exp", "run", "-S", "train.learning_rate=3e-3", "-n", "faster")
    assert "metrics.json" in dvc(project, "metrics", "diff").stdout
    shown = dvc(project, "plots", "diff", "--json").stdout
    assert {"ROC", "precision-recall", "confusion", "training"} <= json.loads(shown)["data"].keys()
    with sqlite3.connect(project / "mlflow.db") as store:
        names = [name for (name,) in store.execute("select name from runs")]
    assert len(names) == len(set(names)) == 2
