"""The runs in MLflow, as the stages see them: a mirror of the files that they write.

One run stands for one trained model: train opens the run, and evaluate adds to it, by the model's run.json.
When the store is away or fails, a line says so and the stage goes on: its files are the truth, and the next
evaluate logs the training that the store has missed. Nothing is logged twice: a resumed training tells its
past again, and this module drops the steps and epochs that the store has.
"""

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from mlflow.entities import Metric

from vadclip.config import Params, TrackingParams
from vadclip.manifest import Manifest
from vadclip.tracking.attempts import forgiven, say
from vadclip.tracking.mlflow_store import Store, open_store
from vadclip.tracking.naming import RunIdentity, training_facts
from vadclip.tracking.registry import crown
from vadclip.train.history import EPOCHS_FILE, STEPS_FILE, EpochRecord, StepRecord

if TYPE_CHECKING:
    from torch import Tensor

    from vadclip.config import ClipParams

FLUSH_SECONDS = 10.0
RETRY_SECONDS = 60.0
RECORDS_PER_BATCH = 100  # a record has up to seven numbers; MLflow takes 1,000 of them at once
STEP_METRICS = ("loss", "gradient_norm", "learning_rate")  # beside the loss terms that the model has
P = ParamSpec("P")


@contextmanager
def training_run(
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    tracking: TrackingParams,
    identity_file: Path,
    registered: str = "",
    splits: Mapping[str, tuple[str, int]] | None = None,
    store: Store | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    retry_seconds: float = RETRY_SECONDS,
) -> Iterator["TrainingRun"]:
    """Open the run of a training, or go on with the one that `identity_file` names; close it at the end.

    `name` says the settings in short. The identity is in `identity_file` before the run exists, so a kill at
    any moment leaves one run. Where that run has other params, it is left alone and a new one begins. The
    model is registered under `registered`, if that is given; `splits` are digest and number of videos of
    each. `store` is one that is open already. What is told is sent every `flush_seconds`, or where that
    failed after `retry_seconds`.
    """
    identity = RunIdentity.read(identity_file) or RunIdentity.new(name, tracking, registered)
    identity.write(identity_file)
    run = TrainingRun(identity, None)
    if store := store or open_store(tracking):
        with forgiven("no run was opened"):
            identity, last = store.begin(identity, name, params, tags, splits or {}, tracking, identity_file)
            run = TrainingRun(identity, store, last, flush_seconds, retry_seconds)
    try:
        yield run
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def add_to_run(
    run_file: Path,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    artifacts: Sequence[Path],
    stage: str,
    tracking: TrackingParams,
    description: str = "",
    criterion: str | None = None,
    training: Callable[[Store], None] | None = None,
) -> None:
    """Add a later stage's params, numbers and files to the run of the model that `run_file` (run.json) names.

    `description` is the run's, in Markdown. With `criterion`, a validation figure, the model becomes the
    champion of its name if it is the best by that. Where the store has not got the model, `training` is
    called first to log it (see `log_past_training`).

    To be called once the stage's files are written. If the store does not know the run, a new one stands for
    the model from then on; if a param has another value there, the stage's results go to a child run of it.
    """
    identity = RunIdentity.read(run_file)
    if identity is None:
        say(f"{run_file} is missing: nothing was logged")
    elif store := open_store(tracking):
        with forgiven(f"logging {stage} to {identity.name} failed"):
            if training is not None and store.lacks_model(identity):
                with forgiven("telling the training failed"):  # the stage's own figures follow all the same
                    training(store)
            run_id = store.add(identity, params, metrics, artifacts, stage)
            if description:
                store.describe(run_id, description)
            if criterion is not None:
                crown(store.client, run_id, identity.registered, criterion)


def log_past_training(
    model_folder: Path, manifest_file: Path, manifest: Manifest, params: Params, store: Store
) -> None:
    """Log a training from its files, but for the times and the machine's load.

    Raises InputError if the files are not whole, or params lead to another CLIP than the model's.
    """
    # They need torch, which evaluate does without.
    from vadclip.clip.frozen import load_clip
    from vadclip.model.folder import load_model
    from vadclip.model.inference import class_texts

    say("the store has not got this training: it is told now")
    clip = load_clip(params.clip, device="cpu")
    model, info = load_model(model_folder, clip, "cpu")
    facts = training_facts(params, manifest, info.feature_fingerprint, test_selected=info.test_selected)
    with tempfile.TemporaryDirectory() as folder:
        run_file = Path(folder) / "run.json"  # the model folder is DVC's: it stays as train wrote it
        shutil.copyfile(model_folder / "run.json", run_file)
        with training_run(**facts, identity_file=run_file, store=store) as run:
            run.curves(model_folder)
            run.model(model_folder, class_texts(model, "fp32"), params.clip)
            epoch = {} if info.epoch is None else {"train/selected_epoch": info.epoch}
            run.metrics({**epoch, **info.validation})
            run.artifacts([manifest_file, model_folder / EPOCHS_FILE, model_folder / STEPS_FILE])


