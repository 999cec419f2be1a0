"""Label files as the VadCLIP authors ship them, and their names matched to the files under a root.

The lists hold absolute paths of another machine, so a file is found by its name; names of XD-Violence hold
`#`, `=`, `@` and dots, so nothing here takes the stem of a name without an extension.
"""

import csv
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vadclip.checkout import given_path
from vadclip.config import DatasetParams
from vadclip.errors import InputError
from vadclip.files import is_utf8, safe_name
from vadclip.labels import Classes
from vadclip.manifest import dataset_root
from vadclip.remote import is_remote, open_filesystem, plain_faults

VIDEO_ENDING = re.compile(r"\.mp4$")
_LAYOUT = (
    "; of one file a video, an .npz or an array [rows, 10, width], make one file a crop: "
    "np.save(f'{name}__{crop}.npy', array[:, crop])"
)
CROP_ENDING = re.compile(r"__[0-9]\.npy$")

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Listed:
    """A video of a list: its `path` there without ending, the `name` that path ends in, its split and
    label."""

    path: str
    name: str
    split: str
    label: str


def parse_file(params: DatasetParams, name: str, parse: Callable[[str], Parsed]) -> list[Parsed]:
    """Parse each non-empty line of a label file in `dataset.annotations`.

    Raises InputError if the file cannot be read, or naming every line that `parse` refuses with a ValueError.
    """
    assert params.annotations is not None  # DatasetParams makes sure
    path = given_path(params.annotations) / name
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; dataset.annotations must be the folder of the authors' label files"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    parsed, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            parsed.append(parse(line.strip()))
        except ValueError as error:
            problems.append(f"line {number} ({line.strip()[:80]}): {error}")
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}")
    return parsed


def read_crop_list(params: DatasetParams, name: str, split: str) -> list[Listed]:
    """Read a CSV of path,label that has one row per crop file, such as ucf_CLIP_rgb.csv: one `Listed` per
    video."""

    def parse(line: str) -> Listed | None:
        if line == "path,label":
            return None
        path, label = next(csv.reader([line]))
        if not CROP_ENDING.search(path):
            raise ValueError("expected a path that ends in __<crop>.npy")
        return listed(CROP_ENDING.sub("", path), split, label)

    crops = parse_file(params, name, parse)
    return list(dict.fromkeys(video for video in crops if video is not None))


def listed(path: str, split: str, label: str) -> Listed:
    """Make a `Listed` of a path without ending; ValueError if its name cannot be an id."""
    name = path.rsplit("/", 1)[-1]
    if not safe_name(name):
        raise ValueError("the name is empty, too long or has control characters")
    return Listed(path=path, name=name, split=split, label=label)


def unique(videos: Iterable[Listed]) -> dict[str, Listed]:
    """Return the videos by name; InputError names those that are listed twice, as train and test for
    instance."""
    named: dict[str, Listed] = {}
    problems = []
    for video in videos:
        first = named.setdefault(video.name, video)
        if first is not video:
            problems.append(
                f"{video.name} is listed twice: {first.split}, {first.path}, {first.label}; "
                f"{video.split}, {video.path}, {video.label}"
            )
    if problems:
        raise InputError("; ".join(problems))
    return named


def by_test_name(
    file_name: str, rows: Iterable[tuple[str, Parsed]], tests: Collection[str]
) -> tuple[dict[str, Parsed], tuple[str, ...]]:
    """Map test videos to their annotation; a key may end in `.mp4`. Return notes as well.

    Lines of other videos are counted in a note: people cut the lists to a few classes. Raises InputError
    naming each video that is annotated twice.
    """
    truth: dict[str, Parsed] = {}
    problems, others = [], []
    for key, annotation in rows:
        name = key.removesuffix(".mp4")
        if name not in tests:
            others.append(key)
        elif name in truth:
            problems.append(f"{key} is annotated twice")
        else:
            truth[name] = annotation
    if problems:
        raise InputError(f"{file_name}: {'; '.join(problems)}")
    if others:
        return truth, (
            f"{file_name}: {len(others)} lines of no test video, such as {others[0]}, are not used",
        )
    return truth, ()


