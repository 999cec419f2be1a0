import csv
import dataclasses
import json
import math
import os

import numpy as np
import pytest
import torch
from training_helpers import CLASSES, CPU, Features, Recorder, params, task, text_tower, toy, video

from vadclip.errors import InputError
from vadclip.model.inference import class_texts, video_output
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import VadClip
from vadclip.train.batches import anomalous_rows, epoch_batches, load_rows
from vadclip.train.history import EpochRecord, History, StepRecord
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder, TrainingState, resume_key
from vadclip.train.selection import Selection

STEPS = 3  # of an epoch of the toy: 12 normal rows in batches of 4 + 4
TEXT = text_tower()


class Interruption(BaseException):
    pass


class StopsAt(Recorder):
    """Interrupts the training at a step, or at an epoch's end."""

    def __init__(self, step=None, epoch=None):
        super().__init__()
        self.at = (step, epoch)

    def step(self, record):
        super().step(record)
        if record.step == self.at[0]:
            raise Interruption

    def epoch(self, record):
        super().epoch(record)
        if record.epoch == self.at[1]:
            raise Interruption


def _train(folder, logger=None, **changes):
    logger = logger or Recorder()
    return train(task(TEXT, **changes), device=CPU, resume=ResumeFolder(folder), logger=logger, readers=0)


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _without_time(records):
    timeless = {"time_ms": 0, "seconds": 0.0, "rows_per_second": 0.0}
    return [
        dataclasses.replace(record, **{key: value for key, value in timeless.items() if hasattr(record, key)})
        for record in records
    ]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads cost more than they give at this size, and equal weights are promised for equal settings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    logger = Recorder()
    return _train(tmp_path_factory.mktemp("undisturbed"), logger), logger


def test_the_loss_falls_and_validation_rises_on_a_toy(tmp_path):
    trained = _train(tmp_path, epochs=12, milestones=[10])
    losses = [record.loss for record in trained.history.epochs]
    assert losses[-1] < 0.6 * losses[0]
    assert trained.figures.val_video_auc == max(r.figures.val_video_auc for r in trained.history.epochs)
    assert trained.figures.val_video_auc > 0.9


def test_every_step_and_epoch_is_told_once_and_adds_up(undisturbed):
    trained, logger = undisturbed
    assert [record.step for record in logger.steps] == list(range(1, 4 * STEPS + 1))
    assert [record.epoch for record in logger.steps] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert [(record.epoch, record.step) for record in logger.epochs] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    for record in logger.steps:
        assert record.loss == pytest.approx(
            record.classification + record.alignment + record.contrast, rel=1e-6
        )
        assert record.gradient_norm > 0
    for record in logger.epochs:
        steps = [step.loss for step in logger.steps if step.epoch == record.epoch]
        assert record.loss == pytest.approx(np.mean(steps))
    assert trained.history == History(logger.steps, logger.epochs)


def test_the_rate_drops_after_a_milestone_epoch(undisturbed):
    _, logger = undisturbed
    assert [record.learning_rate for record in logger.epochs] == [1e-3, 1e-3, 5e-4, 5e-4]
    assert logger.steps[2 * STEPS - 1].learning_rate == 1e-3
    assert logger.steps[2 * STEPS].learning_rate == 5e-4


def test_an_epoch_is_plain_adamw_on_the_loss(tmp_path):
    """One epoch of the loop against the same written out: the loop adds nothing of its own."""
    logger = Recorder()
    _train(tmp_path / "b", logger, epochs=1)

    todo = task(TEXT)
    rows = load_rows(
        todo.features, todo.train_videos, CLASSES, crops=2, length=8, scratch=tmp_path / "c", readers=0
    )
    torch.manual_seed(todo.params.seed)
    model = VadClip(todo.config, CLASSES, TEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    order = epoch_batches(anomalous_rows(todo.train_videos, CLASSES, 2), todo.params, 0)
    for batch, record in zip(rows.batches(order, CPU), logger.steps, strict=True):
        terms = vadclip_loss(model(batch.visual_BTD, batch.lengths_B), batch.labels_BK, batch.lengths_B, 0.1)
        assert record.loss == terms.total.item()
        optimizer.zero_grad()
        terms.total.backward()
        squares = sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None)
        assert record.gradient_norm == pytest.approx(math.sqrt(squares), rel=1e-5)
        optimizer.step()


