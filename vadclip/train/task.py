"""What is to be trained: sizes, classes, features, videos, settings, and where they come from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vadclip.clip.frozen import Clip
from vadclip.clip.text import TextTower
from vadclip.config import Params, TrainParams
from vadclip.errors import InputError
from vadclip.events import Peak
from vadclip.features.reader import FeatureReader
from vadclip.labels import Classes
from vadclip.manifest import Manifest, Video
from vadclip.model.folder import ModelInfo, NamedClip, named_clip
from vadclip.model.vadclip import VadClipConfig
from vadclip.train.history import ValidationFigures

Criterion = Literal["val_video_auc", "val_video_ap"]


@dataclass(frozen=True)
class Task:
    """Everything that decides what training ends in."""

    config: VadClipConfig
    classes: Classes
    text: TextTower
    clip: NamedClip
    """The CLIP that `text` is of."""
    features: FeatureReader
    train_videos: Sequence[Video]
    """Those with features."""
    val_videos: Sequence[Video]
    test_videos: Sequence[Video]
    """Empty unless they pick the weights (`train.selection: official`)."""
    params: TrainParams
    train_crops: int
    """Crops 0 .. train_crops - 1 of each training video, each a row of its own."""
    test_crop: int
    score_precision: Literal["fp32", "bf16"]
    """What the model is to be scored in; it changes no weight."""
    criterion: Criterion

    def facts(self) -> dict[str, Any]:
        """Return the task in plain JSON types: equal facts, equal result (on one kind of device)."""
        return {
            "config": asdict(self.config),
            "classes": asdict(self.classes),
            "params": self.params.model_dump(mode="json"),
            "crops": [self.train_crops, self.test_crop],
            "criterion": self.criterion,
            "origin": {
                "clip": asdict(self.clip),
                "feature_provenance": asdict(self.features.provenance),
                "feature_fingerprint": self.features.fingerprint,
            },
            "videos": [
                [(video.video_id, video.labels, self.features.rows(video.video_id)) for video in videos]
                for videos in (self.train_videos, self.val_videos)
            ],
            "test": [(video.video_id, video.frame_spans) for video in self.test_videos],
        }

    @property
    def test_selected(self) -> bool:
        """Whether the test videos pick the model, here or in the training that a checkpoint came from."""
        return self.params.selection == "official" or self.params.checkpoint is not None

    def model_info(
        self, epoch: int | None, figures: ValidationFigures | None, peaks: tuple[Peak, ...]
    ) -> ModelInfo:
        """Return what model.json says of the model of that epoch."""
        return ModelInfo(
            config=self.config,
            classes=self.classes,
            clip=self.clip,
            feature_provenance=asdict(self.features.provenance),
            feature_fingerprint=self.features.fingerprint,
            selection=self.params.selection,
            epoch=epoch,
            validation=asdict(figures) if figures else {},
            test_selected=self.test_selected,
            test_crop=self.test_crop,
            score_precision=self.score_precision,
            normal_peaks=peaks,
        )


def make_task(params: Params, manifest: Manifest, features: FeatureReader, clip: Clip) -> Task:
    """Put a task together from params, manifest, feature store and CLIP.

    Raises InputError for sizes that do not go together, and where encoded features are of another CLIP.
    """
    made = features.provenance
    other_weights = made.source == "encoded" and made.clip_fingerprint != clip.fingerprint
    if other_weights or features.width != clip.embed_dim:
        raise InputError(
            f"{features.folder} was made with CLIP {made.clip_name} (weights {made.clip_fingerprint[:12]}, "
            f"width {features.width}), and params.yaml names {clip.name} (weights {clip.fingerprint[:12]}, "
            f"width {clip.embed_dim}) in its clip section: texts must come from the CLIP of the features; "
            "extract again, or put the other one back"
        )
    return Task(
        config=VadClipConfig(width=clip.embed_dim, **params.model.model_dump()),
        classes=manifest.classes,
        text=clip.text,
        clip=named_clip(clip, params.clip),
        features=features,
        train_videos=features.videos("train"),
        val_videos=features.videos("val"),
        test_videos=features.videos("test") if params.train.selection == "official" else (),
        params=params.train,
        train_crops=params.extract.train_crops,
        test_crop=params.extract.test_crop,
        score_precision=params.score.precision,
        criterion="val_video_ap" if manifest.dataset == "xd_violence" else "val_video_auc",
    )
