"""Detection mAP: does the right class light up at the right time? The official figure, and a corrected one.

vadclip.md section 5 (the official repository's *_detectionMAP.py). Per class and video the alignment branch's
probability over frames gives proposals; a proposal hits when it overlaps a still free truth segment of its
class and video well enough. Both figures share proposals and matching, and are computed per snippet, which is
exact since a snippet's score stands for its 16 frames. They differ in what they average:

`official` keeps every quirk: all classes count, normal among them; one class without any proposal makes the
whole figure 0. Normal videos carry a truth segment [0, rows * 16) of class normal, except on UCF-Crime, whose
official truth calls it 'A', a name outside the class list, so that class normal always scores 0 and is
averaged in. For the table and sample datasets the XD-Violence way is taken, where labels and class list
agree.
`corrected` averages over the anomaly classes that have a truth segment; a class without proposals counts 0.

Both sort proposals stably; the official sort leaves the order of equal scores open.

Legend of shape suffixes: N snippets, V videos, K classes, P proposals of one class by descending score, H of
them that hit at some threshold, R bootstrap resamples, I IoU thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from vadclip.manifest import SNIPPET_FRAMES

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """Frames [start_frame, end_frame) of video number `video` show class number `label`."""

    video: int
    label: int
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class ClassMatches:
    """What one class's average precision needs, for any choice of videos."""

    video_P: Ints
    hit_IP: npt.NDArray[np.bool_]
    truths_V: Ints
    """Truth segments per video."""


def match(
    class_probabilities_NK: npt.NDArray[np.float32], rows_V: Ints, truths: Sequence[Truth]
) -> list[ClassMatches]:
    """Propose and match, class by class. Every video has a row at least, so floor(frames / 16) is never 0."""
    offsets = np.concatenate([[0], np.cumsum(rows_V)]).astype(np.int64)
    found = []
    for label in range(class_probabilities_NK.shape[1]):
        truth_by_video: dict[int, list[tuple[int, int]]] = {}
        for truth in truths:
            if truth.label == label:
                truth_by_video.setdefault(truth.video, []).append((truth.start_frame, truth.end_frame))
        video_P, span_P2, score_P = _proposals(class_probabilities_NK[:, label], rows_V, offsets)
        order = np.argsort(-score_P, kind="stable")
        truths_V = np.zeros(len(rows_V), dtype=np.int64)
        for video, spans in truth_by_video.items():
            truths_V[video] = len(spans)
        video_P, span_P2 = video_P[order], span_P2[order]
        found.append(ClassMatches(video_P, _hits(video_P, span_P2, truth_by_video), truths_V))
    return found


def _proposals(
    probability_N: npt.NDArray[np.float32], rows_V: Ints, offsets: Ints
) -> tuple[Ints, Ints, Floats]:
    """Find the runs above each video's threshold: their video, frames [start, end) and score.

    Every run holds at least the 16 frames of a snippet, so the official minimum of 2 frames excludes nothing,
    and neither does its non-maximum suppression: runs of one video are disjoint.
    """
    starts_V = offsets[:-1]
    highest_V = np.maximum.reduceat(probability_N, starts_V)
    lowest_V = np.minimum.reduceat(probability_N, starts_V)
    threshold_V = highest_V - 0.6 * (highest_V - lowest_V)
    above_N = probability_N > np.repeat(threshold_V, rows_V)
    before_N = np.concatenate([[False], above_N[:-1]])
    before_N[starts_V] = False
    after_N = np.concatenate([above_N[1:], [False]])
    after_N[offsets[1:] - 1] = False
    first_P = np.flatnonzero(above_N & ~before_N)
    last_P = np.flatnonzero(above_N & ~after_N)
    video_P = np.searchsorted(offsets, first_P, side="right") - 1
    edges = np.stack([first_P, last_P + 1], axis=1).reshape(-1)
    # reduceat takes maxima between consecutive edges; every second stretch is a run. An edge may be N: pad.
    padded_N = np.append(probability_N, np.float32(0))
    highest_P = np.maximum.reduceat(padded_N, edges)[::2] if len(edges) else np.empty(0)
    video_score_V = np.array(
        [_mean_of_top_frames(probability_N[offsets[v] : offsets[v + 1]]) for v in range(len(rows_V))]
    )
    span_P2 = (edges.reshape(-1, 2) - starts_V[video_P][:, None]) * SNIPPET_FRAMES
    return video_P, span_P2, highest_P.astype(np.float64) + 0.7 * video_score_V[video_P]


