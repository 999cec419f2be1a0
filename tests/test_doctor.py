"""`vadclip doctor`: a line a check; what cannot run is a miss with its fix."""

import shutil
from pathlib import Path

import pytest
from conftest import PROJECT
from params_helpers import write_params

from vadclip.doctor import examine
from vadclip.errors import InputError
from vadclip.tracking.registry import store_fault


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """Run all checks in a project's folder, but for starting Ray, which takes long."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(PROJECT / "params.yaml", tmp_path)

    class Room:
        def __init__(self, execution):
            self.room = int(execution.cpus_per_actor <= 64)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    monkeypatch.setattr("vadclip.pool.cluster.Cluster", Room)
    return lambda: {finding.what: finding for finding in examine(Path("params.yaml"))}


def test_a_whole_project_misses_nothing(checks):
    found = checks()
    expected = ["python", "torch", "decoders", "params", "clip", "ray", "tracking", "dvc", "disk"]
    assert list(found) == expected
    assert {name for name, finding in found.items() if finding.state == "miss"} == set()
    assert not Path("mlflow.db").exists()


def test_each_miss_has_its_fix(checks, monkeypatch):
    clip = {"model": "ViT-B-16", "pretrained": "absent.safetensors", "quick_gelu": True}
    write_params(Path(), clip=clip, execution={"cpus_per_actor": 65.0})
    shutil.rmtree(".dvc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "decord" else True)
    found = checks()
    assert {name: finding.state for name, finding in found.items() if finding.state == "miss"} == {
        "clip": "miss", "ray": "miss", "dvc": "miss",
    }  # fmt: skip
    assert "absent.safetensors" in found["clip"].fix
    assert "lower execution.cpus_per_actor" in found["ray"].fix
    assert found["decoders"].state == "note"
    assert all(finding.fix for finding in found.values() if finding.state != "ok")


def test_status_1_without_params(tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("doctor") == 1
    shown = capsys.readouterr().out
    assert "miss  params" in shown
    assert "-> run in the project's folder" in shown


def test_a_store_that_does_not_answer_is_said_without_its_password(tmp_path, monkeypatch):
    """In the folder of another project as well, whose params.yaml is none of ours."""
    (tmp_path / "params.yaml").write_text("train: {lr: 1}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/x")
    shown, fault = store_fault()
    assert shown == "http://127.0.0.1:9/x"
    assert fault
    assert "secret" not in fault


def test_where_params_cannot_tell_the_store_the_message_says_what_else_names_it(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("train: {lr: 1}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"its tracking\.uri names the store, or MLFLOW_TRACKING_URI"):
        store_fault()
