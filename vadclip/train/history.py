"""What happened in a training: a record per update and per epoch, and the files they end up in.

Free of torch, so that tracking can read records without it.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from vadclip.files import write_text_atomic

EPOCHS_FILE = "epochs.json"
STEPS_FILE = "steps.csv"
TERMS = ("classification", "alignment", "contrast")
"""Names of the loss terms."""


@dataclass(frozen=True)
class ValidationFigures:
    """How one epoch does on the validation videos."""

    val_video_auc: float
    """ROC AUC over videos of the top mean of the classification branch."""
    val_video_ap: float
    """Average precision over videos of the top mean of 1 - p(normal), the alignment branch."""
    val_loss: float
    """Summed training loss on the validation videos; breaks ties only."""


@dataclass(frozen=True)
class StepRecord:
    """One update; the loss terms (losses.LossTerms) are those before it."""

    epoch: int
    """From 1."""
    step: int
    """From 1, over all epochs."""
    loss: float
    """Sum of the terms."""
    classification: float | None
    """None, as with the next two, for a term that the model lacks."""
    alignment: float | None
    contrast: float | None
    gradient_norm: float
    learning_rate: float
    time_ms: int
    """Wall clock, Unix milliseconds."""

    def terms(self) -> dict[str, float]:
        """Return the loss terms that the model has, by name."""
        terms = {name: getattr(self, name) for name in TERMS}
        return {name: value for name, value in terms.items() if value is not None}


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, counted from 1."""

    epoch: int
    step: int
    """The epoch's last."""
    loss: float
    """Mean over the epoch's steps."""
    learning_rate: float
    seconds: float
    """Of the updates, without validation."""
    rows_per_second: float
    chosen: bool
    """Whether the selection rule now prefers this epoch to those before."""
    figures: ValidationFigures | None
    time_ms: int
    best_on_test: float | None = None
    """Under `train.selection: official`: the best figure so far on the test set; else None."""

    def flat(self) -> dict[str, float]:
        """Return the numbers by name: val_*, best_on_test, loss, learning_rate, seconds, rows_per_second."""
        figures = asdict(self.figures) if self.figures else {}
        if self.best_on_test is not None:
            figures["best_on_test"] = self.best_on_test
        own = ("loss", "learning_rate", "seconds", "rows_per_second")
        return figures | {name: getattr(self, name) for name in own}

    def line(self, epochs: int) -> str:
        """Say the epoch, one of `epochs`, in a line."""
        parts = [f"epoch {self.epoch} of {epochs}: loss {self.loss:.4f}"]
        if self.figures:
            parts.append(
                f"validation loss {self.figures.val_loss:.4f}, video AUC {self.figures.val_video_auc:.4f}, "
                f"video AP {self.figures.val_video_ap:.4f}"
            )
        if self.best_on_test is not None:
            parts.append(f"best on the TEST set so far {self.best_on_test:.4f}")
        return ", ".join([*parts, f"{self.rows_per_second:,.0f} rows/s"]) + (
            "; chosen" if self.chosen else ""
        )


class TrainLogger(Protocol):
    """Who watches a training. A resumed one is told again what happened before, in order."""

    def step(self, record: StepRecord) -> None:
        """Take note of an update."""

    def epoch(self, record: EpochRecord) -> None:
        """Take note of an epoch's end."""


@dataclass
class History:
    """Everything so far, in order."""

    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Return the history in plain JSON types."""
        return asdict(self)

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` returned."""
        self.steps += [StepRecord(**record) for record in facts["steps"]]
        for record in facts["epochs"]:
            found = record["figures"]
            figures = ValidationFigures(**found) if found else None
            self.epochs.append(EpochRecord(**{**record, "figures": figures}))

    def tell(self, logger: TrainLogger) -> None:
        """Tell `logger` everything, as if it happened now."""
        steps = iter(self.steps)
        for epoch_record in self.epochs:
            for record in steps:
                logger.step(record)
                if record.step == epoch_record.step:
                    break
            logger.epoch(epoch_record)

    def write(self, folder: Path) -> None:
        """Write epochs.json (a flat object per epoch, for `dvc plots`) and steps.csv into `folder`."""
        epochs = [{"epoch": record.epoch, **record.flat()} for record in self.epochs]
        write_text_atomic(folder / EPOCHS_FILE, json.dumps(epochs, indent=1) + "\n")
        table = io.StringIO()
        names = [field.name for field in fields(StepRecord) if field.name != "time_ms"]
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(record, name) for name in names] for record in self.steps)
        write_text_atomic(folder / STEPS_FILE, table.getvalue())
