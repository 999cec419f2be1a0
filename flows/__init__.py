"""The DVC stages, one module each: python3 -m flows.ingest, .extract, .train, .score, .evaluate.

They belong to this repository and not to the library that `pip install` takes from it.
"""

import sys

from flows._environment import use_project_environment

# Python says "-m" while it looks for the module that it was asked to run: a stage starts, nobody imports.
if sys.argv[0] == "-m":
    use_project_environment()

from flows._stage import run_stage

__all__ = ["run_stage"]
