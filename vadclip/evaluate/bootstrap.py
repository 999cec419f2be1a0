"""95 % intervals by resampling test videos, exact and vectorised over resamples.

Videos are drawn with replacement, as many as there are: frames of one video are far from independent. A
resample in which a figure is not defined (frames of one class only) is drawn again. All figures see the same
draws, so that two of them can be compared.

A frame figure of a resample needs no sort of its own. AUC is a sum over pairs of videos, so one matrix of
pairwise wins serves all resamples. AP steps only where a positive frame stands, so counts between such steps
are summed up once per video.

Legend of shape suffixes: N snippets, V videos, R resamples, G distinct scores that a positive frame has.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Ints], Floats]
"""counts_RV -> one value a resample, NaN where undefined; further axes may follow."""

_AP_BLOCK = 100  # resamples at once, to bound memory


class Resamples:
    """Draws of V videos with replacement; the same seed gives the same draws to every statistic."""

    def __init__(self, videos: int, resamples: int, seed: int) -> None:
        self._videos = videos
        self._resamples = resamples
        self._rng = np.random.default_rng(seed)
        self._blocks: list[Ints] = []
        self._values: dict[tuple[Statistic, int], Floats] = {}

    def _counts_RV(self) -> Iterator[Ints]:
        index = 0
        while True:
            if index == len(self._blocks):
                chances = np.full(self._videos, 1 / self._videos)
                self._blocks.append(self._rng.multinomial(self._videos, chances, size=self._resamples))
            yield self._blocks[index]
            index += 1

    def interval(self, statistic: Statistic, minus: Statistic | None = None) -> tuple[Floats, Floats]:
        """Return the 2.5th and 97.5th percentile of `statistic` over the resamples where it is defined.

        With `minus`: of the difference of the two on the same draws. The statistics must be defined for the
        videos as they are, so that draws which define them keep coming.
        """
        values: list[Floats] = []
        missing = self._resamples
        for block, counts_RV in enumerate(self._counts_RV()):
            value_R = self._value(statistic, block, counts_RV)
            if minus is not None:
                value_R = value_R - self._value(minus, block, counts_RV)
            defined_R = ~np.isnan(value_R.reshape(len(value_R), -1)).any(axis=1)
            values.append(value_R[defined_R][:missing])
            missing -= len(values[-1])
            if not missing:
                break
        low, high = np.percentile(np.concatenate(values), [2.5, 97.5], axis=0)
        return low, high

    def _value(self, statistic: Statistic, block: int, counts_RV: Ints) -> Floats:
        if (statistic, block) not in self._values:
            self._values[statistic, block] = statistic(counts_RV)
        return self._values[statistic, block]


def ratio_statistic(over_V: Ints, under_V: Ints) -> Statistic:
    """Sum of one count over the videos, divided by the sum of another."""

    def ratio(counts_RV: Ints) -> Floats:
        under_R = counts_RV @ under_V
        return _ratio((counts_RV @ over_V).astype(np.float64), under_R.astype(np.float64), under_R > 0)

    return ratio


def auc_statistic(score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints, video_N: Ints) -> Statistic:
    """Frame ROC AUC of any resample, equal to sklearn's on the repeated frames.

    `positive_N`, `negative_N`: frames of each kind behind each score (both 0 leaves a snippet out). `video_N`
    holds each snippet's video, in rising order.
    """
    videos = int(video_N[-1]) + 1
    rank_N = np.unique(np.asarray(score_N), return_inverse=True)[1]
    positive_V = np.bincount(video_N, positive_N, videos)
    negative_V = np.bincount(video_N, negative_N, videos)
    # wins_VV[v, w]: pairs of a positive frame of v and a negative one of w in the right order; a tie is half.
    wins_VV = np.zeros((videos, videos))
    for video in np.flatnonzero(positive_V):
        own = slice(*np.searchsorted(video_N, [video, video + 1]))
        at_rank = np.bincount(rank_N[own], positive_N[own], int(rank_N.max()) + 1)
        above = positive_V[video] - np.cumsum(at_rank)
        wins_VV[video] = np.bincount(video_N, negative_N * (above + at_rank / 2)[rank_N], videos)

    def auc(counts_RV: Ints) -> Floats:
        pairs_R = (counts_RV @ positive_V) * (counts_RV @ negative_V)
        right_R = ((counts_RV @ wins_VV) * counts_RV).sum(axis=1)
        return _ratio(right_R, pairs_R, pairs_R > 0)

    return auc


def ap_statistic(score_N: npt.ArrayLike, positive_N: Ints, negative_N: Ints, video_N: Ints) -> Statistic:
    """Frame average precision of any resample, equal to sklearn's; arguments as `auc_statistic`."""
    videos = int(video_N[-1]) + 1
    score = np.asarray(score_N)
    steps_G = np.unique(score[positive_N > 0])[::-1]
    # The step at which a snippet's frames are first counted: the highest positive score not above its own.
    step_N = np.searchsorted(-steps_G, -score)
    counted_N = step_N < len(steps_G)
    shape = (len(steps_G), videos)
    places = (step_N[counted_N], video_N[counted_N])
    positive_GV = csr_array((positive_N[counted_N], places), shape=shape)
    negative_GV = csr_array((negative_N[counted_N], places), shape=shape)
    positive_V = np.bincount(video_N, positive_N, videos)
    negative_V = np.bincount(video_N, negative_N, videos)

    def block(counts_RV: Ints) -> Floats:
        new_GR = positive_GV @ counts_RV.T
        hits_GR = np.cumsum(new_GR, axis=0)
        alarms_GR = np.cumsum(negative_GV @ counts_RV.T, axis=0)
        precision_GR = hits_GR / np.maximum(hits_GR + alarms_GR, 1)
        total_R: Floats = (counts_RV @ positive_V).astype(np.float64)
        defined_R = (total_R > 0) & (counts_RV @ negative_V > 0)
        area_R: Floats = np.einsum("gr,gr->r", new_GR, precision_GR)
        return _ratio(area_R, total_R, defined_R)

    def ap(counts_RV: Ints) -> Floats:
        blocks = [block(counts_RV[at : at + _AP_BLOCK]) for at in range(0, len(counts_RV), _AP_BLOCK)]
        return np.concatenate(blocks)

    return ap


def _ratio(over_R: Floats, under_R: Floats, defined_R: npt.NDArray[np.bool_]) -> Floats:
    ratio_R = np.full(len(over_R), np.nan)
    np.divide(over_R, under_R, out=ratio_R, where=defined_R)
    return ratio_R