def test_a_seed_decides_the_result_and_nothing_else_does(undisturbed, tmp_path):
    trained, _ = undisturbed
    torch.rand(100)
    again = _train(tmp_path / "again")
    assert _equal(again.model.state_dict(), trained.model.state_dict())
    other = _train(tmp_path / "other", seed=8)
    assert not _equal(other.model.state_dict(), trained.model.state_dict())


@pytest.mark.parametrize(
    "interrupted", [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}, {"epoch": 4}, {"step": 2}, {"step": 8}]
)
def test_a_resumed_training_ends_as_if_undisturbed(interrupted, undisturbed, tmp_path):
    trained, logger = undisturbed
    before = StopsAt(**interrupted)
    with pytest.raises(Interruption):
        _train(tmp_path, before)
    torch.rand(10)
    after = Recorder()
    resumed = _train(tmp_path, after)
    assert _equal(resumed.model.state_dict(), trained.model.state_dict())
    assert (resumed.epoch, resumed.figures) == (trained.epoch, trained.figures)
    # The second logger hears all of it, each record once and in order: it can fill what the first one missed.
    assert _without_time(after.steps) == _without_time(logger.steps)
    assert _without_time(after.epochs) == _without_time(logger.epochs)
    # What was saved is not trained again: its records come back with the times of the first process.
    assert after.epochs[: len(before.epochs)] == before.epochs


def test_interrupted_twice_and_in_the_single_scheme(tmp_path):
    changes = {"batch_scheme": "single", "batch_size": 10, "epochs": 3, "selection": "last"}
    trained = _train(tmp_path / "undisturbed", **changes)
    for step in (6, 11):
        with pytest.raises(Interruption):
            _train(tmp_path / "stopped", StopsAt(step=step), **changes)
    resumed = _train(tmp_path / "stopped", **changes)
    assert _equal(resumed.model.state_dict(), trained.model.state_dict())
    assert len(resumed.history.steps) == 3 * 4  # 36 rows in batches of 10, the last of 6


def test_validation_picks_its_epoch_and_last_takes_the_last(undisturbed, tmp_path):
    trained, logger = undisturbed
    keys = [(r.figures.val_video_auc, -r.figures.val_loss, -r.epoch) for r in logger.epochs]
    assert trained.epoch == 1 + keys.index(max(keys))
    assert [r.epoch for r in logger.epochs if r.chosen][-1] == trained.epoch
    last = _train(tmp_path / "last", selection="last")
    assert last.epoch == 4
    assert last.figures == logger.epochs[-1].figures  # selection does not change how training runs
    # The chosen weights are those of that epoch, not those in which training ended.
    short = _train(tmp_path / "short", selection="last", epochs=trained.epoch)
    assert _equal(short.model.state_dict(), trained.model.state_dict())


def test_validation_figures_are_those_of_whole_videos(undisturbed):
    """Against the definition written out: chunks of T, outputs joined, a video's loss over all of it."""
    trained, _ = undisturbed
    todo = task(TEXT)
    figures, _ = Selection(todo, 1).after_epoch(1, trained.model)
    losses, scores = [], []
    with torch.no_grad():
        for made in todo.val_videos:
            rows = torch.from_numpy(todo.features.array(made.video_id, 1)).float()
            n = len(rows)
            parts = []
            for start in range(0, n, 8):
                chunk = torch.zeros(1, 8, rows.shape[1])
                count = min(8, n - start)
                chunk[0, :count] = rows[start : start + count]
                parts.append((trained.model(chunk, torch.tensor([count])), count))
            joined = dataclasses.replace(
                parts[0][0],
                anomaly_logits_BT=torch.cat([out.anomaly_logits_BT[:, :count] for out, count in parts], 1),
                class_logits_BTK=torch.cat([out.class_logits_BTK[:, :count] for out, count in parts], 1),
            )
            labels = torch.from_numpy(CLASSES.multi_hot(made.labels))[None]
            losses.append(vadclip_loss(joined, labels, torch.tensor([n]), 0.1).total.item())
            k = n // 16 + 1
            scores.append(joined.anomaly_logits_BT[0].sigmoid().topk(k).values.mean().item())
    assert figures.val_loss == pytest.approx(np.mean(losses), rel=1e-5)
    anomalous = [made.labels != ("Normal",) for made in todo.val_videos]
    pairs = [(p, q) for p, x in zip(scores, anomalous, strict=True) if x
             for q, y in zip(scores, anomalous, strict=True) if not y]  # fmt: skip
    assert figures.val_video_auc == pytest.approx(np.mean([(p > q) + 0.5 * (p == q) for p, q in pairs]))


