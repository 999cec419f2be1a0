"""Run a stage in the project's own environment, even when DVC was started without activating it.

`.venv/bin/dvc repro` starts stages with whatever `python3` the shell finds first, of any version. If that one
lacks the packages, the stage starts again with the nearest `.venv` above this file (an experiment's working
copy lies below the project).
"""

import importlib.util
import os
import sys
from pathlib import Path


def use_project_environment() -> None:
    """Return when the packages are here; otherwise replace the process, or exit with one clear line."""
    if all(importlib.util.find_spec(name) for name in ("pydantic", "pyarrow", "torch", "ray", "open_clip")):
        return
    for folder in Path(__file__).resolve().parents:
        python = folder / ".venv" / "bin" / "python"
        if python.exists() and Path(sys.prefix) != python.parent.parent:
            os.execv(str(python), [str(python), *_command()[1:]])
    sys.exit(f"error: {sys.executable} lacks the project's packages and there is no .venv: run `make .venv`")


def _command() -> list[str]:
    if sys.version_info[:2] < (3, 10):  # noqa: UP036 - it is the wrong Python that runs this
        return Path("/proc/self/cmdline").read_text().split("\0")[:-1]
    return sys.orig_argv
