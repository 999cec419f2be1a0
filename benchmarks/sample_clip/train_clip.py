"""Train the sample's CLIP: `python -m benchmarks.sample_clip.train_clip` writes weights and log.

A contrastive training as CLIP's, with four deviations: a batch's target spreads over all captions that fit an
image (see captions.py); the temperature stays at 0.07, which is VadCLIP's; only token rows that occur are
trained and stored; and patches learn besides where a deed shows. Frames come from layouts, seeds and hues
that no video of the sample has.

Legend of shape suffixes: B images and captions of a batch, S side of the tower's input, h and w the resized
frame, L text positions, P patches, V width of the image tower, D joint width, n frames.
"""

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from einops import reduce
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import vadclip.sample
from benchmarks.sample_clip.captions import PHRASES, all_texts, write_caption
from benchmarks.sample_clip.clip_data import IMAGE_SIZE, Frames, check_frames, training_frames
from benchmarks.sample_clip.clip_figures import zero_shot
from vadclip.clip.frozen import load_clip
from vadclip.clip.text import TextTower, end_positions, tokenize
from vadclip.clip.weights import read_config
from vadclip.config import ClipParams
from vadclip.files import atomic_path, write_text_atomic
from vadclip.progress import format_seconds, track
from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.world import development_plans

FOLDER = Path(vadclip.sample.__file__).parent
CONFIG, WEIGHTS, LOG = (
    FOLDER / "clip.json",
    FOLDER / "clip.safetensors",
    Path(__file__).parent / "clip_training.json",
)
SEED = 20_261
BATCH, STEPS, WARMUP, PEAK_RATE = 64, 2800, 80, 1e-3
TRAIN_PER_KIND, CHECK_PER_KIND = 400, 8
TEMPERATURE = 0.07
PATCH, SHOWN_SHARE = 8, 0.12  # a patch shows a deed that covers more than this share of it


class CompactTokens:
    """The token rows in use, in the vocabulary's order: the end of a text stays the highest number."""

    def __init__(self) -> None:
        used = {token for row in tokenize(all_texts()).tolist() for token in row if token}
        self.ids = torch.tensor(sorted(used))

    def compact(self, tokens_BL: Tensor) -> Tensor:
        """Renumber tokens into rows of the compact table; padding becomes row 0, which cannot matter."""
        return torch.searchsorted(self.ids, tokens_BL.contiguous()).clamp_max(len(self.ids) - 1)


def build() -> tuple[Any, TextTower, CompactTokens]:
    """Return an untrained CLIP of the sample's config with a compact token table, and its text tower."""
    tokens = CompactTokens()
    model: Any = open_clip.CLIP(**read_config(str(CONFIG)))
    width = model.token_embedding.weight.shape[1]
    model.token_embedding = nn.Embedding(len(tokens.ids), width)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    model.logit_scale.data.fill_(math.log(1 / TEMPERATURE))
    text = TextTower(model, "sample")
    model.requires_grad_(True).train()
    model.logit_scale.requires_grad_(False)
    return model, text, tokens


@dataclass(frozen=True)
class Batch:
    """Images as uint8 and their captions in compact tokens."""

    images_BSS3: Tensor
    tokens_BL: Tensor
    eot_B: Tensor
    fits_BB: Tensor
    """1 where a caption (column) fits an image (row); every row and column has one."""
    deeds_BP: Tensor
    """Per patch the number of the kind of deed that shows there, 0 for none."""


