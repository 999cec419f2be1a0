"""An MLflow store: finding it, and what this project writes there.

Traps of MLflow that shape this module: a param cannot change its value, and trying marks the run as failed,
so stages compute first and log last; a server that does not answer is tried for minutes by default.
"""

import json
import logging
import os
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.models import ModelSignature
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.types import DataType, ParamSchema, ParamSpec

from vadclip.checkout import main_checkout
from vadclip.config import TrackingParams
from vadclip.remote import shown
from vadclip.tracking.attempts import forgiven, say
from vadclip.tracking.naming import RunIdentity, lineage_tags

if TYPE_CHECKING:
    from torch import Tensor

    from vadclip.config import ClipParams

# A user's own settings win.
for _name, _value in (
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
    ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
):
    os.environ.setdefault(_name, _value)

PROBE_SECONDS = 5.0
# Inputs are features or addresses, of which a schema knows one kind only: the model checks them itself.
SERVED_PARAMS = ParamSchema(
    [ParamSpec("input", DataType.string, "features"), ParamSpec("threshold", DataType.double, -1.0)]
)
MODEL_ID, PARENT = "vadclip.model_id", "mlflow.parentRunId"
MODEL_LOGGED, MODEL_VERSION = "vadclip.model_logged", "vadclip.model_version"
_CONTEXT = "mlflow.data.context"  # of a dataset: its split
_OF_TRAINING = ("train/", "time/")
_MODEL_STEP = -1  # MLflow counts metrics at a model's step as the model's: no load, and no loss, has this one
VIEW = "vadclip"
_COLUMNS = [
    *(f"metrics.`{name}`" for name in ("auc", "ap", "map_avg", "val_video_auc", "zero_shot_auc", "gain_auc")),
    *(f"params.`{name}`" for name in ("train.learning_rate", "train.seed", "model.temporal")),
]
EXPERIMENT_TAGS = {
    # The view for the training of models, not the one for language models' prompts.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Runs of VadCLIP-flow, one a trained model. Their names begin with what differs from the committed "
        "params. Figures without a prefix are those of the test videos and of the chosen epoch's validation."
    ),
    f"mlflow.sharedViewState.{VIEW}": json.dumps(
        {"selectedColumns": _COLUMNS, "orderByKey": "metrics.`auc`", "orderByAsc": False}
    ),
}


