"""Judge a CLIP for the sample on development videos: of the sample's kind, and in neither of its splits.

    .venv/bin/python -m benchmarks.sample_clip.develop draw FOLDER [--train 480] [--test 160]
    .venv/bin/python -m benchmarks.sample_clip.develop figures FOLDER CLIP.json CLIP.safetensors [--seeds 1 2]

`draw` keeps the middle frame of each snippet as JPEG, which stands in for H.264. `figures` prints the AUC
over the test part's snippets: of the CLIP's zero-shot score, of a linear probe that is told the truth of each
training snippet (alone, and with the two snippets before and after), and of VadCLIP, which is told each
video's class only.

Legend of shape suffixes: N snippets of one video or of all, D joint width, K classes.
"""

import argparse
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from vadclip.clip.crops import resize_frames
from vadclip.clip.frozen import Clip, load_clip
from vadclip.config import ClipParams, ModelParams, TrainParams
from vadclip.frame_figures import top_mean
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.model.inference import branch_scores, class_texts, video_output
from vadclip.model.losses import vadclip_loss
from vadclip.model.vadclip import TEMPERATURE, VadClip, VadClipConfig
from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.film import draw_frames
from vadclip.sample.workers import drawing_pool
from vadclip.sample.world import CLASSES, VideoPlan, make_plan
from vadclip.train.batches import TrainingRows, epoch_batches, sequence_rows


