"""What the names on the command line stand for: manifest and scores of a folder, an MLflow run or a revision.

A name is tried as a folder, then as `models:/...`, as an MLflow run id, and as a git revision or DVC
experiment, whose files come from the DVC cache. Names joined by commas are runs of one side, such as seeds.
`zero-shot:NAME` is the frozen CLIP that NAME was trained on.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vadclip.compare.comparison import Side, check_same_videos
from vadclip.errors import InputError
from vadclip.evaluate.metrics import collect
from vadclip.manifest import read_manifest
from vadclip.score.scores import read_scores

FILES = ("manifest.parquet", "scores.parquet")
ZERO_SHOT = "zero-shot:"


def read_sides(names: Sequence[str], scratch: Path) -> list[Side]:
    """Return the sides that `names` stand for; what must be fetched goes into the folder `scratch`.

    A side is called as its run is in MLflow, where it comes from there and no other is called so. Raises
    InputError if there is no such thing, it lacks a file, or the runs of a group differ in their test videos.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("it takes two sides or more, each once: vadclip compare A B")
    sides = [_read_side(name, scratch / str(at)) for at, name in enumerate(names)]
    if len({side.name for side in sides}) < len(sides):
        sides = [replace(side, name=name) for side, name in zip(sides, names, strict=True)]
    return sides


def _read_side(name: str, scratch: Path) -> Side:
    frozen = name.startswith(ZERO_SHOT)
    rest = name.removeprefix(ZERO_SHOT)
    parts = [rest] if rest and Path(rest).is_dir() else [part for part in rest.split(",") if part]
    if not parts:
        raise InputError(f"{name!r} names nothing to compare")
    runs = [_read_run(part, scratch / str(at), frozen) for at, part in enumerate(parts)]
    first = runs[0]
    for run in runs[1:]:
        check_same_videos(first, run)
    called = first.name if len(runs) == 1 else f"{first.name} and {len(runs) - 1} more"
    if frozen:  # of one CLIP all runs say the same
        return replace(first, name=ZERO_SHOT + called)
    return Side(called, first.manifest, tuple(test_set for run in runs for test_set in run.runs))


def _read_run(name: str, scratch: Path, frozen: bool) -> Side:
    folder, called = _fetched(name, scratch)
    for file in FILES:
        if not (folder / file).is_file():
            raise InputError(f"{name} has no {file}; the stages ingest and score write it")
    try:
        manifest, scores = read_manifest(folder / FILES[0]), read_scores(folder / FILES[1])
    except InputError as error:  # of a fetched one the folder says nothing
        raise InputError(f"{name}: {str(error).replace(f'{folder}/', '')}") from None
    if frozen:
        scores = replace(
            scores,
            anomaly_score_N=None,
            class_probabilities_NK=scores.zero_shot_NK,
            log_normaliser_N=np.zeros(len(scores.zero_shot_NK), dtype=np.float32),
        )
    test_set = collect(scores, manifest)
    if not test_set.videos:
        raise InputError(f"{name}: its manifest has no test videos to compare on; give some the split test")
    return Side(called, manifest, (test_set,), frozen)


def _fetched(name: str, scratch: Path) -> tuple[Path, str]:
    """Return the folder with a run's files, and what the run is called."""
    if Path(name).is_dir():
        return Path(name), name
    scratch.mkdir(parents=True)
    if name.startswith("models:/") or re.fullmatch("[0-9a-f]{32}", name):
        from vadclip.tracking.registry import fetch_scores

        called = fetch_scores(name, scratch, FILES)
        return scratch, called if re.fullmatch("[0-9a-f]{32}", name) else name
    _fetch_revision(name, scratch)
    return scratch, name


def _fetch_revision(name: str, scratch: Path) -> None:
    """Copy a revision's files from the DVC cache."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo.open(".", rev=name, uninitialized=True) as repo:
            for file in FILES:
                repo.dvcfs.get_file(file, str(scratch / file))
    except (SCMError, DvcException) as error:
        raise InputError(
            f"{name!r} is neither a folder, nor a models:/ address, a run id of MLflow, a git revision or "
            f"an experiment of DVC here ({' '.join(str(error).split())})"
        ) from None
    except FileNotFoundError:
        raise InputError(
            f"{name}: the DVC cache does not have its scores and manifest; get them with `dvc pull`, or "
            "let the revision's pipeline run"
        ) from None
