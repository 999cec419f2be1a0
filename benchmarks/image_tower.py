"""How many images a second the frozen image tower takes, by batch size: what bounds an extraction.

    .venv/bin/python -m benchmarks.image_tower
    .venv/bin/python -m benchmarks.image_tower --device cuda --precision bf16

Two towers: OpenAI's ViT-B/16 (random weights, which cost the same) and the one of the embedded sample. Frames
come as uint8 in main memory and go through `Clip.encode_crops`: crops (eight of the ten, so that batches come
out even), normalisation, tower, and back. It needs torch, open_clip, numpy and rich, and imports neither Ray
nor DVC nor MLflow.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from benchmarks.measuring import Figure, add_device, arguments, check_device, measure, report, wait_for
from vadclip.clip.crops import resize_size
from vadclip.clip.frozen import Clip
from vadclip.clip.text import TextTower

CROPS = 8
SAMPLE = Path("vadclip", "sample", "clip.json")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def random_clip(name: str, config: dict[str, Any], device: str, precision: str) -> Clip:
    """Build a CLIP with random weights and, since only images are encoded, a tiny text tower."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
    towers = {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config}
    model = open_clip.CLIP(**towers, text_cfg=text).requires_grad_(False).eval()
    side = config["vision_cfg"]["image_size"]
    return Clip(
        name=name,
        fingerprint="random",
        quick_gelu=bool(config.get("quick_gelu", False)),
        image_size=side,
        embed_dim=config["embed_dim"],
        image=model.visual.to(device=device, dtype=DTYPES[precision]),
        text=TextTower(model, name),
        mean_3=torch.full((3,), 127.0, device=device),
        std_3=torch.full((3,), 64.0, device=device),
        device=torch.device(device),
        dtype=DTYPES[precision],
    )


def encode(clip: Clip, frames: np.ndarray, batch: int) -> None:
    """Encode every crop of the frames."""
    clip.encode_crops(frames, range(CROPS), batch)
    wait_for(clip.device.type)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("benchmarks.image_tower", __doc__)
    add_device(parser)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    args = parser.parse_args(argv)
    check_device(args.device)

    real = open_clip.get_model_config("ViT-B-16-quickgelu")
    sample = json.loads(SAMPLE.read_text())
    batches, sample_batches, rounds, repeats = [8], [16, 64, 256], 3, 1
    if args.device == "cuda":
        batches, sample_batches, repeats = [64, 256, 512, 1024], [256, 1024], 5
    if args.quick:
        real["vision_cfg"] |= {"layers": 1, "width": 64, "head_width": 32}
        batches, sample_batches, rounds, repeats = [8], [16], 1, 1

    figures = []
    threads = torch.get_num_threads()
    if args.device == "cpu":
        torch.set_num_threads(1)  # as an actor with one CPU has it; rates of actors add up
    for name, config, sizes in (("ViT-B/16", real, batches), ("sample's CLIP", sample, sample_batches)):
        clip = random_clip(name, config, args.device, args.precision)
        width, height = resize_size(clip.image_size)
        for batch in sizes:
            slow = clip.image_size == 224 and args.device == "cpu"
            passes = 1 if args.quick or slow else 4
            count = passes * batch // CROPS
            frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
            timing = measure(partial(encode, clip, frames, batch), rounds=rounds, repeats=repeats)
            images = count * CROPS
            figures.append(Figure.rate(f"{name}, batches of {batch}", "images/s", images, timing))
    torch.set_num_threads(threads)
    settings = {"device": args.device, "precision": args.precision, "crops": CROPS}
    where = "one GPU" if args.device == "cuda" else "one core"
    report("image_tower", f"The image tower on {where}, {args.precision}", figures, settings, args)


if __name__ == "__main__":
    main()
