import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import mlflow
import numpy as np
import pytest
from clip_helpers import tiny_config, write_clip
from conftest import PROJECT
from training_helpers import CPU, task, text_tower

from vadclip.config import TrackingParams
from vadclip.errors import InputError
from vadclip.model.folder import save_model
from vadclip.model.inference import class_texts, video_output
from vadclip.tracking.naming import lineage_tags
from vadclip.tracking.registry import fetch_model, view_addresses
from vadclip.tracking.runs import add_to_run, training_run
from vadclip.train.history import EpochRecord, StepRecord
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder
from vadclip.train.selection import ValidationFigures

PARAMS = {"train.learning_rate": 1e-3, "dataset.name": "toy", "train.milestones": [2]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project's folder: one database for all tests here, since making one takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def _environment(root, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.end_run()


@pytest.fixture
def tracking(request):
    """An experiment of the test's own."""
    return TrackingParams(experiment=request.node.name, uri=None, run_name=None)


def _steps(first, last, time_ms=1000):
    return [StepRecord(1 + (n - 1) // 5, n, 1 / n, 0.5 / n, 0.4 / n, 0.1 / n, 2.0, 1e-3, time_ms + n)
            for n in range(first, last + 1)]  # fmt: skip


def _epoch(number):
    figures = ValidationFigures(0.5 + number / 100, 0.4, 1.0)
    return EpochRecord(number, 5 * number, 0.5, 1e-3, 2.0, 50.0, True, figures, 2000 + number)


def _tell(run, steps, epochs=()):
    for record in steps:
        run.step(record)
    for record in epochs:
        run.epoch(record)


def _open(tracking, folder, params=PARAMS, tags=None, **times):
    return training_run(
        name="toy-lr0.001", params=params, tags=tags or {}, tracking=tracking,
        identity_file=folder / "run.json", **times,
    )  # fmt: skip


def _client(root):
    return mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def _runs(root, tracking):
    client = _client(root)
    experiment = client.get_experiment_by_name(tracking.experiment)
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def _history(root, run, key):
    found = _client(root).get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in sorted(found, key=lambda metric: metric.step)]


def _add(folder, tracking, stage="score", params=None, metrics=None, artifacts=()):
    add_to_run(
        folder / "run.json",
        params=params or {},
        metrics=metrics or {},
        artifacts=artifacts,
        stage=stage,
        tracking=tracking,
    )


def test_one_run_over_train_score_and_evaluate(root, tracking, tmp_path, capsys):
    with _open(tracking, tmp_path, tags={"device": "cpu"}) as run:
        _tell(run, _steps(1, 10), [_epoch(1), _epoch(2)])
        run.metrics({"extract_seconds": 3.5})
        (tmp_path / "steps.csv").write_text("step\n1\n")
        run.artifacts([tmp_path / "steps.csv"])
    _add(tmp_path, tracking, "score", {"score.precision": "fp32"}, {"score/seconds": 1.5})
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "roc.png").write_bytes(b"png")
    (tmp_path / "report.html").write_text("<html>")
    _add(tmp_path, tracking, "evaluate", {"evaluate.timelines": 8}, {"auc": 0.9, "auc_Car (red)": 0.8},
         [tmp_path / "plots", tmp_path / "report.html", tmp_path / "absent"])  # fmt: skip

    (logged,) = _runs(root, tracking)
    assert logged.info.status == "FINISHED"
    assert re.fullmatch(r"toy-lr0\.001-[0-9a-f]{4}", logged.info.run_name)
    assert json.loads((tmp_path / "run.json").read_text())["run_id"] == logged.info.run_id
    assert logged.data.params == {
        "train.learning_rate": "0.001", "dataset.name": "toy", "train.milestones": "[2]",
        "score.precision": "fp32", "evaluate.timelines": "8",
    }  # fmt: skip
    assert logged.data.tags["device"] == "cpu"
    assert _history(root, logged, "train/loss") == [(n, 1 / n) for n in range(1, 11)]
    assert _history(root, logged, "train/learning_rate") == [(n, 1e-3) for n in range(1, 11)]
    assert _history(root, logged, "epoch/val_video_auc") == [(1, 0.51), (2, 0.52)]
    assert _history(root, logged, "epoch/loss") == [(1, 0.5), (2, 0.5)]
    assert logged.data.metrics["extract_seconds"] == 3.5
    assert logged.data.metrics["auc"] == 0.9
    assert logged.data.metrics["auc_Car _red_"] == 0.8  # MLflow allows no brackets
    names = {artifact.path for artifact in _client(root).list_artifacts(logged.info.run_id)}
    assert names == {"steps.csv", "plots", "report.html"}
    assert (
        root / "mlartifacts" / logged.info.run_id / "artifacts" / "plots" / "roc.png"
    ).read_bytes() == b"png"
    assert (
        f"tracking: run {logged.info.run_name} in experiment {tracking.experiment}" in capsys.readouterr().out
    )