def test_a_video_in_one_chunk_or_many_passes_is_the_same(undisturbed):
    trained, _ = undisturbed
    rows = np.random.default_rng(1).standard_normal((43, 16)).astype(np.float16)
    text_KD = class_texts(trained.model, "fp32")
    whole = video_output(trained.model, rows, text_KD, "fp32")
    assert whole.anomaly_logits_BT.shape == (1, 43)
    assert whole.class_logits_BTK.shape == (1, 43, 3)
    parts = video_output(trained.model, rows, text_KD, "fp32", chunks_per_pass=2)
    torch.testing.assert_close(parts.anomaly_logits_BT, whole.anomaly_logits_BT)
    torch.testing.assert_close(parts.class_logits_BTK, whole.class_logits_BTK)


def test_bf16_trains_float32_weights(undisturbed, tmp_path):
    trained, _ = undisturbed
    half = _train(tmp_path, precision="bf16", epochs=1)
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
    first, exact = half.history.steps[0].loss, trained.history.steps[0].loss
    assert first == pytest.approx(exact, rel=0.02)
    assert first != exact


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_stops_before_the_update_and_names_the_video(value, tmp_path):
    todo = task(TEXT, batch_size=2)
    guilty = todo.train_videos[3]  # a normal one, the smaller side: the first epoch draws all of its rows
    todo.features.arrays[guilty.video_id, 1][0] = value
    resume = ResumeFolder(tmp_path)
    logger = Recorder()
    with pytest.raises(
        InputError, match=r"training stopped at epoch 1, step \d of 6, before its update"
    ) as stop:
        train(todo, device=CPU, resume=resume, logger=logger, readers=0)
    message = str(stop.value)
    assert f"not finite for {guilty.video_id}; the batch held" in message
    assert "classification nan, alignment nan, contrast 0." in message
    held = message.split("the batch held ")[1].split(";")[0].split(", ")
    assert 2 <= len(held) <= 4
    assert guilty.video_id in held
    assert isinstance(stop.value, InputError)
    assert "\n" not in message
    # Nothing was updated with it, and no state was saved from it.
    assert all(math.isfinite(record.loss) for record in logger.steps)
    assert not resume.file.exists()


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda grads: torch.tensor(math.inf))
    with pytest.raises(InputError, match=r"epoch 1, step 1 of 3.*gradient norm inf; the batch held train"):
        _train(tmp_path)


def test_too_little_data_is_said_before_any_feature_is_read(tmp_path):
    class Untouchable(Features):
        def array(self, video_id, crop):
            raise AssertionError("read")

    todo = dataclasses.replace(task(TEXT, batch_size=50), features=Untouchable({}))
    with pytest.raises(InputError, match="batch_size is 50 and there are 12 rows of normal"):
        train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)
    todo = dataclasses.replace(todo, params=params(), val_videos=todo.val_videos[:1])
    with pytest.raises(InputError, match=r"val split holds only normal videos \(1\)"):
        train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)


def test_last_trains_without_validation_videos(tmp_path):
    todo = dataclasses.replace(task(TEXT, selection="last", epochs=1), val_videos=())
    trained = train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)
    assert trained.figures is None
    assert trained.history.epochs[0].flat().keys() == {"loss", "learning_rate", "seconds", "rows_per_second"}


def test_several_labels_of_one_video_are_trained_together(tmp_path):
    features, videos, _ = toy()
    both = tuple(
        video(made.video_id, "Fighting", "Fire", rows=made.num_snippets) if made.labels == ("Fire",) else made
        for made in videos
    )
    todo = dataclasses.replace(
        task(TEXT, batch_scheme="single", batch_size=12, epochs=1), features=features, train_videos=both
    )
    trained = train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)
    plain = _train(tmp_path / "plain", batch_scheme="single", batch_size=12, epochs=1)
    assert trained.history.steps[0].classification == plain.history.steps[0].classification
    assert trained.history.steps[0].alignment != plain.history.steps[0].alignment


