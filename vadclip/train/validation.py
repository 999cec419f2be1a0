"""How a model does on the validation videos after an epoch, seen as the score stage will see them.

Legend of shape suffixes: V validation videos, N snippets of one, D width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vadclip.config import TrainParams
from vadclip.events import Peak
from vadclip.model.inference import branch_scores, class_texts, device_of, video_output
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import VadClip
from vadclip.train.batches import anomalous_rows
from vadclip.train.selection import ValidationFigures, check_validation_videos, validation_figures
from vadclip.train.task import Task


@dataclass(frozen=True)
class Validation:
    """The validation videos, as the score stage will see them: one crop, chunks of T snippets."""

    rows: Sequence[npt.NDArray[np.float16]]
    labels_VK: Tensor
    anomalous: Sequence[bool]
    params: TrainParams

    @classmethod
    def prepare(cls, task: Task) -> "Validation | None":
        """Read the videos' rows; None if `last` has no use for them because they are not of both kinds.

        Raises InputError under `validation` unless there are normal and anomalous ones.
        """
        anomalous = anomalous_rows(task.val_videos, task.classes, 1).tolist()
        if task.params.selection == "validation":
            check_validation_videos(anomalous)
        elif len(set(anomalous)) < 2:
            return None
        return cls(
            rows=[task.features.array(video.video_id, task.test_crop) for video in task.val_videos],
            labels_VK=torch.from_numpy(
                np.stack([task.classes.multi_hot(video.labels) for video in task.val_videos])
            ),
            anomalous=anomalous,
            params=task.params,
        )

    @torch.inference_mode()
    def figures(self, model: VadClip) -> ValidationFigures:
        """Compute the figures of the model as it is.

        The loss is the training loss of each whole video, all N snippets of it as one sequence (so k is
        floor(N / 16) + 1), averaged over videos.
        """
        model.eval()
        device = device_of(model)
        text_KD = class_texts(model, self.params.precision)
        scores, normal, losses = [], [], []
        for rows_ND, labels_K in zip(self.rows, self.labels_VK, strict=True):
            output = video_output(model, rows_ND, text_KD, self.params.precision)
            labels_1K = labels_K[None].to(device)
            length_1 = torch.tensor([len(rows_ND)], device=device)
            losses.append(vadclip_loss(output, labels_1K, length_1, self.params.contrast_weight).total)
            score_1N, normal_1N = branch_scores(output)
            scores.append(score_1N[0])
            normal.append(normal_1N[0])
        return validation_figures(
            [score_N.cpu().numpy() for score_N in scores],
            [normal_N.cpu().numpy() for normal_N in normal],
            self.anomalous,
            float(torch.stack(losses).mean()),
        )


def normal_peaks(task: Task, model: VadClip) -> tuple[Peak, ...]:
    """Return the highest anomaly score of each normal validation video, in float32; leaves eval mode on.

    The score is the classification branch's; a model without one gives 1 - p(normal).
    """
    text_KD = class_texts(model.eval(), "fp32")
    peaks = []
    for video in task.val_videos:
        if video.labels != (task.classes.normal,):
            continue
        output = video_output(model, task.features.array(video.video_id, task.test_crop), text_KD, "fp32")
        score_1N, _ = branch_scores(output)
        hours = video.num_frames / video.fps / 3600 if video.fps else None
        peaks.append(Peak(video.video_id, float(score_1N.max()), hours))
    return tuple(peaks)
