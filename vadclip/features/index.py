"""The index of a feature store: what became of each video of the manifest, and where its rows are."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vadclip.errors import InputError
from vadclip.features.provenance import Provenance
from vadclip.files import atomic_path

INDEX_NAME = "index.parquet"
_ROW_GROUP = 16_384
_PROVENANCE_KEY = b"vadclip.provenance"
_COLUMNS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("note", pa.string()),
        pa.field("lost_frames", pa.int64(), nullable=False),
        pa.field("shards", pa.list_(pa.string()), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("decoded_frames", pa.int64(), nullable=False),
        pa.field("crops", pa.list_(pa.uint8()), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class IndexRow:
    """What became of one video."""

    video_id: str
    status: str
    """`ok` or `failed`. Too short a video is ok and has no rows."""
    error: str | None
    """Why it failed; None of an ok one."""
    note: str | None
    """What is worth knowing of an ok one, such as that it is too short or cut off."""
    lost_frames: int
    """Frames for which no picture was decoded, and a neighbour's stands."""
    shards: tuple[str, ...]
    rows: int
    """Snippets, of each crop."""
    decoded_frames: int
    crops: tuple[int, ...]
    content_hash: str


def feature_fingerprint(rows: Sequence[IndexRow], provenance: Provenance) -> str:
    """Hash of what the features were made from: equal for equal videos, crops and recipe, on any machine."""
    used = sorted((row.video_id, row.content_hash, row.rows, row.crops) for row in rows if row.rows)
    return hashlib.sha256(json.dumps([provenance.fingerprint, used]).encode()).hexdigest()


def write_index(folder: Path, rows: Iterable[IndexRow], provenance: Provenance) -> None:
    """Write index.parquet from rows sorted by video_id, a batch at a time, unless it is there already."""
    schema = _COLUMNS.with_metadata({_PROVENANCE_KEY: provenance.to_json()})
    left = iter(rows)
    with (
        atomic_path(folder / INDEX_NAME, keep_equal=True) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(left, _ROW_GROUP)):
            columns = {name: [getattr(row, name) for row in batch] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))


def read_index(folder: Path) -> tuple[tuple[IndexRow, ...], Provenance]:
    """Read index.parquet; raises InputError if there is none."""
    refuse_bucket_store(folder)
    path = folder / INDEX_NAME
    try:
        table = pq.ParquetFile(path).read()  # read_table would import pandas, which takes a second
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the extract stage writes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no readable index ({error}); run the extract stage again") from None
    described = (table.schema.metadata or {}).get(_PROVENANCE_KEY)
    if described is None or table.schema.names != _COLUMNS.names:
        raise InputError(f"{path} is no index of this version; run the extract stage again")
    rows = [
        IndexRow(**{**row, "shards": tuple(row["shards"]), "crops": tuple(row["crops"])})
        for row in table.to_pylist()
    ]
    return tuple(rows), Provenance.from_json(described)


def refuse_bucket_store(folder: Path) -> None:
    """Raise InputError for a store of an earlier version whose shards lie in a bucket."""
    path = folder / "store.json"
    try:
        uri = str(json.loads(path.read_bytes())["uri"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):
        uri = "ADDRESS"
    copy = "gcloud storage cp" if uri.startswith("gs://") else "aws s3 cp --recursive"
    source = f"{uri}/*.parquet" if uri.startswith("gs://") else uri
    raise InputError(
        f"{path}: the shards lie in a bucket, where they cannot be any more; bring them home with "
        f"`{copy} {source} {folder}/ && rm {path}`, and let `dvc push` carry the folder to a bucket"
    )
