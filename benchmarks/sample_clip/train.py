"""Train the sample's CLIP on drawn pictures of one attribute or another.

    .venv/bin/python -m benchmarks.sample_clip.train STORE OUT [--minutes 70] [--threads 1]

Both towers learn by a sigmoid loss: does this text fit this picture? The texts of a step are one phrase for
each tag and some captions of one to four things that are seen. Cells of the image tower learn besides which
things lie in them, which only speeds up the start. The rate follows the time spent, so that a training ends
when it shall; a training that was stopped goes on from its last checkpoint.

Legend of shape suffixes: B pictures of a batch, S side of the tower's input, K tags, N captions, L text
positions, D joint width, T things of a picture, G cells a side.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import vadclip.sample
from benchmarks.sample_clip.captions import Caption, all_texts, write_caption
from benchmarks.sample_clip.pictures import SIDE, TOWER, UNKNOWN
from benchmarks.sample_clip.store import PictureStore
from benchmarks.sample_clip.tags import NAMES, TAGS
from vadclip.clip.text import TextTower, end_positions, tokenize
from vadclip.clip.weights import read_config
from vadclip.files import atomic_path, write_text_atomic

CONFIG = Path(vadclip.sample.__file__).parent / "clip.json"
SEED = 20_261
BATCH, CAPTIONS, WARMUP, PEAK_RATE = 64, 24, 200, 1e-3
CELLS = 6  # a side, of the third stage of the image tower
AVERAGING = 0.998  # of the weights that are stored
SETTLING = 40  # batches
NOT_IN_CELLS = frozenset((
    "nobody", "one person", "two people", "three people", "many people", "no car", "one car", "two cars",
    "many cars", "rain", "day", "dusk", "sunset", "night", "street", "plaza", "carpark", "park", "arcade",
    "crossing",
))  # fmt: skip


class CompactTokens:
    """The token rows in use, in the vocabulary's order: the end of a text stays the highest number."""

    def __init__(self) -> None:
        used = {token for row in tokenize(all_texts()).tolist() for token in row if token}
        self.ids = torch.tensor(sorted(used))

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return compact tokens [., L] and each text's last position; padding cannot matter."""
        tokens_NL = tokenize(texts)
        eot_N = end_positions(tokens_NL)
        tokens_NL = tokens_NL[:, : int(eot_N.max()) + 1].contiguous()
        return torch.searchsorted(self.ids, tokens_NL).clamp_max(len(self.ids) - 1), eot_N


class Learner(nn.Module):
    """The CLIP in training with what is thrown away afterwards: biases, scale, cells."""

    def __init__(self, tokens: CompactTokens) -> None:
        super().__init__()
        clip: Any = open_clip.CLIP(**read_config(str(CONFIG)))
        clip.token_embedding = nn.Embedding(len(tokens.ids), clip.token_embedding.weight.shape[1])
        nn.init.normal_(clip.token_embedding.weight, std=0.02)
        self.clip = clip
        self.text = [TextTower(clip, "sample")]  # in a list: its modules are the CLIP's
        self.tokens = tokens
        clip.requires_grad_(True).train()
        clip.logit_scale.requires_grad_(False)
        width = clip.visual.attnpool.c_proj.out_features
        self.centre = nn.BatchNorm1d(width, affine=False, momentum=0.01)
        self.scale = nn.Parameter(torch.tensor(math.log(15.0)))
        self.tag_bias = nn.Parameter(torch.full((len(NAMES),), -3.0))
        self.caption_bias = nn.Parameter(torch.tensor(-3.0))
        self.cells = nn.Conv2d(clip.visual.layer4[0].conv1.in_channels, len(NAMES), 1)
        nn.init.constant_(self.cells.bias, -4.0)

    def images(self, images_BSS3: Tensor) -> tuple[Tensor, Tensor]:
        """Return features_BD and logits of the cells [B, K, G, G]."""
        visual = self.clip.visual
        with torch.autocast("cpu", torch.bfloat16):
            x = visual.layer2(visual.layer1(visual.stem(images_BSS3)))
            x = visual.layer3(x)
            cells = self.cells(x)
            features_BD = visual.attnpool(visual.layer4(x))
        return self.centre(features_BD.float()), cells.float()

    def texts(self, texts: list[str]) -> Tensor:
        """Return features of texts, [., D]."""
        tokens_NL, eot_N = self.tokens.encode(texts)
        features: Tensor = self.text[0](self.clip.token_embedding(tokens_NL), eot_N)
        return features

    def state_to_store(self) -> dict[str, Tensor]:
        """Return the CLIP's state as open_clip loads it: the centring is part of the last layer."""
        state = {key: value.detach().clone() for key, value in self.clip.state_dict().items()}
        deviation_D = (self.centre.running_var + self.centre.eps).sqrt()
        weight, bias = "visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"
        state[weight] = state[weight] / deviation_D[:, None]
        state[bias] = (state[bias] - self.centre.running_mean) / deviation_D
        state["logit_scale"] = torch.tensor(math.log(1 / 0.07))
        state = {
            key: value.half().contiguous() if value.is_floating_point() else value
            for key, value in state.items()
        }
        state["token_embedding.weight.rows"] = state.pop("token_embedding.weight")
        state["token_embedding.weight.ids"] = self.tokens.ids
        return state