def test_a_stage_that_runs_again_repeats_nothing(root, tracking, tmp_path):
    with _open(tracking, tmp_path):
        pass
    for auc in (0.9, 0.9, 0.8, 0.8):
        _add(tmp_path, tracking, "evaluate", {"evaluate.timelines": 8}, {"auc": auc, "ap": 0.3})
    (logged,) = _runs(root, tracking)
    assert _history(root, logged, "auc") == [(0, 0.9), (1, 0.8)]
    assert _history(root, logged, "ap") == [(0, 0.3)]


def test_an_interrupted_training_goes_on_in_its_run_and_logs_no_step_twice(root, tracking, tmp_path):
    with pytest.raises(KeyboardInterrupt), _open(tracking, tmp_path) as run:
        _tell(run, _steps(1, 5), [_epoch(1)])
        _tell(run, _steps(6, 7))
        raise KeyboardInterrupt
    (logged,) = _runs(root, tracking)
    assert logged.info.status == "KILLED"
    # Told again from the start, as training.train does; MLflow itself would drop what has the same time.
    with _open(tracking, tmp_path) as run:
        _tell(run, _steps(1, 5, time_ms=5000), [_epoch(1)])
        _tell(run, _steps(6, 10, time_ms=5000), [_epoch(2)])
    (logged,) = _runs(root, tracking)
    assert logged.info.status == "FINISHED"
    for key in ("train/loss", "train/gradient_norm"):
        assert [step for step, _ in _history(root, logged, key)] == list(range(1, 11))
    assert [step for step, _ in _history(root, logged, "epoch/val_loss")] == [1, 2]


