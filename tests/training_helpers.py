"""A toy to train on in a second: made-up features in which anomalies stand out, and a tiny text tower."""

import numpy as np
import open_clip
import torch
from clip_helpers import tiny_config
from manifest_helpers import make_video

from vadclip.clip.text import TextTower
from vadclip.config import TrainParams
from vadclip.features.provenance import Provenance
from vadclip.labels import Classes
from vadclip.manifest import Video
from vadclip.model.folder import NamedClip
from vadclip.model.vadclip import VadClipConfig
from vadclip.train.history import EpochRecord, StepRecord
from vadclip.train.task import Task

CLASSES = Classes(labels=("Normal", "Fighting", "Fire"), prompts=("normal", "fighting", "fire"))
WIDTH = 16
CPU = torch.device("cpu")


class Features:
    """A feature store in memory."""

    provenance, fingerprint = Provenance.imported(WIDTH), "f" * 64

    def __init__(self, arrays: dict[tuple[str, int], np.ndarray]) -> None:
        self.arrays = arrays

    def rows(self, video_id: str) -> int:
        return len(self.arrays[video_id, 0])

    def array(self, video_id: str, crop: int) -> np.ndarray:
        return self.arrays[video_id, crop]


class Recorder:
    """A logger that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.epochs: list[EpochRecord] = []

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


def video(video_id: str, *labels: str, split: str = "train", rows: int = 4) -> Video:
    return make_video(video_id, 16 * rows, split, labels=labels)


def toy(
    train_each: int = 6, val_each: int = 2, crops: int = 2
) -> tuple[Features, tuple[Video, ...], tuple[Video, ...]]:
    """Return (features, train videos, val videos): as many normal ones as of each of two anomalies."""
    random = np.random.default_rng(0)
    directions = {label: random.standard_normal(WIDTH) for label in CLASSES.labels[1:]}
    arrays, videos = {}, {"train": [], "val": []}
    for split, each in (("train", train_each), ("val", val_each)):
        for number in range(each * len(CLASSES)):
            label = CLASSES.labels[number % len(CLASSES)]
            rows = int(random.integers(3, 20))
            made = video(f"{split}{number:02d}", label, split=split, rows=rows)
            videos[split].append(made)
            for crop in range(crops):
                array = 0.3 * random.standard_normal((rows, WIDTH))
                if label != CLASSES.normal:
                    array[rows // 3 : 2 * rows // 3 + 1] += directions[label]
                arrays[made.video_id, crop] = array.astype(np.float16)
    return Features(arrays), tuple(videos["train"]), tuple(videos["val"])


def params(**changes: object) -> TrainParams:
    return TrainParams(
        **{
            "batch_scheme": "paired", "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.01,
            "milestones": [2], "milestone_factor": 0.5, "epochs": 4, "contrast_weight": 0.1,
            "precision": "fp32", "seed": 7, "selection": "validation", "checkpoint": None,
        }
        | changes
    )  # fmt: skip


def text_tower() -> TextTower:
    config = tiny_config(width=16, layers=1, heads=1) | {"embed_dim": WIDTH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TextTower(open_clip.CLIP(**config), "tiny")


def task(text: TextTower | None = None, **changes: object) -> Task:
    features, train_videos, val_videos = toy()
    return Task(
        config=VadClipConfig(
            width=WIDTH, length=8, layers=1, window=4, heads=1, prompt_prefix=2, prompt_suffix=2
        ),
        classes=CLASSES,
        text=text or text_tower(),
        clip=NamedClip("tiny", "tiny.safetensors", "c" * 64, True),
        features=features,
        train_videos=train_videos,
        val_videos=val_videos,
        test_videos=(),
        params=params(**changes),
        train_crops=2,
        test_crop=1,
        score_precision="fp32",
        criterion="val_video_auc",
    )
