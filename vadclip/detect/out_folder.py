"""The folder of a detection run, `--out`: one model's, so that nothing of two is ever mixed.

features/ and scores.parquet as the pipeline has them, events.csv, events.json, index.html with thumbnails/,
rendered/ with --render, detector.json which says whose it is, .cache/ which may be deleted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from vadclip.errors import InputError
from vadclip.files import sha256_file, write_text_atomic
from vadclip.model.folder import INFO_FILE

OWNER_FILE = "detector.json"


@dataclass(frozen=True)
class OutFolder:
    """Paths of one folder."""

    root: Path

    @property
    def features(self) -> Path:
        """The feature store."""
        return self.root / "features"

    @property
    def cache(self) -> Path:
        """What may be deleted."""
        return self.root / ".cache"

    @property
    def thumbnails(self) -> Path:
        """A folder per video's content."""
        return self.root / "thumbnails"

    @property
    def rendered(self) -> Path:
        """Videos of --render."""
        return self.root / "rendered"


def claim(root: Path, model_folder: Path) -> OutFolder:
    """Make `root` the folder of this model's detections.

    Raises InputError if it is another model's, or holds something else.
    """
    # model.json names the hash of the weights beside it.
    owner = {"model_sha256": sha256_file(model_folder / INFO_FILE)}
    path = root / OWNER_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another folder by --out") from None
    if known is not None and known != owner:
        raise InputError(
            f"{root} holds detections of another model than {model_folder}: choose another folder by --out, "
            "or move this one away"
        )
    if known is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is no folder of detections and not empty: choose another one by --out")
    if known is None:
        try:
            write_text_atomic(path, json.dumps(owner, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{root} cannot be written: {error.strerror or error}") from None
    return OutFolder(root)
