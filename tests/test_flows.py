"""What all stages share: the right Python, one at a time, exit statuses for DVC; and what the wheel holds."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
from conftest import PROJECT, wait_for


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def repository(tmp_path):
    for package in ("flows", "vadclip"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wrong_python_runs_the_stage_with_the_projects_own(other_python, repository):
    missing = run([other_python, "-m", "flows.ingest"], repository)
    assert missing.returncode == 1
    assert missing.stderr == (
        f"error: {other_python} lacks the project's packages and there is no .venv: run `make .venv`\n"
    )
    (repository / ".venv").symlink_to(sys.prefix)
    found = run([other_python, "-m", "flows.ingest"], repository)
    assert found.stderr == "error: params.yaml: no such file; run in the project's folder\n"


def test_importing_flows_has_no_effect(other_python, repository):
    (repository / ".venv").symlink_to(sys.prefix)
    code = "import sys, flows; print(sys.prefix, 'pydantic' in sys.modules)"
    assert run([other_python, "-c", code], repository).stdout.split() == [
        str(other_python.parent.parent), "False",
    ]  # fmt: skip


def test_a_stage_that_outlived_its_dvc_is_named_with_the_way_to_stop_it(tmp_path):
    stage = tmp_path / "extract.py"
    stage.write_text(
        "import pathlib, time\nfrom flows import run_stage\n"
        "def main():\n    pathlib.Path('at work').touch()\n    time.sleep(60)\nrun_stage(main)\n"
    )
    code = "from flows import run_stage; run_stage(lambda: print('done'))"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    living = subprocess.Popen([sys.executable, stage], cwd=tmp_path, env=environment)
    try:
        wait_for((tmp_path / "at work").exists, living)
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        refused = subprocess.run([sys.executable, "-c", code], **options, check=False)
        assert refused.returncode == 1
        assert refused.stderr == (
            f"error: stage extract is at work here as process {living.pid}: wait for it, or stop it with "
            f"`kill {living.pid}` (nothing done is lost); then run the same command again\n"
        )
        living.terminate()  # what `kill` does
        assert living.wait(10) == 130
        assert subprocess.run([sys.executable, "-c", code], **options, check=True).stdout == "done\n"
    finally:
        living.kill()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_130_and_never_success(tmp_path, sent):
    code = f"import os, flows\nflows.run_stage(lambda: os.kill(os.getpid(), {int(sent)}))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 130
    assert ended.stderr == "interrupted: nothing done is lost; run the same command again to go on\n"


def test_the_wheel_holds_vadclip_alone_and_what_belongs_to_it(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("vadclip", "flows", "benchmarks"):
        shutil.copytree(PROJECT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    built = run([sys.executable, "-c", build], source)
    with zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vadclip"}
    belongs = {
        path.relative_to(source).as_posix() for path in (source / "vadclip").rglob("*") if path.is_file()
    }
    assert belongs == {name for name in names if ".dist-info/" not in name}
    # The installed library works in a folder of its own, where there is no repository.
    code = "import vadclip.cli, sys; sys.argv = ['vadclip', 'recipe', 'ucf_crime']; vadclip.cli.main()"
    installed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    assert (tmp_path / "params.yaml").is_file()
