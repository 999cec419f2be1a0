"""Where and how fast the work of tests runs."""

from pathlib import Path

from vadclip.config import ExecutionParams, load_params


def execution_params(**changes: object) -> ExecutionParams:
    """The execution section as it is shipped, with changes; none are checked against each other."""
    return load_params(Path(__file__).parents[1] / "params.yaml").execution.model_copy(update=changes)
