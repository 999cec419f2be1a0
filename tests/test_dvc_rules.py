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
    *("vadclip", "vadclip.errors", "vadclip.files", "vadclip.progress", "vadclip.config", "vadclip.checkout"),
    *("flows", "flows._environment", "flows._stage"),
}
LOGGING = "vadclip.tracking"


def _module_file(module):
    base = PROJECT / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path):
    """Modules of this project that a file imports, anywhere in it, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in {"vadclip", "flows"} and _module_file(name)}


def _reached(module):
    """Every module that `module` imports, directly or not, through modules that can change a result."""
    reached = set()
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


def foreign_imports(module):
    """Top-level names of other packages that a module and what it reaches import, neutral ones included."""
    found = set()
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _module_file(name)
        waiting.extend(_imports(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - {"vadclip", "flows"} - set(sys.stdlib_module_names)


def _place(module):
    """What stands for a module in dvc.yaml: its folder, or the file where it has none of its own."""
    package, name, *_ = module.split(".")
    folder = PROJECT / package / name
    return f"{package}/{name}" if folder.is_dir() else f"{package}/{name}.py"


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "ingest"])
def test_deps_are_the_folders_that_can_change_the_result(stage):
    needed = {_place(module) for module in _reached(f"flows.{stage}")}
    assert {dep for dep in STAGES[stage]["deps"] if dep.startswith(("vadclip/", "flows/"))} == needed


def test_ingest_always_runs_so_it_needs_no_code_deps():
    assert STAGES["ingest"]["always_changed"] is True
    assert "deps" not in STAGES["ingest"]


def test_every_stage_is_a_module_of_its_name():
    assert list(STAGES) == ["ingest", "extract", "train", "score", "evaluate"]
    assert {name: stage["cmd"] for name, stage in STAGES.items()} == {
        name: f"python3 -m flows.{name}" for name in STAGES
    }


def _outs(stage):
    listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return {path: options for out in listed
            for path, options in (out.items() if isinstance(out, dict) else [(out, {})])}  # fmt: skip


def test_git_ignores_what_dvc_caches_and_keeps_what_it_does_not():
    for stage in STAGES.values():
        for path, options in _outs(stage).items():
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT).returncode == 0
            assert ignored == options.get("cache", True), path


def _other(value):
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
    "score.precision": {"train", "score"},
    "evaluate": {"evaluate"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The real dvc.yaml after a repro whose commands only touch their outs; DVC's view of the folder."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("finished")
    stages = copy.deepcopy(STAGES)
    for stage in stages.values():
        inside = {Path(dep) for other in STAGES.values() for dep in other.get("deps", [])}
        files = [
            file for out in _outs(stage)
            for file in ([Path(out)] if Path(out).suffix else
                         [Path(out, "file"), *(path for path in inside if path.parent == Path(out))])
        ]  # fmt: skip
        stage["cmd"] = "; ".join(f"mkdir -p {file.parent}; echo x > {file}" for file in files)
        stage.pop("always_changed", None)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    for name in ("vadclip", "flows"):
        shutil.copytree(PROJECT / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(DEFAULTS))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        if command[0] == "repro":
            shutil.copy(PROJECT / ".dvcignore", folder)
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True, env=environment)
    repo = Repo(str(folder))
    assert repo.status() == {}
    return folder, repo


def _stale(repo):
    repo._reset()
    return {name.rpartition(":")[2] for name in repo.status()}


def test_every_leaf_of_params_invalidates_exactly_the_stages_that_read_it(finished):
    folder, repo = finished
    params = folder / "params.yaml"
    committed = params.read_text()
    for leaf in flatten(DEFAULTS):
        content = copy.deepcopy(DEFAULTS)
        holder = content
        *path, key = leaf.split(".")
        for name in path:
            holder = holder[name]
        holder[key] = _other(holder[key])
        params.write_text(yaml.safe_dump(content))
        assert _stale(repo) == READ_BY.get(leaf, READ_BY.get(leaf.split(".")[0], set())), leaf
    params.write_text(committed)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("vadclip/evaluate/metrics.py", {"evaluate"}),
        ("vadclip/tracking/runs.py", set()),
        ("vadclip/recipes/ucf_crime.yaml", set()),
        ("vadclip/cli.py", set()),
        ("vadclip/clip/__pycache__/crops.cpython-311.pyc", set()),
        ("vadclip/clip/crops.py", {"extract", "train", "score"}),
        ("model/run.json", {"train", "evaluate"}),
    ],
)
def test_an_edit_makes_those_stages_stale_that_it_can_change(finished, file, stale):
    folder, repo = finished
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + b"# another line\n")
    try:
        assert _stale(repo) == stale
    finally:
        path.unlink() if before is None else path.write_bytes(before)
