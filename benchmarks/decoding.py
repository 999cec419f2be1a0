"""How many frames a second one core decodes: decord against PyAV, with and without our resize.

    .venv/bin/python -m benchmarks.decoding

The videos are generated: 320x240 H.264 as x264 makes it by default (a key frame every 250), one plain (slowly
moving shades) and one busy (texture in motion under grain, hard on any codec). Taking every 16th frame, as
`extract.frames_per_snippet: 1` does, decodes all of them, so the rate counts frames of the video either way.
decord gets what ingest has decoded to the end without a fault; what that look costs is a line of its own.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import Figure, arguments, measure, report
from vadclip.clip.crops import resize_frames
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.video.frame_reader import probe, read_frames

WIDTH, HEIGHT, FPS = 320, 240, 25
SCENE = 128  # frames of a scene of a mixed video
TOWER = 224


def picture(kind: str, number: int, texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frame `number` of a plain or busy video, or of one with scenes of either: [HEIGHT, WIDTH, 3]."""
    if kind == "mixed":
        kind = ("plain", "busy")[number // SCENE % 2]
    if kind == "plain":
        shade = (np.arange(WIDTH) // 2 + number) % 256
        return np.broadcast_to(shade[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    moved = np.roll(texture, (number, 3 * number), axis=(0, 1)).astype(np.int16)
    grain = np.random.default_rng(number).normal(0, 8, (HEIGHT, WIDTH, 1))
    return np.clip(moved + grain, 0, 255).astype(np.uint8)


def write_video(path: Path, kind: str, frames: int) -> None:
    """Write a video of so many frames."""
    blocks = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    texture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            shown = np.ascontiguousarray(picture(kind, number, texture))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())


def read(path: Path, decoder: str, step: int, frames: int, *, resize: bool) -> None:
    """Read every `step`-th frame, as extraction does."""
    for batch in read_frames(path, range(step // 2, frames, step), decoder=decoder, intact=True):
        if resize:
            resize_frames(batch, TOWER)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments("benchmarks.decoding", __doc__).parse_args(argv)
    frames, rounds, repeats = (64, 1, 1) if args.quick else (320, 3, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for kind in ("plain", "busy"):
                path = Path(folder, f"{kind}.mp4")
                write_video(path, kind, frames)
                timing = measure(partial(probe, path), rounds=rounds, repeats=repeats)
                figures.append(Figure.rate(f"{kind}, ingest's look", "frames/s", frames, timing))
                for step, resize in ((SNIPPET_FRAMES, True), (1, False), (1, True)):
                    for decoder in ("decord", "pyav"):
                        work = partial(read, path, decoder, step, frames, resize=resize)
                        what = f"{kind}, {'all frames' if step == 1 else '1 frame in 16'}"
                        what += f"{', resized' if resize else ''}, {decoder}"
                        timing = measure(work, rounds=rounds, repeats=repeats)
                        figures.append(Figure.rate(what, "frames/s", frames, timing))
    finally:
        torch.set_num_threads(threads)
    settings = {"frames": frames, "width": WIDTH, "height": HEIGHT, "threads": 1, "tower": TOWER}
    report("decoding", "Decoding on one core, frames of the video a second", figures, settings, args)


if __name__ == "__main__":
    main()
