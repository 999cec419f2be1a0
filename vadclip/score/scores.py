"""scores.parquet: one row per snippet of the val and test videos, written by score and read by evaluate.

Free of torch, so that figures are computed in seconds and without a GPU. Facts about the scoring that the
figures need stand in the schema's metadata: evaluate needs neither the model nor the features.

Legend of shape suffixes: N snippets of all videos, video after video; V videos; K classes, 0 is normal.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vadclip.errors import InputError
from vadclip.events import Peak
from vadclip.files import atomic_path

_PLACE = (pa.field("video_id", pa.string(), nullable=False), pa.field("snippet", pa.int32(), nullable=False))
# Sigmoid of the classification branch.
_CLASSIFICATION = (pa.field("anomaly_score", pa.float32(), nullable=False),)
_ALIGNMENT = (
    # Softmax over classes of the alignment branch.
    pa.field("class_probabilities", pa.list_(pa.float32()), nullable=False),
    # Log-sum-exp over classes of the alignment logits, so that
    # logits = log(class_probabilities) + log_normaliser. A video's class is picked by means of logits, as
    # the loss trains them, and probabilities alone forget them.
    pa.field("log_normaliser", pa.float32(), nullable=False),
)
# Softmax over classes of the frozen CLIP alone.
_ZERO_SHOT = (pa.field("zero_shot_probabilities", pa.list_(pa.float32()), nullable=False),)
SCHEMA = pa.schema([*_PLACE, *_CLASSIFICATION, *_ALIGNMENT, *_ZERO_SHOT])
# Of models with one branch.
_PARTIAL_SCHEMAS = (
    pa.schema([*_PLACE, *_CLASSIFICATION, *_ZERO_SHOT]),
    pa.schema([*_PLACE, *_ALIGNMENT, *_ZERO_SHOT]),
)
_VERSION = "2"


@dataclass(frozen=True)
class ScoreInfo:
    """What the figures must know of the scoring."""

    labels: tuple[str, ...]
    """The model's class labels, normal first."""
    test_selected: bool
    """The model's epoch was picked on the test videos, so its figures flatter it."""
    excluded: Mapping[str, str]
    """Val and test videos without scores: id -> reason."""
    lost_frames: Mapping[str, int] = field(default_factory=dict)
    """Frames for which no picture was decoded, of the videos that have such: id -> count."""
    normal_peaks: tuple[Peak, ...] = ()
    """Of the model's normal validation videos."""
    selection: str = ""
    """The rule that picked the model's epoch."""


