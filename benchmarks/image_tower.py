"""How many images a second the frozen image tower takes, by batch size: what bounds an extraction.

    .venv/bin/python -m benchmarks.image_tower
    .venv/bin/python -m benchmarks.image_tower --device cuda --precision fp32 fp16 bf16

Two towers: OpenAI's ViT-B/16 (random weights, which cost the same) and the one of the embedded sample. Frames
come as uint8 in main memory and go through `Clip.encode_crops`: crops (eight of the ten, so that batches come
out even), normalisation, tower, and back; a GPU's tower is made as `load_clip` makes it. The matrix product
is the ceiling: an image of ViT-B/16 takes 35 GFLOP. It needs torch, open_clip, pydantic, numpy and rich, and
imports neither Ray nor DVC nor MLflow.
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
from vadclip.clip.on_gpu import full_float32, fuse_quick_gelu
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
    if device == "cuda":
        full_float32()
        if precision != "fp32":
            fuse_quick_gelu(model.visual)
    return Clip(
        name=name,
        fingerprint="random",
        quick_gelu=bool(config.get("quick_gelu", False)),
        image_size=side,
        embed_dim=config["embed_dim"],
        weights="random",
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


def multiply(one: torch.Tensor, other: torch.Tensor) -> None:
    """Multiply two matrices and wait."""
    torch.mm(one, other)
    wait_for(one.device.type)


def matrix_product(device: str, precision: str, side: int) -> Figure:
    """Return the rate of a large matrix product, on random numbers."""
    pair = [torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2)]
    timing = measure(partial(multiply, *pair), rounds=3, repeats=5)
    what = f"{precision}, matrix product of {side} x {side}"
    return Figure.rate(what, "TFLOP/s", 2 * side**3 / 1e12, timing)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("benchmarks.image_tower", __doc__)
    add_device(parser)
    parser.add_argument("--precision", choices=list(DTYPES), nargs="+", default=["fp32"])
    args = parser.parse_args(argv)
    check_device(args.device)

    real = open_clip.get_model_config("ViT-B-16-quickgelu")
    sample = json.loads(SAMPLE.read_text())
    batches, sample_batches, rounds, repeats = [8], [16, 64, 256], 3, 1
    if args.device == "cuda":
        batches, sample_batches, repeats = [64, 256, 512, 1024], [256, 1024], 3
    if args.quick:
        real["vision_cfg"] |= {"layers": 1, "width": 64, "head_width": 32}
        batches, sample_batches, rounds, repeats = [8], [16], 1, 1

    figures = []
    threads = torch.get_num_threads()
    if args.device == "cpu":
        torch.set_num_threads(1)  # as an actor with one CPU has it; rates of actors add up
    towers = (("ViT-B/16", real, batches), ("sample's CLIP", sample, sample_batches))
    for precision in args.precision:
        if args.device == "cuda":
            figures.append(matrix_product(args.device, precision, 8192))
        for name, config, sizes in towers:
            clip = random_clip(name, config, args.device, precision)
            width, height = resize_size(clip.image_size)
            for batch in sizes:
                slow = clip.image_size == 224 and (args.device == "cpu" or precision == "fp32")
                passes = 1 if args.quick or slow else 4
                count = passes * batch // CROPS
                frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
                timing = measure(partial(encode, clip, frames, batch), rounds=rounds, repeats=repeats)
                what = f"{precision}, {name}, batches of {batch}"
                figures.append(Figure.rate(what, "images/s", count * CROPS, timing))
    torch.set_num_threads(threads)
    settings = {"device": args.device, "precision": args.precision, "crops": CROPS}
    where = "one GPU" if args.device == "cuda" else "one core"
    report("image_tower", f"The image tower on {where}", figures, settings, args)


if __name__ == "__main__":
    main()
