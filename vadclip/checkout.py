"""Where a run's files lie: in its own working copy, or in the checkout that all copies share.

`dvc exp run --queue` and `--temp` run the stages in a copy that holds what git and DVC track; DVC_ROOT then
names the checkout that the copy was made from, the main one. Elsewhere the working folder is the main one.
"""

import os
import subprocess
from pathlib import Path

CACHE = Path(".cache")


def main_checkout() -> Path:
    """Return the absolute folder of the main checkout."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()


def shared_cache() -> Path:
    """Return the cache folder of the main checkout: what costs time once and is the same for every copy."""
    return main_checkout() / CACHE if _in_a_copy() else CACHE


def given_path(name: str | Path) -> Path:
    """Return where a path of params.yaml lies: here if git tracks it, else in the main checkout.

    A folder counts as tracked when git tracks all that the main checkout has in it. Raises nothing: a path
    that is nowhere comes back as one of the main checkout.
    """
    path = Path(name).expanduser()
    if path.is_absolute() or not _in_a_copy():
        return path
    main = main_checkout()
    tracked = _git(Path.cwd(), "ls-files", "--", str(path))
    if tracked and not _git(main, "ls-files", "--others", "--directory", "--", str(path)):
        return path
    return main / path


def _in_a_copy() -> bool:
    return main_checkout().resolve() != Path.cwd().resolve()


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return run.stdout