class TrainingRun:
    """A training's run, as history.TrainLogger and for what comes at its end; silent without a store.

    `last` are the last step ("train") and the last epoch ("epoch") that the run has; they are told again.
    """

    def __init__(
        self,
        identity: RunIdentity,
        store: Store | None,
        last: Mapping[str, int] | None = None,
        flush_seconds: float = FLUSH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.identity = identity
        self._store = store
        self._last = last or {"train": 0, "epoch": 0}
        self._waiting: list[list[Metric]] = []
        self._flush_seconds, self._retry_seconds = flush_seconds, retry_seconds
        self._next_flush = time.monotonic() + flush_seconds
        self._begun = self._last["epoch"] > 0  # whether an epoch has ended; before that, nothing leaves

    def step(self, record: StepRecord) -> None:
        """Log an update under its step, unless the run has it."""
        numbers = {name: getattr(record, name) for name in STEP_METRICS} | record.terms()
        self._log("train", record.step, numbers, record.time_ms)

    def epoch(self, record: EpochRecord) -> None:
        """Log an epoch's figures under its number, unless the run has them."""
        # MLflow's page of a comparison opens with a run's first metric.
        self._log("epoch", record.epoch, record.flat(), record.time_ms, first=not self._begun)
        self._begun = True

    def curves(self, model_folder: Path) -> None:
        """Log what epochs.json and, after it, steps.csv in `model_folder` hold and the run has not."""
        now = time.time_ns() // 1_000_000
        for figures in json.loads((model_folder / EPOCHS_FILE).read_text(encoding="utf-8")):
            self._log("epoch", figures.pop("epoch"), figures, now)
        with (model_folder / STEPS_FILE).open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                step, _ = int(row.pop("step")), row.pop("epoch")
                self._log("train", step, {name: float(text) for name, text in row.items() if text}, now)

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Log single numbers, after what waits."""
        self._flush()
        self._mirror(Store.log_metrics, metrics)

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Log files, and folders under their own name; what does not exist is left out."""
        self._mirror(Store.log_artifacts, paths)

    def model(self, model_folder: Path, text_KD: "Tensor | None", clip: "ClipParams") -> None:
        """Log the model, with the text features of its K classes and its CLIP, to be served; once per run."""
        self._mirror(Store.log_model, model_folder, text_KD, clip, self.identity.registered)

    def end(self, status: str) -> None:
        """Send what waits and close the run."""
        self._flush()
        if self._waiting:
            say(f"{len(self._waiting)} records of {self.identity.name} could not be logged")
        self._mirror(lambda store, run_id: store.end(status))

    def _log(
        self, kind: str, number: int, numbers: Mapping[str, float], time_ms: int, *, first: bool = False
    ) -> None:
        if self._store is None or number <= self._last[kind]:
            return
        record = [Metric(f"{kind}/{name}", value, time_ms, number) for name, value in numbers.items()]
        self._waiting.insert(0 if first else len(self._waiting), record)
        if self._begun and time.monotonic() >= self._next_flush:
            self._flush()
            self._mirror(Store.watch)

    def _flush(self) -> None:
        self._next_flush = time.monotonic() + self._flush_seconds
        while self._waiting:
            # Whole records in their order, so that the highest step in the store tells what is missing there.
            part = self._waiting[:RECORDS_PER_BATCH]
            if not self._mirror(Store.log_records, part):
                self._next_flush = time.monotonic() + self._retry_seconds
                return
            del self._waiting[: len(part)]

    def _mirror(
        self, action: Callable[Concatenate[Store, str, P], None], *args: P.args, **named: P.kwargs
    ) -> bool:
        """Do what the store can with a run; return whether it worked."""
        if self._store is not None and self.identity.run_id is not None:
            with forgiven(f"logging to {self.identity.name} failed"):
                action(self._store, self.identity.run_id, *args, **named)
                return True
        return False
