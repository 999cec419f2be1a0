"""The tracking run of a training, seen from the training: records come one by one and leave in batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vadclip.tracking.identity import RunIdentity
from vadclip.tracking.mirroring import Forgiving, say
from vadclip.train.history import EpochRecord, StepRecord

if TYPE_CHECKING:
    from torch import Tensor

    from vadclip.config import ClipParams
    from vadclip.tracking.runs import Store

FLUSH_SECONDS = 10.0
RETRY_SECONDS = 60.0
RECORDS_PER_BATCH = 100  # a record has up to seven numbers; MLflow takes 1,000 of them at once
STEP_METRICS = ("loss", "gradient_norm", "learning_rate")  # beside the loss terms that the model has
LAST_STEP, LAST_EPOCH = "train/loss", "epoch/loss"  # the metrics that tell how far a run has come


@dataclass(frozen=True)
class LoggedRecord:
    """Numbers under one step."""

    numbers: Mapping[str, float]
    step: int
    time_ms: int


class TrainingRun:
    """A training's run, as history.TrainLogger and for what comes at its end; silent without a store.

    Up to `last_step` and `last_epoch` the run has what it is told; both are 0 if it is new.
    """

    def __init__(
        self, identity: RunIdentity, store: "Store | None", *, last_step: int = 0, last_epoch: int = 0
    ) -> None:
        self.identity = identity
        self._store = store
        self._last_step, self._last_epoch = last_step, last_epoch
        self._waiting: list[LoggedRecord] = []
        self._next_flush = time.monotonic() + FLUSH_SECONDS

    def step(self, record: StepRecord) -> None:
        """Log an update under its step, unless the run has it."""
        if record.step > self._last_step:
            numbers = {name: getattr(record, name) for name in STEP_METRICS} | record.terms()
            numbers = {f"train/{name}": value for name, value in numbers.items()}
            self._wait(LoggedRecord(numbers, record.step, record.time_ms))

    def epoch(self, record: EpochRecord) -> None:
        """Log an epoch's figures under its number, unless the run has them."""
        if record.epoch > self._last_epoch:
            numbers = {f"epoch/{name}": value for name, value in record.flat().items()}
            self._wait(LoggedRecord(numbers, record.epoch, record.time_ms))

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Log single numbers."""
        self._mirror(lambda store, run_id: store.log_metrics(run_id, metrics))

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Log files, and folders under their own name; what does not exist is left out."""
        self._mirror(lambda store, run_id: store.log_artifacts(run_id, paths))

    def model(self, model_folder: Path, text_KD: "Tensor | None", clip: "ClipParams") -> None:
        """Log the model, with the text features of its K classes and its CLIP, to be served; once per run."""
        self._mirror(
            lambda store, run_id: store.log_model(
                run_id, model_folder, text_KD, clip, self.identity.registered
            )
        )

    def end(self, status: str) -> None:
        """Send what waits and close the run."""
        self._flush()
        if self._waiting:
            say(f"{len(self._waiting)} records of {self.identity.name} could not be logged")
        self._mirror(lambda store, run_id: store.end(status))

    def _wait(self, record: LoggedRecord) -> None:
        if self._store is not None:
            self._waiting.append(record)
            if time.monotonic() >= self._next_flush:
                self._flush()

    def _flush(self) -> None:
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        while self._waiting:
            # Whole records in their order, so that the highest step in the store tells what is missing there.
            part = self._waiting[:RECORDS_PER_BATCH]
            if not self._mirror(partial(_send, part)):
                self._next_flush = time.monotonic() + RETRY_SECONDS
                return
            del self._waiting[: len(part)]

    def _mirror(self, action: Callable[["Store", str], None]) -> bool:
        store, run_id = self._store, self.identity.run_id
        if store is None or run_id is None:
            return False
        with Forgiving(f"logging to {self.identity.name} failed") as attempt:
            action(store, run_id)
        return attempt.ok


def _send(records: Sequence[LoggedRecord], store: "Store", run_id: str) -> None:
    store.log_records(run_id, records)
