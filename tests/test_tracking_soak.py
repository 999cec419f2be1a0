"""Two trainings at once against a store that is new to both: a SQLite file, and a real `mlflow server`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from conftest import PROJECT
from detect_helpers import make_model

pytestmark = pytest.mark.soak
EXPERIMENT, MODEL = "two at once", "vadclip-two"
FIGURES = {"a": 0.7, "b": 0.9}
TRAINING = """
import os, signal, sys, time
from pathlib import Path
from vadclip.config import ClipParams, TrackingParams
from vadclip.detect.model import load
from vadclip.model.inference import class_texts
from vadclip.tracking.runs import add_to_run, training_run
from vadclip.train.history import StepRecord

root, name, figure, uri, start, kill = sys.argv[1:]
folder = Path(name)
loaded = load(Path(root) / "model", clip=None, device="cpu")
tracking = TrackingParams(experiment="two at once", uri=uri, run_name=None)
while time.time() < float(start):
    time.sleep(0.001)
with training_run(
    name=name, params={"train.seed": name}, tags={"vadclip.validation": "v"}, tracking=tracking,
    identity_file=folder / "run.json", registered="vadclip-two", splits={"val": ("v", 7)},
) as run:
    for step in range(1, 6):
        run.step(StepRecord(1, step, 1 / step, 1.0, 1.0, 1.0, 1.0, 1.0, step))
    if kill == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    run.model(loaded.folder, class_texts(loaded.model, "fp32"), loaded.clip_params)
    run.metrics({"val_video_auc": float(figure)})
for _ in range(2):  # the second is a stage that ran again
    add_to_run(
        folder / "run.json", params={"evaluate.timelines": 8}, metrics={"auc": float(figure)}, artifacts=[],
        stage="evaluate", tracking=tracking, description="what came out", criterion="val_video_auc",
    )
"""


@pytest.fixture(params=["file", "server"])
def store(request, tmp_path):
    """The address of a store that holds nothing yet."""
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if request.param == "file":
        yield database
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--workers", "2", "--port", address.rpartition(":")[2],
         "--backend-store-uri", database, "--artifacts-destination", str(tmp_path / "artifacts")],
        cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def test_two_first_runs_at_once_then_killed_ones_go_on(store, tmp_path):
    make_model(tmp_path)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        "PYTHONPATH": str(PROJECT),
        "DVC_ROOT": str(tmp_path),
    }

    def both(kill):
        start = str(time.time() + 12)  # torch is imported by then
        started = [
            subprocess.Popen(
                [sys.executable, "-c", TRAINING, str(tmp_path), name, str(figure), store, start, kill],
                cwd=tmp_path, env=environment,
            )
            for name, figure in FIGURES.items()
        ]  # fmt: skip
        return [process.wait(timeout=300) for process in started]

    assert both("kill") == [-signal.SIGKILL] * 2
    for _ in range(2):  # going on, and a repetition of the whole that must change nothing
        assert both("") == [0, 0]

    client = mlflow.MlflowClient(store)
    assert [each.name for each in client.search_experiments() if each.name != "Default"] == [EXPERIMENT]
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = {run.data.params["train.seed"]: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == FIGURES.keys()
    assert len(client.search_runs([experiment.experiment_id])) == 2
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["auc"] == FIGURES[name]
        assert run.data.tags["mlflow.note.content"] == "what came out"
        steps = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss"))
        assert steps == [1, 2, 3, 4, 5]
        assert len(client.get_metric_history(run.info.run_id, "auc")) == 1
        assert [each.dataset.digest for each in run.inputs.dataset_inputs] == ["v"]
    versions = client.search_model_versions(f"name='{MODEL}'")
    assert {each.run_id for each in versions} == {run.info.run_id for run in runs.values()}
    assert len(versions) == 2
    assert client.get_model_version_by_alias(MODEL, "champion").run_id == runs["b"].info.run_id