class Batches:
    """Random batches of what the store holds by now."""

    def __init__(self, store: PictureStore, seed: int, batch: int = BATCH) -> None:
        self._store, self._batch = store, batch
        self._rng = np.random.default_rng(seed)
        self._chance = random.Random(seed)
        self._in_cells_K = np.array([name not in NOT_IN_CELLS for name in NAMES])

    def next(self) -> tuple[Tensor, Tensor, Tensor, list[Caption], Tensor]:
        """Return images_BSS3, states of tags [B, K], of cells [B, K, G, G], captions, their states [B, N]."""
        store, rng = self._store, self._rng
        chosen = np.sort(rng.choice(store.filled, self._batch, replace=False))
        x0, y0 = rng.integers(0, SIDE - TOWER + 1, (2, self._batch))
        mirrored = rng.random(self._batch) < 0.5
        pixels = np.stack([
            store.pixels[i, y : y + TOWER, x : x + TOWER][:, :: -1 if flip else 1]
            for i, x, y, flip in zip(chosen, x0, y0, mirrored, strict=True)
        ])  # fmt: skip
        boxes_BT4 = store.boxes[chosen] * (SIDE / TOWER) - np.stack([x0, y0, x0, y0], 1)[:, None] / TOWER
        boxes_BT4 = mirror(boxes_BT4, mirrored)
        tags, shown, state = store.tags[chosen], store.shown[chosen], store.state[chosen]
        captions = [write_caption(state, tags, shown, self._chance) for _ in range(CAPTIONS)]
        fits_BN = np.stack([caption.fits(state, tags, shown, self._chance) for caption in captions], 1)
        return (
            normalise(torch.from_numpy(pixels), rng),
            torch.from_numpy(state),
            torch.from_numpy(self._cells(boxes_BT4, tags, shown)),
            captions,
            torch.from_numpy(fits_BN),
        )

    def _cells(
        self, boxes_BT4: npt.NDArray[np.float64], tags: npt.NDArray[np.int8], shown: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int8]:
        edges = np.arange(CELLS) / CELLS
        reach = [
            np.minimum(boxes_BT4[..., i + 2, None], edges + 1 / CELLS)
            - np.maximum(boxes_BT4[..., i, None], edges)
            for i in (0, 1)
        ]
        across, down = (np.maximum(r, 0) * CELLS for r in reach)
        part_BTGG = down[..., :, None] * across[..., None, :]
        whole_BT = ((boxes_BT4[..., 2:] - boxes_BT4[..., :2]) * CELLS).clip(0).prod(-1)
        hit_BTGG = part_BTGG > np.minimum(0.3, 0.4 * whole_BT)[..., None, None]
        state = np.zeros((self._batch, CELLS, CELLS, len(NAMES)), np.int8)
        state[..., ~self._in_cells_K] = UNKNOWN
        for value in (UNKNOWN, 1):
            b, t, g, h = np.nonzero(hit_BTGG & (shown == (value == 1))[..., None, None])
            for slot in range(tags.shape[2]):
                number = tags[b, t, slot]
                known = number >= 0
                state[b[known], g[known], h[known], number[known]] = value
        return state.transpose(0, 3, 1, 2).copy()