def plans(split: str, count: int) -> list[VideoPlan]:
    """Return development videos, normal and anomalous in turn, each in a street of its own."""
    labels = list(ANOMALIES)
    found = []
    for i in range(count):
        label = CLASSES.normal if i % 2 else labels[(i // 2) % len(labels)]
        found.append(make_plan(f"development_{split}_{label.lower()}_{i:04d}", "check", label, i // 2))
    return found


def draw(plan: VideoPlan) -> list[bytes]:
    """Return the middle frame of each snippet, as JPEG."""
    middle = SNIPPET_FRAMES // 2
    frames = draw_frames(
        plan, range(middle, plan.num_frames - plan.num_frames % SNIPPET_FRAMES, SNIPPET_FRAMES)
    )
    rng, pictures = random.Random(plan.seed), []
    for frame in frames:
        data = io.BytesIO()
        frame.save(data, "JPEG", quality=rng.randint(30, 60))
        pictures.append(data.getvalue())
    return pictures


def snippet_truth(plan: VideoPlan, rows: int) -> npt.NDArray[np.bool_]:
    """Say of each snippet whether its middle frame lies in the deed."""
    middles = np.arange(rows) * SNIPPET_FRAMES + SNIPPET_FRAMES // 2
    deed = plan.anomaly
    return np.zeros(rows, bool) if deed is None else (middles >= deed.start) & (middles < deed.end)


@dataclass(frozen=True)
class Part:
    """Development videos with their features."""

    plans: Sequence[VideoPlan]
    rows: Sequence[npt.NDArray[np.float16]]

    @property
    def truth_N(self) -> npt.NDArray[np.bool_]:
        """Of all snippets."""
        return np.concatenate([snippet_truth(p, len(r)) for p, r in zip(self.plans, self.rows, strict=True)])

    @property
    def label_N(self) -> npt.NDArray[np.str_]:
        """The video's label, for all snippets."""
        return np.repeat([p.label for p in self.plans], [len(r) for r in self.rows])


def encode(folder: Path, split: str, clip: Clip, count: int | None = None) -> Part:
    """Return the features of the first `count` videos of a split, centre crop; they are kept in `folder`."""
    cached = folder / f"{split}-{clip.fingerprint[:12]}-{count}.npz"
    if cached.exists():
        with np.load(cached) as stored:
            rows_ND, lengths = stored["rows"], stored["lengths"]
        return Part(plans(split, len(lengths)), np.split(rows_ND, np.cumsum(lengths)[:-1]))
    with np.load(folder / f"{split}.npz") as stored:
        data, ends, lengths = stored["data"], stored["ends"], stored["lengths"]
    made = plans(split, len(lengths))[:count]
    rows, frame = [], 0
    for length in lengths[: len(made)]:
        bounds = [0 if i == 0 else int(ends[i - 1]) for i in range(frame, frame + length + 1)]
        frames = [np.asarray(Image.open(io.BytesIO(data[a:b]))) for a, b in pairwise(bounds)]
        frame += length
        rows.append(clip.encode_crops(resize_frames(np.stack(frames), clip.image_size), (0,), 32)[:, 0])
    part = Part(made, [rows_ND.astype(np.float16) for rows_ND in rows])
    with open(cached, "wb") as file:
        np.savez(file, rows=np.concatenate(part.rows), lengths=[len(rows_ND) for rows_ND in part.rows])
    return part


def zero_shot(clip: Clip, part: Part) -> npt.NDArray[np.float32]:
    """Return p_NK by cosines with the plain class prompts."""
    rows_ND = torch.from_numpy(np.concatenate(part.rows)).float()
    with torch.inference_mode():
        text_KD = clip.text.encode(CLASSES.prompts)
        logits_NK = F.normalize(rows_ND, dim=1) @ F.normalize(text_KD, dim=1).T / TEMPERATURE
    p_NK: npt.NDArray[np.float32] = logits_NK.softmax(dim=1).numpy()
    return p_NK


def with_neighbours(rows_ND: npt.NDArray[Any], reach: int) -> npt.NDArray[np.float32]:
    """Return each snippet's row beside those of `reach` before and after, the ends repeated."""
    at = np.arange(len(rows_ND))[:, None] + np.arange(-reach, reach + 1)
    return rows_ND[at.clip(0, len(rows_ND) - 1)].reshape(len(rows_ND), -1).astype(np.float32)


def probe(train_part: Part, test_part: Part, reach: int) -> npt.NDArray[np.float64]:
    """Return scores of the test snippets by a logistic regression that knows the training snippets' truth."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(np.concatenate([with_neighbours(rows, reach) for rows in train_part.rows]), train_part.truth_N)
    rows = np.concatenate([with_neighbours(rows, reach) for rows in test_part.rows])
    score_N: npt.NDArray[np.float64] = model.predict_proba(rows)[:, 1]
    return score_N


def figures_of(score_N: npt.NDArray[Any], part: Part, by_class: bool = True) -> dict[str, float]:
    """Return AUC and AP over all snippets, and each class's AUC against the normal ones."""
    truth_N, label_N = part.truth_N, part.label_N
    found = {"auc": roc_auc_score(truth_N, score_N), "ap": average_precision_score(truth_N, score_N)}
    for label in ANOMALIES if by_class else ():
        against = ~truth_N | (label_N == label)
        found[label] = roc_auc_score(truth_N[against], score_N[against])
    return {name: round(float(value), 4) for name, value in found.items()}


def vadclip(
    clip: Clip, train_part: Part, test_part: Part, model: ModelParams, params: TrainParams
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], str]:
    """Train as the product does, every fifth video for validation; return both branches' scores, a summary.

    The epoch is picked by the video AUC of the validation videos, the earlier of two equals.
    """
    torch.manual_seed(params.seed)
    learner = VadClip(VadClipConfig(width=clip.embed_dim, **model.model_dump()), CLASSES, clip.text)
    count = len(train_part.plans)
    kept = np.zeros(count, bool)
    kept[np.random.default_rng(0).permutation(count)[: count // 5]] = True
    plans_R = [plan for plan, keep in zip(train_part.plans, kept, strict=True) if not keep]
    rows_R = [
        sequence_rows(rows, model.length)
        for rows, keep in zip(train_part.rows, kept, strict=True)
        if not keep
    ]
    anomalous_R = np.array([plan.label != CLASSES.normal for plan in plans_R])
    rows = TrainingRows(
        pooled=np.concatenate(rows_R),
        offsets=np.cumsum([0, *map(len, rows_R)]),
        labels_RK=np.stack([CLASSES.multi_hot((plan.label,)) for plan in plans_R]),
        video_ids=tuple(plan.video_id for plan in plans_R),
        length=model.length,
    )
    anomalous_V = [
        plan.label != CLASSES.normal for plan, keep in zip(train_part.plans, kept, strict=True) if keep
    ]
    rows_V = [rows for rows, keep in zip(train_part.rows, kept, strict=True) if keep]
    optimizer = torch.optim.AdamW(
        learner.parameters(), params.learning_rate, weight_decay=params.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, params.milestones, params.milestone_factor)
    best, chosen, epoch_of_best = -1.0, learner.state_dict(), 0
    for epoch in range(params.epochs):
        learner.train()
        for batch in rows.batches(epoch_batches(anomalous_R, params, epoch), torch.device("cpu")):
            output = learner(batch.visual_BTD, batch.lengths_B)
            loss = vadclip_loss(output, batch.labels_BK, batch.lengths_B, params.contrast_weight).total
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        scheduler.step()
        found = roc_auc_score(anomalous_V, [top_mean(main_N) for main_N, _ in _scores(learner, rows_V)])
        if found > best:
            best, epoch_of_best = found, epoch + 1
            chosen = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.load_state_dict(chosen)
    main_N, aligned_N = (
        np.concatenate(branch) for branch in zip(*_scores(learner, test_part.rows), strict=True)
    )
    return main_N, aligned_N, f"epoch {epoch_of_best}, validation {best:.4f}"


def _scores(
    model: VadClip, rows: Sequence[npt.NDArray[np.float16]]
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Return each video's anomaly score and 1 - p(normal)."""
    model.eval()
    text_KD = class_texts(model, "fp32")
    outputs = (branch_scores(video_output(model, rows_ND, text_KD, "fp32")) for rows_ND in rows)
    return [(score_1N[0].numpy(), 1 - normal_1N[0].numpy()) for score_1N, normal_1N in outputs]


def main() -> None:
    """Draw development videos, or judge a CLIP on them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    drawing = jobs.add_parser("draw", help="draw the frames of the development videos")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("--train", type=int, default=480)
    drawing.add_argument("--test", type=int, default=160)
    judging = jobs.add_parser("figures", help="judge a CLIP")
    judging.add_argument("folder", type=Path)
    judging.add_argument("model", type=Path)
    judging.add_argument("weights", type=Path)
    judging.add_argument("--train", type=int, default=None, help="only so many of the training videos")
    judging.add_argument("--seeds", type=int, nargs="*", default=[], help="of VadCLIP trainings")
    judging.add_argument("--set", nargs="*", default=[], metavar="SECTION.PARAM=VALUE",
                         help="other than params.yaml, as train.epochs=30")  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.job == "draw":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            _draw_split(arguments.folder / f"{split}.npz", plans(split, getattr(arguments, split)))
        return
    clip = load_clip(
        ClipParams(
            model=str(arguments.model), pretrained=str(arguments.weights), quick_gelu=False, precision="fp32"
        ),
        device="cpu",
    )
    train_part, test_part = (
        encode(arguments.folder, split, clip, count)
        for split, count in (("train", arguments.train), ("test", None))
    )
    norms = np.linalg.norm(np.concatenate(train_part.rows).astype(np.float32), axis=1)
    print(
        json.dumps(
            {"videos": [len(train_part.plans), len(test_part.plans)], "norm": round(float(norms.mean()), 2)}
        )
    )
    print("zero-shot", figures_of(1 - zero_shot(clip, test_part)[:, 0], test_part))
    for reach in (0, 2):
        print(
            f"probe, {reach} neighbours",
            figures_of(probe(train_part, test_part, reach), test_part),
            flush=True,
        )
    settings: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    for change in arguments.set:
        name, value = change.split("=")
        section, key = name.split(".")
        settings[section][key] = yaml.safe_load(value)
    for seed in arguments.seeds:
        params = TrainParams(**{**settings["train"], "seed": seed})
        main_N, aligned_N, summary = vadclip(
            clip, train_part, test_part, ModelParams(**settings["model"]), params
        )
        print(f"VadCLIP, seed {seed}", figures_of(main_N, test_part), "alignment",
              figures_of(aligned_N, test_part, by_class=False), summary, flush=True)  # fmt: skip


def _draw_split(path: Path, made: list[VideoPlan]) -> None:
    with drawing_pool(1) as pool:
        videos = list(pool.map(draw, made, chunksize=8))
    frames = [frame for video in videos for frame in video]
    with open(path, "wb") as file:
        np.savez(
            file,
            data=np.frombuffer(b"".join(frames), np.uint8),
            ends=np.cumsum([len(frame) for frame in frames]),
            lengths=[len(video) for video in videos],
        )


if __name__ == "__main__":
    main()
