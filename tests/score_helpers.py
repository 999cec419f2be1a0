"""Small manifests and scores built by hand, for the tests of figures, selection and report."""

from collections.abc import Sequence

import manifest_helpers
import numpy as np
from manifest_helpers import CLASSES

from vadclip.manifest import Segment, Video, frame_spans
from vadclip.score.scores import ScoreInfo, Scores


def make_video(
    video_id: str,
    rows: int,
    segments: Sequence[tuple[int, int, str]] = (),
    labels: Sequence[str] = (),
    split: str = "test",
    **changes: object,
) -> Video:
    """A video of `rows` snippets; without labels it has those of its segments, or is normal."""
    found = tuple(labels) or tuple(dict.fromkeys(label for _, _, label in segments)) or ("Normal",)
    settings = {
        "labels": found,
        "segments": tuple(Segment(*segment) for segment in segments),
        "frame_spans": frame_spans([(start, end) for start, end, _ in segments], rows * 16),
        "fps": 16.0,
        "content_hash": "0",
    }
    return manifest_helpers.make_video(video_id, rows * 16, split, **(settings | changes))


def make_scores(
    anomaly: dict[str, Sequence[float]],
    probabilities: dict[str, np.ndarray] | None = None,
    labels: Sequence[str] = CLASSES.labels,
    test_selected: bool = False,
    excluded: dict[str, str] | None = None,
    **info: object,
) -> Scores:
    """Scores by video; without probabilities, the anomaly score is shared out over the anomaly classes."""
    rows = np.array([len(scores) for scores in anomaly.values()], dtype=np.int64)
    anomaly_N = np.concatenate([np.asarray(scores, dtype=np.float32) for scores in anomaly.values()])
    if probabilities is None:
        share_N = anomaly_N / (len(labels) - 1)
        probability_NK = np.stack([1 - anomaly_N, *[share_N] * (len(labels) - 1)], axis=1)
    else:
        probability_NK = np.concatenate([probabilities[video_id] for video_id in anomaly])
    return Scores(
        video_ids=tuple(anomaly),
        rows_V=rows,
        anomaly_score_N=anomaly_N,
        class_probabilities_NK=probability_NK.astype(np.float32),
        log_normaliser_N=np.zeros(len(anomaly_N), dtype=np.float32),
        zero_shot_NK=np.full((len(anomaly_N), len(labels)), 1 / len(labels), dtype=np.float32),
        info=ScoreInfo(tuple(labels), test_selected, excluded or {}, **info),
    )
