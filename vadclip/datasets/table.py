"""Own videos: a CSV of path,label[,split][,segments][,group], one row per video.

- `path`: relative to `dataset.root` (null: to the CSV's folder), or absolute, or a URI such as s3://...
- `label`: one label, or several separated by `|`; normal stands alone.
- `split`: train, val or test; without this column every video is train. If any row says val, none is carved.
- `segments`: when it happens, in frames counted from 0, the end not included: `240-410` or
  `240-410;900-1200`. With several labels each says its own: `240-410:Fighting;300-380:Shooting`. Only those
  of test videos count: others are checked and then left out, so that a row may change its split without being
  edited.
- `group`: videos of one camera or film; they never stand on both sides of the train/val cut.

    path,label,split,segments
    gate/monday.mp4,Normal,train,
    gate/tuesday.mp4,Fighting|Shooting,test,240-410:Fighting;300-380:Shooting

Spreadsheets write tables in other ways, which are taken where the meaning is certain: semicolons or tabs
between cells, names of columns in other letters, empty cells at the end of lines, spaces around a path and
backslashes in it where no file has the name as it stands.
"""

import csv
import hashlib
import io
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from vadclip.checkout import given_path
from vadclip.config import DatasetParams
from vadclip.datasets.raw import RawDataset, RawVideo
from vadclip.errors import InputError
from vadclip.files import safe_name
from vadclip.labels import LABEL_SEPARATOR, Classes, classes_from
from vadclip.manifest import SPLITS, Segment, dataset_root, leaves_root
from vadclip.remote import address_fault, is_remote, shown

