"""Plans to pictures: any frame by its index, and whole videos as H.264 files of always the same bytes."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageChops

from vadclip.files import atomic_path
from vadclip.sample.actors import Actor
from vadclip.sample.backdrop import draw_backdrop
from vadclip.sample.canvas import Canvas
from vadclip.sample.effects import draw_rain
from vadclip.sample.world import VideoPlan, cast

_X264 = {"preset": "ultrafast", "crf": "30", "threads": "1", "g": "60", "bf": "0"}


def draw_frames(plan: VideoPlan, indices: Iterable[int]) -> Iterator[Image.Image]:
    """Yield the frames at `indices` of a plan's video, RGB, before any compression."""
    players = cast(plan)
    backdrop = draw_backdrop(players.layout, plan.conditions, plan.seed, plan.size)
    grain = _grain(plan) if plan.conditions.noise > 0 else None
    for index in indices:
        t = index / plan.fps
        image = compose(backdrop, plan, players.actors, t)
        if plan.conditions.rain:
            draw_rain(Canvas(image, plan.conditions.light), t, plan.seed)
        if grain is not None:
            shift = random.Random(plan.seed * 1_000_003 + index)
            x, y = shift.randrange(64), shift.randrange(64)
            piece = grain.crop((x, y, x + image.width, y + image.height))
            image = ImageChops.add(image, piece, 1, -128)
        yield image


def compose(backdrop: Image.Image, plan: VideoPlan, actors: Sequence[Actor], t: float) -> Image.Image:
    """Return the backdrop with all actors as they are at second t, the far ones first."""
    canvas = Canvas(backdrop.copy(), plan.conditions.light)
    standing = [(depth, i) for i, actor in enumerate(actors) if (depth := actor.depth(t)) is not None]
    for _, i in sorted(standing):
        actors[i].draw(canvas, t)
    return canvas.image


def _grain(plan: VideoPlan) -> Image.Image:
    """Camera noise around grey 128, larger than a frame, of which each frame takes another piece."""
    width, height = plan.size
    rng = np.random.default_rng(plan.seed)
    grey = rng.normal(128, plan.conditions.noise, (height + 64, width + 64)).clip(0, 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(grey)] * 3)


def render_video(plan: VideoPlan, path: Path) -> None:
    """Write a plan's video to `path`, whole or not at all."""
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("libx264", rate=plan.fps, options=_X264)
        stream.width, stream.height = plan.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in draw_frames(plan, range(plan.num_frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), "rgb24")))
        container.mux(stream.encode(None))
