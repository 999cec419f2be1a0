"""Rows of features -> fixed-length training batches and test chunks (vadclip.md section 4).

Training: a video with more than T snippets is mean-pooled to T bins, a shorter one zero-padded. Pooling
happens once, before the first epoch; the pooled rows lie one after the other, without padding, in a
memory-mapped file that has no name any more. So they are as fast as memory where they fit (UCF-Crime, ten
crops: 4.2 GB at most), still work where they do not, and vanish with the process, however it ends. One thread
puts the next batch together while the model works on the current one: that is a copy of contiguous rows, too
little work for a pool of processes.

Legend of shape suffixes: N snippets of one video, T snippets of a sequence, D width, B rows of a batch, R
rows of the training set (a row is one crop of one video), K classes, C chunks.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vadclip.config import TrainParams
from vadclip.errors import InputError
from vadclip.features.reader import FeatureReader
from vadclip.labels import Classes
from vadclip.manifest import Video
from vadclip.progress import track

Float = np.floating[Any]


@dataclass(frozen=True)
class Batch:
    """B sequences on one device."""

    visual_BTD: Tensor
    """float16 as stored, float32 after `to`; zeros after the valid snippets."""
    lengths_B: Tensor
    """int64, valid snippets, 1 to T."""
    labels_BK: Tensor
    """float32, 1 where a class occurs in the video."""
    video_ids: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`, features widened there: half the bytes to move."""
        visual_BTD = self.visual_BTD.to(device).float()
        return Batch(visual_BTD, self.lengths_B.to(device), self.labels_BK.to(device), self.video_ids)


def pool(rows_ND: npt.NDArray[Float], length: int) -> npt.NDArray[Float]:
    """Mean-pool N rows to `length` bins with edges int(i N / length); an empty bin takes the row at its left.

    The result has the input's type: numpy averages float16 rows in float32 and rounds once, as the official
    code does, so training sees float16 values.
    """
    edges = np.linspace(0, len(rows_ND), length + 1).astype(np.int64)
    sizes_T = np.maximum(np.diff(edges), 1)
    pooled_TD = np.empty((length, rows_ND.shape[1]), rows_ND.dtype)
    for size in np.unique(sizes_T):  # at most two sizes that occur, one apart
        (bins,) = np.nonzero(sizes_T == size)
        members = edges[bins][:, None] + np.arange(size)
        pooled_TD[bins] = rows_ND[members].mean(axis=1)
    return pooled_TD


def sequence_rows(rows_ND: npt.NDArray[Float], length: int) -> npt.NDArray[Float]:
    """Return a training sequence without its padding: pooled to `length` rows where there are more."""
    return pool(rows_ND, length) if len(rows_ND) > length else rows_ND


def anomalous_rows(videos: Sequence[Video], classes: Classes, crops: int) -> npt.NDArray[np.bool_]:
    """Say of each training row (video by video, crop by crop) whether its video is anomalous; shape [R]."""
    return np.repeat([video.labels != (classes.normal,) for video in videos], crops).astype(np.bool_)


