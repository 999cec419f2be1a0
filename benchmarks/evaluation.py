"""Seconds that all figures of a UCF-Crime-sized test set take, with and without intervals.

    .venv/bin/python -m benchmarks.evaluation

The set is made up: 290 test videos (140 anomalous) of 69,488 snippets in all, which is 1.1 million frames,
with lengths as uneven as real ones, 13 classes and scores that know something of the truth. Timed is
`vadclip.evaluate.metrics.evaluate`: AUC, AP, a figure per class, both mAPs; then the same with 95 % intervals
of each from 1,000 resamples. Reading and drawing are not in it.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.measuring import Figure, arguments, measure, report
from vadclip.evaluate.metrics import evaluate
from vadclip.labels import UCF_CRIME
from vadclip.manifest import SNIPPET_FRAMES, Manifest, Segment, Video, frame_spans
from vadclip.score.scores import ScoreInfo, Scores


def test_set(videos: int, anomalous: int, snippets: int) -> tuple[Scores, Manifest]:
    """Make up scores and truth of so many videos."""
    random = np.random.default_rng(0)
    shares = random.lognormal(0, 1, videos)
    rows_V = np.maximum(4, np.floor(shares / shares.sum() * snippets)).astype(np.int64)
    rows_V[0] += max(0, snippets - int(rows_V.sum()))
    made, truth = [], []
    for number, rows in enumerate(rows_V.tolist()):
        label = UCF_CRIME.labels[1 + number % (len(UCF_CRIME) - 1)] if number < anomalous else "Normal"
        segments: tuple[Segment, ...] = ()
        inside = np.zeros(rows, dtype=bool)
        if number < anomalous:
            first = int(random.integers(0, rows // 2))
            stop = first + max(1, rows // 8)
            inside[first:stop] = True
            segments = (Segment(first * SNIPPET_FRAMES, stop * SNIPPET_FRAMES, label),)
        truth.append(inside)
        made.append(_video(f"video{number:04d}", rows, label, segments))
    inside_N = np.concatenate(truth)
    score_N = np.clip(random.normal(0.3 + 0.3 * inside_N, 0.2), 0, 1).astype(np.float32)
    logits_NK = random.normal(0, 1, (len(score_N), len(UCF_CRIME)))
    logits_NK[:, 0] += 3 * (1 - score_N)
    probabilities_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    scores = Scores(
        video_ids=tuple(video.video_id for video in made),
        rows_V=rows_V,
        anomaly_score_N=score_N,
        class_probabilities_NK=probabilities_NK.astype(np.float32),
        log_normaliser_N=np.zeros(len(score_N), dtype=np.float32),
        zero_shot_NK=random.dirichlet(np.ones(len(UCF_CRIME)), len(score_N)).astype(np.float32),
        info=ScoreInfo(labels=UCF_CRIME.labels, test_selected=False, excluded={}),
    )
    manifest = Manifest(dataset="ucf_crime", source="videos", classes=UCF_CRIME, videos=tuple(made))
    return scores, manifest


def _video(name: str, rows: int, label: str, segments: tuple[Segment, ...]) -> Video:
    frames = rows * SNIPPET_FRAMES
    return Video(
        video_id=name, uri=f"{name}.mp4", split="test", source_id=name, labels=(label,), segments=segments,
        frame_spans=frame_spans([(s.start_frame, s.end_frame) for s in segments], frames), num_frames=frames,
        fps=30.0, width=320, height=240, bytes=1, content_hash=name, probe_error=None,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments("benchmarks.evaluation", __doc__).parse_args(argv)
    videos, anomalous, snippets, resamples = (20, 14, 400, 10) if args.quick else (290, 140, 69_488, 1000)
    rounds, repeats = (1, 1) if args.quick else (3, 3)
    scores, manifest = test_set(videos, anomalous, snippets)
    figures = []
    for draws in (0, resamples):
        work = partial(evaluate, scores, manifest, resamples=draws, seed=0)
        timing = measure(work, rounds=rounds, repeats=repeats)
        what = f"with intervals from {draws:,} resamples" if draws else "figures alone"
        figures.append(Figure.seconds(what, timing))
    settings = {"videos": videos, "anomalous": anomalous, "snippets": len(scores.video_N)}
    title = f"All figures of {videos} test videos, {len(scores.video_N):,} snippets"
    report("evaluation", title, figures, settings, args)


if __name__ == "__main__":
    main()
