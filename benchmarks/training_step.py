"""Seconds that one training step takes at the official UCF-Crime size.

    .venv/bin/python -m benchmarks.training_step
    .venv/bin/python -m benchmarks.training_step --device cuda --precision fp32 bf16

A step is what `vadclip.train.loop` does for a batch: forward, loss, backward, AdamW (but for cuDNN's
repeatable kernels, which took 13 % longer on an H200). The batch is 64 normal
and 64 anomalous rows of 256 snippets, 512 wide; features and the text tower's weights are random, which
changes nothing of the work. It needs torch, open_clip, einops, numpy and rich, and imports neither Ray nor
DVC nor MLflow.
"""

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor

from benchmarks.measuring import Figure, add_device, arguments, check_device, measure, report, wait_for
from vadclip.clip.on_gpu import full_float32
from vadclip.clip.text import TextTower
from vadclip.labels import UCF_CRIME
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import VadClip, VadClipConfig

PRECISIONS = ["fp32", "bf16"]


def text_tower(width: int, layers: int) -> TextTower:
    """Build CLIP's text tower with random weights; the image tower beside it is as small as can be."""
    vision = {"image_size": 16, "patch_size": 16, "width": 32, "layers": 1, "head_width": 32}
    text = {
        "context_length": 77, "vocab_size": 49408, "width": width, "heads": max(1, width // 64),
        "layers": layers,
    }  # fmt: skip
    model = open_clip.CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    return TextTower(model, "ViT-B/16's text tower")


class Step:
    """One model, one batch, and the step that trains the one on the other."""

    def __init__(self, rows: int, length: int, width: int, layers: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        config = VadClipConfig(
            width=width, length=length, layers=2, window=8, heads=1, prompt_prefix=10, prompt_suffix=10
        )
        self.device, self.precision = device, precision
        full_float32()
        self.model = VadClip(config, UCF_CRIME, text_tower(width, layers)).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 2e-5)
        # Long videos are pooled to `length` rows, so of UCF-Crime's most are full and some are padded.
        self.lengths_B = torch.randint(length // 4, 2 * length, (rows,)).clamp(max=length).to(device)
        self.visual_BTD: Tensor = torch.randn(rows, length, width, device=device)
        self.labels_BK = torch.zeros(rows, len(UCF_CRIME), device=device)
        classes = torch.arange(rows) % (len(UCF_CRIME) - 1) + 1
        classes[: rows // 2] = 0
        self.labels_BK[torch.arange(rows), classes] = 1.0

    def __call__(self) -> None:
        """Train one step and wait for it."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.model(self.visual_BTD, self.lengths_B)
        terms = vadclip_loss(output, self.labels_BK, self.lengths_B, 0.1)
        self.optimizer.zero_grad()
        terms.total.backward()
        self.optimizer.step()
        wait_for(self.device)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("benchmarks.training_step", __doc__)
    add_device(parser)
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"])
    parser.add_argument("--steps", type=int, help="steps a round (default: 3; on a GPU 20)")
    args = parser.parse_args(argv)
    check_device(args.device)
    rows, length, width, layers, rounds = (8, 16, 64, 1, 1) if args.quick else (128, 256, 512, 12, 1)
    steps = args.steps or (1 if args.quick else 3)
    if args.device == "cuda" and not args.quick:
        rounds, steps = 3, args.steps or 20
    figures = []
    for precision in args.precision:
        step = Step(rows, length, width, layers, args.device, precision)
        timing = measure(step, rounds=rounds, repeats=steps)
        what = f"{precision}, batch {rows}, {length} snippets, width {width}"
        figures.append(Figure.seconds(what, timing))
    settings = {
        "device": args.device, "precision": args.precision, "rows": rows, "snippets": length, "width": width,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    where = "one GPU" if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    report("training_step", f"One training step on {where}", figures, settings, args)


if __name__ == "__main__":
    main()
