"""Small manifests and scores built by hand, for the tests of figures, selection and report."""

from collections.abc import Sequence

import numpy as np

from vadclip.labels import Classes
from vadclip.manifest import Manifest, Segment, Video, frame_spans
from vadclip.score.scores import ScoreInfo, Scores

CLASSES = Classes(labels=("Normal", "Fire", "Theft"), prompts=("normal", "fire", "theft"))


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
    settings: dict = {
        "video_id": video_id,
        "uri": f"{video_id}.mp4",
        "split": split,
        "source_id": video_id,
        "labels": found,
        "segments": tuple(Segment(*segment) for segment in segments),
        "frame_spans": frame_spans([(start, end) for start, end, _ in segments], rows * 16),
        "num_frames": rows * 16,
        "fps": 16.0,
        "width": 64,
        "height": 48,
        "bytes": 1,
        "content_hash": "0",
        "probe_error": None,
    }
    return Video(**{**settings, **changes})


def make_manifest(
    videos: Sequence[Video], classes: Classes = CLASSES, dataset: str = "table", source: str = "videos"
) -> Manifest:
    ordered = tuple(sorted(videos, key=lambda video: video.video_id))
    return Manifest(dataset=dataset, source=source, classes=classes, videos=ordered)


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