def epoch_batches(
    anomalous_R: npt.NDArray[np.bool_], params: TrainParams, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each batch of an epoch (0-based); the order depends on the seed and the epoch only.

    `paired` (UCF-Crime): batch_size normal rows, then batch_size anomalous ones, both shuffled; as many steps
    as the smaller side has whole batches. `single` (XD-Violence): all rows, shuffled; the last batch may be
    smaller. Raises InputError where there is no row, or where `paired` has no whole batch.
    """
    random = np.random.default_rng([params.seed, epoch])
    size = params.batch_size
    if params.batch_scheme == "single":
        if len(anomalous_R) == 0:
            raise InputError("no training video has features: see the extract stage's index for the reasons")
        order = random.permutation(len(anomalous_R))
        return np.split(order, range(size, len(order), size))
    normal, anomalous = (random.permutation(np.flatnonzero(kind)) for kind in (~anomalous_R, anomalous_R))
    for rows, kind in ((normal, "normal"), (anomalous, "anomalous")):
        if len(rows) < size:
            advice = (
                f"set train.batch_size to {len(rows)} or less, or" if len(rows) else "add such videos, or set"
            )
            raise InputError(
                f"train.batch_size is {size} and there are {len(rows)} rows of {kind} training videos (a row "
                f"is a crop of a video): a paired batch takes {size} of each kind and incomplete ones are "
                f"dropped, so there would be no step; {advice} train.batch_scheme: single"
            )
    steps = min(len(normal), len(anomalous)) // size
    return [
        np.concatenate([normal[start : start + size], anomalous[start : start + size]])
        for start in range(0, steps * size, size)
    ]


@dataclass(frozen=True)
class TrainingRows:
    """All R training rows, pooled, ready to be put together into batches; made by `load_rows`."""

    pooled: npt.NDArray[np.float16]
    """The sequences one after the other, without padding: [sum of lengths, D]."""
    offsets: npt.NDArray[np.int64]
    """Where each sequence begins, and the end of the last; [R + 1]."""
    labels_RK: npt.NDArray[np.float32]
    video_ids: tuple[str, ...]
    """Of each row."""
    length: int

    def batch(self, rows_B: npt.NDArray[np.int64]) -> Batch:
        """Put these rows together, zero-padded to T."""
        visual_BTD = np.zeros((len(rows_B), self.length, self.pooled.shape[1]), np.float16)
        lengths_B = self.offsets[rows_B + 1] - self.offsets[rows_B]
        for visual_TD, row, length in zip(visual_BTD, rows_B, lengths_B, strict=True):
            visual_TD[:length] = self.pooled[self.offsets[row] : self.offsets[row + 1]]
        return Batch(
            visual_BTD=torch.from_numpy(visual_BTD),
            lengths_B=torch.from_numpy(lengths_B),
            labels_BK=torch.from_numpy(self.labels_RK[rows_B]),
            video_ids=tuple(self.video_ids[row] for row in rows_B),
        )

    def batches(self, order: Iterable[npt.NDArray[np.int64]], device: torch.device) -> Iterator[Batch]:
        """Yield a batch on `device` per entry of `order`, prepared while the one before is in use."""
        with ThreadPoolExecutor(1, "batches") as ahead:
            waiting = None
            for rows_B in order:
                prepared, waiting = waiting, ahead.submit(self.batch, rows_B)
                if prepared is not None:
                    yield prepared.result().to(device)
            if waiting is not None:
                yield waiting.result().to(device)


def load_rows(
    features: FeatureReader,
    videos: Sequence[Video],
    classes: Classes,
    *,
    crops: int,
    length: int,
    scratch: Path,
    readers: int,
) -> TrainingRows:
    """Read and pool every crop of every video, in that order, into an unnamed file in the folder `scratch`.

    `readers` threads read and pool; 0 and 1 are the same. The file takes min(N, length) * D * 2 bytes per
    row.
    """
    lengths_R = np.repeat([min(features.rows(video.video_id), length) for video in videos], crops)
    offsets = np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int64)
    width = features.array(videos[0].video_id, 0).shape[1]
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as unnamed:  # the mapping keeps the file after it is closed
        pooled: npt.NDArray[np.float16] = np.memmap(
            unnamed, np.float16, "w+", shape=(int(offsets[-1]), width)
        )

    def read(position: int) -> None:
        for crop in range(crops):
            row = position * crops + crop
            rows_TD = sequence_rows(features.array(videos[position].video_id, crop), length)
            pooled[offsets[row] : offsets[row + 1]] = rows_TD

    with (
        track(len(videos), "loading features", "videos") as progress,
        ThreadPoolExecutor(max(1, readers)) as threads,
    ):
        for _ in threads.map(read, range(len(videos))):
            progress.advance()
    labels_VK = np.stack([classes.multi_hot(video.labels) for video in videos])
    return TrainingRows(
        pooled=pooled,
        offsets=offsets,
        labels_RK=np.repeat(labels_VK, crops, axis=0),
        video_ids=tuple(video.video_id for video in videos for _ in range(crops)),
        length=length,
    )
