"""Training VadCLIP, the whole loop (vadclip.md sections 3 and 4; official src/ucf_train.py, xd_train.py).

AdamW with milestones over batches from `batches.py`. After each epoch: figures over whole validation videos,
the rule of `selection.py`, the state for resuming. The result depends on the `Task` alone: an interrupted
training that goes on ends in the weights, bit for bit, of one that was left in peace, on the CPU and on the
GPU that it was tried on (an H200; PyTorch promises it for no other).

Deviations from the official code: the epoch is picked on validation videos with their video-level labels
only, not on the test set, unless `train.selection: official` asks for that; a loss or gradient that is not
finite stops before the update instead of spoiling the weights.

Legend of shape suffixes: B rows of a batch.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from vadclip.clip.on_gpu import full_float32, repeatable
from vadclip.config import TrainParams
from vadclip.errors import InputError
from vadclip.model.inference import autocast
from vadclip.model.losses import LossTerms, vadclip_loss
from vadclip.model.vadclip import VadClip, VadClipOutput
from vadclip.progress import track
from vadclip.train.batches import Batch, anomalous_rows, epoch_batches, load_rows
from vadclip.train.history import EpochRecord, History, StepRecord, TrainLogger
from vadclip.train.official_selection import OfficialSelection
from vadclip.train.resume import (
    ResumeFolder,
    optimizer_tensors,
    prefixed,
    random_states,
    restore_optimizer,
    restore_random_states,
    under,
)
from vadclip.train.selection import Rule, Selector, ValidationFigures
from vadclip.train.task import Task
from vadclip.train.validation import Validation


class TrainingError(InputError):
    """Training cannot go on: a loss or gradient is not finite."""


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
        figures = (
            {f"selected_{name}": value for name, value in asdict(self.figures).items()}
            if self.figures
            else {}
        )
        seconds = sum(record.seconds for record in self.history.epochs)
        return {"selected_epoch": self.epoch, "train_seconds": seconds, **figures}


def train(
    task: Task, *, device: torch.device, resume: ResumeFolder, logger: TrainLogger, readers: int
) -> Trained:
    """Train, going on from what `resume` holds; the caller removes that once the model is safely written.

    `readers` threads load the features. Raises InputError if there are too few videos for a batch or for
    validation, TrainingError if a loss is not finite.
    """
    params = task.params
    anomalous_R = anomalous_rows(task.train_videos, task.classes, task.train_crops)
    steps_per_epoch = len(epoch_batches(anomalous_R, params, 0))
    validation = Validation.prepare(task)
    on_test = OfficialSelection(task, steps_per_epoch) if params.selection == "official" else None
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
    selector = on_test or Selector(_rule(params), task.criterion)
    history = History()
    chosen = model.state_dict()

    if saved := resume.load():
        tensors, facts = saved
        model.load_state_dict(under("model", tensors))
        chosen = under("chosen", tensors)
        restore_optimizer(optimizer, under("optimizer", tensors), facts["rates"])
        scheduler.last_epoch = facts["epoch"]
        restore_random_states(under("random", tensors), device)
        selector.restore(facts["selector"])
        history = History.from_facts(facts["history"])
        history.tell(logger)

    first_epoch = len(history.epochs)
    with track((params.epochs - first_epoch) * steps_per_epoch, "training", "steps") as progress:
        if first_epoch:
            progress.message(f"training: going on after epoch {first_epoch} of {params.epochs}")
        for epoch in range(first_epoch, params.epochs):
            started, rows_seen, aside = time.monotonic(), 0, 0.0
            epoch_losses: list[float] = []
            rate = optimizer.param_groups[0]["lr"]
            model.train()
            order = epoch_batches(anomalous_R, params, epoch)
            for position, batch in enumerate(rows.batches(order, device)):
                with autocast(device, params.precision):
                    output = model(batch.visual_BTD, batch.lengths_B)
                terms = vadclip_loss(output, batch.labels_BK, batch.lengths_B, params.contrast_weight)
                optimizer.zero_grad()
                terms.total.backward()  # type: ignore[no-untyped-call]
                record = _step_record(terms, model, epoch + 1, len(history.steps) + 1, rate)
                if not math.isfinite(record.loss) or not math.isfinite(record.gradient_norm):
                    place = f"epoch {epoch + 1}, step {len(epoch_losses) + 1} of {steps_per_epoch}"
                    raise _not_finite(place, record, batch, output)
                optimizer.step()
                history.steps.append(record)
                epoch_losses.append(record.loss)
                rows_seen += len(batch.video_ids)
                logger.step(record)
                progress.advance()
                if on_test and on_test.due(position):
                    paused = time.monotonic()
                    if on_test.offer_weights(epoch + 1, model):
                        chosen = _weights(model)
                    model.train()
                    aside += time.monotonic() - paused
            scheduler.step()

            seconds = time.monotonic() - started - aside
            figures = validation.figures(model) if validation else None
            is_chosen = selector.offer(epoch + 1, figures)
            if on_test:
                model.load_state_dict(chosen)  # the optimiser's moments and the schedule go on
            elif is_chosen:
                chosen = _weights(model)
            epoch_record = EpochRecord(
                epoch=epoch + 1,
                step=len(history.steps),
                loss=float(np.mean(epoch_losses)),
                learning_rate=rate,
                seconds=seconds,
                rows_per_second=rows_seen / seconds,
                chosen=is_chosen,
                figures=figures,
                time_ms=_now_ms(),
                best_on_test=on_test.best if on_test else None,
            )
            history.epochs.append(epoch_record)
            resume.save(
                prefixed("model", model.state_dict())
                | prefixed("chosen", chosen)
                | prefixed("optimizer", optimizer_tensors(optimizer))
                | prefixed("random", random_states(device)),
                {
                    "epoch": epoch + 1,
                    "rates": [group["lr"] for group in optimizer.param_groups],
                    "selector": selector.state(),
                    "history": history.facts(),
                },
            )
            logger.epoch(epoch_record)
            progress.message(_epoch_line(epoch_record, params))

    model.load_state_dict(chosen)
    assert selector.epoch is not None, "at least one epoch was offered"
    return Trained(model.eval(), selector.epoch, selector.figures, history)


def _rule(params: TrainParams) -> Rule:
    assert params.selection != "official", "that rule is OfficialSelection"
    return params.selection


def _weights(model: VadClip) -> dict[str, Tensor]:
    """Return a copy of the model's weights, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _step_record(terms: LossTerms, model: VadClip, epoch: int, step: int, rate: float) -> StepRecord:
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    values = {"loss": terms.total, "gradient_norm": norm, **terms.there}
    numbers = torch.stack(list(values.values())).tolist()  # the step's one wait for the device
    found = dict(zip(values, numbers, strict=True))
    return StepRecord(
        epoch=epoch,
        step=step,
        loss=found["loss"],
        classification=found.get("classification"),
        alignment=found.get("alignment"),
        contrast=found.get("contrast"),
        gradient_norm=found["gradient_norm"],
        learning_rate=rate,
        time_ms=_now_ms(),
    )


