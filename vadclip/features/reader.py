"""Reading features: the store's index, and a reader that maps one video's crop without copying it.

`features/` holds shards (see `shards`), or store.json that says where they are (see `mirror`), and
index.parquet, one row per video of the manifest: whether it has features, where, and if not why. Readers go
by manifest, crop and snippet, never by shard.

Legend of shape suffixes: R rows (snippets), D width of a feature.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vadclip.errors import InputError
from vadclip.features.mirror import fetch_shards, mirror_folder, read_store_file
from vadclip.features.provenance import Provenance
from vadclip.features.shards import Block, Shard
from vadclip.files import atomic_path
from vadclip.manifest import Manifest, Video

__all__ = ["FeatureReader", "IndexRow", "Provenance", "feature_fingerprint", "read_index", "write_index"]

INDEX_NAME = "index.parquet"
_ROW_GROUP = 16_384
_PROVENANCE_KEY = b"vadclip.provenance"
_COLUMNS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("shards", pa.list_(pa.string()), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("decoded_frames", pa.int64(), nullable=False),
        pa.field("crops", pa.list_(pa.uint8()), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
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
    """Why it failed; of an ok one what is worth knowing (too short, or cut off)."""
    shards: tuple[str, ...]
    rows: int
    """Snippets, of each crop."""
    decoded_frames: int
    crops: tuple[int, ...]
    decoder: str
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
    path = folder / INDEX_NAME
    try:
        table = pq.read_table(path)
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


class FeatureReader:
    """Features of a manifest's videos.

    Raises InputError if the store is missing, or does not cover the manifest as it is now. Cheap to open (it
    reads footers only) and to send to loader processes. Shards of a store in a bucket are fetched into
    `<cache>/shards` first, by default the `.cache` beside `folder`, where they are not there yet.
    """

    def __init__(self, folder: Path | str, manifest: Manifest, cache: Path | None = None) -> None:
        self.folder = Path(folder)
        self._cache = cache or self.folder.absolute().parent / ".cache"
        rows, self.provenance = read_index(self.folder)
        self.fingerprint = feature_fingerprint(rows, self.provenance)
        self._manifest = manifest
        self._index = {row.video_id: row for row in rows}
        self.excluded: dict[str, str] = {}
        """Videos without features, each with the reason."""
        for video in manifest.videos:
            row = self._index.get(video.video_id)
            if row is None or row.content_hash != video.content_hash:
                raise InputError(
                    f"{self.folder} has no features of {video.video_id} as the manifest knows it: run the "
                    "extract stage again"
                )
            if row.rows == 0:
                self.excluded[video.video_id] = row.error or "no rows"
        self._shards = self._open_shards()
        self._places: dict[tuple[str, int], list[tuple[str, int, Block]]] = {}
        for name, shard in self._shards.items():
            for number, block in enumerate(shard.blocks):
                row = self._index.get(block.video_id)
                if row is not None and name in row.shards and block.content_hash == row.content_hash:
                    self._places.setdefault((block.video_id, block.crop), []).append((name, number, block))

    @property
    def width(self) -> int:
        """D of a feature."""
        return self.provenance.embed_dim

    def videos(self, split: str) -> tuple[Video, ...]:
        """Videos of `train`, `val` or `test` that have features, in the manifest's order."""
        return tuple(video for video in self._manifest.split(split) if video.video_id not in self.excluded)

    def rows(self, video_id: str) -> int:
        """Snippets of a video; 0 if it is excluded."""
        return self._row(video_id).rows

    def crops(self, video_id: str) -> tuple[int, ...]:
        """Crops that a video has features of."""
        return self._row(video_id).crops

    def array(self, video_id: str, crop: int) -> NDArray[np.float16]:
        """Return features_RD of one crop of a video: raw, read-only, as a rule a view of the mapped file.

        Raises InputError for a video or a crop without features.
        """
        row = self._row(video_id)
        if crop not in row.crops or row.rows == 0:
            has = f"it has crops {list(row.crops)}" if row.rows else f"it has none: {row.error}"
            raise InputError(
                f"features of crop {crop} of {video_id} are not there, {has}; which crops are extracted is "
                "set by extract.train_crops and extract.test_crop"
            )
        parts = [
            self._shards[name].rows(number)
            for name, number, block in sorted(self._places[video_id, crop], key=lambda place: place[2].start)
        ]
        features_RD = parts[0] if len(parts) == 1 else np.concatenate(parts)
        assert len(features_RD) == row.rows, (video_id, crop, len(features_RD), row.rows)
        return features_RD

    def _row(self, video_id: str) -> IndexRow:
        if video_id not in self._index:
            raise InputError(f"{self.folder} has no features of a video {video_id!r}")
        return self._index[video_id]

    def _open_shards(self) -> dict[str, Shard]:
        names = sorted({name for row in self._index.values() for name in row.shards})
        store = read_store_file(self.folder)
        if store is None:
            paths = {name: self.folder / name for name in names}
        else:
            paths = fetch_shards(store, names, mirror_folder(self._cache))
        shards = {}
        for name, path in paths.items():
            shard = Shard(path)
            if shard.provenance != self.provenance:
                raise InputError(f"{shard.path} has another provenance than {INDEX_NAME}: run extract again")
            shards[name] = shard
        return shards