REQUIRED_COLUMNS = ("path", "label")
OPTIONAL_COLUMNS = ("split", "segments", "group")
_SEGMENT = re.compile(r"(?P<start>\d{1,12})\s*-\s*(?P<end>\d{1,12})(?:\s*:\s*(?P<label>\S.*))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_BYTES = 128 * 2**20
_SEPARATORS = (",", ";", "\t")
_NAMED_ROWS, _SHORT_LABEL = 5, 4
_SHOWN = 80  # characters of a cell in a message


def load(params: DatasetParams) -> RawDataset:
    """Read the table.

    Raises InputError if it is missing, is not UTF-8 CSV, has wrong columns or no normal class; rows that are
    wrong are described in the result's `problems`, every one.
    """
    assert params.table is not None  # DatasetParams makes sure
    path = given_path(params.table)
    rows = list(_read_rows(path))
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    root = dataset_root(params)
    if not is_remote(root) and not Path(root).is_dir():
        raise InputError(f"dataset.root {root}: no such folder")
    parsed = [_parse(row, root) for row in rows]
    videos = [video for video, _ in parsed]
    classes = classes_from((label for video in videos for label in video.labels), params.classes)
    first_rows: dict[str, str] = {}
    problems = {}
    for video, faults in parsed:
        wrong = [*faults, *_label_problems(video, classes)]
        first = first_rows.setdefault(video.uri, video.origin)
        if video.uri and first != video.origin:
            wrong.append(f"the same video (duplicate id) as {first}")
        if wrong:
            problems[video.origin] = ", ".join(wrong)
    ids = video_ids(video.uri for video in videos if video.uri)
    notes = _label_notes(videos)
    if ignored := sum(video.split != "test" and bool(video.segments) for video in videos):
        notes.append(f"{path}: segments of {ignored} train and val videos are not used")
    return RawDataset(
        name=params.name,
        classes=classes,
        videos=tuple(
            replace(video, video_id=ids[video.uri], source_id=video.source_id or ids[video.uri])
            for video in videos
            if video.uri and first_rows[video.uri] == video.origin
        ),
        problems=problems,
        notes=tuple(notes),
    )


def labels_in(table: Path) -> set[str]:
    """Return the labels that a table holds, right or wrong; raises InputError if it cannot be read."""
    cells = (row[1]["label"] for row in _read_rows(table))
    return {label.strip() for cell in cells for label in cell.split(LABEL_SEPARATOR)} - {""}


def video_ids(uris: Iterator[str]) -> dict[str, str]:
    """Name each uri: `gate/monday.mp4` -> `gate__monday`.

    Names that would be equal (letter case and the spelling of accents do not count, some disks fold them),
    too long or unsafe get a hash of the uri. The result depends on the set of uris only, not on this machine
    or the order of the rows.
    """
    names = {}
    for uri in set(uris):
        path = uri.split("://", 1)[-1].strip("/")
        folder, file_name = posixpath.split(path)
        names[uri] = posixpath.join(folder, posixpath.splitext(file_name)[0]).replace("/", "__")
    count = Counter(map(_folded, names.values()))
    for uri, name in names.items():
        if count[_folded(name)] > 1 or not safe_name(name):
            digest = hashlib.sha256(uri.encode()).hexdigest()[:12]
            readable = re.sub(r"[^\w.-]", "_", name).encode()[:150].decode(errors="ignore")
            names[uri] = f"{readable}~{digest}"
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str], bool]]:
    """Yield (row number as a spreadsheet shows it, cells by column, whether the cells fit the columns)."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(
                f"dataset.table {path}: {size:,} bytes are no table of videos; {MAX_BYTES:,} is the limit"
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"dataset.table {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"dataset.table {path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"dataset.table {path} cannot be read: {error.strerror}") from None
    first, _, rest = text.partition("\n")
    skipped = re.fullmatch(r"sep=[;,\t]\r?", first) is not None  # Excel's own note
    text, first = (rest, rest.partition("\n")[0]) if skipped else (text, first)
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        header = [name.strip().lower() for name in _without_empty_end(next(reader, []))]
        known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
        if len(set(header)) != len(header) or not set(REQUIRED_COLUMNS) <= set(header) <= set(known):
            raise InputError(
                f"dataset.table {path}: the first line is {first.strip()[:200]!r}; expected the columns "
                f"{','.join(REQUIRED_COLUMNS)} and optionally {','.join(OPTIONAL_COLUMNS)}"
            )
        for number, cells in enumerate(reader, 2 + skipped):
            if any(cell.strip() for cell in cells):
                cells = _without_empty_end(cells, len(header))
                padded = cells + [""] * (len(header) - len(cells))
                yield number, dict(zip(header, padded, strict=False)), len(cells) == len(header)
    except csv.Error as error:
        raise InputError(f"dataset.table {path}, line {reader.line_num}: no CSV: {error}") from None


def _without_empty_end(cells: list[str], least: int = 0) -> list[str]:
    end = len(cells)
    while end > least and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _as_meant(path: str, root: str) -> str:
    """Return a path as it stands if there is such a file, else without spaces around it and backslashes."""
    if is_remote(path) or is_remote(root):
        return path.strip()
    plain = path.strip()
    spellings = (path, plain, path.replace("\\", "/"), plain.replace("\\", "/"))
    return next((each for each in spellings if each and os.path.exists(os.path.join(root, each))), plain)


def _parse(row: tuple[int, dict[str, str], bool], root: str) -> tuple[RawVideo, list[str]]:
    """Return a row's video, not named yet, and what is wrong; `uri` is empty where the path is unusable."""
    number, cells, complete = row
    problems = []
    if not complete:
        problems.append("not as many cells as the first line names")
    uri = "" if _CONTROL.search(cells["path"]) else _relative_uri(_as_meant(cells["path"], root), root)
    if not uri:
        problems.append("the path is empty or has control characters")
    elif (fault := address_fault(uri)) is not None:
        problems.append(fault)
        uri = ""
    elif leaves_root(uri):
        problems.append("the path leaves the root; write an absolute path if that is meant")
        uri = ""
    labels = tuple(label.strip() for label in cells["label"].split(LABEL_SEPARATOR))
    if not all(labels):
        problems.append(
            f"a label is empty in {cells['label'][:_SHOWN]!r}" if any(labels) else "the label is empty"
        )
    elif len(set(labels)) != len(labels):
        problems.append(f"a label stands twice in {cells['label'][:_SHOWN]!r}")
    elif not all(label.isprintable() and len(label) <= _SHOWN for label in labels):
        problems.append(f"a label is longer than {_SHOWN} characters or has control characters")
    split = cells.get("split", "train").strip()
    if split not in SPLITS:
        problems.append(f"split {split[:_SHOWN]!r} is none of {', '.join(SPLITS)}")
    segments = []
    for part in cells.get("segments", "").split(";"):
        try:
            segments += [_segment(part.strip(), labels)] if part.strip() else []
        except ValueError as error:
            problems.append(str(error))
    video = RawVideo(
        uri=uri,
        labels=tuple(label for label in labels if label),
        split=split,
        segments=tuple(segments),
        video_id="",
        source_id=cells.get("group", "").strip(),
        origin=f"row {number} ({shown(cells['path'])[:_SHOWN]})",
    )
    return video, problems