def _state(todo, seed):
    torch.manual_seed(seed)
    model = VadClip(todo.config, todo.classes, todo.text)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    return TrainingState(model, optimizer, scheduler, Selection(todo, 1), History(), CPU)


def _after_an_epoch(todo):
    state = _state(todo, 0)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.scheduler.step()
    figures, chosen = state.selection.after_epoch(1, state.model)
    state.history.steps.append(StepRecord(1, 1, 0.1 + 0.2, None, 0.1, 0.2, 1.0, 0.1, 5))
    state.history.epochs.append(EpochRecord(1, 1, 0.3, 0.1, 1.0, 1.0, chosen, figures, 6))
    return state


def test_the_state_comes_back_exactly_and_goes_when_removed(tmp_path):
    todo = task(TEXT)
    resume = ResumeFolder(tmp_path / "key")
    fresh = _state(todo, 1)
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    fresh.restore(resume.file)  # nothing is saved, nothing changes
    assert _equal(fresh.model.state_dict(), before)
    state = _after_an_epoch(todo)
    state.save(resume.file)
    state.save(resume.file)
    generator = torch.get_rng_state()
    fresh.restore(resume.file)
    assert _equal(fresh.model.state_dict(), state.model.state_dict())
    assert _equal(fresh.selection.weights, state.selection.weights)
    assert fresh.selection.facts() == state.selection.facts()
    assert fresh.history == state.history
    assert torch.equal(torch.get_rng_state(), generator)
    one, other = (made.optimizer.state_dict() for made in (fresh, state))
    assert one["param_groups"][0]["lr"] == other["param_groups"][0]["lr"] == pytest.approx(0.01)
    assert all(_equal(one["state"][number], other["state"][number]) for number in other["state"])
    assert fresh.scheduler.last_epoch == state.scheduler.last_epoch == 1
    assert os.listdir(resume.folder) == ["state.safetensors"]
    resume.remove()
    resume.remove()
    assert not resume.folder.exists()


def test_a_failed_write_keeps_the_state_before(tmp_path):
    resume, state = ResumeFolder(tmp_path), _after_an_epoch(task(TEXT))
    state.save(resume.file)
    before = resume.file.read_bytes()
    state.history.steps.append(StepRecord(1, 2, object(), None, 0.1, 0.2, 1.0, 0.1, 5))
    with pytest.raises(TypeError):
        state.save(resume.file)
    assert resume.file.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_the_key_follows_every_fact_and_no_order():
    facts = {"train": {"seed": 1, "epochs": 2}, "features": "abc"}
    key = resume_key(facts)
    assert key == resume_key({"features": "abc", "train": {"epochs": 2, "seed": 1}})
    assert key != resume_key({**facts, "features": "abd"})
    assert key != resume_key({**facts, "train": {"seed": 1, "epochs": 3}})


def test_history_files(tmp_path, undisturbed):
    trained, _ = undisturbed
    trained.history.write(tmp_path)
    epochs = json.loads((tmp_path / "epochs.json").read_text())
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert [row["val_video_auc"] for row in epochs] == [
        record.figures.val_video_auc for record in trained.history.epochs
    ]
    with (tmp_path / "steps.csv").open() as opened:
        steps = list(csv.DictReader(opened))
    assert [float(row["loss"]) for row in steps] == [record.loss for record in trained.history.steps]
    again = History()
    again.restore(json.loads(json.dumps(trained.history.facts())))
    assert again == trained.history


def test_history_is_told_in_the_order_it_happened():
    steps = [StepRecord(1 + n // 2, 1 + n, 1.0, 1.0, 0.0, 0.0, 1.0, 0.1, 0) for n in range(4)]
    epochs = [EpochRecord(n, 2 * n, 1.0, 0.1, 1.0, 1.0, True, None, 0) for n in (1, 2)]
    told = []

    class Both:
        def step(self, record):
            told.append(record)

        def epoch(self, record):
            told.append(record)

    History(steps, epochs).tell(Both())
    assert told == [*steps[:2], epochs[0], *steps[2:], epochs[1]]
