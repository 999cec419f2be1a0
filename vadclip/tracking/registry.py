"""MLflow's store for those who use a model: a model, a run's scores, and whether the store answers."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.models import Model

from vadclip.errors import InputError
from vadclip.tracking.mirroring import first_line, within
from vadclip.tracking.runs import PROBE_SECONDS, VIEW, shown_store, store_uri

SCHEME = "models:/"


def fetch_model(address: str, folder: Path, uri: str | None = None) -> Path:
    """Copy a registered or logged model into `folder` and return its model folder.

    `address` is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/MODEL_ID`; `uri` the store, by
    default the project's. Raises InputError if the store has no such model, or it is none of ours.
    """
    store = store_uri(uri)
    mlflow.set_tracking_uri(store)
    try:
        logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
        data = Model.load(str(logged)).flavors.get("python_function", {}).get("data", "")
    except Exception as error:  # each store behind MLflow has errors of its own
        shown = f"{shown_store(store)} does not give that model ({first_line(error)})"
        raise InputError(f"{address}: {shown}") from None
    found: Path | None = next((path.parent for path in (logged / data).rglob("model.json")), None)
    if found is None:
        raise InputError(f"{address}: that model was not logged by this program")
    return found


def fetch_scores(name: str, folder: Path, files: Sequence[str], uri: str | None = None) -> str:
    """Copy a run's `files` into `folder` and return its name there.

    `name` is its id, or `models:/...` of the model that it logged.

    Raises InputError if the store does not know it, does not answer, or the run lacks a file.
    """
    store = store_uri(uri)
    client = mlflow.MlflowClient(store)
    try:
        run_id = _run_of(client, name) if name.startswith(SCHEME) else name
        run = client.get_run(run_id)
        missing = set(files) - {artifact.path for artifact in client.list_artifacts(run_id)}
        if not missing:
            for file in files:
                client.download_artifacts(run_id, file, str(folder))
    except Exception as error:  # as above
        shown = f"{shown_store(store)} does not give its scores ({first_line(error)})"
        raise InputError(f"{name}: {shown}") from None
    if missing:
        raise InputError(
            f"{name}: its run keeps no {' and no '.join(sorted(missing))}; evaluate its model again"
        )
    return str(run.info.run_name)


def store_fault(uri: str | None = None) -> tuple[str, str | None]:
    """Return the store's address as it may be shown, and why it does not answer, if it does not."""
    store = store_uri(uri)
    if store.startswith("sqlite:///"):  # asking MLflow would make the file, which takes seconds
        path = Path(store.removeprefix("sqlite:///"))
        there = path if path.exists() else path.parent
        return shown_store(store), None if os.access(there, os.W_OK) else f"{there} cannot be written"
    try:
        within(PROBE_SECONDS, lambda: mlflow.MlflowClient(store).search_experiments(max_results=1))
    except Exception as error:  # as above
        return shown_store(store), first_line(error)
    return shown_store(store), None


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


def view_addresses(port: int, uri: str | None = None) -> list[str]:
    """Return where a UI at `port` shows the runs of each experiment by figures and what differs."""
    experiments = mlflow.MlflowClient(store_uri(uri)).search_experiments()
    return [
        f"{each.name}: http://127.0.0.1:{port}/#/experiments/{each.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={VIEW}"
        for each in experiments
        if f"mlflow.sharedViewState.{VIEW}" in each.tags
    ]


if __name__ == "__main__":
    for line in view_addresses(int(sys.argv[1])):
        print(line, flush=True)
