"""The one table between datasets and the rest: which videos there are, their labels, truth and frame counts.

`manifest.parquet` holds one row per video, sorted by `video_id`; dataset, source and classes stand in the
schema's metadata. It holds no time stamp and no path of this machine for a file under the root, so equal data
give equal bytes everywhere. Frame intervals are half-open: [start, end).
"""

import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from vadclip.checkout import given_path, main_checkout
from vadclip.config import DatasetParams
from vadclip.errors import InputError
from vadclip.files import atomic_path, safe_name
from vadclip.labels import Classes
from vadclip.remote import address_fault, is_remote, shown

SNIPPET_FRAMES = 16  # consecutive frames per snippet (vadclip.md section 1)
SPLITS = ("train", "val", "test")
SOURCES = ("videos", "official_features")
MANIFEST_VERSION = 2
_ROW_GROUP, _BATCH = 16_384, 1024  # rows written at a time, and read

_SEGMENT = pa.struct([("start_frame", pa.int64()), ("end_frame", pa.int64()), ("label", pa.string())])
_SPAN = pa.struct([("start_frame", pa.int64()), ("end_frame", pa.int64())])
_COLUMNS = [
    pa.field("video_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("source_id", pa.string(), nullable=False),
    pa.field("labels", pa.list_(pa.string()), nullable=False),
    pa.field("segments", pa.list_(_SEGMENT), nullable=False),
    pa.field("frame_spans", pa.list_(_SPAN), nullable=False),
    pa.field("num_frames", pa.int64(), nullable=False),
    pa.field("fps", pa.float64(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("bytes", pa.int64(), nullable=False),
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("probe_error", pa.string()),
    pa.field("untimed", pa.bool_(), nullable=False),
    pa.field("intact", pa.bool_(), nullable=False),
    pa.field("seekable", pa.bool_(), nullable=False),
]


@dataclass(frozen=True, order=True)
class Segment:
    """Frames [start_frame, end_frame) that show `label`."""

    start_frame: int
    end_frame: int
    label: str


@dataclass(frozen=True)
class Video:
    """One row of the manifest."""

    video_id: str
    """Unique, safe as a file name, the same on every machine."""
    uri: str
    """Relative to the dataset's root, or absolute, or remote. Of official features: what all crop files begin
    with, up to `__<crop>.npy`."""
    split: str
    """train, val or test."""
    source_id: str
    """Group that is never divided between train and val."""
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]
    """Truth of detection mAP: as annotated, neither clamped nor merged; of test videos only."""
    frame_spans: tuple[tuple[int, int], ...]
    """Truth of the frame metrics: the union of the annotated spans, clamped to num_snippets * 16."""
    num_frames: int
    """Counted by decoding (official features: rows * 16); 0 with a probe_error."""
    fps: float
    """0 where it is not known."""
    width: int
    height: int
    bytes: int
    content_hash: str
    """SHA-256 of the file, or over the crop files of official features; empty if it could not be read."""
    probe_error: str | None
    """Why the file cannot be used; None if it can."""
    untimed: bool = False
    """The one segment is the whole video because no times are known (dataset.untimed: whole_video)."""
    intact: bool = False
    """Ingest has decoded all of it without a fault, so decord may read it; of short, ordinary videos only."""
    seekable: bool = True
    """Decoding can begin elsewhere than at the start; if not, the video is not cut into units of work."""

    @property
    def num_snippets(self) -> int:
        """Rows of features this video gives; the partial tail is dropped."""
        return self.num_frames // SNIPPET_FRAMES

    @property
    def too_short(self) -> bool:
        """Whether a readable video has less than one snippet: no rows, and not a failure."""
        return self.probe_error is None and self.num_snippets == 0


@dataclass(frozen=True)
class Manifest:
    """All videos of a dataset, sorted by `video_id`."""

    dataset: str
    source: str
    """`videos` or `official_features`."""
    classes: Classes
    videos: tuple[Video, ...]

    def __post_init__(self) -> None:
        assert self.source in SOURCES, self.source
        ids = [video.video_id for video in self.videos]
        assert ids == sorted(set(ids)), "video ids must be unique and sorted"
        for video in self.videos:
            assert safe_name(video.video_id), video.video_id
            assert video.split in SPLITS, video.split
            named = {*video.labels, *(segment.label for segment in video.segments)}
            assert video.labels or video.split == "test", video  # new videos, of detect, have none
            assert named <= set(self.classes.labels), video
            assert video.split == "test" or not (video.segments or video.frame_spans), video

    def split(self, name: str) -> tuple[Video, ...]:
        """Videos of `train`, `val` or `test`, the unusable ones included."""
        assert name in SPLITS, name
        return tuple(video for video in self.videos if video.split == name)


def frame_spans(spans: Iterable[tuple[int, int]], num_frames: int) -> tuple[tuple[int, int], ...]:
    """Union of half-open frame spans, clamped to [0, num_frames): sorted, disjoint, touching ones joined."""
    union: list[tuple[int, int]] = []
    for start, end in sorted((max(0, start), min(end, num_frames)) for start, end in spans):
        if end <= start:
            continue
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return tuple(union)


def leaves_root(uri: str) -> bool:
    """Whether a relative path climbs out of its root (`../x`, `a/../../x`)."""
    return posixpath.normpath(uri.replace("\\", "/")).split("/")[0] == ".."


def dataset_root(params: DatasetParams) -> str:
    """Return the absolute folder, or the URI, that the videos' paths are relative to.

    A table without `dataset.root` means its own folder; the sample's videos lie under the project's folder.
    """
    if params.root is not None:
        return params.root if is_remote(params.root) else str(given_path(params.root).absolute())
    folder = given_path(params.table).parent if params.table is not None else main_checkout()
    return str(folder.absolute())


def locate(uri: str, root: str) -> str:
    """Return the absolute path or URI of a video (of official features: what its crop files begin with).

    `root` comes from `dataset_root`. An absolute or remote `uri` stands for itself. In an http address the
    name is percent-encoded, since XD-Violence names hold `#`; object stores take names as they are.
    Raises InputError if a relative `uri` climbs out of the root.
    """
    if (fault := address_fault(uri)) is not None:
        raise InputError(f"{shown(uri)}: {fault}")
    if is_remote(uri) or Path(uri).is_absolute():
        return uri
    if leaves_root(uri):
        raise InputError(f"{uri!r} leaves the dataset's root {root}")
    if is_remote(root):
        path = quote(uri) if root.startswith(("http://", "https://")) else uri
        return f"{root.rstrip('/')}/{path}"
    return str(Path(root).absolute() / uri)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest.parquet` atomically; equal content is not written again."""
    columns: dict[str, list[Any]] = {
        field.name: [getattr(video, field.name) for video in manifest.videos] for field in _COLUMNS
    }
    columns["segments"] = [list(map(asdict, video.segments)) for video in manifest.videos]
    columns["frame_spans"] = [
        [{"start_frame": start, "end_frame": end} for start, end in video.frame_spans]
        for video in manifest.videos
    ]
    metadata = {
        "vadclip.manifest_version": str(MANIFEST_VERSION),
        "vadclip.dataset": manifest.dataset,
        "vadclip.source": manifest.source,
        "vadclip.classes": json.dumps(asdict(manifest.classes)),
    }
    table = pa.table(columns, schema=pa.schema(_COLUMNS, metadata=metadata))
    with atomic_path(path, keep_equal=True) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)


class Videos(Protocol):
    """Videos of a manifest, in order, that can be iterated again and again, such as a tuple."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Video]: ...


class ManifestFile:
    """A manifest that stays on disk: iterating reads its videos in order, a batch at a time.

    It is held open, so that it stays the same when ingest puts another one in its place meanwhile. Raises
    InputError if the file is missing or is not one.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        try:
            self._file = pa.OSFile(str(path))
            footer = pq.read_metadata(self._file)
        except FileNotFoundError:
            raise InputError(f"{path}: no such manifest; the ingest stage writes it") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from None
        self._count = int(footer.num_rows)
        metadata = footer.metadata or {}
        if metadata.get(b"vadclip.manifest_version") != str(MANIFEST_VERSION).encode():
            raise InputError(
                f"{path} is no manifest of version {MANIFEST_VERSION}; run the ingest stage again to rewrite "
                "it"
            )
        self.dataset = metadata[b"vadclip.dataset"].decode()
        self.source = metadata[b"vadclip.source"].decode()
        classes = json.loads(metadata[b"vadclip.classes"])
        self.classes = Classes(**{name: tuple(words) for name, words in classes.items()})

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Video]:
        try:
            for batch in pq.ParquetFile(self._file).iter_batches(_BATCH):
                yield from map(_video, batch.to_pylist())
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self._path} is not a readable manifest: {' '.join(str(error).split())}")


def read_manifest(path: Path | str) -> Manifest:
    """Read a manifest into memory; raises InputError as `ManifestFile` does."""
    file = ManifestFile(path)
    return Manifest(file.dataset, file.source, file.classes, tuple(file))


def _video(row: dict[str, Any]) -> Video:
    row["labels"] = tuple(row["labels"])
    row["segments"] = tuple(Segment(**part) for part in row["segments"])
    row["frame_spans"] = tuple((span["start_frame"], span["end_frame"]) for span in row["frame_spans"])
    return Video(**row)
