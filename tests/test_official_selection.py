"""The authors' way to pick weights: the loop written out as their code runs it, and what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PROJECT
from params_helpers import write_params
from sklearn.metrics import average_precision_score, roc_auc_score
from training_helpers import CLASSES, CPU, Recorder, task, text_tower, toy

from vadclip.config import load_params
from vadclip.errors import InputError
from vadclip.model.inference import class_texts, video_output
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import VadClip
from vadclip.train.batches import anomalous_rows, epoch_batches, load_rows
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder
from vadclip.train.selection import TestVideos

TEXT = text_tower()
UCF, XD = "val_video_auc", "val_video_ap"


def _task(criterion=UCF, **changes):
    """26 normal rows in batches of 1 + 1 on UCF: 26 updates an epoch; test videos with true times."""
    features, train_videos, held_out = toy(train_each=13, val_each=3)
    tests = tuple(
        replace(
            video,
            split="test",
            frame_spans=()
            if video.labels == ("Normal",)
            else ((16 * (video.num_snippets // 3) + 3, 16 * (2 * video.num_snippets // 3 + 1)),),
        )
        for video in held_out
    )
    scheme = {"batch_size": 1} if criterion == UCF else {"batch_scheme": "single", "batch_size": 12}
    made = task(TEXT, **{**scheme, "epochs": 3, "selection": "official", "learning_rate": 3e-3, **changes})
    return replace(
        made, features=features, train_videos=train_videos, val_videos=(), test_videos=tests,
        criterion=criterion,
    )  # fmt: skip


def _train(todo, folder, logger=None):
    torch.set_num_threads(1)
    logger = logger or Recorder()
    return train(todo, device=CPU, resume=ResumeFolder(folder), logger=logger, readers=0)


def _figure(model, todo):
    """The test figure over repeated frames, video by video, as vadclip.md section 4 says."""
    scores, truth = [], []
    model.eval()
    text_KD = class_texts(model, "fp32")
    for video in todo.test_videos:
        rows = todo.features.array(video.video_id, todo.test_crop)
        output = video_output(model, rows, text_KD, "fp32")
        by_class = 1 - output.class_logits_BTK[0].softmax(-1)[:, 0]
        score = by_class if todo.criterion == XD else output.anomaly_logits_BT[0].sigmoid()
        frames = np.zeros(16 * len(rows))
        for start, end in video.frame_spans:
            frames[start:end] = 1
        scores.append(np.repeat(score.detach().numpy(), 16))
        truth.append(frames)
    metric = average_precision_score if todo.criterion == XD else roc_auc_score
    model.train()
    return metric(np.concatenate(truth), np.concatenate(scores))


def _authors_loop(todo, scratch):
    """Train as vadclip.md section 4 describes the official code; return weights and every figure seen."""
    torch.set_num_threads(1)
    rows = load_rows(todo.features, todo.train_videos, CLASSES, crops=2, length=8, scratch=scratch, readers=0)
    torch.manual_seed(todo.params.seed)
    model = VadClip(todo.config, CLASSES, TEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=todo.params.learning_rate, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, todo.params.milestones, 0.5)
    anomalous = anomalous_rows(todo.train_videos, CLASSES, 2)
    best, kept, seen = -1.0, None, []

    def look(epoch, index):
        nonlocal best, kept
        figure = _figure(model, todo)
        seen.append((epoch, index, figure))
        if figure > best:
            best, kept = figure, {name: value.clone() for name, value in model.state_dict().items()}

    for epoch in range(todo.params.epochs):
        for index, batch in enumerate(rows.batches(epoch_batches(anomalous, todo.params, epoch), CPU)):
            output = model(batch.visual_BTD, batch.lengths_B)
            loss = vadclip_loss(output, batch.labels_BK, batch.lengths_B, 0.1).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if todo.criterion == UCF and index % 10 == 0 and index != 0:
                look(epoch + 1, index)
        scheduler.step()
        if todo.criterion == XD:
            look(epoch + 1, index)
        model.load_state_dict(kept)
    return kept, seen


@pytest.mark.parametrize("criterion", [UCF, XD])
def test_it_is_the_authors_loop(criterion, tmp_path):
    todo = _task(criterion)
    logger = Recorder()
    trained = _train(todo, tmp_path / "ours", logger)
    expected, seen = _authors_loop(todo, tmp_path / "theirs")
    assert [place[:2] for place in seen] == (
        [(epoch, index) for epoch in (1, 2, 3) for index in (10, 20)]
        if criterion == UCF
        else [(1, 6), (2, 6), (3, 6)]  # 78 rows in batches of 12
    )
    state = trained.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    figures = [figure for *_, figure in seen]
    best = seen[figures.index(max(figures))]
    assert trained.epoch == best[0]
    assert trained.figures is None
    assert trained.history.epochs[-1].best_on_test == pytest.approx(best[2], abs=1e-12)
    assert [record.chosen for record in logger.epochs] == [
        max(f for e, _, f in seen if e == epoch) > max([0, *(f for e, _, f in seen if e < epoch)])
        for epoch in (1, 2, 3)
    ]
    assert "best_on_test" in logger.epochs[0].flat()


@pytest.mark.parametrize("criterion", [UCF, XD])
def test_interrupted_it_ends_as_if_undisturbed(criterion, tmp_path):
    class Stop(Recorder):
        def step(self, record):
            super().step(record)
            if record.epoch == 3 and record.step % 7 == 3:
                raise KeyboardInterrupt

    todo = _task(criterion)
    undisturbed = _train(todo, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        _train(todo, tmp_path / "b", Stop())
    resumed = _train(todo, tmp_path / "b")
    one, other = undisturbed.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.epoch == undisturbed.epoch
    assert [r.best_on_test for r in resumed.history.epochs] == [
        r.best_on_test for r in undisturbed.history.epochs
    ]


def test_only_a_strictly_greater_figure_wins_and_weights_are_loaded_back(tmp_path, monkeypatch):
    figures = iter([0.5, 0.5, 0.5, 0.4, 0.5, 0.5])
    kept = []

    def figure(self, model):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(figures)

    monkeypatch.setattr(TestVideos, "figure", figure)
    starts = []

    class Watch(Recorder):
        def epoch(self, record):
            super().epoch(record)
            starts.append(record.best_on_test)

    trained = _train(_task(), tmp_path, Watch())
    assert len(kept) == 6
    assert trained.epoch == 1
    assert starts == [0.5, 0.5, 0.5]
    final, first = trained.model.state_dict(), kept[0]
    assert all(torch.equal(final[name], first[name]) for name in final)
    # Each epoch begins with them: one more update from equal weights, but with older moments, differs little.
    assert not torch.equal(kept[2]["classification.head.weight"], first["classification.head.weight"])


def test_too_few_updates_and_test_videos_of_one_kind_are_said_before_training(tmp_path):
    with pytest.raises(InputError, match=r"after every 10th update but the first, and an epoch has 6: lower"):
        _train(_task(batch_size=4), tmp_path)
    todo = _task()
    normal = tuple(video for video in todo.test_videos if not video.frame_spans)
    with pytest.raises(InputError, match=r"normal and anomalous frames, and the 3 with features have not bo"):
        _train(replace(todo, test_videos=normal), tmp_path)
    with pytest.raises(InputError, match=r"the 0 with features"):
        _train(replace(todo, test_videos=()), tmp_path)


def test_it_says_so_everywhere():
    todo = _task()
    assert todo.test_selected
    assert todo.model_info(1, None, ()).test_selected
    assert not task(TEXT).test_selected
    assert not task(TEXT).model_info(1, None, ()).test_selected
    moved = replace(todo.test_videos[0], frame_spans=((0, 16),))
    assert replace(todo, test_videos=(moved, *todo.test_videos[1:])).facts() != todo.facts()


@pytest.mark.parametrize(
    ("fraction", "dataset", "complaint"),
    [
        (
            "0.1",
            "ucf_crime",
            r"official trains on all training videos, as the authors did, and ingest\.val_f",
        ),
        ("0", "sample", r"the authors' rule for ucf_crime and xd_violence, and dataset\.name is 'sample'"),
    ],
)
def test_params_that_do_not_go_with_it(fraction, dataset, complaint, tmp_path):
    recipes = PROJECT / "vadclip" / "recipes"
    changes = {"train": {"selection": "official"}, "ingest": {"val_fraction": float(fraction)}}
    with pytest.raises(InputError, match=complaint):
        load_params(write_params(tmp_path, recipes / f"{dataset}.yaml", **changes))
    changes["ingest"] = {"val_fraction": 0.0}
    good = write_params(tmp_path, recipes / "xd_violence.yaml", **changes)
    assert load_params(good).train.selection == "official"
