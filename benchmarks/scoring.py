"""Seconds that the score stage's model takes for a test set of UCF-Crime's size.

    .venv/bin/python -m benchmarks.scoring
    .venv/bin/python -m benchmarks.scoring --device cuda --precision fp32 bf16

290 videos, 69,000 snippets of 16 frames, 512 wide, with a VadCLIP of the official size; features and weights
are random and the features lie in memory. It needs torch, open_clip, einops, pyarrow, pydantic, numpy and
rich, and imports neither Ray nor DVC nor MLflow.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import Figure, add_device, arguments, check_device, measure, report, wait_for
from benchmarks.training_step import PRECISIONS, text_tower
from vadclip.labels import UCF_CRIME
from vadclip.manifest import SNIPPET_FRAMES, Video
from vadclip.model.vadclip import VadClip, VadClipConfig
from vadclip.score.scores import ScoreInfo
from vadclip.score.scoring import score_videos


class RandomFeatures:
    """Features of videos, all cut out of one array."""

    def __init__(self, rows: Sequence[int], width: int) -> None:
        self._rows = {f"{number:04d}": count for number, count in enumerate(rows)}
        self._all = np.random.default_rng(0).normal(0, 0.4, (max(rows), width)).astype(np.float16)

    def rows(self, video_id: str) -> int:
        """Return how many rows a video has."""
        return self._rows[video_id]

    def array(self, video_id: str, crop: int) -> NDArray[np.float16]:
        """Return a video's rows."""
        return self._all[: self._rows[video_id]]

    def videos(self) -> list[Video]:
        """Return the videos, as a manifest has them."""
        return [
            Video(
                video_id=video_id, uri=f"{video_id}.mp4", split="test", source_id=video_id,
                labels=("Normal",), segments=(), frame_spans=(), num_frames=SNIPPET_FRAMES * rows, fps=30.0,
                width=320, height=240, bytes=1, content_hash=video_id, probe_error=None,
            )
            for video_id, rows in self._rows.items()
        ]  # fmt: skip


def score(model: VadClip, features: RandomFeatures, device: str, precision: str) -> None:
    """Score all videos and wait."""
    info = ScoreInfo(UCF_CRIME.labels, test_selected=False, excluded={})
    text_KD = torch.eye(len(UCF_CRIME), model.config.width)
    videos = features.videos()
    score_videos(model, features, videos, plain_text_KD=text_KD, crop=0, precision=precision, info=info)
    wait_for(device)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("benchmarks.scoring", __doc__)
    add_device(parser)
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"])
    args = parser.parse_args(argv)
    check_device(args.device)
    videos, snippets, length, width, layers = (
        (3, 40, 16, 64, 1) if args.quick else (290, 69_000, 256, 512, 12)
    )
    # Lengths as uneven as real ones: a few long videos hold much of all.
    shares = np.random.default_rng(0).lognormal(0, 1, videos)
    rows = np.maximum(1, np.round(snippets * shares / shares.sum())).astype(int).tolist()
    torch.manual_seed(0)
    config = VadClipConfig(
        width=width, length=length, layers=2, window=8, heads=1, prompt_prefix=10, prompt_suffix=10
    )
    model = VadClip(config, UCF_CRIME, text_tower(width, layers)).to(args.device).eval()
    features = RandomFeatures(rows, width)
    rounds, repeats = (1, 1) if args.quick else (2, 1)
    figures = [
        Figure.seconds(
            f"{precision}, {videos} videos, {sum(rows):,} snippets",
            measure(partial(score, model, features, args.device, precision), rounds=rounds, repeats=repeats),
        )
        for precision in args.precision
    ]
    settings = {"device": args.device, "videos": videos, "snippets": sum(rows), "width": width}
    where = "one GPU" if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    report("scoring", f"Scoring a test set on {where}", figures, settings, args)


if __name__ == "__main__":
    main()
