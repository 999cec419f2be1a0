"""A folder of videos whose subfolders are the classes: `Normal/gate.mp4`, `Fighting/yard/1.mp4`."""

from collections.abc import Iterator
from pathlib import Path

from vadclip.errors import InputError

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv",
    ".asf", ".ogv", ".3gp", ".mxf", ".dav", ".ifv", ".nuv", ".mxg", ".mjpg", ".mjpeg",
)  # fmt: skip
"""Of files that count as videos inside a folder."""


def videos_in(folder: Path) -> Iterator[Path]:
    """Yield the videos in a folder and below it, sorted; hidden files are none."""
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".") and file.is_file():
            yield file


def read_classes(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return path -> label of the videos in subfolders, and the paths of those that lie in none.

    Paths are relative to `root`; the label is the first folder's name. Raises InputError where nothing has a
    label.
    """
    labelled, unlabelled = {}, []
    for file in videos_in(root):
        path = file.relative_to(root)
        if len(path.parts) > 1:
            labelled[path.as_posix()] = path.parts[0]
        else:
            unlabelled.append(path.as_posix())
    if not labelled:
        found = f"{len(unlabelled)} videos without a class folder" if unlabelled else "no video"
        raise InputError(
            f"{root} holds {found}: make a subfolder for each class and put its videos there, such as "
            f"{root}/normal and {root}/fighting"
        )
    return labelled, unlabelled
