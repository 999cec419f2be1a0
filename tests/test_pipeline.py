"""The whole pipeline as users run it: repro with kill -9 in its middle, again, and an experiment."""

import json
import shutil
import sqlite3

import pytest
from conftest import python
from extract_helpers import extract_here
from feature_helpers import contents
from params_helpers import write_params
from pipeline_helpers import dvc, fingerprints, git, make_project, repro_killed_when

import flows.train
from vadclip.config import load_params
from vadclip.manifest import read_manifest

pytestmark = pytest.mark.timeout(600)  # the fixture runs three repros
OUTS = ["manifest.parquet", "inputs.json", "features", "extract_metrics.json", "model", "scores.parquet",
        "plots", "report.html", "metrics.json", "dvc.lock", "mlflow.db"]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after three `dvc repro`: killed as it extracted, killed as it trained, and to the end."""
    folder = make_project(tmp_path_factory.mktemp("pipeline") / "project")
    repro_killed_when(folder, lambda: len(list((folder / "features").glob("part-*.parquet"))) >= 2)
    repro_killed_when(folder, lambda: any((folder / ".cache" / "train").glob("*/state.safetensors")))
    left = {path.name for path in (folder / ".cache" / "train").glob("*/*") if ".tmp" not in path.name}
    assert left == {"state.safetensors", "run.json", "lock"}  # and no rows
    dvc(folder, "repro")
    return folder


def _runs(folder):
    with sqlite3.connect(folder / "mlflow.db") as store:
        return store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'").fetchall()


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


def test_kill_9_while_extracting_and_while_training_ends_in_the_same_rows_weights_and_run(
    project, tmp_path, monkeypatch
):
    """Those of a process that nobody disturbs, without DVC and Ray; and each step is logged once."""
    params, manifest = load_params(project / "params.yaml"), read_manifest(project / "manifest.parquet")
    monkeypatch.chdir(project)
    filled, _ = extract_here(tmp_path, manifest, project / "videos", params.clip, params.extract)
    assert contents(tmp_path / "features") == contents(project / "features")
    # What was published before the kill was not extracted again.
    extracted = json.loads((project / "extract_metrics.json").read_text())
    assert 0 < extracted["run_images"] < filled.counts["images"]

    for name in ("manifest.parquet", "extract_metrics.json"):
        shutil.copy(project / name, tmp_path)
    write_params(tmp_path, project / "params.yaml", tracking={"uri": "nonsense://store"})
    monkeypatch.chdir(tmp_path)
    flows.train.main()
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "model" / name).read_bytes() == (project / "model" / name).read_bytes()

    [(run_id, _)] = _runs(project)
    with sqlite3.connect(project / "mlflow.db") as store:
        logged = store.execute(
            "select key, step, count(*) from metrics where run_uuid = ? and key not like 'system/%' "
            "group by key, step order by step",
            (run_id,),
        ).fetchall()
    assert {count for _, _, count in logged} == {1}
    lines = (project / "model" / "steps.csv").read_text().splitlines()
    assert [step for key, step, _ in logged if key == "train/loss"] == list(range(1, len(lines)))
    assert not any((project / ".cache" / "train").glob("*"))


def test_a_second_repro_changes_no_file(project):
    before = fingerprints(project, OUTS)
    run = dvc(project, "repro")
    assert fingerprints(project, OUTS) == before
    assert "flows.extract" not in run.stdout


def test_a_stage_that_finds_nothing_to_do_changes_nothing_and_loads_nothing_heavy(project):
    code = (
        "import sys, flows.extract\nflows.extract.main()\n"
        "print(sorted({'ray', 'torch', 'open_clip', 'mlflow', 'dvc'} & set(sys.modules)))"
    )
    before = fingerprints(project, ["features"])
    told, heavy = python("-c", code, folder=project).stdout.splitlines()
    assert (told.partition("; ")[2], heavy) == ("nothing was missing", "[]")
    assert fingerprints(project, ["features"]) == before


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
