"""Training VadCLIP, the whole loop (vadclip.md sections 3 and 4; official src/ucf_train.py, xd_train.py).

AdamW with milestones over batches from `batches.py`. `selection.py` picks the weights that become the model,
`resume.py` keeps the state after each epoch. The result depends on the `Task` alone: an interrupted training
that goes on ends in the same weights, bit for bit, as an undisturbed one. That was tried on the CPU and on an
H200; PyTorch promises it for no other device.

Deviations from the official code: the epoch is picked on validation videos with their video-level labels
only, not on the test set, unless `train.selection: official` asks for that; a loss or gradient that is not
finite stops before the update instead of spoiling the weights.

Legend of shape suffixes: B rows of a batch, R rows of the training set.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from vadclip.clip.on_gpu import full_float32, repeatable
from vadclip.errors import InputError
from vadclip.model.inference import autocast
from vadclip.model.losses import LossTerms, vadclip_loss
from vadclip.model.vadclip import VadClip, VadClipOutput
from vadclip.progress import track
from vadclip.train.batches import Batch, anomalous_rows, epoch_batches, load_rows
from vadclip.train.history import TERMS, EpochRecord, History, StepRecord, TrainLogger, ValidationFigures
from vadclip.train.resume import ResumeFolder, TrainingState
from vadclip.train.selection import Selection
from vadclip.train.task import Task


@dataclass(frozen=True)
class Trained:
    """The chosen epoch's model, on the device it was trained on and in eval mode, and how it came about."""

    model: VadClip
    epoch: int
    """From 1."""
    figures: ValidationFigures | None
    """Of that epoch; None without validation videos of both kinds."""
    history: History

    def summary(self) -> dict[str, float]:
        """Return numbers that sum it up: the chosen epoch, its figures, seconds spent in updates."""
        figures = asdict(self.figures) if self.figures else {}
        seconds = sum(record.seconds for record in self.history.epochs)
        return {**figures, "train/selected_epoch": self.epoch, "time/training_seconds": seconds}


def train(
    task: Task, *, device: torch.device, resume: ResumeFolder, logger: TrainLogger, readers: int
) -> Trained:
    """Train, going on from what `resume` holds; the caller removes that once the model is safely written.

    `readers` threads load the features. Raises InputError if there are too few videos for a batch or for
    validation, or a loss or gradient is not finite.
    """
    params = task.params
    anomalous_R = anomalous_rows(task.train_videos, task.classes, task.train_crops)
    steps = len(epoch_batches(anomalous_R, params, 0))
    selection = Selection(task, steps)
    rows = load_rows(
        task.features,
        task.train_videos,
        task.classes,
        crops=task.train_crops,
        length=task.config.length,
        scratch=resume.folder,
        readers=readers,
    )

    full_float32()
    repeatable()
    torch.manual_seed(params.seed)
    model = VadClip(task.config, task.classes, task.text).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), params.learning_rate, weight_decay=params.weight_decay)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, params.milestones, params.milestone_factor)
    history = History()
    state = TrainingState(model, optimizer, scheduler, selection, history, device)
    state.restore(resume.file)
    history.tell(logger)

    begun = len(history.epochs)
    with track((params.epochs - begun) * steps, "training", "steps") as progress:
        if begun:
            progress.message(f"training: going on after epoch {begun} of {params.epochs}")
        for epoch in range(begun + 1, params.epochs + 1):
            started, looked = time.monotonic(), 0.0
            losses: list[float] = []
            rate = optimizer.param_groups[0]["lr"]
            order = epoch_batches(anomalous_R, params, epoch - 1)
            model.train()
            for position, batch in enumerate(rows.batches(order, device)):
                with autocast(device, params.precision):
                    output = model(batch.visual_BTD, batch.lengths_B)
                terms = vadclip_loss(output, batch.labels_BK, batch.lengths_B, params.contrast_weight)
                optimizer.zero_grad()
                terms.total.backward()  # type: ignore[no-untyped-call]
                record = _step_record(terms, model, epoch, len(history.steps) + 1, rate)
                if not math.isfinite(record.loss) or not math.isfinite(record.gradient_norm):
                    raise _not_finite(f"epoch {epoch}, step {position + 1} of {steps}", record, batch, output)
                optimizer.step()
                history.steps.append(record)
                losses.append(record.loss)
                logger.step(record)
                progress.advance()
                paused = time.monotonic()
                selection.after_step(epoch, position, model)
                looked += time.monotonic() - paused
            scheduler.step()

            seconds = time.monotonic() - started - looked
            figures, chosen = selection.after_epoch(epoch, model)
            epoch_record = EpochRecord(
                epoch=epoch,
                step=len(history.steps),
                loss=float(np.mean(losses)),
                learning_rate=rate,
                seconds=seconds,
                rows_per_second=sum(map(len, order)) / seconds,
                chosen=chosen,
                figures=figures,
                time_ms=_now_ms(),
                best_on_test=selection.best_on_test,
            )
            history.epochs.append(epoch_record)
            state.save(resume.file)
            logger.epoch(epoch_record)
            progress.message(epoch_record.line(params.epochs))

    model.load_state_dict(selection.weights)
    assert selection.epoch is not None, "at least one epoch was looked at"
    return Trained(model.eval(), selection.epoch, selection.figures, history)


def _step_record(terms: LossTerms, model: VadClip, epoch: int, step: int, rate: float) -> StepRecord:
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    values = {"loss": terms.total, "gradient_norm": norm, **terms.there}
    numbers = torch.stack(list(values.values())).tolist()  # the step's one wait for the device
    found: dict[str, Any] = {**dict.fromkeys(TERMS), **dict(zip(values, numbers, strict=True))}
    return StepRecord(epoch=epoch, step=step, learning_rate=rate, time_ms=_now_ms(), **found)


def _not_finite(place: str, record: StepRecord, batch: Batch, output: VadClipOutput) -> InputError:
    outputs = [part for part in (output.anomaly_logits_BT, output.class_logits_BTK) if part is not None]
    finite_B = torch.stack([part.isfinite().flatten(1).all(1) for part in outputs]).all(0)
    guilty = [
        video_id for video_id, finite in zip(batch.video_ids, finite_B.tolist(), strict=True) if not finite
    ]
    named = f"the model's output is not finite for {', '.join(dict.fromkeys(guilty))}; " if guilty else ""
    terms = ", ".join(f"{name} {value:g}" for name, value in record.terms().items())
    return InputError(
        f"training stopped at {place}, before its update, at a value that is not finite: loss terms "
        f"{terms}, gradient norm {record.gradient_norm:g}; {named}the batch held "
        f"{', '.join(dict.fromkeys(batch.video_ids))}; look at the features of these videos, lower "
        "train.learning_rate, or set train.precision: fp32"
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