def mirror(boxes_BT4: npt.NDArray[np.float64], mirrored_B: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return boxes as they lie in pictures of which some are mirrored."""
    turned_BT4 = boxes_BT4[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    return np.where(mirrored_B[:, None, None], turned_BT4, boxes_BT4)


def normalise(pixels_BSS3: Tensor, rng: np.random.Generator) -> Tensor:
    """Scale pixels to what the image tower takes, brightness and tint by chance: [B, 3, S, S]."""
    mean, std = (torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    B = len(pixels_BSS3)
    gain = torch.from_numpy(
        rng.uniform(0.85, 1.15, (B, 1, 1, 1)) * rng.uniform(0.93, 1.07, (B, 1, 1, 3))
    ).float()
    shift = torch.from_numpy(rng.uniform(-0.04, 0.04, (B, 1, 1, 1))).float()
    images = (pixels_BSS3.float() / 255 * gain + shift).clamp(0, 1)
    return ((images - mean) / std).permute(0, 3, 1, 2)  # channels last in memory


def fit(logits: Tensor, state: Tensor) -> Tensor:
    """Sigmoid loss over what is known."""
    losses = F.binary_cross_entropy_with_logits(logits, (state > 0).float(), reduction="none")
    known = state != UNKNOWN
    return (losses * known).sum() / known.sum()


def train_step(learner: Learner, batches: Batches, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
    """Return one batch's loss and its parts."""
    images, tags_BK, cells, captions, fits_BN = batches.next()
    image_BD, cell_logits = learner.images(images)
    phrases = [rng.choice(TAGS[name]) for name in NAMES]
    text_D = learner.texts(phrases + [caption.text for caption in captions])
    logits = F.normalize(image_BD, dim=1) @ F.normalize(text_D, dim=1).T * learner.scale.exp()
    K = len(NAMES)
    parts = {
        "tags": fit(logits[:, :K] + learner.tag_bias, tags_BK),
        "captions": fit(logits[:, K:] + learner.caption_bias, fits_BN),
        "cells": fit(cell_logits, cells),
    }
    loss = parts["tags"] + 0.5 * parts["captions"] + 2 * parts["cells"]
    return loss, {name: part.item() for name, part in parts.items()}


def settle(average: Learner, batches: Batches) -> None:
    """Measure anew what batch normalisation divides by: averaged weights have seen no batch of their own."""
    for module in average.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches to come
    with torch.no_grad():
        for _ in range(SETTLING):
            average.images(batches.next()[0])


def main() -> None:
    """Train for a time, with a checkpoint every two minutes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    resume = out / "resume.pt"
    learner = Learner(CompactTokens()).to(memory_format=torch.channels_last)
    average = Learner(learner.tokens).to(memory_format=torch.channels_last)
    average.load_state_dict(learner.state_dict())
    trained = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    step, spent, log = 0, 0.0, []
    if resume.exists():
        saved = torch.load(resume, weights_only=True)
        learner.load_state_dict(saved["learner"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent, log = saved["step"], saved["spent"], saved["log"]
    batches, rng = Batches(PictureStore(arguments.store), SEED + step), random.Random(SEED + step)
    limit, begun, saved_at, recent = 60 * arguments.minutes, time.monotonic() - spent, spent, []
    pairs = list(zip(average.state_dict().values(), learner.state_dict().values(), strict=True))
    while True:
        spent = time.monotonic() - begun
        over = spent >= limit
        rate = (
            PEAK_RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1, spent / limit)))
        )
        if recent and (len(recent) == 50 or over):
            means = {name: round(float(np.mean([r[name] for r in recent])), 5) for name in recent[0]}
            log.append({"step": step, "seconds": round(spent), "rate": round(rate, 7), **means})
            print(json.dumps(log[-1]), f"scale {learner.scale.exp().item():.1f}", flush=True)
            recent = []
        if over:
            settle(average, batches)
        if over or spent - saved_at > 120:
            saved_at = spent
            _save(out, average, log)
            with atomic_path(resume) as temporary:
                torch.save(
                    {"learner": learner.state_dict(), "average": average.state_dict(),
                     "optimiser": optimiser.state_dict(), "step": step, "spent": spent, "log": log},
                    temporary,
                )  # fmt: skip
        if over:
            return
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, parts = train_step(learner, batches, rng)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        step += 1
        recent.append(parts)
        share = 1 - min(AVERAGING, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, now in pairs:
                if kept.is_floating_point():
                    kept.lerp_(now, share)


def _save(out: Path, average: Learner, log: list[dict[str, float]]) -> None:
    with atomic_path(out / "clip.safetensors") as temporary:
        save_file(average.state_to_store(), temporary)
    write_text_atomic(out / "clip_training.json", json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
