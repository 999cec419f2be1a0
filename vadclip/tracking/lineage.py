"""Which code and data a result came from: git's commit and the data version that DVC recorded."""

import subprocess
from pathlib import Path

import yaml


def lineage_tags(features: str = "features") -> dict[str, str]:
    """Return `git_commit`, `git_dirty` and `data_version` of the working folder, as far as there is any.

    Dirty means changed tracked files, dvc.lock left out: it always changes while a pipeline runs. The data
    version is the hash that dvc.lock holds of the feature store.
    """
    tags: dict[str, str] = {}
    if commit := _git("rev-parse", "HEAD"):
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
        tags |= {"git_commit": commit, "git_dirty": str(bool(changed)).lower()}
    if version := _locked_hash(Path("dvc.lock"), features):
        tags["data_version"] = version
    return tags


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, no repository, no commit: there is nothing to say then
    return run.stdout.strip()


def _locked_hash(lock: Path, out: str) -> str | None:
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    for stage in stages.values():
        for entry in stage.get("outs", []):
            if entry.get("path") == out:
                return str(entry["md5"]) if "md5" in entry else None
    return None
