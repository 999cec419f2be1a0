"""Scores of whole videos, from features and a trained model (vadclip.md section 4, "test length").

A video is cut into consecutive chunks of T snippets, each scored on its own, the last one zero-padded. Chunks
of many videos share a forward pass; class text features are computed once. Scores come back to the host once
per pass.

Legend of shape suffixes: N snippets of all videos, C chunks of a pass, T snippets of a chunk, D width,
K classes, X numbers a snippet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vadclip.clip.on_gpu import full_float32
from vadclip.errors import InputError
from vadclip.features.provenance import Provenance
from vadclip.manifest import Video
from vadclip.model.folder import ModelInfo
from vadclip.model.inference import CHUNKS_PER_PASS, autocast, class_texts, device_of, split_chunks
from vadclip.model.vadclip import TEMPERATURE, VadClip
from vadclip.progress import track
from vadclip.score.scores import ScoreInfo, Scores


class Features(Protocol):
    """Rows of videos: a `FeatureReader`, or what was just encoded."""

    def rows(self, video_id: str) -> int:
        """Snippets of a video."""

    def array(self, video_id: str, crop: int) -> npt.NDArray[np.float16]:
        """Return features_ND of one crop, in the order of time."""


def check_features_fit(info: ModelInfo, provenance: Provenance) -> None:
    """Raise InputError unless the features are made like those that the model was trained on.

    They would be accepted in silence otherwise, and every score would be wrong.
    """
    made, expected = asdict(provenance), info.feature_provenance
    differing = [name for name in made | dict(expected) if made.get(name) != expected.get(name)]
    if differing:
        what = ", ".join(f"{name} {made.get(name)!r}, not {expected.get(name)!r}" for name in differing)
        raise InputError(
            f"the features are made otherwise than those the model was trained on ({what}); extract them the "
            "same way, or train again"
        )


@torch.inference_mode()
def score_videos(
    model: VadClip,
    features: Features,
    videos: Sequence[Video],
    *,
    plain_text_KD: Tensor,
    crop: int,
    precision: Literal["fp32", "bf16"],
    info: ScoreInfo,
    batch_chunks: int = CHUNKS_PER_PASS,
) -> Scores:
    """Score every snippet of `videos` (each with a row of features at least) on the model's device.

    `plain_text_KD` are the class prompts as the frozen CLIP reads them (`inference.plain_texts`), for what it
    tells without VadCLIP. A pass has `batch_chunks` chunks, the last one fewer. `model` is in eval mode.
    Raises InputError that names the video if a score is not finite, and what `features` raises for a crop
    that is not there.
    """
    assert not model.training
    assert info.labels == model.classes.labels
    rows_V = np.array([features.rows(video.video_id) for video in videos], dtype=np.int64)
    total, K = int(rows_V.sum()), len(info.labels)
    classifies, aligns = model.classification is not None, model.alignment is not None
    result_NX = np.empty((total, K + classifies + aligns * (1 + K)), dtype=np.float32)
    text_KD = class_texts(model, precision)
    done = 0
    with track(total, "scoring", "snippets") as progress:
        for chunks_CTD, lengths_C in _passes(model.config.length, features, videos, crop, batch_chunks):
            part_NX = _forward(model, chunks_CTD, lengths_C, text_KD, plain_text_KD, precision)
            result_NX[done : done + len(part_NX)] = part_NX
            done += len(part_NX)
            progress.advance(len(part_NX))
    assert done == total
    finite_N = np.isfinite(result_NX).all(axis=1)
    if not finite_N.all():
        first = int(np.searchsorted(np.cumsum(rows_V), int(np.argmin(finite_N)), side="right"))
        raise InputError(
            f"scores of {videos[first].video_id} are not finite: its features are damaged, or "
            f"score.precision {precision} is too coarse for this model"
        )
    return Scores(
        video_ids=tuple(video.video_id for video in videos),
        rows_V=rows_V,
        zero_shot_NK=np.ascontiguousarray(result_NX[:, :K]),
        anomaly_score_N=np.ascontiguousarray(result_NX[:, K]) if classifies else None,
        class_probabilities_NK=np.ascontiguousarray(result_NX[:, -K:]) if aligns else None,
        log_normaliser_N=np.ascontiguousarray(result_NX[:, -K - 1]) if aligns else None,
        info=info,
    )


def _passes(
    length: int, features: Features, videos: Sequence[Video], crop: int, batch_chunks: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Yield (chunks_CTD, lengths_C) over all videos in their order, C = batch_chunks but in the last."""
    waiting: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
    count = 0
    for video in videos:
        chunks_CTD, lengths_C = split_chunks(features.array(video.video_id, crop), length)
        while len(chunks_CTD):
            room = batch_chunks - count
            waiting.append((chunks_CTD[:room], lengths_C[:room]))
            count += len(waiting[-1][1])
            chunks_CTD, lengths_C = chunks_CTD[room:], lengths_C[room:]
            if count == batch_chunks:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(
    parts: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    return np.concatenate([chunks for chunks, _ in parts]), np.concatenate([lengths for _, lengths in parts])


def _forward(
    model: VadClip,
    chunks_CTD: npt.NDArray[np.float32],
    lengths_C: npt.NDArray[np.int64],
    text_KD: Tensor | None,
    plain_text_KD: Tensor,
    precision: Literal["fp32", "bf16"],
) -> npt.NDArray[np.float32]:
    """Return result_NX of the pass's valid snippets, in order. X: class probabilities of CLIP alone; then, as
    far as the model has it, the anomaly score; log-normaliser and class probabilities."""
    valid_CT = np.arange(chunks_CTD.shape[1]) < lengths_C[:, None]
    full_float32()
    device = device_of(model)
    visual_CTD = torch.from_numpy(chunks_CTD).to(device)
    with autocast(device, precision):
        output = model(visual_CTD, torch.from_numpy(lengths_C).to(device), text_KD)
    plain_CTK = F.normalize(visual_CTD, dim=-1) @ plain_text_KD.to(device).T / TEMPERATURE
    results = [plain_CTK.softmax(dim=-1)]
    if output.anomaly_logits_BT is not None:
        results.append(output.anomaly_logits_BT.sigmoid()[..., None])
    if (logits_CTK := output.class_logits_BTK) is not None:
        results += [logits_CTK.logsumexp(dim=-1, keepdim=True), logits_CTK.softmax(dim=-1)]
    result_NX: npt.NDArray[np.float32] = torch.cat(results, dim=-1).float().cpu().numpy()[valid_CT]
    return result_NX
