"""The folder of a detection run, `--out`: one model's, so that nothing of two is ever mixed.

features/ and scores.parquet as the pipeline has them, events.csv, events.json, index.html with thumbnails/,
rendered/ with --render, detector.json which says whose it is, .cache/ which may be deleted
between runs.
"""

import json
from pathlib import Path

from vadclip.errors import InputError
from vadclip.files import sha256_file, write_text_atomic
from vadclip.model.folder import INFO_FILE

OWNER_FILE = "detector.json"


def claim(folder: Path, model_folder: Path) -> None:
    """Make `folder` the one of this model's detections; InputError if it is another's, or something else."""
    # model.json names the hash of the weights beside it.
    owner = {"model_sha256": sha256_file(model_folder / INFO_FILE)}
    path = folder / OWNER_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another folder by --out") from None
    if known == owner:
        return
    if known is not None:
        raise InputError(
            f"{folder} holds detections of another model than {model_folder}: choose another one by --out, "
            "or move this one away"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is no folder of detections and not empty: choose another one by --out")
    try:
        write_text_atomic(path, json.dumps(owner, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None
