"""Frames for the sample's CLIP: drawn scenes to train on, decoded videos to check on, resized as in use.

Legend of shape suffixes: N frames, h and w the resized height and width.
"""

import io
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.sample_clip.captions import Facts
from vadclip.clip.crops import resize_frames, resize_size
from vadclip.progress import track
from vadclip.sample.render import draw_deed_mask, draw_frames, render_video
from vadclip.sample.scenes import make_layout
from vadclip.sample.workers import drawing_pool
from vadclip.sample.world import VideoPlan, kind_at
from vadclip.video.reader import SNIPPET_FRAMES, read_frames

IMAGE_SIZE = 64
FRAMES_PER_PLAN = 8


@dataclass(frozen=True)
class Frames:
    """Resized frames, what is true of each, and which pixels show its deed (empty for check frames)."""

    pixels_Nhw3: npt.NDArray[np.uint8]
    deed_Nhw: npt.NDArray[np.bool_]
    facts: tuple[Facts, ...]


def training_frames(plans: Iterable[VideoPlan]) -> Frames:
    """Draw some frames of each plan, more from within its deeds than from between."""
    return _gather(_draw_some, plans, "draw training frames")


def check_frames(plans: Iterable[VideoPlan]) -> Frames:
    """Render each plan's video, decode it, and take the middle frame of every snippet, as extraction does."""
    return _gather(_decode_snippets, plans, "render check videos")


def _gather(
    work: Callable[[VideoPlan], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], list[Facts]]],
    plans: Iterable[VideoPlan],
    description: str,
) -> Frames:
    listed = list(plans)
    pixels, deeds, facts = [], [], []
    with drawing_pool(len(listed)) as pool, track(len(listed), description, "videos") as bar:
        for pixels_nhw3, deed_nhw, facts_n in pool.map(work, listed, chunksize=8):
            pixels.append(pixels_nhw3)
            deeds.append(deed_nhw)
            facts += facts_n
            bar.advance()
    return Frames(np.concatenate(pixels), np.concatenate(deeds), tuple(facts))


def _facts(plan: VideoPlan, index: int) -> Facts:
    return Facts(
        kind_at(plan, index), plan.conditions.time, plan.conditions.rain, make_layout(plan.layout).family
    )


def _draw_some(plan: VideoPlan) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], list[Facts]]:
    torch.set_num_threads(1)
    rng = random.Random(plan.seed)
    indices = []
    for i in range(FRAMES_PER_PLAN):
        if plan.happenings and i < 0.65 * FRAMES_PER_PLAN:
            deed = plan.anomaly or rng.choice(plan.happenings)
            indices.append(rng.randrange(deed.start, deed.end))
        else:
            indices.append(rng.randrange(plan.num_frames))
    images = [_compressed(image, rng) for image in draw_frames(plan, indices)]
    deed_nhw = np.stack([_deed(plan, index) for index in indices])
    return resize_frames(np.stack(images), IMAGE_SIZE), deed_nhw, [_facts(plan, index) for index in indices]


def _deed(plan: VideoPlan, index: int) -> npt.NDArray[np.bool_]:
    width, height = resize_size(IMAGE_SIZE)
    mask = draw_deed_mask(plan, index)
    if mask is None:
        return np.zeros((height, width), dtype=bool)
    return np.asarray(mask.resize((width, height), Image.Resampling.BOX)) > 80


def _compressed(image: Image.Image, rng: random.Random) -> npt.NDArray[np.uint8]:
    """Lose what a video codec loses, roughly: JPEG stands in for H.264."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=rng.randint(35, 85))
    return np.asarray(Image.open(data))


def _decode_snippets(plan: VideoPlan) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], list[Facts]]:
    torch.set_num_threads(1)
    middle = SNIPPET_FRAMES // 2
    indices = [i * SNIPPET_FRAMES + middle for i in range(plan.num_frames // SNIPPET_FRAMES)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{plan.video_id}.mp4"
        render_video(plan, path)
        pieces = [resize_frames(frames, IMAGE_SIZE) for frames in read_frames(str(path), indices)]
    pixels_nhw3 = np.concatenate(pieces)
    return pixels_nhw3, np.zeros((len(indices), 0, 0), dtype=bool), [_facts(plan, index) for index in indices]