def _not_finite(place: str, record: StepRecord, batch: Batch, output: VadClipOutput) -> TrainingError:
    outputs = [part for part in (output.anomaly_logits_BT, output.class_logits_BTK) if part is not None]
    finite_B = torch.stack([part.isfinite().flatten(1).all(1) for part in outputs]).all(0)
    guilty = [
        video_id for video_id, finite in zip(batch.video_ids, finite_B.tolist(), strict=True) if not finite
    ]
    named = f"the model's output is not finite for {', '.join(dict.fromkeys(guilty))}; " if guilty else ""
    terms = ", ".join(f"{name} {value:g}" for name, value in record.terms().items())
    return TrainingError(
        f"training stopped at {place}, before its update, at a value that is not finite: loss terms "
        f"{terms}, gradient norm {record.gradient_norm:g}; {named}the batch held "
        f"{', '.join(dict.fromkeys(batch.video_ids))}; look at the features of these videos, lower "
        "train.learning_rate, or set train.precision: fp32"
    )


def _epoch_line(record: EpochRecord, params: TrainParams) -> str:
    figures = record.figures
    parts = [f"epoch {record.epoch} of {params.epochs}: loss {record.loss:.4f}"]
    if figures:
        parts.append(
            f"validation loss {figures.val_loss:.4f}, video AUC {figures.val_video_auc:.4f}, "
            f"video AP {figures.val_video_ap:.4f}"
        )
    if record.best_on_test is not None:
        parts.append(f"best on the TEST set so far {record.best_on_test:.4f}")
    parts.append(f"{record.rows_per_second:,.0f} rows/s")
    if params.selection == "validation" and record.chosen:
        parts.append("best so far")
    return ", ".join(parts)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
