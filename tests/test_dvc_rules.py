"""dvc.yaml keeps its promises: the right modules as deps, the right params, outs that git ignores."""

import ast
import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from vadclip.config import flatten

STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
DEFAULTS = yaml.safe_load((PROJECT / "params.yaml").read_text())

# Modules that change no result: how it ends, what it prints, where it is logged. Params cover config.
NEUTRAL = {
    *("vadclip", "vadclip.errors", "vadclip.files", "vadclip.progress", "vadclip.config"),
    *("flows", "flows._environment", "flows._stage"),
}
LOGGING = "vadclip.tracking"


def _module_file(module: str) -> Path | None:
    base = PROJECT / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in {"vadclip", "flows"} and _module_file(name)}


def _reached(module: str) -> set[str]:
    """Every module that `module` imports, directly or not, through modules that can change a result."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached or name in NEUTRAL or name.startswith(LOGGING):
            continue
        reached.add(name)
        path = _module_file(name)
        assert path is not None
        waiting.extend(_imports(path))
        if "." in name:  # importing a.b runs a/__init__.py
            waiting.append(name.rpartition(".")[0])
    return reached


def _code_deps(stage: str) -> set[str]:
    deps = {dep for dep in STAGES[stage].get("deps", []) if dep.endswith(".py") or (PROJECT / dep).is_dir()}
    code = {dep for dep in deps if dep.startswith(("vadclip", "flows"))}
    files = {str(file.relative_to(PROJECT)) for dep in code if (PROJECT / dep).is_dir()
             for file in (PROJECT / dep).glob("*.py")}  # fmt: skip
    return files | {dep for dep in code if dep.endswith(".py")}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "ingest"])
def test_deps_are_the_modules_that_can_change_the_result(stage):
    needed = {str(_module_file(module).relative_to(PROJECT)) for module in _reached(f"flows.{stage}")}
    assert _code_deps(stage) == needed


def test_ingest_always_runs_so_it_needs_no_code_deps():
    assert STAGES["ingest"]["always_changed"] is True
    assert "deps" not in STAGES["ingest"]


def test_an_edit_of_metrics_does_not_retrain():
    assert "vadclip.evaluate.metrics" in _reached("flows.evaluate")
    assert "vadclip.evaluate.metrics" not in _reached("flows.train") | _reached("flows.score")


def test_every_stage_is_a_module_of_its_name():
    assert list(STAGES) == ["ingest", "extract", "train", "score", "evaluate"]
    assert {name: stage["cmd"] for name, stage in STAGES.items()} == {
        name: f"python3 -m flows.{name}" for name in STAGES
    }


def _outs(stage: dict) -> dict[str, dict]:
    listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return {path: options for out in listed
            for path, options in (out.items() if isinstance(out, dict) else [(out, {})])}  # fmt: skip


def test_git_ignores_what_dvc_caches_and_keeps_what_it_does_not():
    for stage in STAGES.values():
        for path, options in _outs(stage).items():
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT).returncode == 0
            assert ignored == options.get("cache", True), path


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [*value, 99] if isinstance(value, list) else f"{value}-other"


# Which stages read a section, or one key of it; everything that is not listed invalidates nothing.
LOCATES_FILES = {"ingest", "extract", "evaluate"}  # evaluate draws thumbnails
READ_BY = {
    "dataset": {"ingest"},
    "dataset.name": LOCATES_FILES,
    "dataset.root": LOCATES_FILES,
    "dataset.table": LOCATES_FILES,
    "clip": {"ingest", "extract", "train", "score"},
    "ingest": {"ingest"},
    "extract": {"extract"},
    "extract.train_crops": {"extract", "train"},
    "extract.test_crop": {"extract", "train", "score"},
    "model": {"train"},
    "train": {"train"},
    "train.checkpoint": {"ingest", "train"},  # ingest records the file's hash
    "score": {"score"},
    "evaluate": {"evaluate"},
}


def test_every_leaf_of_params_invalidates_exactly_the_stages_that_read_it(tmp_path):
    """The real dvc.yaml with commands that only touch their outs; then each leaf is changed in turn."""
    from dvc.repo import Repo

    stages = copy.deepcopy(STAGES)
    for stage in stages.values():
        # run.json: evaluate depends on this file inside train's folder.
        stage["cmd"] = "; ".join(
            f"echo x > {out}" if Path(out).suffix else f"mkdir -p {out}; echo x > {out}/run.json"
            for out in _outs(stage)
        )
        stage.pop("always_changed", None)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    shutil.copytree(PROJECT / "vadclip", tmp_path / "vadclip")
    shutil.copytree(PROJECT / "flows", tmp_path / "flows")
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(DEFAULTS))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True, env=environment)

    repo = Repo(str(tmp_path))
    assert repo.status() == {}
    for leaf in flatten(DEFAULTS):
        content = copy.deepcopy(DEFAULTS)
        holder = content
        *path, key = leaf.split(".")
        for name in path:
            holder = holder[name]
        holder[key] = _other(holder[key])
        params.write_text(yaml.safe_dump(content))
        repo._reset()
        expected = READ_BY.get(leaf, READ_BY.get(leaf.split(".")[0], set()))
        assert {name.rpartition(":")[2] for name in repo.status()} == expected, leaf