@dataclass(frozen=True)
class Scores:
    """Scores of V videos by one branch or both; a branch that the model lacks gives None."""

    video_ids: tuple[str, ...]
    rows_V: npt.NDArray[np.int64]
    """Snippets per video, at least 1."""
    anomaly_score_N: npt.NDArray[np.float32] | None
    class_probabilities_NK: npt.NDArray[np.float32] | None
    log_normaliser_N: npt.NDArray[np.float32] | None
    """There with the class probabilities."""
    zero_shot_NK: npt.NDArray[np.float32]
    """Class probabilities of the frozen CLIP alone."""
    info: ScoreInfo

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First row of each video, and the number of all rows at the end; shape [V + 1]."""
        return np.concatenate([[0], np.cumsum(self.rows_V)]).astype(np.int64)

    @cached_property
    def video_N(self) -> npt.NDArray[np.int64]:
        """Position of each row's video."""
        return np.repeat(np.arange(len(self.rows_V)), self.rows_V)

    def __post_init__(self) -> None:
        assert (self.class_probabilities_NK is None) == (self.log_normaliser_N is None)
        assert self.branches, "a model has a branch"

    @property
    def alignment_score_N(self) -> npt.NDArray[np.float32] | None:
        """1 - p(normal): the alignment branch as an anomaly score."""
        return None if self.class_probabilities_NK is None else 1 - self.class_probabilities_NK[:, 0]

    @property
    def zero_shot_score_N(self) -> npt.NDArray[np.float32]:
        """1 - p(normal) of the frozen CLIP alone."""
        return 1 - self.zero_shot_NK[:, 0]

    @cached_property
    def branches(self) -> dict[str, npt.NDArray[np.float32]]:
        """Anomaly score_N of each branch of the model: `classification`, `alignment`."""
        scores = {"classification": self.anomaly_score_N, "alignment": self.alignment_score_N}
        return {branch: score_N for branch, score_N in scores.items() if score_N is not None}

    @property
    def main_score_N(self) -> npt.NDArray[np.float32]:
        """The anomaly score that people look at: the classification branch's where there is one."""
        return next(iter(self.branches.values()))

    @property
    def class_logits_NK(self) -> npt.NDArray[np.float64] | None:
        """Logits of the alignment branch."""
        if self.class_probabilities_NK is None or self.log_normaliser_N is None:
            return None
        tiny = np.finfo(np.float32).tiny  # a probability that underflowed stays finite
        log_NK = np.log(np.maximum(self.class_probabilities_NK.astype(np.float64), tiny))
        return log_NK + self.log_normaliser_N[:, None]

    def rows(self, position: int) -> slice:
        """Rows of the video at `position`."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def select(self, video_ids: Iterable[str]) -> "Scores":
        """Return the scores of these videos, in this order; all of them must be here."""
        wanted = tuple(video_ids)
        position = {video_id: index for index, video_id in enumerate(self.video_ids)}
        places = [position[video_id] for video_id in wanted]
        parts = [np.arange(self.offsets[place], self.offsets[place + 1]) for place in places]
        rows = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return Scores(
            video_ids=wanted,
            rows_V=self.rows_V[places] if places else np.empty(0, dtype=np.int64),
            anomaly_score_N=_taken(self.anomaly_score_N, rows),
            class_probabilities_NK=_taken(self.class_probabilities_NK, rows),
            log_normaliser_N=_taken(self.log_normaliser_N, rows),
            zero_shot_NK=self.zero_shot_NK[rows],
            info=self.info,
        )


def _taken(
    values: npt.NDArray[np.float32] | None, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    return None if values is None else values[rows]


def scores_table(scores: Scores) -> pa.Table:
    """Return the scores as an Arrow table of `SCHEMA`, `info` in its metadata; of one branch its columns."""
    snippets = [np.arange(rows, dtype=np.int32) for rows in scores.rows_V]
    columns = {
        "video_id": pa.array(np.repeat(np.array(scores.video_ids, dtype=object), scores.rows_V), pa.string()),
        "snippet": pa.array(np.concatenate(snippets) if snippets else [], pa.int32()),
    }
    if scores.anomaly_score_N is not None:
        columns["anomaly_score"] = pa.array(scores.anomaly_score_N, pa.float32())
    if scores.class_probabilities_NK is not None:
        columns["class_probabilities"] = _lists(scores.class_probabilities_NK)
        columns["log_normaliser"] = pa.array(scores.log_normaliser_N, pa.float32())
    columns["zero_shot_probabilities"] = _lists(scores.zero_shot_NK)
    metadata = {
        "vadclip.scores_version": _VERSION,
        "vadclip.labels": json.dumps(scores.info.labels),
        "vadclip.test_selected": json.dumps(scores.info.test_selected),
        "vadclip.excluded": json.dumps(dict(scores.info.excluded), sort_keys=True),
        "vadclip.lost_frames": json.dumps(dict(scores.info.lost_frames), sort_keys=True),
        "vadclip.normal_peaks": json.dumps([asdict(peak) for peak in scores.info.normal_peaks]),
        "vadclip.selection": json.dumps(scores.info.selection),
    }
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    return pa.table(list(columns.values()), schema=schema.with_metadata(metadata))


def write_scores(table: pa.Table, path: Path) -> None:
    """Write a `scores_table` atomically; equal scores give equal bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_scores(path: Path | str) -> Scores:
    """Read scores.parquet.

    Raises InputError if the file is missing, is something else, or a video's snippets are not 0, 1, 2, ... in
    one piece (a table that was edited or sorted anew).
    """
    try:
        table = pq.ParquetFile(path).read()  # read_table would import pandas, which takes a second
    except FileNotFoundError:
        raise InputError(f"{path}: no such scores; the score stage writes them") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable scores table: {' '.join(str(error).split())}") from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("vadclip.scores_version") != _VERSION or not any(
        table.schema.equals(known) for known in (SCHEMA, *_PARTIAL_SCHEMAS)
    ):
        raise InputError(f"{path} is no scores table of version {_VERSION}; run the score stage again")
    info = ScoreInfo(
        labels=tuple(json.loads(metadata["vadclip.labels"])),
        test_selected=json.loads(metadata["vadclip.test_selected"]),
        excluded=json.loads(metadata["vadclip.excluded"]),
        lost_frames=json.loads(metadata["vadclip.lost_frames"]),
        normal_peaks=tuple(Peak(**peak) for peak in json.loads(metadata["vadclip.normal_peaks"])),
        selection=json.loads(metadata["vadclip.selection"]),
    )
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    ids = columns["video_id"].dictionary_encode()
    video_N: npt.NDArray[np.int64] = ids.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    video_ids = tuple(ids.dictionary.to_pylist())
    rows_V = np.bincount(video_N, minlength=len(video_ids))
    expected = np.concatenate([np.arange(rows) for rows in rows_V]) if len(rows_V) else np.empty(0)
    snippet_N = columns["snippet"].to_numpy()
    if not np.array_equal(snippet_N, expected) or np.any(np.diff(video_N) < 0):
        row = int(np.argmax((snippet_N != expected) | (np.diff(video_N, prepend=0) < 0)))
        raise InputError(
            f"{path}: row {row} ({video_ids[video_N[row]]}) is out of order: a video's snippets must "
            "follow each other as 0, 1, 2, ...; run the score stage again"
        )
    return Scores(
        video_ids=video_ids,
        rows_V=rows_V.astype(np.int64),
        anomaly_score_N=columns["anomaly_score"].to_numpy() if "anomaly_score" in columns else None,
        class_probabilities_NK=(
            _matrix(columns, "class_probabilities", len(info.labels), path)
            if "class_probabilities" in columns
            else None
        ),
        log_normaliser_N=columns["log_normaliser"].to_numpy() if "log_normaliser" in columns else None,
        zero_shot_NK=_matrix(columns, "zero_shot_probabilities", len(info.labels), path),
        info=info,
    )


def _lists(matrix_NK: npt.NDArray[np.float32]) -> pa.ListArray:
    count, classes = matrix_NK.shape
    return pa.ListArray.from_arrays(
        pa.array(np.arange(count + 1, dtype=np.int32) * classes),
        pa.array(np.ascontiguousarray(matrix_NK, dtype=np.float32).reshape(-1)),
    )


def _matrix(columns: Mapping[str, Any], name: str, classes: int, path: Path | str) -> npt.NDArray[np.float32]:
    column = columns[name]
    if np.any(np.diff(column.offsets.to_numpy()) != classes):
        raise InputError(f"{path}: {name} must hold {classes} numbers a row; run the score stage again")
    matrix_NK: npt.NDArray[np.float32] = column.flatten().to_numpy().reshape(-1, classes)
    return matrix_NK
