"""The manifest and the scores that a run keeps in MLflow, fetched by the run's id or its model's address."""

import os
from collections.abc import Sequence
from pathlib import Path

import mlflow

from vadclip.config import PARAMS_FILE, load_params
from vadclip.errors import InputError
from vadclip.tracking.lineage import project_root


def fetch_scores(name: str, folder: Path, files: Sequence[str]) -> str:
    """Copy a run's `files` into `folder` and return its name there.

    `name` is its id, or `models:/...` of the model that it logged.

    Raises InputError if the store does not know it, does not answer, or the run lacks a file.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and PARAMS_FILE.exists():
        uri = load_params().tracking.uri
    client = mlflow.MlflowClient(uri or f"sqlite:///{project_root() / 'mlflow.db'}")
    try:
        run_id = _run_of(client, name) if name.startswith("models:/") else name
        run = client.get_run(run_id)
        missing = set(files) - {artifact.path for artifact in client.list_artifacts(run_id)}
        if not missing:
            for file in files:
                client.download_artifacts(run_id, file, str(folder))
    except Exception as error:  # each store behind MLflow has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: MLflow's store does not give its scores ({reason})") from None
    if missing:
        raise InputError(
            f"{name}: its run keeps no {' and no '.join(sorted(missing))}; evaluate its model again"
        )
    return str(run.info.run_name)


def _run_of(client: mlflow.MlflowClient, address: str) -> str:
    target = address.removeprefix("models:/")
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
