"""Files that params.yaml names beside the data, by content.

A DVC param is a name: when the file behind `clip.pretrained` changes, the param does not. inputs.json says
what the files hold, and the stages that read them depend on it.
"""

import json
from pathlib import Path

from vadclip.checkout import given_path, main_checkout
from vadclip.clip.identity import is_file_name
from vadclip.config import ClipParams, TrainParams
from vadclip.errors import InputError
from vadclip.files import atomic_path, sha256_file

_PACKAGE = Path(__file__).parents[1]


def named_files(clip: ClipParams, train: TrainParams) -> dict[str, str]:
    """Return the params that name a file, key -> path; open_clip's names and tags are none."""
    files = {}
    if clip.config_name.endswith(".json"):
        files["clip.model"] = clip.config_name
    if is_file_name(clip.weights_name):
        files["clip.pretrained"] = clip.weights_name
    if train.checkpoint is not None:
        files["train.checkpoint"] = train.checkpoint
    return files


def write_inputs(files: dict[str, str], path: Path) -> None:
    """Write inputs.json, `{"clip.model": {"path": ..., "sha256": ...}, ...}`, unless it says that already.

    Raises InputError for a file that is not there.
    """
    entries = {}
    for key, name in sorted(files.items()):
        try:
            entries[key] = {"path": _everywhere(name), "sha256": sha256_file(given_path(name))}
        except FileNotFoundError:
            raise InputError(f"{key} is {name!r}: no such file") from None
        except OSError as error:
            raise InputError(f"{key} is {name!r}, which cannot be read: {error.strerror}") from None
    with atomic_path(path, keep_equal=True) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n")


def _everywhere(name: str) -> str:
    """A path as written; of a file of this package or project, the same wherever these lie."""
    for home in (_PACKAGE.parent, main_checkout()):
        if Path(name).is_relative_to(home):
            return Path(name).relative_to(home).as_posix()
    return name
