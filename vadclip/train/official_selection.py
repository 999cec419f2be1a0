"""Picking weights on the test set, as the authors do (vadclip.md section 4; official src/ucf_train.py,
src/xd_train.py).

UCF-Crime: after the update with 0-based index 10, 20, ... of each epoch, by the frame AUC of the
classification branch, and never at an epoch's end. XD-Violence: at each epoch's end, by the frame AP of the
alignment branch. A strictly greater figure wins. At each epoch's end the best weights so far are loaded back
into the model, while the optimiser's moments and the schedule go on (training.py does that).

Test figures of such a model flatter it: they compare with the paper's and say nothing about new videos.

Legend of shape suffixes: N snippets of all test videos, C chunks, T snippets of a chunk, D width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vadclip.errors import InputError
from vadclip.frame_figures import Ints, frame_ap, frame_auc, frames_in_snippets
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.model.inference import (
    CHUNKS_PER_PASS,
    autocast,
    branch_scores,
    class_texts,
    device_of,
    split_chunks,
)
from vadclip.model.vadclip import VadClip
from vadclip.train.selection import ValidationFigures
from vadclip.train.task import Task

UPDATES_BETWEEN = 10


class OfficialSelection:
    """The test videos as one training sees them, and the best figure so far.

    Raises InputError if their figure is not defined, or if no epoch would reach an evaluation.
    """

    def __init__(self, task: Task, steps_per_epoch: int) -> None:
        self._by_ap = task.criterion == "val_video_ap"
        self._steps_per_epoch = steps_per_epoch
        if not self._by_ap and steps_per_epoch <= UPDATES_BETWEEN:
            raise InputError(
                f"train.selection official looks at the test set after every {UPDATES_BETWEEN}th update but "
                f"the first, and an epoch has {steps_per_epoch}: lower train.batch_size, or take last"
            )
        self._precision = task.params.precision
        parts = [
            split_chunks(task.features.array(video.video_id, task.test_crop), task.config.length)
            for video in task.test_videos
        ]
        positive = [
            frames_in_snippets(video.frame_spans, task.features.rows(video.video_id))
            for video in task.test_videos
        ]
        self._positive_N: Ints = np.concatenate([np.empty(0, np.int64), *positive])
        if not 0 < self._positive_N.sum() < SNIPPET_FRAMES * len(self._positive_N):
            raise InputError(
                "train.selection official needs test videos with normal and anomalous frames, and the "
                f"{len(parts)} with features have not both"
            )
        # Features are float16 in the store, so this is exact and half as large.
        self._chunks_CTD = np.concatenate([chunks_CTD.astype(np.float16) for chunks_CTD, _ in parts])
        self._lengths_C = np.concatenate([lengths_C for _, lengths_C in parts])
        self.epoch: int | None = None
        """Of the best weights, from 1."""
        self.figures: ValidationFigures | None = None
        """There are no validation videos."""
        self.best: float | None = None

    def due(self, position: int) -> bool:
        """Say whether to evaluate after the update with this 0-based index in its epoch."""
        if self._by_ap:
            return position == self._steps_per_epoch - 1
        return position > 0 and position % UPDATES_BETWEEN == 0

    def offer_weights(self, epoch: int, model: VadClip) -> bool:
        """Evaluate the model as it is, and say whether it is the best so far. Leaves it in eval mode."""
        figure = self._figure(model)
        better = self.best is None or figure > self.best
        if better:
            self.best, self.epoch = figure, epoch
        return better

    def offer(self, epoch: int, figures: ValidationFigures | None) -> bool:
        """Say whether the best weights so far are this epoch's; for use as a `selection.Selector`."""
        return self.epoch == epoch

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, in plain types."""
        return {"epoch": self.epoch, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.epoch, self.best = state["epoch"], state["best"]

    @torch.inference_mode()
    def _figure(self, model: VadClip) -> float:
        score_N = self._scores(model.eval())
        if not np.isfinite(score_N).all():
            raise InputError("train.selection official: the scores of the test videos are not finite")
        metric = frame_ap if self._by_ap else frame_auc
        return metric(score_N, self._positive_N, SNIPPET_FRAMES - self._positive_N)

    def _scores(self, model: VadClip) -> npt.NDArray[np.float32]:
        device, text_KD = device_of(model), class_texts(model, self._precision)
        found = []
        for start in range(0, len(self._chunks_CTD), CHUNKS_PER_PASS):
            part = slice(start, start + CHUNKS_PER_PASS)
            visual_CTD = torch.from_numpy(self._chunks_CTD[part]).to(device).float()
            lengths_C = torch.from_numpy(self._lengths_C[part]).to(device)
            with autocast(device, self._precision):
                output = model(visual_CTD, lengths_C, text_KD)
            anomaly_CT, normal_CT = branch_scores(output)
            score_CT = 1 - normal_CT if self._by_ap else anomaly_CT
            valid_CT = torch.arange(score_CT.shape[1], device=device) < lengths_C[:, None]
            found.append(score_CT[valid_CT].cpu())
        score_N: npt.NDArray[np.float32] = torch.cat(found).numpy()
        return score_N