def test_kill_minus_9_leaves_one_run_without_gaps(root, tracking, tmp_path):
    """The process dies with records unsent; its run goes on here and gets them."""
    script = f"""
        import os, pathlib, signal
        import mlflow
        from test_tracking import _epoch, _open, _raise_os_error, _steps, _tell
        from vadclip.config import TrackingParams
        tracking = TrackingParams(experiment={tracking.experiment!r}, uri=None, run_name=None)
        with _open(tracking, pathlib.Path({str(tmp_path)!r}), flush_seconds=0.0) as run:
            _tell(run, [], [_epoch(1)])  # from now on, records leave
            _tell(run, _steps(1, 4))
            mlflow.MlflowClient.log_batch = _raise_os_error
            _tell(run, _steps(5, 7))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (logged,) = _runs(root, tracking)
    assert [step for step, _ in _history(root, logged, "train/loss")] == [1, 2, 3, 4]
    with _open(tracking, tmp_path) as run:
        _tell(run, _steps(1, 10, time_ms=5000), [_epoch(1), _epoch(2)])
    (logged,) = _runs(root, tracking)
    assert [step for step, _ in _history(root, logged, "train/loss")] == list(range(1, 11))
    assert [step for step, _ in _history(root, logged, "epoch/loss")] == [1, 2]
    assert logged.info.status == "FINISHED"


def test_a_kill_before_the_run_id_was_written_finds_the_run_all_the_same(root, tracking, tmp_path):
    with _open(tracking, tmp_path) as run:
        identity = run.identity
    forgotten = json.loads((tmp_path / "run.json").read_text()) | {"run_id": None}
    (tmp_path / "run.json").write_text(json.dumps(forgotten))
    with _open(tracking, tmp_path) as run:
        assert run.identity == identity
    assert len(_runs(root, tracking)) == 1


def test_a_changed_param_gives_a_child_run_and_leaves_the_parent_as_it_was(root, tracking, tmp_path, capsys):
    with _open(tracking, tmp_path):
        pass
    _add(tmp_path, tracking, "score", {"score.precision": "fp32"})
    _add(tmp_path, tracking, "evaluate", {"score.precision": "fp32", "evaluate.timelines": 8}, {"auc": 0.9})
    for _ in range(2):
        _add(tmp_path, tracking, "score", {"score.precision": "bf16"})
    assert re.search(
        r"score.precision changed since run toy-\S+: a child run of it has", capsys.readouterr().out
    )
    # evaluate says the score params too, so its figures go where the scores they belong to went.
    _add(tmp_path, tracking, "evaluate", {"score.precision": "bf16", "evaluate.timelines": 8}, {"auc": 0.7})
    parent, child = _runs(root, tracking)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params["score.precision"] == "fp32"
    assert parent.data.metrics == {"auc": 0.9}
    assert child.data.params == {"score.precision": "bf16", "evaluate.timelines": "8"}
    assert child.data.metrics == {"auc": 0.7}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["vadclip.changed_params"] == "score.precision"
    assert child.info.run_name == f"{parent.info.run_name}-score"


def test_a_training_with_other_params_gets_a_run_of_its_own(root, tracking, tmp_path):
    with _open(tracking, tmp_path) as run:
        first = run.identity
    with _open(tracking, tmp_path, params=PARAMS | {"train.learning_rate": 1e-2}) as run:
        assert run.identity.model_id != first.model_id
    one, other = _runs(root, tracking)
    assert (one.data.params["train.learning_rate"], other.data.params["train.learning_rate"]) == (
        "0.001",
        "0.01",
    )
    assert {one.info.status, other.info.status} == {"FINISHED"}


@pytest.mark.parametrize("gone", ["deleted", "elsewhere"])
def test_a_run_that_the_store_does_not_know_gets_one_successor(gone, root, tracking, tmp_path, capsys):
    with _open(tracking, tmp_path):
        pass
    if gone == "deleted":
        _client(root).delete_run(_runs(root, tracking)[0].info.run_id)
    else:  # the model was trained against another store
        tracking = tracking.model_copy(update={"experiment": "elsewhere"})
        moved = json.loads((tmp_path / "run.json").read_text()) | {"run_id": "0" * 32, "model_id": "1" * 32}
        (tmp_path / "run.json").write_text(json.dumps(moved))
    _add(tmp_path, tracking, "score", {"score.precision": "fp32"}, {"score/seconds": 1.0})
    assert "the store does not know run toy-lr0.001" in capsys.readouterr().out
    _add(tmp_path, tracking, "evaluate", {"score.precision": "fp32"}, {"auc": 0.9})
    (successor,) = _runs(root, tracking)
    assert successor.data.metrics == {"score/seconds": 1.0, "auc": 0.9}
    assert successor.info.run_name == json.loads((tmp_path / "run.json").read_text())["name"]
    assert successor.info.status == "FINISHED"


def test_names_come_from_the_experiment_the_params_or_the_settings(root, tracking, tmp_path, monkeypatch):
    named = tracking.model_copy(update={"run_name": "my run"})
    with _open(named, tmp_path / "a"):
        pass
    monkeypatch.setenv("DVC_EXP_NAME", "gawky-mend")
    with _open(named, tmp_path / "b"):
        pass
    monkeypatch.delenv("DVC_EXP_NAME")
    for folder in ("c", "d"):
        with _open(tracking, tmp_path / folder):
            pass
    names = [run.info.run_name for run in _runs(root, tracking)]
    assert names[0] == "my run"
    assert names[1] == "my run-gawky-mend"
    assert len(set(names)) == 4


def test_mlflow_is_imported_with_its_telemetry_off():
    script = """
        import os, sys
        def tell(event, arguments):
            if event == "import" and arguments[0] == "mlflow":
                print(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))
        sys.addaudithook(tell)
        import vadclip.tracking.registry
    """
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**environment, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert set(told.stdout.split()) == {"true"}, told.stderr


def test_models_come_from_the_store_that_params_yaml_names(tmp_path, monkeypatch):
    params = (PROJECT / "params.yaml").read_text().replace("uri: null", f"uri: sqlite:///{tmp_path}/own.db")
    (tmp_path / "params.yaml").write_text(params)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"own\.db does not give that model"):
        fetch_model("models:/absent@champion", tmp_path / "fetched")


def _registered(root, tracking, folder, figure, validation="v1", **tags):
    """A run with a registered model of one file, and its evaluation."""
    tags = {"vadclip.validation": validation, **tags}
    name = f"vadclip-{tracking.experiment[:20]}"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with training_run(
        name="toy", params=PARAMS, tags=tags, tracking=tracking, identity_file=folder / "run.json",
        registered=name, splits={"val": (validation, 7)},
    ) as run:  # fmt: skip
        client = _client(root)
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(name, str(folder), run.identity.run_id)
        client.set_tag(run.identity.run_id, "vadclip.model_version", f"{name}/{version.version}")
        run.metrics({"val_video_auc": figure})
    add_to_run(
        folder / "run.json", params={}, metrics={"auc": 0.5}, artifacts=[], stage="evaluate",
        tracking=tracking, description="| auc | 0.5 |", criterion="val_video_auc",
    )  # fmt: skip
    return name, version.version


def test_the_champion_is_the_best_on_equal_validation_videos(root, tracking, tmp_path, capsys):
    client = _client(root)

    def champion(name):
        return client.get_model_version_by_alias(name, "champion").version

    name, first = _registered(root, tracking, tmp_path / "a", 0.8)
    assert champion(name) == first
    assert client.get_model_version(name, first).description.startswith("| auc | 0.5 |")
    _registered(root, tracking, tmp_path / "b", 0.8)
    assert champion(name) == first  # only a strictly better one takes its place
    assert "stays run toy" in capsys.readouterr().out
    _, better = _registered(root, tracking, tmp_path / "c", 0.9)
    assert champion(name) == better
    _registered(root, tracking, tmp_path / "d", 0.99, **{"test-selected": "true"})
    assert champion(name) == better
    capsys.readouterr()
    _, other = _registered(root, tracking, tmp_path / "e", 0.6, validation="v2")
    assert champion(name) == other
    assert "had other validation videos: it was not compared" in capsys.readouterr().out
    number = _runs(root, tracking)[0].info.experiment_id
    assert (
        f"{tracking.experiment}: http://127.0.0.1:5001/#/experiments/{number}/runs"
        "?workflowType=machine_learning&viewStateShareKey=vadclip" in view_addresses(5001)
    )
    runs = {run.data.tags["vadclip.model_version"]: run for run in _runs(root, tracking)}
    [split] = runs[f"{name}/{first}"].inputs.dataset_inputs
    assert (split.dataset.digest, {tag.key: tag.value for tag in split.tags}["videos"]) == ("v1", "7")


def test_a_failed_training_is_a_failed_run(root, tracking, tmp_path):
    with pytest.raises(ValueError, match="bad"), _open(tracking, tmp_path):
        raise ValueError("bad")
    assert _runs(root, tracking)[0].info.status == "FAILED"


def test_the_commit_and_the_data_version_are_tags(root, tracking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lineage_tags() == {}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    lock = {
        "stages": {"extract": {"outs": [{"path": "features", "md5": "abc.dir"}, {"path": "x", "md5": "1"}]}}
    }
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    (tmp_path / "code.py").write_text("1")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "dvc.lock").write_text(json.dumps(lock) + "\n")  # as in every repro
    (tmp_path / "new.txt").write_text("untracked")
    expected = {"git_commit": commit, "git_dirty": "false", "data_version": "abc.dir"}
    assert lineage_tags() == expected
    (tmp_path / "code.py").write_text("2")
    assert lineage_tags() == expected | {"git_dirty": "true"}
    with _open(tracking, tmp_path / "run"):
        pass
    tags = _runs(root, tracking)[0].data.tags
    assert {key: tags[key] for key in expected} == expected | {"git_dirty": "true"}


def _silent_server():
    """A port that takes connections and never answers."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_server_that_is_away_costs_seconds_a_line_and_nothing_else(kind, tracking, tmp_path, capsys):
    server = _silent_server()
    port = server.getsockname()[1]
    if kind == "refused":
        server.close()
    away = tracking.model_copy(update={"uri": f"http://user:secret@127.0.0.1:{port}/path"})
    started = time.monotonic()
    with _open(away, tmp_path) as run:
        _tell(run, _steps(1, 3), [_epoch(1)])
        run.metrics({"a": 1.0})
        run.artifacts([tmp_path])
    assert time.monotonic() - started < 8
    server.close()
    identity = json.loads((tmp_path / "run.json").read_text())
    assert identity["run_id"] is None
    assert len(identity["model_id"]) == 32
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        f"tracking: http://127.0.0.1:{port}/path is not usable, nothing is logged there ("
    )
    assert "secret" not in lines[0]


