"""Reading features: one video's crop, mapped into memory without a copy.

Readers go by manifest, crop and snippet, never by shard.

Legend of shape suffixes: R rows (snippets), D width of a feature.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadclip.errors import InputError
from vadclip.features.index import INDEX_NAME, IndexRow, feature_fingerprint, read_index
from vadclip.features.shards import Block, Shard
from vadclip.manifest import Manifest, Video


class FeatureReader:
    """Features of a manifest's videos.

    Raises InputError if the store is missing, or does not cover the manifest as it is now. Cheap to open: it
    reads footers only.

    >>> from vadclip.manifest import read_manifest
    >>> manifest = read_manifest("manifest.parquet")
    >>> features = FeatureReader("features", manifest)
    >>> [video] = [video for video in manifest.split("val") if video.video_id not in features.excluded]
    >>> rows_TD = features.array(video.video_id, crop=5)
    >>> rows_TD.shape == (video.num_snippets, features.provenance.embed_dim)
    True
    """

    def __init__(self, folder: Path | str, manifest: Manifest) -> None:
        self.folder = Path(folder)
        rows, self.provenance = read_index(self.folder)
        self.fingerprint = feature_fingerprint(rows, self.provenance)
        self._manifest = manifest
        self._index = {row.video_id: row for row in rows}
        self.excluded: dict[str, str] = {}
        """Videos without features, each with the reason."""
        self.lost_frames = {row.video_id: row.lost_frames for row in rows if row.lost_frames}
        """Frames of each video for which no picture was decoded, where there are any."""
        for video in manifest.videos:
            row = self._index.get(video.video_id)
            if row is None or row.content_hash != video.content_hash:
                raise InputError(
                    f"{self.folder} has no features of {video.video_id} as the manifest knows it: run the "
                    "extract stage again"
                )
            if row.rows == 0:
                self.excluded[video.video_id] = row.error or row.note or "no rows"
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
            has = f"it has crops {list(row.crops)}" if row.rows else f"it has none: {self.excluded[video_id]}"
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
        shards = {}
        for name in names:
            shard = Shard(self.folder / name)
            if shard.provenance != self.provenance:
                raise InputError(f"{shard.path} has another provenance than {INDEX_NAME}: run extract again")
            shards[name] = shard
        return shards
