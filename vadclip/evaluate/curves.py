"""ROC and precision-recall curves over frames, and the small tables of them that `dvc plots` reads.

Legend of shape suffixes: P points of a curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from vadclip.evaluate.metrics import TestSet
from vadclip.frame_figures import weighted_frames

TABLE_POINTS = 501  # a table's rows; DVC embeds them in its pages

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """The curves of one score."""

    false_positive_rate_P: Floats
    true_positive_rate_P: Floats
    recall_P: Floats
    """Rising from 0 to 1; the first point, precision 1 at recall 0, is a convention, not measured."""
    precision_P: Floats
    """At the threshold that reaches that recall."""


def branch_curves(test_set: TestSet) -> dict[str, Curves]:
    """Return the curves of the model's branches and of `zero_shot`; empty if all frames are of one kind."""
    if not test_set.positive_N.any() or not test_set.negative_N.any():
        return {}
    found = {}
    scores = {**test_set.scores.branches, "zero_shot": test_set.scores.zero_shot_score_N}
    for branch, score_N in scores.items():
        truth, score, weight = weighted_frames(score_N, test_set.positive_N, test_set.negative_N)
        false_rate_P, true_rate_P, _ = roc_curve(truth, score, sample_weight=weight)
        precision_P, recall_P, _ = precision_recall_curve(
            truth, score, sample_weight=weight, drop_intermediate=True
        )
        found[branch] = Curves(false_rate_P, true_rate_P, recall_P[::-1], precision_P[::-1])
    return found


def roc_table(curves: Mapping[str, Curves]) -> list[dict[str, float]]:
    """True positive rate of each branch over an even grid of false positive rates."""
    grid = np.linspace(0, 1, TABLE_POINTS)
    columns = {
        branch: np.interp(grid, curve.false_positive_rate_P, curve.true_positive_rate_P)
        for branch, curve in curves.items()
    }
    return _rows({"false_positive_rate": grid, **columns}) if columns else []


def pr_table(curves: Mapping[str, Curves]) -> list[dict[str, float]]:
    """Precision of each branch over an even grid of recalls, at the highest threshold that reaches it."""
    grid = np.linspace(0, 1, TABLE_POINTS)[1:]
    columns = {
        branch: curve.precision_P[np.searchsorted(curve.recall_P, grid)] for branch, curve in curves.items()
    }
    return _rows({"recall": grid, **columns}) if columns else []


def _rows(columns: Mapping[str, Floats]) -> list[dict[str, float]]:
    return [
        dict(zip(columns, row, strict=True))
        for row in np.round(np.stack(list(columns.values()), axis=1), 5).tolist()
    ]
