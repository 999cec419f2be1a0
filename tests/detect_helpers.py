"""A small model to detect with: a tiny CLIP in files, a VadCLIP over it, videos that tell their frames."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from clip_helpers import clip_params, random_state, sparse_tokens, tiny_config, write_clip
from video_helpers import numbered_frame, write_video

from vadclip.clip.crops import resize_frames
from vadclip.clip.frozen import Clip, load_clip
from vadclip.clip.identity import identify_clip
from vadclip.events import Peak
from vadclip.features.provenance import Provenance
from vadclip.labels import Classes
from vadclip.model.folder import ModelInfo, named_clip, save_model
from vadclip.model.inference import class_texts, video_output
from vadclip.model.vadclip import VadClip, VadClipConfig

CLASSES = Classes(labels=("Normal", "Fighting", "Fire"), prompts=("normal", "fighting", "fire"))
WORDS = ["normal", "fighting", "fire", "smoke", "red", "car", "a", "video", "from", "cctv", "camera", "of"]
PEAKS = tuple(Peak(f"n{number:02d}", 0.3 + number / 100, 0.5) for number in range(24))


def make_model(folder: Path, *, peaks: Sequence[Peak] = PEAKS, seed: int = 0, **changes: object) -> Path:
    """Write `folder`/model, and its CLIP's two files beside it; return the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "clip.json").exists():
        config = tiny_config(32)
        write_clip(folder, config, sparse_tokens(random_state(config), WORDS))
    params = clip_params(folder)
    clip = load_clip(params, device="cpu")
    config = VadClipConfig(width=64, length=8, layers=1, window=4, heads=1, prompt_prefix=2, prompt_suffix=2,
                           **changes)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VadClip(config, CLASSES, clip.text).eval()
    if model.classification is not None:
        _spread_scores(model, clip)
    provenance = Provenance.encoded(identify_clip(params, folder / ".cache"), "fp32", 1)
    info = ModelInfo(
        config=config, classes=CLASSES, clip=named_clip(clip, params), feature_provenance=asdict(provenance),
        feature_fingerprint="f" * 64, selection="validation", epoch=1, validation={}, test_selected=False,
        test_crop=0, score_precision="fp32", normal_peaks=tuple(peaks),
    )  # fmt: skip
    save_model(folder / "model", model, info)
    return folder / "model"


@torch.no_grad()
def _spread_scores(model: VadClip, clip: Clip) -> None:
    """Scale the classifier so that the frames of `make_videos` have scores all over 0 to 1."""
    frames = np.stack([numbered_frame(number) for number in range(8, 800, 16)])
    rows_ND = clip.encode_crops(resize_frames(frames, clip.image_size), (0,), 16)[:, 0]
    logits = video_output(model, rows_ND, class_texts(model, "fp32"), "fp32").anomaly_logits_BT
    scale = 2 / logits.std()
    model.classification.head.weight *= scale
    model.classification.head.bias.copy_(scale * (model.classification.head.bias - logits.mean()))


def make_videos(folder: Path, count: int = 2, snippets: int = 6) -> Path:
    """Write `count` numbered videos, each of another stretch of numbers."""
    for number in range(count):
        frames = [numbered_frame(i + 400 * number) for i in range(16 * snippets + number)]
        write_video(folder / f"v{number}.mp4", frames)
    return folder
