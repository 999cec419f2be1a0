"""Params as they are shipped, with what a test wants changed."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from conftest import PROJECT

from vadclip.config import DatasetParams, ExecutionParams, load_params

SHIPPED = PROJECT / "params.yaml"


def execution_params(**changes: object) -> ExecutionParams:
    """The execution section with changes; none are checked against each other."""
    return load_params(SHIPPED).execution.model_copy(update=changes)


def dataset_params(name: str, **changes: object) -> DatasetParams:
    """The dataset section of `name`; nothing but `changes` is given."""
    return load_params(SHIPPED).dataset.model_copy(update={"name": name, **changes})


def write_params(folder: Path, source: Path = SHIPPED, **sections: Mapping[str, object]) -> Path:
    """Write `source` into `folder` as params.yaml, with these changes to its sections; return its path."""
    content = yaml.safe_load(source.read_text())
    for section, changes in sections.items():
        content[section].update(changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "params.yaml"
