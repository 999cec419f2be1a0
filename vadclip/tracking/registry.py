"""What the store gives to those who use models: the champion, a model, a run's scores, a view of the runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.models import Model

from vadclip.config import PARAMS_FILE, load_params
from vadclip.errors import InputError
from vadclip.remote import shown
from vadclip.tracking.attempts import first_line, say
from vadclip.tracking.mlflow_store import MODEL_VERSION, VIEW, ask, store_uri
from vadclip.tracking.naming import VALIDATION

SCHEME = "models:/"
CHAMPION = "champion"
_CROWN_TRIES = 3


def fetch_model(address: str, folder: Path, uri: str | None = None) -> Path:
    """Copy a registered or logged model into `folder` and return its model folder.

    `address` is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/MODEL_ID`; `uri` the store, by
    default that of this folder's project. Raises InputError if the store has no such model, or it is none of
    ours.
    """
    store = _project_store(uri)
    mlflow.set_tracking_uri(store)
    try:
        logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
        data = Model.load(str(logged)).flavors.get("python_function", {}).get("data", "")
    except Exception as error:  # each store behind MLflow has errors of its own
        fault = f"{shown(store)} does not give that model ({first_line(error)})"
        raise InputError(f"{address}: {fault}") from None
    found: Path | None = next((path.parent for path in (logged / data).rglob("model.json")), None)
    if found is None:
        raise InputError(f"{address}: that model was not logged by this program")
    return found


def fetch_scores(name: str, folder: Path, files: Sequence[str], uri: str | None = None) -> str:
    """Copy a run's `files` into `folder` and return its name there.

    `name` is its id, or `models:/...` of the model that it logged. Raises InputError if the store does not
    know it or does not answer, or the run lacks a file.
    """
    store = _project_store(uri)
    client = mlflow.MlflowClient(store)
    try:
        run_id = _run_of(client, name) if name.startswith(SCHEME) else name
        run = client.get_run(run_id)
        missing = set(files) - {artifact.path for artifact in client.list_artifacts(run_id)}
        if not missing:
            for file in files:
                client.download_artifacts(run_id, file, str(folder))
    except Exception as error:  # as above
        fault = f"{shown(store)} does not give its scores ({first_line(error)})"
        raise InputError(f"{name}: {fault}") from None
    if missing:
        raise InputError(
            f"{name}: its run keeps no {' and no '.join(sorted(missing))}; evaluate its model again"
        )
    return str(run.info.run_name)


def store_fault(uri: str | None = None) -> tuple[str, str | None]:
    """Return the store's address as it may be shown, and why it does not answer, if it does not."""
    store = _project_store(uri)
    if store.startswith("sqlite:///"):  # asking MLflow would make the file, which takes seconds
        path = Path(store.removeprefix("sqlite:///"))
        there = path if path.exists() else path.parent
        return shown(store), None if os.access(there, os.W_OK) else f"{there} cannot be written"
    try:
        ask(store)
    except Exception as error:  # as above
        return shown(store), first_line(error)
    return shown(store), None


def _project_store(uri: str | None) -> str:
    if uri is None and not os.environ.get("MLFLOW_TRACKING_URI") and PARAMS_FILE.exists():
        try:
            uri = load_params().tracking.uri
        except InputError as error:
            raise InputError(f"{error}; its tracking.uri names the store, or MLFLOW_TRACKING_URI") from None
    return store_uri(uri)


def _run_of(client: mlflow.MlflowClient, address: str) -> str:
    target = address.removeprefix(SCHEME)
    model, at, alias = target.partition("@")
    if at:
        return str(client.get_model_version_by_alias(model, alias).run_id)
    model, slash, version = target.rpartition("/")
    if not slash:
        return str(client.get_logged_model(version).source_run_id)
    if version == "latest":
        versions = client.search_model_versions(f"name = '{model}'")
        return str(max(versions, key=lambda found: int(found.version)).run_id)
    return str(client.get_model_version(model, version).run_id)


def view_addresses(port: int) -> list[str]:
    """Return where a UI at `port` shows the runs of each experiment by figures and what differs."""
    experiments = mlflow.MlflowClient(_project_store(None)).search_experiments()
    return [
        f"{each.name}: http://127.0.0.1:{port}/#/experiments/{each.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={VIEW}"
        for each in experiments
        if f"mlflow.sharedViewState.{VIEW}" in each.tags
    ]


def crown(client: mlflow.MlflowClient, run_id: str, name: str, criterion: str) -> None:
    """Make a run's model the champion of its name, if it is the first, the best, or validated otherwise.

    A model that was picked on the test set or imported never is, nor one without the figure. Two that are
    crowned at once are settled by looking again.
    """
    mine = client.get_run(run_id)
    version = mine.data.tags.get(MODEL_VERSION, "").rpartition("/")[2]
    figure = mine.data.metrics.get(criterion)
    if not version or figure is None or mine.data.tags.get("test-selected") == "true":
        return
    for _ in range(_CROWN_TRIES):
        holder = _champion(client, name)
        if holder is not None:
            there = holder.data.metrics.get(criterion, -1.0)
            same = holder.data.tags.get(VALIDATION) == mine.data.tags.get(VALIDATION)
            if holder.info.run_id == run_id:
                return
            if same and there >= figure:
                say(f"champion of {name} stays run {holder.info.run_name} ({criterion} {there:.4f})")
                return
            if not same:
                say(f"the champion of {name} before had other validation videos: it was not compared")
        client.set_registered_model_alias(name, CHAMPION, version)
        say(f"version {version} is the champion of {name} ({criterion} {figure:.4f})")


def _champion(client: mlflow.MlflowClient, name: str) -> Run | None:
    try:
        found = client.get_model_version_by_alias(name, CHAMPION)
        return client.get_run(found.run_id) if found.run_id else None
    except mlflow.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


if __name__ == "__main__":
    for line in view_addresses(int(sys.argv[1])):
        print(line, flush=True)
