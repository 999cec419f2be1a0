"""make never takes an environment away, and renews one only for other requirements. Python is a stub here."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT

STUB = """#!/bin/sh
if [ "$1" = -c ]; then exec "{python}" "$@"; fi
echo "$@" >> "{log}"
exit $(cat "{folder}/exit")
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "with spaces"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/environment.py"):
        shutil.copy(PROJECT / name, folder / name)
    (folder / "exit").write_text("0")
    return folder


def stub(folder, name, code=None):
    program = folder / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    project = next(parent for parent in folder.parents if (parent / "Makefile").exists())
    text = code or STUB.format(python=sys.executable, log=project / "log", folder=project)
    program.write_text(text)
    program.chmod(0o755)


def make(folder, *words):
    # What an outer make says of itself and its variables is not for this one.
    outer = ("MAKE", "MFLAGS", "VENV", "PYTHON", "PORT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    environment["PYTHONPATH"] = str(folder / "modules")
    command = ["make", f"PYTHON={sys.executable}", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def pips(folder):
    log = folder / "log"
    return log.read_text().count("-m pip install") if log.exists() else 0


def test_other_requirements_renew_the_environment_in_place_and_nothing_else_does(folder):
    stub(folder / ".venv", "python")
    (folder / ".venv" / "mine").touch()
    assert make(folder, ".venv").returncode == 0
    assert pips(folder) == 1
    os.utime(folder / "constraints.txt")  # another time, the same content
    make(folder, ".venv")
    assert pips(folder) == 1
    before = (folder / "constraints.txt").read_text()
    (folder / "constraints.txt").write_text(before + "einops==0.8.0\n")
    (folder / "exit").write_text("1")
    failed = make(folder, ".venv")
    assert failed.returncode != 0
    assert "error: pip failed, as it says above; .venv is as it was" in failed.stderr
    (folder / "constraints.txt").write_text(before)
    assert make(folder, ".venv").returncode == 0  # what it was made of: the old one is good
    assert pips(folder) == 2
    (folder / "constraints.txt").write_text(before + "einops==0.8.0\n")
    (folder / "exit").write_text("0")
    assert make(folder, ".venv").returncode == 0
    assert pips(folder) == 3
    assert (folder / ".venv" / "mine").exists()


def test_a_linked_environment_is_used_as_it_is(folder):
    stub(folder / "theirs", "python")
    (folder / ".venv").symlink_to("theirs")
    used = make(folder, ".venv")
    assert used.returncode == 0
    assert used.stdout.startswith("note: .venv is a link and was not made of pyproject.toml and constraints")
    assert pips(folder) == 0
    shutil.rmtree(folder / "theirs")
    refused = make(folder, ".venv")
    assert refused.returncode != 0
    assert "error: .venv is there and no Python runs in it: move it away" in refused.stderr
    assert (folder / ".venv").is_symlink()


def test_a_folder_that_is_no_environment_and_a_wrong_python_are_left_alone(folder):
    (folder / ".venv").mkdir()
    (folder / ".venv" / "thesis.tex").touch()
    assert "error: .venv is there and no Python runs in it" in make(folder, ".venv").stderr
    assert [path.name for path in (folder / ".venv").iterdir()] == ["thesis.tex"]
    stub(folder / "old", "python", "#!/bin/sh\necho 3 9\n")
    wrong = make(folder, ".venv", "VENV=old").stderr
    assert "error: Python 3.11 to 3.13 is needed and this is 3.9 in old: move it away" in wrong


def test_an_environment_is_made_where_there_is_none_and_again_after_a_failure(folder):
    environment = folder / "another one"
    stub(folder / "made", "python")
    (folder / "modules").mkdir()
    (folder / "modules" / "venv.py").write_text(  # in place of Python's own, which takes seconds
        f"import shutil, sys\nshutil.copytree({str(folder / 'made')!r}, sys.argv[1])\n"
    )
    (folder / "exit").write_text("1")
    failed = make(folder, ".venv", f"VENV={environment}")
    assert failed.returncode != 0
    assert f"Making the environment in {environment} (" in failed.stdout
    assert "error: pip failed" in failed.stderr
    (folder / "exit").write_text("0")
    assert make(folder, ".venv", f"VENV={environment}").stdout == f"Bringing {environment} up to date ...\n"
    assert make(folder, ".venv", f"VENV={environment}").stdout == ""
    assert pips(folder) == 2
    assert not (folder / ".venv").exists()


def test_repro_ends_by_saying_where_to_look_and_ui_takes_a_folder_with_spaces(folder):
    stub(folder / "env", "python")
    for name in ("dvc", "mlflow"):
        stub(folder / "env", name, '#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    ran = make(folder, "repro", "VENV=env").stdout.splitlines()
    assert ran[-2:] == [
        "<repro>",
        f"Look at {folder}/report.html in a browser; make ui shows the runs side by side.",
    ]
    assert f"<sqlite:///{folder}/mlflow.db>" in make(folder, "ui", "VENV=env").stdout