def parse_span(start: str, end: str) -> tuple[int, int]:
    """Read the frames [start, end); ValueError if they are no numbers, negative, or not in this order."""
    span = int(start), int(end)
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"{start} {end} is no span: expected 0 <= start < end")
    return span


def own_classes(params: DatasetParams, standard: Classes) -> Classes:
    """Return the dataset's classes, with prompts and order of `dataset.classes` where that is given."""
    if params.classes is None:
        return standard
    if set(params.classes) != set(standard.labels) or next(iter(params.classes)) != standard.normal:
        raise InputError(
            f"dataset.classes has the labels {', '.join(params.classes)}; with {params.name} it must have "
            f"{standard.normal} first and then, in any order, {', '.join(standard.labels[1:])}"
        )
    return Classes(labels=tuple(params.classes), prompts=tuple(params.classes.values()))


def locate_listed(params: DatasetParams, wanted: Iterable[tuple[Listed, str]]) -> list[str]:
    """Find each listed video beneath `dataset.root` by name and return its path relative to the root.

    `wanted` pairs a video with the path (without ending) to report where no such file is. The result has the
    ending `.mp4` for videos, and none for features, whose crop files add `__<crop>.npy`. Of several files of
    one name the one whose folders agree best with the list is taken. Raises InputError on a tie, and if no
    file at all is found: then the root is wrong, not the files.
    """
    root = dataset_root(params)
    ending, extension = (VIDEO_ENDING, ".mp4") if params.source == "videos" else (CROP_ENDING, "")
    stems_by_name: dict[str, set[str]] = {}
    for path in _list_files(root):
        if ending.search(path):
            stem = ending.sub("", path)
            stems_by_name.setdefault(stem.rsplit("/", 1)[-1], set()).add(stem)
    uris, problems, missing = [], [], 0
    for video, default in wanted:
        best = _best_matches(video.path, stems_by_name.get(video.name, set()))
        missing += not best
        if len(best) > 1:
            problems.append(f"{best[0]} and {best[1]} both fit {video.path}")
        elif not all(map(is_utf8, best)):
            problems.append(f"{best[0]} has a name that is not UTF-8")
        uris.append((best[0] if best else default) + extension)
    if problems:
        raise InputError(
            f"dataset.root {root}: {'; '.join(problems)}; remove or rename one of each, or narrow the root"
        )
    if missing == len(uris):
        what, advice = (
            ("videos (<name>.mp4)", "") if extension else ("features (<name>__<crop>.npy)", _LAYOUT)
        )
        raise InputError(f"dataset.root {root}: none of the {missing:,} listed {what} is beneath it{advice}")
    return uris


def _best_matches(path: str, stems: set[str]) -> list[str]:
    def equal_tail(stem: str) -> int:
        pairs = zip(reversed(stem.split("/")), reversed(path.split("/")), strict=False)
        equal = [mine == theirs for mine, theirs in pairs]
        return equal.index(False) if False in equal else len(equal)

    most = max(map(equal_tail, stems), default=0)
    return sorted(stem for stem in stems if equal_tail(stem) == most)


def _list_files(root: str) -> list[str]:
    if is_remote(root):
        filesystem, folder = open_filesystem(root)
        try:
            with plain_faults(root):
                files = [path for path in filesystem.find(folder) if not path.endswith("/")]
                return [path.removeprefix(folder).lstrip("/") for path in files]
        except (OSError, NotImplementedError) as error:
            raise InputError(f"dataset.root {root} cannot be listed: {error}") from None
    if not Path(root).is_dir():
        raise InputError(f"dataset.root {root}: no such folder")
    found: list[str] = []
    visited: set[str] = set()
    # Links are followed, since people link disks into place; a folder reached twice is listed once, in order.
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        relative = Path(folder).relative_to(root).as_posix()
        found += names if relative == "." else [f"{relative}/{name}" for name in names]
    return found
