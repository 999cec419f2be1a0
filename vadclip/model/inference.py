"""Whole videos through VadCLIP: chunks of T snippets, each on its own (vadclip.md section 4, "test length").

For one video at a time, as validation and the logged model need it. The score stage packs chunks of many
videos into a pass (score/scoring.py) and gives the same scores.

Legend of shape suffixes: N snippets of one video, T snippets of a chunk, D width, K classes, C chunks.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vadclip.clip.text import TextTower
from vadclip.labels import Classes
from vadclip.model.vadclip import VadClip, VadClipOutput

Float = np.floating[Any]
CHUNKS_PER_PASS = 64  # bounds memory: a day of video is 8,000 chunks of 256 snippets at 25 frames/s


def split_chunks(
    rows_ND: npt.NDArray[Float], length: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Split a test video into (chunks_CTD, lengths_C): chunks of `length` rows, the last one zero-padded.

    Deviation: where N is a multiple of `length` the official split adds one chunk of padding, whose outputs
    it then drops; here it is not made.
    """
    assert len(rows_ND) >= 1, "a video without rows has no chunks"
    chunks = -(-len(rows_ND) // length)
    padded = np.zeros((chunks * length, rows_ND.shape[1]), np.float32)
    padded[: len(rows_ND)] = rows_ND
    lengths_C = np.full(chunks, length, np.int64)
    lengths_C[-1] = len(rows_ND) - (chunks - 1) * length
    return padded.reshape(chunks, length, -1), lengths_C


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> torch.autocast:
    """Return the context in which the model computes in `precision`; parameters stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def class_texts(model: VadClip, precision: Literal["fp32", "bf16"]) -> Tensor | None:
    """Return text_KD of the model's classes, to be computed once and given to `video_output`.

    None without an alignment branch.
    """
    with autocast(device_of(model), precision):
        text_KD = model.text_features()
    return None if text_KD is None else text_KD.float()


@torch.inference_mode()
def plain_texts(text: TextTower, classes: Classes) -> Tensor:
    """Return text_KD of the class prompts as the frozen CLIP encodes them, L2-normalised: zero-shot use."""
    return F.normalize(text.encode(classes.prompts), dim=-1)


def device_of(model: VadClip) -> torch.device:
    """Return where the model is."""
    return next(model.parameters()).device


@torch.inference_mode()
def video_output(
    model: VadClip,
    rows_ND: npt.NDArray[np.floating[Any]],
    text_KD: Tensor | None,
    precision: Literal["fp32", "bf16"],
    *,
    chunks_per_pass: int = CHUNKS_PER_PASS,
) -> VadClipOutput:
    """Return the outputs of a whole video of N >= 1 snippets as one sequence: B = 1, T = N.

    They are on the model's device; the model is expected in eval mode.
    """
    device = device_of(model)
    chunks_CTD, lengths_C = split_chunks(rows_ND, model.config.length)
    outputs = []
    for start in range(0, len(chunks_CTD), chunks_per_pass):
        part = slice(start, start + chunks_per_pass)
        with autocast(device, precision):
            outputs.append(
                model(
                    torch.from_numpy(chunks_CTD[part]).to(device),
                    torch.from_numpy(lengths_C[part]).to(device),
                    text_KD,
                )
            )
    return VadClipOutput(
        anomaly_logits_BT=_one_sequence([output.anomaly_logits_BT for output in outputs], len(rows_ND)),
        class_logits_BTK=_one_sequence([output.class_logits_BTK for output in outputs], len(rows_ND)),
        learned_text_KD=outputs[0].learned_text_KD,
    )


def branch_scores(output: VadClipOutput) -> tuple[Tensor, Tensor]:
    """Return anomaly score_BT and p(normal)_BT; for a branch that is missing the other one speaks."""
    if output.class_logits_BTK is None:
        assert output.anomaly_logits_BT is not None
        score_BT = output.anomaly_logits_BT.sigmoid()
        return score_BT, 1 - score_BT
    normal_BT = output.class_logits_BTK.softmax(dim=-1)[..., 0]
    anomaly_BT = output.anomaly_logits_BT
    return (1 - normal_BT if anomaly_BT is None else anomaly_BT.sigmoid()), normal_BT


def _one_sequence(parts: Sequence[Tensor | None], N: int) -> Tensor | None:
    """Join chunks [C, T, ...] to [1, N, ...]: only the last is padded, so the first N of all are valid."""
    there = [part for part in parts if part is not None]
    return torch.cat(there).flatten(0, 1)[None, :N] if there else None