def _relative_uri(path: str, root: str) -> str:
    """Write a path without needless parts, and relative to the root where it lies beneath it."""
    if not path:
        return ""
    if is_remote(path) or is_remote(root):
        path = path.removeprefix(root.rstrip("/") + "/") if is_remote(root) else path
        return path if is_remote(path) else posixpath.normpath(path)
    if os.path.isabs(path):
        relative = os.path.relpath(path, root)
        return posixpath.normpath(path) if leaves_root(relative) else Path(relative).as_posix()
    return posixpath.normpath(path)


def _segment(text: str, labels: tuple[str, ...]) -> Segment:
    match = _SEGMENT.fullmatch(text)
    shown = text[:_SHOWN]
    if match is None:
        raise ValueError(f"segment {shown!r} is not start-end or start-end:label, in frames")
    start, end, label = int(match["start"]), int(match["end"]), match["label"]
    if start >= end:
        raise ValueError(f"segment {shown!r} is empty or reversed: the end must be behind the start")
    if label is None and len(labels) > 1:
        raise ValueError(f"segment {shown!r} must say which of the labels it shows: start-end:label")
    if label is not None and label not in labels:
        raise ValueError(f"segment {shown!r} shows a label that the video does not have")
    return Segment(start, end, label or labels[0])


def _label_problems(video: RawVideo, classes: Classes) -> list[str]:
    problems = [
        f"unknown label {label!r} (dataset.classes has {', '.join(classes.labels)})"
        for label in video.labels
        if label not in classes.labels
    ]
    if classes.normal in video.labels:
        if len(video.labels) > 1:
            problems.append(f"{classes.normal} (normal) together with another label")
        if video.segments:
            problems.append(f"segments on a {classes.normal} (normal) video, which has no anomaly")
    return problems


def _label_notes(videos: Iterable[RawVideo]) -> list[str]:
    """Say of each label that looks like a mistake which rows have it."""
    by_label: dict[str, list[RawVideo]] = {}
    for video in videos:
        for label in video.labels:
            by_label.setdefault(label, []).append(video)
    notes = []
    for label, having in by_label.items():
        where = ", ".join(video.origin for video in having[:_NAMED_ROWS])
        where += f" and {len(having) - _NAMED_ROWS} more" if len(having) > _NAMED_ROWS else ""
        near = [other for other in by_label if len(by_label[other]) > len(having) and _one_edit(label, other)]
        if near:
            notes.append(f"label {label!r} is one edit away from {near[0]!r}: is it meant? {where}")
        elif len(having) == 1:
            notes.append(f"label {label!r} occurs once: {where}")
        elif all(video.split == "test" for video in having):
            notes.append(f"label {label!r} occurs in test only, so no training video shows it: {where}")
    return notes


def _one_edit(one: str, other: str) -> bool:
    """Whether one letter more, less, changed or swapped with its neighbour makes one of the other."""
    one, other = one.casefold(), other.casefold()
    if min(len(one), len(other)) < _SHORT_LABEL:
        return one == other
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])
