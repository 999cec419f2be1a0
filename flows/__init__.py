"""The DVC stages, one module each: python3 -m flows.ingest, .extract, .train, .score, .evaluate."""

from flows._environment import use_project_environment

use_project_environment()

from flows._stage import run_stage  # noqa: E402 - only once the right interpreter runs

__all__ = ["run_stage"]