def _mean_of_top_frames(probability_T: npt.NDArray[np.float32]) -> float:
    """Mean over the highest floor(frames / 16) frames of a video: of its 16 T frames, the highest T."""
    frames = len(probability_T)
    snippets = -(-frames // SNIPPET_FRAMES)
    top = np.sort(np.partition(probability_T, frames - snippets)[-snippets:])[::-1].astype(np.float64)
    weights = np.full(snippets, float(SNIPPET_FRAMES))
    weights[-1] = frames - (snippets - 1) * SNIPPET_FRAMES
    return float(top @ weights / frames)


def _hits(
    video_P: Ints, span_P2: Ints, truth_by_video: dict[int, list[tuple[int, int]]]
) -> npt.NDArray[np.bool_]:
    """Let proposals, best first, each take the free truth segment with the highest IoU, if high enough."""
    hit_IP = np.zeros((len(IOU_THRESHOLDS), len(video_P)), dtype=np.bool_)
    for video, spans in truth_by_video.items():
        places = np.flatnonzero(video_P == video)
        iou = _iou(span_P2[places], np.array(spans, dtype=np.int64))
        able = iou.max(axis=1) >= IOU_THRESHOLDS[0]
        for index, threshold in enumerate(IOU_THRESHOLDS):
            free = np.ones(len(spans), dtype=np.bool_)
            for row, place in zip(iou[able], places[able], strict=True):
                best = int(np.argmax(np.where(free, row, -1.0)))
                if free[best] and row[best] >= threshold:
                    hit_IP[index, place] = True
                    free[best] = False
    return hit_IP


def _iou(span_P2: Ints, truth_G2: Ints) -> Floats:
    start, end = span_P2[:, :1], span_P2[:, 1:]
    overlap = np.minimum(end, truth_G2[:, 1]) - np.maximum(start, truth_G2[:, 0])
    overlap = np.maximum(overlap, 0)
    union = (end - start) + (truth_G2[:, 1] - truth_G2[:, 0]) - overlap
    iou_PG: Floats = overlap / union
    return iou_PG


def average_precision(matches: ClassMatches, counts_RV: Ints) -> Floats:
    """Sum of precision at the hits / number of truth segments, per resample and threshold; shape [R, I].

    `counts_RV` says how often each video stands in each resample; a video drawn twice brings its proposals
    and its truth twice, copies of a proposal following each other in the ranking. 0 without a truth segment
    or a hit.
    """
    hit_at_P = np.flatnonzero(matches.hit_IP.any(axis=0))
    truths_R = counts_RV @ matches.truths_V
    precision_RI = np.zeros((len(counts_RV), len(IOU_THRESHOLDS)))
    if not len(hit_at_P):
        return precision_RI
    # Proposals ranked at or above each hit: those since the hit before it, summed up over the hits.
    hit_of_P = np.searchsorted(hit_at_P, np.arange(len(matches.video_P)))
    counted = hit_of_P < len(hit_at_P)
    since_HV = csr_array(
        (np.ones(int(counted.sum()), dtype=np.int64), (hit_of_P[counted], matches.video_P[counted])),
        shape=(len(hit_at_P), counts_RV.shape[1]),
    )
    proposals_HR = np.cumsum(since_HV @ counts_RV.T, axis=0)
    copies_HR = counts_RV.T[matches.video_P[hit_at_P]]
    for index, hit_P in enumerate(matches.hit_IP):
        is_hit_H = hit_P[hit_at_P]
        own_HR = copies_HR[is_hit_H]
        earlier_HR = proposals_HR[is_hit_H] - own_HR
        hits_HR = np.cumsum(own_HR, axis=0) - own_HR
        for copy in range(1, int(own_HR.max(initial=0)) + 1):
            precision = (hits_HR + copy) / np.maximum(earlier_HR + copy, 1)
            precision_RI[:, index] += np.where(own_HR >= copy, precision, 0.0).sum(axis=0)
    precision_RI /= np.maximum(truths_R, 1)[:, None]
    return precision_RI


def official_map(matches: Sequence[ClassMatches], counts_RV: Ints) -> Floats:
    """Official mAP in percent; shape [R, 1 + I], the average over thresholds first.

    NaN where a resample holds no anomalous truth segment: the official scripts never meet that case.
    """
    mean_RI = np.mean([average_precision(one, counts_RV) for one in matches], axis=0)
    for one in matches:
        proposals_V = np.bincount(one.video_P, minlength=counts_RV.shape[1])
        mean_RI[counts_RV @ proposals_V == 0] = 0.0
    anomalies_R = sum(counts_RV @ one.truths_V for one in matches[1:])
    return _with_average(np.where(np.asarray(anomalies_R)[:, None] > 0, mean_RI, np.nan))


def corrected_map(matches: Sequence[ClassMatches], counts_RV: Ints) -> Floats:
    """Corrected mAP in percent; shape [R, 1 + I], the average first. NaN without anomalous truth."""
    total_RI = np.zeros((len(counts_RV), len(IOU_THRESHOLDS)))
    classes_R = np.zeros(len(counts_RV))
    for one in matches[1:]:
        total_RI += average_precision(one, counts_RV)
        classes_R += counts_RV @ one.truths_V > 0
    with np.errstate(invalid="ignore"):
        return _with_average(total_RI / classes_R[:, None])


def _with_average(mean_RI: Floats) -> Floats:
    return 100 * np.concatenate([mean_RI.mean(axis=1, keepdims=True), mean_RI], axis=1)
