import json

import numpy as np
import pytest

from vadclip.errors import InputError
from vadclip.train.selection import (
    Selector,
    ValidationFigures,
    check_validation_videos,
    criterion_for,
    top_mean,
    validation_figures,
)


def test_a_videos_score_is_the_mean_of_its_top_floor_n_over_16_plus_1_snippets():
    assert top_mean([0.25]) == 0.25
    # 15 snippets: k = 1, the maximum. 16 snippets: k = 2. 32 snippets: k = 3.
    assert top_mean(np.arange(15.0)) == 14.0
    assert top_mean(np.arange(16.0)) == (15 + 14) / 2
    assert top_mean(np.arange(32.0)[::-1]) == (31 + 30 + 29) / 3
    # Per class: the top snippets are each class's own.
    np.testing.assert_array_equal(top_mean(np.stack([np.arange(16), -np.arange(16)], 1)), [14.5, -0.5])


def test_validation_figures_by_hand():
    # One snippet a video, so a video's score is that snippet's. Videos: anomalous, normal, anomalous, normal.
    anomaly_scores = [np.array([x], dtype=np.float32) for x in (0.9, 0.5, 0.4, 0.1)]
    normal_probabilities = [np.array([x], dtype=np.float32) for x in (0.5, 0.25, 0.125, 0.75)]
    figures = validation_figures(anomaly_scores, normal_probabilities, [True, False, True, False], 2.5)
    # AUC: pairs (anomalous, normal) in order: .9>.5, .9>.1, .4<.5, .4>.1 -> 3 of 4.
    assert figures.val_video_auc == 0.75
    # 1 - p(normal): .5, .75, .875, .25; by rank: anomalous, normal, anomalous, normal -> (1/1 + 2/3) / 2.
    assert figures.val_video_ap == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert figures.val_loss == 2.5


@pytest.mark.parametrize(
    ("anomalous", "held"),
    [
        ([], "holds no video"),
        ([True, True], r"only anomalous videos \(2\)"),
        ([False], r"only normal videos \(1\)"),
    ],
)
def test_validation_with_one_kind_of_video_is_an_error(anomalous, held):
    with pytest.raises(InputError, match=held):
        check_validation_videos(anomalous)
    scores = [np.ones(3)] * len(anomalous)
    with pytest.raises(InputError, match=r"train\.selection: last"):
        validation_figures(scores, scores, anomalous, 0.0)


def test_each_dataset_is_picked_by_the_figure_it_is_reported_by():
    assert criterion_for("xd_violence") == "val_video_ap"
    assert {criterion_for(name) for name in ("ucf_crime", "table", "sample")} == {"val_video_auc"}


def _offer_all(selector, offers):
    return [selector.offer(epoch, figures) for epoch, figures in enumerate(offers)]


def test_highest_figure_wins_then_lower_loss_then_earlier_epoch():
    offers = [
        ValidationFigures(0.7, 0.9, 3.0),
        ValidationFigures(0.8, 0.1, 5.0),  # higher AUC
        ValidationFigures(0.8, 0.2, 4.0),  # same AUC, lower loss
        ValidationFigures(0.8, 0.3, 4.0),  # equal: the earlier stays
        ValidationFigures(0.8, 0.4, 4.5),  # same AUC, higher loss
        ValidationFigures(0.7, 0.8, 0.1),  # lower AUC, however low the loss
    ]
    by_auc = Selector("validation", "val_video_auc")
    assert _offer_all(by_auc, offers) == [True, True, True, False, False, False]
    assert (by_auc.epoch, by_auc.figures) == (2, offers[2])
    by_ap = Selector("validation", "val_video_ap")
    assert _offer_all(by_ap, offers) == [True, False, False, False, False, False]


def test_last_takes_every_epoch_with_or_without_figures():
    selector = Selector("last", "val_video_auc")
    assert _offer_all(selector, [ValidationFigures(0.9, 0.9, 1.0), None, None]) == [True, True, True]
    assert (selector.epoch, selector.figures) == (2, None)


@pytest.mark.parametrize("rule", ["validation", "last"])
def test_a_selector_goes_on_from_its_state(rule):
    figures = ValidationFigures(0.7, 0.9, 3.0) if rule == "validation" else None
    selector = Selector(rule, "val_video_auc")
    assert selector.state() == {"epoch": None, "figures": None}
    selector.offer(4, figures)
    resumed = Selector(rule, "val_video_auc")
    resumed.restore(json.loads(json.dumps(selector.state())))
    assert (resumed.epoch, resumed.figures) == (4, figures)
    assert resumed.offer(5, ValidationFigures(0.7, 0.9, 3.5)) == (rule == "last")
    fresh = Selector(rule, "val_video_auc")
    fresh.restore({"epoch": None, "figures": None})
    assert fresh.offer(0, ValidationFigures(0.0, 0.0, 9.0))