class Store:
    """An MLflow store that has answered, and this project's experiment in it."""

    def __init__(self, uri: str, experiment: str) -> None:
        users = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)  # writes the variable too, which would then look like the user's
        if users is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        self.client = mlflow.MlflowClient(uri)
        self._load: SystemMetricsMonitor | None = None
        if found := self.client.get_experiment_by_name(experiment):
            self._experiment_id: str = found.experiment_id
        else:
            # Servers know where their artifacts belong; for a database it is a folder in the project.
            place = None if _is_server(uri) else (main_checkout() / "mlartifacts").as_uri()
            try:
                self._experiment_id = self.client.create_experiment(
                    experiment, artifact_location=place, tags=EXPERIMENT_TAGS
                )
            except mlflow.MlflowException:  # another process was first
                there = self.client.get_experiment_by_name(experiment)
                if there is None:
                    raise
                self._experiment_id = there.experiment_id

    def begin(
        self,
        identity: RunIdentity,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        splits: Mapping[str, tuple[str, int]],
        tracking: TrackingParams,
        identity_file: Path,
    ) -> tuple[RunIdentity, dict[str, int]]:
        """Make the training's run the active one, new or known.

        Returns the run's identity, and the last step ("train") and epoch ("epoch") that the run has, or 0.
        """
        run = self._find(identity)
        if run and _conflicts(run, params):
            run, identity = None, RunIdentity.new(name, tracking, identity.registered)
            identity.write(identity_file)
        last = {"train": 0, "epoch": 0}
        if run:
            last = {kind: self._last_step(run.info.run_id, f"{kind}/loss") for kind in last}
            mlflow.start_run(run_id=run.info.run_id)
        else:
            run = mlflow.start_run(
                experiment_id=self._experiment_id,
                run_name=identity.name,
                tags={MODEL_ID: identity.model_id, **lineage_tags(), **tags},
            )
        try:
            identity = replace(identity, run_id=run.info.run_id)
            identity.write(identity_file)
            self._log_params(run, params)
        except BaseException:
            mlflow.end_run("FAILED")
            raise
        with forgiven("logging the splits failed"):
            self._log_splits(run, identity.registered, splits)
        say(f"run {identity.name} in experiment {identity.experiment}")
        return identity, last

    def watch(self, run_id: str) -> None:
        """Log the machine's load from now on, until the model is logged or the run ends.

        MLflow's page of a comparison opens with the metric that was logged first, so the load must not be it.
        """
        if self._load is None:
            self._load = SystemMetricsMonitor(run_id, resume_logging=True)  # type: ignore[no-untyped-call]
            self._load.start()  # type: ignore[no-untyped-call]

    def _watch_no_longer(self) -> None:
        if self._load is not None:
            self._load.finish()  # type: ignore[no-untyped-call]
            self._load = None

    def lacks_model(self, identity: RunIdentity) -> bool:
        """Return whether the store has not got the training's model: it was away, or failed."""
        run = self._find(identity)
        return run is None or MODEL_LOGGED not in run.data.tags

    def add(
        self,
        identity: RunIdentity,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        artifacts: Sequence[Path],
        stage: str,
    ) -> str:
        """Log what `runs.add_to_run` is given; return the run's id."""
        run = self._find(identity)
        if run is None:
            run = self._create(identity.name, {MODEL_ID: identity.model_id, "vadclip.begun_by": stage})
            say(f"the store does not know run {identity.name}: a new run of that name has the results")
        elif changed := ", ".join(_conflicts(run, params)):
            parent = run
            run = self._child(parent, params) or self._create(
                f"{identity.name}-{stage}", {PARENT: parent.info.run_id, "vadclip.changed_params": changed}
            )
            say(f"{changed} changed since run {identity.name}: a child run of it has the results")
        self._log_params(run, params)
        self.log_metrics(run.info.run_id, metrics)
        self.log_artifacts(run.info.run_id, artifacts)
        return str(run.info.run_id)

    def describe(self, run_id: str, description: str) -> None:
        """Give a run, and its registered model's version, their description."""
        self.client.set_tag(run_id, "mlflow.note.content", description)
        tags = self.client.get_run(run_id).data.tags
        if MODEL_VERSION in tags:
            name, version = tags[MODEL_VERSION].rsplit("/", 1)
            self.client.update_model_version(name, version, f"{description}\n\nRun: {run_id}")

    def log_records(self, run_id: str, records: Sequence[Sequence[Metric]]) -> None:
        """Log records in one transaction."""
        self.client.log_batch(run_id, metrics=[metric for record in records for metric in record])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log single numbers; one that is there is not repeated, a changed one gets the next step.

        A figure leads to the model that has it and to the split that it was measured on.
        """
        run = self.client.get_run(run_id)
        before, model = run.data.metrics, run.data.tags.get(MODEL_LOGGED)
        splits = {
            tag.value: {"dataset_name": each.dataset.name, "dataset_digest": each.dataset.digest}
            for each in (run.inputs.dataset_inputs if run.inputs else ())
            for tag in each.tags
            if tag.key == _CONTEXT
        }
        now = time.time_ns() // 1_000_000
        entries = []
        for given, value in metrics.items():
            key = re.sub(r"[^\w\-. :/]", "_", given)  # what MLflow allows in a name
            if before.get(key) != float(value):
                step = self._last_step(run_id, key) + 1 if key in before else 0
                split = "val" if key.startswith("val_") else "test"
                data = splits.get("train" if key.startswith(_OF_TRAINING) else split, {})
                entries.append(Metric(key, float(value), now, step, model_id=model, **data))
        self.client.log_batch(run_id, metrics=entries)

    def log_artifacts(self, run_id: str, paths: Sequence[Path]) -> None:
        """Log files at the top and folders under their own name; what does not exist is left out."""
        for path in paths:
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                self.client.log_artifact(run_id, str(path))

    def log_model(
        self, run_id: str, model_folder: Path, text_KD: "Tensor | None", clip: "ClipParams", registered: str
    ) -> None:
        """Log and register the active run's pyfunc: data, this package's code, signature, requirements."""
        # They need torch, without which the other stages' tracking works.
        from vadclip.tracking.served import requirements, write_served

        self._watch_no_longer()  # the load is no figure of the model
        if MODEL_LOGGED in self.client.get_run(run_id).data.tags:
            return
        with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
            # MLflow misses an example: the signature says it all.
            warnings.simplefilter("ignore", UserWarning)
            data, code = write_served(Path(temporary), model_folder, text_KD, clip)
            logged = mlflow.pyfunc.log_model(
                name="model",
                loader_module="vadclip.tracking.served",
                data_path=str(data),
                code_paths=[str(code)],
                signature=ModelSignature(params=SERVED_PARAMS),
                pip_requirements=requirements(),
                registered_model_name=registered or None,
                step=_MODEL_STEP,
            )
        if registered:
            version = logged.registered_model_version
            self.client.set_tag(run_id, MODEL_VERSION, f"{registered}/{version}")
        self.client.set_tag(run_id, MODEL_LOGGED, logged.model_id)

    def end(self, status: str) -> None:
        """Close the active run."""
        self._watch_no_longer()
        mlflow.end_run(status)

    def _find(self, identity: RunIdentity) -> Run | None:
        if identity.run_id:
            try:
                run = self.client.get_run(identity.run_id)
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        return next(iter(self._search(f"tags.`{MODEL_ID}` = '{identity.model_id}'")), None)

    def _child(self, parent: Run, params: Mapping[str, Any]) -> Run | None:
        children = self._search(f"tags.`{PARENT}` = '{parent.info.run_id}'")
        return next((run for run in children if not _conflicts(run, params)), None)

    def _search(self, condition: str) -> list[Run]:
        return list(self.client.search_runs([self._experiment_id], condition))

    def _create(self, name: str, tags: Mapping[str, str]) -> Run:
        run = self.client.create_run(self._experiment_id, run_name=name, tags={**lineage_tags(), **tags})
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return run

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        missing = [Param(key, _text(value)) for key, value in params.items() if key not in run.data.params]
        self.client.log_batch(run.info.run_id, params=missing)

    def _log_splits(self, run: Run, registered: str, splits: Mapping[str, tuple[str, int]]) -> None:
        """Log each split as a dataset of the run; MLflow does not repeat one that it has."""
        source = json.dumps({"uri": registered})
        inputs = [
            DatasetInput(
                Dataset(f"{registered or 'videos'}-{split}", digest, source_type="code", source=source),
                tags=[InputTag(_CONTEXT, split), InputTag("videos", str(count))],
            )
            for split, (digest, count) in splits.items()
            if count
        ]
        if inputs:
            self.client.log_inputs(run.info.run_id, datasets=inputs)

    def _last_step(self, run_id: str, key: str) -> int:
        return max((metric.step for metric in self.client.get_metric_history(run_id, key)), default=0)


def store_uri(uri: str | None) -> str:
    """Return where runs are logged: by MLFLOW_TRACKING_URI, the params' `uri`, or the project's own file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or uri or f"sqlite:///{main_checkout() / 'mlflow.db'}"


def open_store(tracking: TrackingParams) -> Store | None:
    """Return the store, or None after a line that says why there is none."""
    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    uri = store_uri(tracking.uri)
    with forgiven(f"{shown(uri)} is not usable, nothing is logged there"):
        if _is_server(uri):
            ask(uri)
        assert tracking.experiment is not None, "the caller names it after the dataset"
        return Store(uri, tracking.experiment)
    return None


def ask(uri: str) -> None:
    """Wait PROBE_SECONDS for a store's answer: name look-ups and MLflow's retries know no common limit.

    Raises TimeoutError, or what MLflow raises.
    """
    failures: list[Exception] = []

    def search() -> None:
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {PROBE_SECONDS:g} s")
    if failures:
        raise failures[0]


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _conflicts(run: Run, params: Mapping[str, Any]) -> list[str]:
    there = run.data.params
    return [key for key, value in params.items() if key in there and there[key] != _text(value)]


def _text(value: object) -> str:
    return str(value)[:5000]  # MLflow's limit is 6,000