class Batches:
    """Random batches: half the frames show an anomaly, each kind as often as another."""

    def __init__(self, frames: Frames, tokens: CompactTokens) -> None:
        self._frames, self._tokens = frames, tokens
        self._by_kind: dict[str, list[int]] = {}
        for i, facts in enumerate(frames.facts):
            self._by_kind.setdefault(facts.kind, []).append(i)
        self._rng = random.Random(SEED)
        self._kinds = sorted(PHRASES)
        self._normal = sorted(set(self._by_kind) - set(ANOMALIES))

    def next(self) -> Batch:
        """Draw the next batch."""
        rng = self._rng
        kinds = [rng.choice(list(ANOMALIES) if i % 2 else self._normal) for i in range(BATCH)]
        chosen = [rng.choice(self._by_kind[kind]) for kind in kinds]
        facts = [self._frames.facts[i] for i in chosen]
        captions = [write_caption(fact, rng) for fact in facts]
        fits_BB = torch.tensor([[float(caption.fits(fact)) for caption in captions] for fact in facts])
        tokens_BL = tokenize([caption.text for caption in captions])
        eot_B = end_positions(tokens_BL)
        tokens_BL = self._tokens.compact(tokens_BL[:, : int(eot_B.max()) + 1])
        views = [self._view(i) for i in chosen]
        shown_BP = reduce(
            np.stack([deed for _, deed in views]).astype(np.float32),
            "b (row p) (column q) -> b (row column)", "mean", p=PATCH, q=PATCH,
        ) > SHOWN_SHARE  # fmt: skip
        kind_B = np.array([self._kinds.index(kind) + 1 for kind in kinds])
        return Batch(
            images_BSS3=torch.from_numpy(np.stack([image for image, _ in views])),
            tokens_BL=tokens_BL,
            eot_B=eot_B,
            fits_BB=fits_BB,
            deeds_BP=torch.from_numpy(shown_BP * kind_B[:, None]),
        )

    def _view(self, i: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Cut a random window (the ten crops of use are among them), mirrored half of the time."""
        rng = self._rng
        pixels_hw3, deed_hw = self._frames.pixels_Nhw3[i], self._frames.deed_Nhw[i]
        y, x = (rng.randint(0, whole - IMAGE_SIZE) for whole in deed_hw.shape)
        window = (slice(y, y + IMAGE_SIZE), slice(x, x + IMAGE_SIZE))
        turn = -1 if rng.random() < 0.5 else 1
        return pixels_hw3[window][:, ::turn], deed_hw[window][:, ::turn]


def normalise(images_BSS3: Tensor) -> Tensor:
    """Scale uint8 pixels to what the image tower takes: [B, 3, S, S]."""
    mean, std = (
        torch.tensor(values) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((images_BSS3.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def contrast(image_BD: Tensor, text_BD: Tensor, fits_BB: Tensor) -> Tensor:
    """Cross entropy both ways between cosines / temperature and the captions (images) that fit, evenly."""
    logits_BB = F.normalize(image_BD, dim=1) @ F.normalize(text_BD, dim=1).T / TEMPERATURE
    to_text = F.cross_entropy(logits_BB, fits_BB / fits_BB.sum(1, keepdim=True))
    to_image = F.cross_entropy(logits_BB.T, fits_BB.T / fits_BB.T.sum(1, keepdim=True))
    return (to_text + to_image) / 2


def train(frames: Frames, steps: int) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train from scratch; return the state dict to store and the losses, means of 20 steps."""
    torch.manual_seed(SEED)
    model, text, tokens = build()
    batches = Batches(frames, tokens)
    # Patches are told what happens in them: from scratch, one target for 64 patches is too faint a signal to
    # learn small figures by. The head is thrown away afterwards.
    model.visual.output_tokens = True
    places = nn.Linear(model.visual.transformer.width, len(PHRASES) + 1)
    importance = torch.cat([torch.ones(1), torch.full((len(PHRASES),), 3.0)])
    trained = [p for p in (*model.parameters(), *places.parameters()) if p.requires_grad]
    matrices, others = ([p for p in trained if (p.ndim > 1) == matrix] for matrix in (True, False))
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    log, recent = [], []
    with track(steps, "train CLIP", "steps") as bar:
        for step in range(steps):
            share = (step - WARMUP) / max(1, steps - WARMUP)
            rate = PEAK_RATE * (
                (step + 1) / WARMUP if step < WARMUP else 0.5 * (1 + math.cos(math.pi * share))
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = batches.next()
            image_BD, patches_BPV = model.visual(normalise(batch.images_BSS3))
            text_BD = text(model.token_embedding(batch.tokens_BL), batch.eot_B)
            captions = contrast(image_BD, text_BD, batch.fits_BB)
            deeds = F.cross_entropy(places(patches_BPV).flatten(0, 1), batch.deeds_BP.flatten(), importance)
            loss = captions + deeds
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            recent.append((captions.item(), deeds.item()))
            bar.advance()
            if len(recent) == 20 or step == steps - 1:
                means = np.mean(recent, axis=0)
                log.append({"step": step + 1, "captions": round(means[0], 4), "patches": round(means[1], 4)})
                bar.message(f"step {step + 1}: captions {means[0]:.3f}, patches {means[1]:.3f}")
                recent = []
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    state["token_embedding.weight.rows"] = state.pop("token_embedding.weight")
    state["token_embedding.weight.ids"] = tokens.ids
    return state, log


def main() -> None:
    """Draw, train, store, reload as the product does, and judge on videos of unseen layouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default: {STEPS})")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder to write weights to (default: the package's)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    frames = training_frames(development_plans("clip", TRAIN_PER_KIND))
    drawn = time.monotonic()
    state, losses = train(frames, arguments.steps)
    trained = time.monotonic()
    weights = arguments.out / WEIGHTS.name
    with atomic_path(weights) as temporary:
        save_file(state, temporary)
    clip = load_clip(
        ClipParams(model=str(CONFIG), pretrained=str(weights), quick_gelu=False, precision="fp32"),
        device="cpu",
    )
    figures = zero_shot(clip, check_frames(development_plans("check", CHECK_PER_KIND)))
    log = {
        "frames": len(frames.facts),
        "steps": arguments.steps,
        "batch": BATCH,
        "threads": arguments.threads,
        "seconds": {
            "draw": round(drawn - started, 1),
            "train": round(trained - drawn, 1),
            "check": round(time.monotonic() - trained, 1),
        },
        "held_out": figures,
        "losses": losses,
    }
    write_text_atomic(LOG, json.dumps(log, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    print(f"{weights}: {weights.stat().st_size:,} bytes, {format_seconds(time.monotonic() - started)} in all")


if __name__ == "__main__":
    main()
