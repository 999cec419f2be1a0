"""Make the environment in FOLDER or bring it up to date: python3 .ci/environment.py FOLDER, as make calls it.

Nothing that is there is taken away. An environment is touched only when pyproject.toml or constraints.txt
hold something else than what it was made of, and then by pip, in place. A folder that is a link belongs to
somebody else and is used as it is. Any Python 3 reads this file, so that a wrong one can be told.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ("pyproject.toml", "constraints.txt")
WAYS_OUT = "move it away, or name another environment: make VENV=FOLDER"


def ensure(folder: Path) -> None:
    """Return once FOLDER is an environment to work with, or exit with one line."""
    contents = b"".join((PROJECT / name).read_bytes() for name in REQUIREMENTS)
    wanted = hashlib.sha256(contents).hexdigest()
    python, stamp = folder / "bin" / "python", folder / ".made-of"
    if stamp.is_file() and stamp.read_text().strip() == wanted:
        return
    there = folder.is_symlink() or (folder.is_dir() and any(folder.iterdir()))
    if there:
        check_version(folder, python)
    if folder.is_symlink():
        print(f"note: {folder} is a link and was not made of {' and '.join(REQUIREMENTS)} as they are here")
        return
    if there:
        print(f"Bringing {folder} up to date ...", flush=True)
    else:
        if not (3, 11) <= sys.version_info[:2] < (3, 14):
            sys.exit(wrong_version(sys.version_info[:2]) + "; name another: make PYTHON=python3.11")
        print(f"Making the environment in {folder} (3.3 GB to download, 7.1 GB on disk) ...", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", str(folder)]) != 0:
            sys.exit(f"error: {sys.executable} could not make an environment in {folder}")
    # Without its stamp, an environment that a kill left half changed is looked at again.
    before = folder / ".made-of.before"
    if stamp.exists():
        stamp.replace(before)
    install = ["install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt", "-e", ".[dev]"]
    if subprocess.call([str(python), "-m", "pip", *install], cwd=PROJECT) != 0:
        if before.exists():
            before.replace(stamp)
        sys.exit(f"error: pip failed, as it says above; {folder} is as it was")
    stamp.write_text(wanted + "\n")


def check_version(folder: Path, python: Path) -> None:
    """Exit with one line unless a Python that will do runs in the folder."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        said = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"error: {folder} is there and no Python runs in it: {WAYS_OUT}")
    version = tuple(map(int, said.split()))
    if not (3, 11) <= version < (3, 14):
        sys.exit(f"{wrong_version(version)} in {folder}: {WAYS_OUT}")


def wrong_version(version: "tuple[int, ...]") -> str:
    """Say which Python there is and which there must be."""
    return "error: Python 3.11 to 3.13 is needed and this is {}.{}".format(*version)


if __name__ == "__main__":
    (PROJECT / ".cache").mkdir(exist_ok=True)
    with (PROJECT / ".cache" / "environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two makes at once the second waits
        ensure(Path(sys.argv[1]))
