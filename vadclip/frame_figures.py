"""Figures that training, selection and evaluation share: AUC and AP over frames, and a video's top mean.

A snippet's score stands for its 16 frames. So a figure over frames needs one entry per snippet, weighted
by how many of its frames are anomalous and how many are not, which equals scikit-learn on the repeated frames
(vadclip.md section 4). Apart from evaluate/, so that an edit of the reported figures does not retrain.

Legend of shape suffixes: N snippets, T snippets of one video, X what stands at each (nothing, or classes K).
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from vadclip.manifest import SNIPPET_FRAMES

Ints = npt.NDArray[np.int64]


def frames_in_snippets(spans: Iterable[tuple[int, int]], rows: int) -> Ints:
    """Count the frames of the union of half-open `spans` in each of `rows` snippets; the rest is cut off."""
    inside = np.zeros(rows * SNIPPET_FRAMES, dtype=np.bool_)
    for start, end in spans:
        inside[max(0, start) : max(0, end)] = True
    counts: Ints = inside.reshape(rows, SNIPPET_FRAMES).sum(axis=1, dtype=np.int64)
    return counts


def frame_auc(score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints) -> float:
    """ROC AUC over frames."""
    return _over_frames(roc_auc_score, score_N, positive_N, negative_N)


def frame_ap(score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints) -> float:
    """Average precision over frames."""
    return _over_frames(average_precision_score, score_N, positive_N, negative_N)


def weighted_frames(
    score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return truth, score and weight as scikit-learn takes them: one entry per snippet and kind of frame."""
    truth = np.repeat([True, False], [len(positive_N), len(negative_N)])
    weight = np.concatenate([positive_N, negative_N]).astype(np.float64)
    used = weight > 0
    return truth[used], np.tile(np.asarray(score_N, dtype=np.float64), 2)[used], weight[used]


def _over_frames(
    metric: Callable[..., float], score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints
) -> float:
    truth, score, weight = weighted_frames(score_N, positive_N, negative_N)
    return float(metric(truth, score, sample_weight=weight))


def top_mean(values_TX: npt.ArrayLike) -> Any:
    """Mean of the highest floor(T/16) + 1 values over snippets, which is how the losses see a video.

    Returns float64 of shape [X], a float for one-dimensional input. T is at least 1.
    """
    values = np.asarray(values_TX, dtype=np.float64)
    assert len(values) >= 1, "a video without snippets has no score"
    count = len(values) // 16 + 1
    return np.partition(values, len(values) - count, axis=0)[-count:].mean(axis=0)
