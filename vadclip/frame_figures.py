"""AUC and average precision over frames, computed per snippet (vadclip.md section 4).

A snippet's score stands for its 16 frames. So a figure needs one entry per snippet, weighted by how many of
its frames are anomalous and how many are not, which equals scikit-learn on the repeated frames. Apart from
metrics.py because the official selection reads them too: an edit of the reported figures must not retrain.

Legend of shape suffixes: N snippets.
"""

from collections.abc import Callable, Iterable

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
