"""A model with one branch, from training to report: what it lacks is left out and named, never 0."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from manifest_helpers import make_manifest
from score_helpers import make_scores, make_video
from training_helpers import CPU, Recorder, task, text_tower

from vadclip.config import EvaluateParams
from vadclip.errors import InputError
from vadclip.evaluate.metrics import evaluate
from vadclip.evaluate.report import write_plots, write_report
from vadclip.model.inference import plain_texts
from vadclip.score.scores import ScoreInfo, read_scores, scores_table, write_scores
from vadclip.score.scoring import score_videos
from vadclip.train.history import StepRecord
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder

BRANCHES = {
    "classification": {"branches": "classification"},
    "alignment": {"branches": "alignment", "visual_prompt": "none"},
}
OF_CLASSIFICATION = {"auc", "ap", "ano_auc", "auc_Fire", "auc_Theft", "gain_auc", "gain_ap"}
OF_ALIGNMENT = {"align_auc", "align_ap", "gain_map_avg"} | {
    f"{name}_{end}" for name in ("map", "map_official") for end in ("avg", 0.1, 0.2, 0.3, 0.4, 0.5)
}


@pytest.mark.parametrize("branch", BRANCHES)
def test_it_is_trained_selected_and_scored(branch, tmp_path):
    todo = task(text_tower(), epochs=3, batch_size=6)
    todo = replace(todo, config=replace(todo.config, **BRANCHES[branch]))
    trained = train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)
    losses = [record.loss for record in trained.history.epochs]
    assert losses[-1] < losses[0]
    present = {"classification"} if branch == "classification" else {"alignment", "contrast"}
    for record in trained.history.steps:
        assert record.terms().keys() == present
        assert record.loss == pytest.approx(sum(record.terms().values()), rel=1e-6)
    figures = trained.figures
    assert 0 <= figures.val_video_auc <= 1  # by the branch there is
    info = ScoreInfo(todo.classes.labels, False, {})
    scores = score_videos(
        trained.model, todo.features, todo.val_videos, plain_text_KD=plain_texts(todo.text, todo.classes),
        crop=1, precision="fp32", info=info,
    )  # fmt: skip
    assert list(scores.branches) == [branch]
    assert (scores.anomaly_score_N is None) == (branch == "alignment")
    assert scores.main_score_N is scores.branches[branch]
    path = tmp_path / "scores.parquet"
    write_scores(scores_table(scores), path)
    again = read_scores(path)
    for name in ("anomaly_score_N", "class_probabilities_NK", "log_normaliser_N", "zero_shot_NK"):
        one, other = getattr(scores, name), getattr(again, name)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    chosen = again.select(again.video_ids[1:2])
    assert list(chosen.branches) == [branch]


def test_a_not_finite_branch_names_the_video(tmp_path):
    todo = task(text_tower(), batch_size=2)
    todo = replace(todo, config=replace(todo.config, branches="classification"))
    todo.features.arrays[todo.train_videos[3].video_id, 1][0] = np.nan
    with pytest.raises(
        InputError, match=r"loss terms classification nan, gradient norm nan; the model's out"
    ):
        train(todo, device=CPU, resume=ResumeFolder(tmp_path), logger=Recorder(), readers=0)


def _evaluation(branch):
    manifest = make_manifest(
        [make_video("fire", 4, [(16, 40, "Fire")]), make_video("theft", 3, [(0, 16, "Theft")]),
         make_video("quiet", 5)]
    )  # fmt: skip
    scores = make_scores({"fire": [0.1, 0.9, 0.8, 0.2], "quiet": [0.1] * 5, "theft": [0.7, 0.2, 0.1]})
    absent = (
        {"class_probabilities_NK": None, "log_normaliser_N": None}
        if branch == "classification"
        else {"anomaly_score_N": None}
    )
    return evaluate(replace(scores, **absent), manifest, resamples=10, seed=0), manifest


@pytest.mark.parametrize("branch", BRANCHES)
def test_figures_of_the_other_branch_are_left_out_and_named(branch, tmp_path):
    evaluation, manifest = _evaluation(branch)
    lacking = OF_ALIGNMENT if branch == "classification" else OF_CLASSIFICATION
    there = OF_CLASSIFICATION if branch == "classification" else OF_ALIGNMENT
    other = "alignment" if branch == "classification" else "classification"
    no_branch = f"the model has no {other} branch (model.branches)"
    assert {name for name, reason in evaluation.undefined.items() if reason == no_branch} == lacking
    assert there <= evaluation.all_figures.keys()
    assert not lacking & (evaluation.all_figures.keys() | evaluation.intervals.keys())
    assert (evaluation.predicted_class_V is None) == (branch == "classification")
    assert evaluation.true_class_V == ("Fire", "Normal", "Theft")

    plots = tmp_path / "plots"
    params = EvaluateParams(bootstrap_resamples=10, bootstrap_seed=0, timelines=2)
    written = write_plots(evaluation, manifest, plots, params, root=str(tmp_path), decoder="pyav")
    assert (plots / "confusion.png").exists() == (branch == "alignment")
    assert ((plots / "confusion.json").read_text() == "[]\n") == (branch == "classification")
    assert f'"{branch}"' in (plots / "roc.json").read_text()
    assert f'"{other}"' not in (plots / "roc.json").read_text()
    assert len(written.timelines) == 2
    write_report(evaluation, written, plots, tmp_path / "report.html", params={})
    report = (tmp_path / "report.html").read_text()
    assert f"the model has no {other} branch" in report
    assert ("Class of each video" in report) == (branch == "alignment")


def test_records_leave_out_what_is_not_there():
    record = StepRecord(1, 1, 0.5, None, 0.4, 0.1, 1.0, 1e-3, 0)
    assert record.terms() == {"alignment": 0.4, "contrast": 0.1}


def test_validation_by_alignment_alone_is_that_branchs_ranking():
    """With both branches AUC is the classification branch's, AP the alignment's; with one, both are its."""
    from vadclip.model.inference import branch_scores
    from vadclip.model.vadclip import VadClipOutput

    anomaly_BT = torch.tensor([[0.0, 2.0]])
    class_BTK = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    normal_N = class_BTK[0].softmax(-1)[:, 0]
    for output, expected in (
        (VadClipOutput(anomaly_BT, class_BTK, None), (anomaly_BT[0].sigmoid(), normal_N)),
        (VadClipOutput(None, class_BTK, None), (1 - normal_N, normal_N)),
        (VadClipOutput(anomaly_BT, None, None), (anomaly_BT[0].sigmoid(), 1 - anomaly_BT[0].sigmoid())),
    ):
        assert all(map(torch.equal, (one[0] for one in branch_scores(output)), expected))
