"""Which weights become the model: the rules `validation`, `last` and `official` of `train.selection`.

`validation`: after each epoch, figures over whole validation videos, scored as the score stage will. They
know video labels only, as in deployment: segments are never read, even where they are known. The highest
criterion wins, at a tie the lower validation loss, then the earlier epoch. `last`: every epoch replaces the
one before.

`official`, on the test set, as the authors do (vadclip.md section 4; official src/ucf_train.py,
src/xd_train.py). UCF-Crime: after the update with 0-based index 10, 20, ... of each epoch, by the frame AUC
of the classification branch, and never at an epoch's end. XD-Violence: at each epoch's end, by the frame AP
of the alignment branch. A strictly greater figure wins. At each epoch's end the best weights so far are
loaded back into the model, while the optimiser's moments and the schedule go on. Test figures of such a model
flatter it: they compare with the paper's and say nothing about new videos.

Legend of shape suffixes: V validation videos, N snippets (of one video, or of all test videos), D width, K
classes, C chunks, T snippets of a chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from vadclip.errors import InputError
from vadclip.frame_figures import Ints, frame_ap, frame_auc, frames_in_snippets, top_mean
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.model.inference import (
    CHUNKS_PER_PASS,
    autocast,
    branch_scores,
    class_texts,
    device_of,
    split_chunks,
    video_output,
)
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import VadClip
from vadclip.train.batches import anomalous_rows
from vadclip.train.history import ValidationFigures
from vadclip.train.task import Criterion, Task

UPDATES_BETWEEN = 10


class Selection:
    """The weights to be the model, as far as a training has come.

    Raises InputError before training if the rule has not the videos or the updates it needs.
    """

    def __init__(self, task: Task, steps_per_epoch: int) -> None:
        self._rule, self._criterion = task.params.selection, task.criterion
        self._validation = _validation(task)
        self._test = TestVideos(task, steps_per_epoch) if self._rule == "official" else None
        self.weights: dict[str, Tensor] = {}
        """A copy of the chosen ones, on the CPU; empty before the first choice."""
        self.epoch: int | None = None
        """Of the chosen weights, from 1."""
        self.figures: ValidationFigures | None = None
        """Of the chosen weights; None without validation videos of both kinds."""
        self.best_on_test: float | None = None
        """Under `official`: the figure of the chosen weights."""

    def after_step(self, epoch: int, position: int, model: VadClip) -> None:
        """Look at the model after the update with this 0-based index in its epoch; leaves train mode on."""
        if self._test and self._test.due(position):
            figure = self._test.figure(model)
            model.train()
            if self.best_on_test is None or figure > self.best_on_test:
                self.best_on_test = figure
                self._choose(epoch, None, model)

    def after_epoch(self, epoch: int, model: VadClip) -> tuple[ValidationFigures | None, bool]:
        """Return the epoch's figures, and whether the chosen weights are of this epoch."""
        figures = self._validation.figures(model) if self._validation else None
        if self._test:
            model.load_state_dict(self.weights)
        elif self._rule == "last" or is_better(figures, self.figures, self._criterion):
            self._choose(epoch, figures, model)
        return figures, self.epoch == epoch

    def _choose(self, epoch: int, figures: ValidationFigures | None, model: VadClip) -> None:
        self.epoch, self.figures = epoch, figures
        self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        """Return what a resumed training needs beside the weights, in plain types."""
        figures = asdict(self.figures) if self.figures else None
        return {"epoch": self.epoch, "figures": figures, "best_on_test": self.best_on_test}

    def restore(self, weights: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take back `weights` and what `facts` returned."""
        self.weights, self.epoch, self.best_on_test = weights, facts["epoch"], facts["best_on_test"]
        self.figures = ValidationFigures(**facts["figures"]) if facts["figures"] else None


def is_better(one: ValidationFigures | None, than: ValidationFigures | None, criterion: Criterion) -> bool:
    """Say whether a later epoch's figures win over the chosen ones (None: nothing is chosen yet)."""
    assert one is not None, "the rule validation needs figures at every epoch"
    return than is None or (getattr(one, criterion), -one.val_loss) > (
        getattr(than, criterion),
        -than.val_loss,
    )


def check_validation_videos(anomalous: Sequence[bool]) -> None:
    """Raise InputError unless there are normal and anomalous validation videos (vadclip.md section 6)."""
    found = sum(anomalous)
    if 0 < found < len(anomalous):
        return
    kind = "anomalous" if found else "normal"
    held = f"only {kind} videos ({len(anomalous)})" if anomalous else "no video"
    raise InputError(
        f"train.selection validation: the val split holds {held}, and picking an epoch needs normal and "
        "anomalous ones; raise ingest.val_fraction, add videos, or set train.selection: last"
    )


def _validation(task: Task) -> "ValidationVideos | None":
    """Return the validation videos; None where another rule than `validation` has not both kinds."""
    anomalous = anomalous_rows(task.val_videos, task.classes, 1).tolist()
    if task.params.selection == "validation":
        check_validation_videos(anomalous)
    return ValidationVideos(task, anomalous) if len(set(anomalous)) == 2 else None


class ValidationVideos:
    """The rows of the validation videos, of the one crop that the score stage takes."""

    def __init__(self, task: Task, anomalous: Sequence[bool]) -> None:
        self._params, self._anomalous = task.params, anomalous
        self._rows = [task.features.array(video.video_id, task.test_crop) for video in task.val_videos]
        self._labels_VK = torch.from_numpy(
            np.stack([task.classes.multi_hot(video.labels) for video in task.val_videos])
        )

    @torch.inference_mode()
    def figures(self, model: VadClip) -> ValidationFigures:
        """Compute the figures of the model as it is; leaves eval mode on.

        The loss is the training loss of each whole video, all N snippets of it as one sequence (so k is
        floor(N / 16) + 1), averaged over videos.
        """
        device, precision = device_of(model.eval()), self._params.precision
        text_KD = class_texts(model, precision)
        scores, normal, losses = [], [], []
        for rows_ND, labels_K in zip(self._rows, self._labels_VK, strict=True):
            output = video_output(model, rows_ND, text_KD, precision)
            labels_1K = labels_K[None].to(device)
            length_1 = torch.tensor([len(rows_ND)], device=device)
            losses.append(vadclip_loss(output, labels_1K, length_1, self._params.contrast_weight).total)
            score_1N, normal_1N = branch_scores(output)
            scores.append(score_1N[0])
            normal.append(normal_1N[0])
        return validation_figures(
            [score_N.cpu().numpy() for score_N in scores],
            [normal_N.cpu().numpy() for normal_N in normal],
            self._anomalous,
            float(torch.stack(losses).mean()),
        )


def validation_figures(
    anomaly_scores: Sequence[npt.NDArray[np.floating[Any]]],
    normal_probabilities: Sequence[npt.NDArray[np.floating[Any]]],
    anomalous: Sequence[bool],
    loss: float,
) -> ValidationFigures:
    """Compute the figures of one epoch.

    `anomaly_scores` and `normal_probabilities` hold one array [N] per video: sigmoid of the classification
    branch and p(normal) of the alignment branch.
    """
    by_classification = [top_mean(scores_N) for scores_N in anomaly_scores]
    by_alignment = [top_mean(1.0 - normal_N) for normal_N in normal_probabilities]
    return ValidationFigures(
        val_video_auc=float(roc_auc_score(anomalous, by_classification)),
        val_video_ap=float(average_precision_score(anomalous, by_alignment)),
        val_loss=float(loss),
    )


class TestVideos:
    """The test videos as `official` sees them."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, task: Task, steps_per_epoch: int) -> None:
        self._by_ap = task.criterion == "val_video_ap"
        self._steps_per_epoch = steps_per_epoch
        if not self._by_ap and steps_per_epoch <= UPDATES_BETWEEN:
            raise InputError(
                f"train.selection official looks at the test set after every {UPDATES_BETWEEN}th update but "
                f"the first, and an epoch has {steps_per_epoch}: lower train.batch_size, or take last"
            )
        self._precision: Literal["fp32", "bf16"] = task.params.precision
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

    def due(self, position: int) -> bool:
        """Say whether to look after the update with this 0-based index in its epoch."""
        if self._by_ap:
            return position == self._steps_per_epoch - 1
        return position > 0 and position % UPDATES_BETWEEN == 0

    @torch.inference_mode()
    def figure(self, model: VadClip) -> float:
        """Compute the figure of the model as it is; leaves eval mode on."""
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
