import numpy as np
import pytest

from vadclip.errors import InputError
from vadclip.frame_figures import top_mean
from vadclip.train.history import ValidationFigures
from vadclip.train.selection import check_validation_videos, is_better, validation_figures


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
    with pytest.raises(InputError, match=rf"{held}.*train\.selection: last"):
        check_validation_videos(anomalous)


def test_highest_figure_wins_then_lower_loss_then_earlier_epoch():
    epochs = [
        ValidationFigures(0.7, 0.9, 3.0),
        ValidationFigures(0.8, 0.1, 5.0),  # higher AUC
        ValidationFigures(0.8, 0.2, 4.0),  # same AUC, lower loss
        ValidationFigures(0.8, 0.3, 4.0),  # equal: the earlier stays
        ValidationFigures(0.8, 0.4, 4.5),  # same AUC, higher loss
        ValidationFigures(0.7, 0.8, 0.1),  # lower AUC, however low the loss
    ]
    for criterion, expected in (("val_video_auc", [0, 1, 2, 2, 2, 2]), ("val_video_ap", [0] * 6)):
        best, chosen = None, []
        for number, figures in enumerate(epochs):
            if is_better(figures, best and epochs[best[0]], criterion):
                best = (number,)
            chosen.append(best[0])
        assert chosen == expected