def test_a_training_without_its_server_is_logged_whole_when_it_goes_on_with_one(root, tracking, tmp_path):
    with _silent_server() as server:
        port = server.getsockname()[1]
    away = tracking.model_copy(update={"uri": f"http://127.0.0.1:{port}"})
    with pytest.raises(KeyboardInterrupt), _open(away, tmp_path) as run:
        _tell(run, _steps(1, 5), [_epoch(1)])
        raise KeyboardInterrupt
    with _open(tracking, tmp_path) as run:
        _tell(run, _steps(1, 5), [_epoch(1)])
        _tell(run, _steps(6, 10), [_epoch(2)])
    (logged,) = _runs(root, tracking)
    assert [step for step, _ in _history(root, logged, "train/loss")] == list(range(1, 11))


def test_the_environment_beats_the_params_and_a_bad_store_is_said(tracking, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with _open(tracking, tmp_path):
        pass
    _add(tmp_path, tracking)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("tracking: nonsense://store is not usable" in line for line in lines)


def test_what_could_not_be_sent_is_sent_later(root, tracking, tmp_path, monkeypatch, capsys):
    with _open(tracking, tmp_path, flush_seconds=0.0, retry_seconds=0.0) as run:
        _tell(run, [], [_epoch(1)])
        with monkeypatch.context() as broken:
            broken.setattr(mlflow.MlflowClient, "log_batch", _raise_os_error)
            _tell(run, _steps(1, 2))
        _tell(run, _steps(3, 4))
        (logged,) = _runs(root, tracking)  # before the end, which sends what is left
        assert [step for step, _ in _history(root, logged, "train/loss")] == [1, 2, 3, 4]
    assert "failed (OSError: cable out); files are written all the same" in capsys.readouterr().out


def _raise_os_error(*arguments, **named):
    raise OSError("cable out")


def test_what_could_never_be_sent_is_counted(tracking, tmp_path, monkeypatch, capsys):
    with _open(tracking, tmp_path) as run:
        _tell(run, _steps(1, 3))
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", _raise_os_error)
    assert "3 records of toy-lr0.001" in capsys.readouterr().out


def test_a_missing_run_file_is_said(tracking, tmp_path, capsys):
    _add(tmp_path, tracking)
    assert "run.json is missing: nothing was logged" in capsys.readouterr().out


def test_a_training_and_its_served_model(root, tracking, tmp_path):
    """The toy through everything: logged while it trains, saved, served where there is no repository."""
    todo = task(text_tower(), epochs=2)
    resume = ResumeFolder(tmp_path / "resume")
    with _open(tracking, resume.folder) as run:
        trained = train(todo, device=CPU, resume=resume, logger=run, readers=0)
        save_model(tmp_path / "model", trained.model, todo.model_info(trained.epoch, trained.figures, ()))
        text_KD = class_texts(trained.model, "fp32")
        for _ in range(2):
            run.model(tmp_path / "model", text_KD, write_clip(tmp_path, tiny_config(16)))
    (logged,) = _runs(root, tracking)
    assert [step for step, _ in _history(root, logged, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert len(mlflow.search_logged_models([logged.info.experiment_id], output_format="list")) == 1

    features = np.random.default_rng(0).standard_normal((2, 11, 16)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    script = f"""
        import mlflow, numpy, sys
        assert not any(name.split(".")[0] == "vadclip" for name in sys.modules)
        mlflow.set_tracking_uri("sqlite:///{root}/mlflow.db")
        model = mlflow.pyfunc.load_model("runs:/{logged.info.run_id}/model")
        found = model.predict(numpy.load("features.npy"))
        numpy.savez("found.npz", **found)
        print(sys.modules["vadclip.tracking.served"].__file__)
        try:
            model.predict(numpy.zeros((1, 3, 17), numpy.float32))
        except mlflow.MlflowException as error:
            print(error)
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    served = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert served.returncode == 0, served.stderr
    assert "/code/vadclip/tracking/served.py" in served.stdout  # the code that ran is the artifact's,
    assert str(PROJECT) not in served.stdout  # not the repository's
    assert (
        "features of shape [1, 3, 17]: expected [videos, snippets, 16] with one snippet at least"
        in served.stdout
    )
    store = f"sqlite:///{root}/mlflow.db"
    fetched = fetch_model(f"runs:/{logged.info.run_id}/model", tmp_path / "fetched", store)
    assert (fetched / "model.json").read_bytes() == (tmp_path / "model" / "model.json").read_bytes()
    with pytest.raises(InputError, match=r"models:/absent@champion: sqlite:.* does not give that model"):
        fetch_model("models:/absent@champion", tmp_path / "fetched", store)
    found = np.load(tmp_path / "found.npz")
    for number, rows in enumerate(features):
        expected = video_output(trained.model, rows, text_KD, "fp32")
        np.testing.assert_allclose(
            found["anomaly_score"][number], expected.anomaly_logits_BT[0].sigmoid(), atol=1e-6
        )
        np.testing.assert_allclose(
            found["class_probabilities"][number], expected.class_logits_BTK[0].softmax(-1), atol=1e-6
        )
    pickles = [
        path
        for path in (root / "mlartifacts").rglob("*")
        if path.suffix in {".pkl", ".pickle", ".pt", ".pth"}
    ]
    assert pickles == []


def test_the_load_is_recorded_after_the_first_figures(root, tracking, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")

    def steps():
        (logged,) = _runs(root, tracking)
        return [step for step, _ in _history(root, logged, "system/cpu_utilization_percentage")]

    for last in (1, 2):  # the second goes on where the first stopped
        with _open(tracking, tmp_path, flush_seconds=0.0) as run:
            for number in range(1, last + 1):
                _tell(run, _steps(5 * number - 4, 5 * number), [_epoch(number)])
            _tell(run, _steps(5 * last + 1, 5 * last + 1))
            deadline = time.monotonic() + 60
            while len(steps()) < 2 * last and time.monotonic() < deadline:
                time.sleep(0.2)
    assert steps() == list(range(len(steps())))
    assert len(steps()) >= 4
    (logged,) = _runs(root, tracking)
    # MLflow's page of a comparison opens with the first of these.
    assert next(iter(logged.data.metrics)) == "epoch/val_video_auc"
