"""The DVC stages, one module each: python3 -m flows.ingest, .extract, .train, .score, .evaluate.

They belong to this repository and not to the library that `pip install` takes from it.
"""

import sys

from flows._environment import use_project_environment

# While `python -m` looks up its module, sys.argv[0] is "-m": a stage starts, and this is no plain import.
if sys.argv[0] == "-m":
    use_project_environment()

from flows._stage import run_stage

__all__ = ["run_stage"]
