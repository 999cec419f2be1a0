"""params.yaml as frozen, typed, strict models: every key stands in the file, none is guessed.

The sections `dataset clip model ingest extract train score evaluate` hold what changes results and are DVC
params. `execution` and `tracking` change only where and how fast the work runs and where it is logged.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vadclip.checkout import given_path
from vadclip.errors import InputError
from vadclip.remote import folder_fault, shown

PARAMS_FILE = Path("params.yaml")
SAMPLE_CLIP = "sample"
_SAMPLE = Path(__file__).with_name("sample")


def _number_from_yaml(value: object) -> object:
    """YAML 1.1 reads `2e-5` (no dot) as text; take it for the number that it plainly is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Real = Annotated[float, BeforeValidator(_number_from_yaml), Field(allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
PositiveReal = Annotated[Real, Field(gt=0)]
NonNegativeReal = Annotated[Real, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of params.yaml: frozen, strictly typed, no unknown and no missing key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


class DatasetParams(Section):
    """Which videos, labels and classes."""

    name: Literal["sample", "table", "ucf_crime", "xd_violence"]
    root: str | None
    """Folder or URI that the videos' (or features') paths are relative to; null for the sample."""
    source: Literal["videos", "official_features"]
    table: str | None
    """CSV of path,label[,split][,segments][,group]; for `name: table` only."""
    annotations: str | None
    """Folder with the official label files; for ucf_crime and xd_violence only."""
    classes: dict[str, str] | None
    """Ordered map label -> text prompt, the first is normal; null takes the dataset's own."""
    untimed: Literal["error", "whole_video"]
    """What an anomalous test video without segments means."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "DatasetParams":
        official = self.name in {"ucf_crime", "xd_violence"}
        if (self.name == "table") != (self.table is not None):
            raise ValueError(
                f"dataset.table is {self.table!r} with dataset.name {self.name!r}: give a CSV "
                "path with `name: table` and null otherwise"
            )
        if official != (self.annotations is not None):
            raise ValueError(
                f"dataset.annotations is {self.annotations!r} with dataset.name {self.name!r}: give "
                "the folder of official label files with ucf_crime or xd_violence, null otherwise"
            )
        if official and self.root is None:
            raise ValueError(f"dataset.root is null: {self.name} needs the folder that holds its files")
        if self.name == "sample" and self.root is not None:
            raise ValueError(
                f"dataset.root is {self.root!r}: the sample renders its own videos; set it to null"
            )
        if self.source == "official_features" and not official:
            raise ValueError(
                "dataset.source official_features goes with dataset.name ucf_crime or xd_violence"
            )
        if self.root is not None and (fault := folder_fault(self.root)) is not None:
            raise ValueError(f"dataset.root {shown(self.root)}: {fault}")
        if self.classes is not None and len(self.classes) < 2:
            raise ValueError("dataset.classes needs normal and at least one anomaly")
        return self


class ClipParams(Section):
    """The frozen CLIP."""

    model: str
    """`sample`, the one in this package; an open_clip model name; or the path of an open_clip config file
    (.json)."""
    pretrained: str | None
    """open_clip tag, or the path of a weights file (.safetensors, or a plain state dict); null for
    `sample`."""
    quick_gelu: bool | None
    """Which activation a weights file was trained with; null where a tag or a config file says it."""
    precision: Literal["fp32", "fp16", "bf16"]
    """Arithmetic of the image tower."""

    @model_validator(mode="after")
    def _has_weights(self) -> "ClipParams":
        if (self.model == SAMPLE_CLIP) != (self.pretrained is None):
            raise ValueError(
                f"clip.pretrained is {self.pretrained!r} with clip.model {self.model!r}: write null with "
                f"{SAMPLE_CLIP}, which has its weights, and an open_clip tag or a weights file with others"
            )
        return self

    @property
    def config_name(self) -> str:
        """`model` with `sample` resolved: an open_clip name, or the path of a config file."""
        return str(_SAMPLE / "clip.json") if self.pretrained is None else _where(self.model)

    @property
    def weights_name(self) -> str:
        """`pretrained` with `sample` resolved: an open_clip tag, or the path of a weights file."""
        return str(_SAMPLE / "clip.safetensors") if self.pretrained is None else _where(self.pretrained)


def _where(name: str) -> str:
    path = given_path(name)  # an experiment's copy lacks a file that git does not track
    return str(path) if path.is_file() else name


class IngestParams(Section):
    """How validation videos are carved out of the training videos."""

    val_fraction: Fraction
    seed: Seed


class ExtractParams(Section):
    """Which frames and crops become features."""

    frames_per_snippet: Literal[1, 16]
    """1 takes frame 8 of each 16; 16 averages the features of all."""
    train_crops: Literal[1, 5, 10]
    test_crop: Annotated[int, Field(ge=0, le=9)]
    max_failed_fraction: Fraction
    max_lost_fraction: Fraction
    """A video of which more pictures cannot be decoded has failed."""

    def crops(self, split: str) -> tuple[int, ...]:
        """Numbers of the crops that the videos of `train`, `val` or `test` get."""
        return tuple(range(self.train_crops)) if split == "train" else (self.test_crop,)


class ModelParams(Section):
    """VadCLIP's own architecture; its width is the CLIP's joint dimension."""

    length: PositiveInt
    """Snippets per sequence, T."""
    layers: NonNegativeInt
    """Blocks of each kind of attention that `temporal` names."""
    window: PositiveInt
    """Snippets per local attention window."""
    heads: PositiveInt
    prompt_prefix: NonNegativeInt
    prompt_suffix: NonNegativeInt
    temporal: Literal["none", "global", "local", "gcn", "local_global", "global_gcn", "local_gcn"]
    """local_gcn is VadCLIP; this and what follows: the paper's tables 5 to 7."""
    branches: Literal["both", "classification", "alignment"]
    prompt: Literal["learned", "hand_crafted"]
    visual_prompt: Literal["anomaly_focus", "average_frame", "none"]

    @model_validator(mode="after")
    def _focus_has_its_branch(self) -> "ModelParams":
        if self.branches == "alignment" and self.visual_prompt == "anomaly_focus":
            raise ValueError(
                "model.visual_prompt anomaly_focus looks where the classification branch does, and "
                "model.branches is 'alignment': set it to average_frame or none"
            )
        return self


class TrainParams(Section):
    """Optimisation and model selection."""

    batch_scheme: Literal["paired", "single"]
    batch_size: PositiveInt
    """Rows per batch; `paired` takes this many normal and as many anomalous ones."""
    learning_rate: PositiveReal
    weight_decay: NonNegativeReal
    milestones: list[PositiveInt]
    milestone_factor: PositiveReal
    epochs: PositiveInt
    contrast_weight: NonNegativeReal
    precision: Literal["fp32", "bf16"]
    seed: Seed
    selection: Literal["validation", "last", "official"]
    """official picks on the test videos, as the authors did: its figures compare with theirs, no more."""
    checkpoint: str | None
    """An official checkpoint (.pth) to import instead of training."""

    @model_validator(mode="after")
    def _milestones_rise(self) -> "TrainParams":
        if any(late <= early for early, late in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(
                f"train.milestones {list(self.milestones)} must rise: epochs at which the rate drops"
            )
        return self


class ScoreParams(Section):
    """How test and validation videos are scored."""

    precision: Literal["fp32", "bf16"]


class EvaluateParams(Section):
    """Intervals and pictures."""

    bootstrap_resamples: NonNegativeInt
    bootstrap_seed: Seed
    timelines: NonNegativeInt
    """How many test videos get a timeline picture."""


class ExecutionParams(Section):
    """Where and how fast; changes no result and invalidates nothing."""

    device: Literal["cpu", "cuda"]
    ray_address: str | None
    """null starts Ray on this machine; `auto` or host:port joins a cluster; RAY_ADDRESS wins."""
    actors: PositiveInt | None
    """null takes as many as the cluster can place."""
    cpus_per_actor: PositiveReal
    gpus_per_actor: NonNegativeReal
    encoder_batch: PositiveInt
    unit_images: PositiveInt
    max_attempts: PositiveInt
    stall_seconds: PositiveReal
    decoder: Literal["decord", "pyav"]
    reader_threads: PositiveInt
    """Threads that read features before training."""
    video_cache_gib: PositiveReal
    """Bound of each node's copies of remote videos."""

    @property
    def address(self) -> str:
        """Where Ray is: `local` starts it on this machine, anything else is a cluster's address."""
        return os.environ.get("RAY_ADDRESS") or self.ray_address or "local"

    @model_validator(mode="after")
    def _device_and_gpus_agree(self) -> "ExecutionParams":
        if (self.device == "cuda") != (self.gpus_per_actor > 0):
            raise ValueError(
                f"execution.gpus_per_actor is {self.gpus_per_actor:g} with execution.device "
                f"{self.device!r}: give each actor a share of a GPU with cuda, 0 with cpu"
            )
        return self


class TrackingParams(Section):
    """Where runs are logged."""

    experiment: str | None
    """null: `vadclip-` and the dataset's name."""
    uri: str | None
    """null keeps a SQLite store in the project; MLFLOW_TRACKING_URI wins."""
    run_name: str | None


class Params(Section):
    """The whole of params.yaml."""

    dataset: DatasetParams
    clip: ClipParams
    ingest: IngestParams
    extract: ExtractParams
    model: ModelParams
    train: TrainParams
    score: ScoreParams
    evaluate: EvaluateParams
    execution: ExecutionParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _selection_has_its_videos(self) -> "Params":
        rule, fraction, dataset = self.train.selection, self.ingest.val_fraction, self.dataset.name
        # A table may name its validation videos itself, so a fraction of 0 is fine there.
        without = fraction == 0 and dataset != "table" and self.train.checkpoint is None
        if rule == "validation" and without:
            raise ValueError(
                "train.selection validation needs validation videos: set ingest.val_fraction "
                "above 0, or train.selection: last"
            )
        if rule == "official" and fraction > 0:
            raise ValueError(
                f"train.selection official trains on all training videos, as the authors did, and "
                f"ingest.val_fraction is {fraction:g}: set it to 0"
            )
        if rule == "official" and dataset not in {"ucf_crime", "xd_violence"}:
            raise ValueError(
                f"train.selection official is the authors' rule for ucf_crime and xd_violence, and "
                f"dataset.name is {dataset!r}: take validation or last"
            )
        return self


_MOVED = {
    "execution.features_uri": "delete the line: features/ is a local folder, and `dvc push` copies it",
    "execution.loader_workers": "it is execution.reader_threads now, at least 1",
}
"""Keys of earlier versions, and what to write instead."""


def load_params(path: Path | str = PARAMS_FILE) -> Params:
    """Read and check a params file.

    Raises InputError with one line that names every wrong, unknown or missing key.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold the sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(map(_complaint, error.errors()))) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML's own takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise yaml.YAMLError(f"the key {key!r} stands twice, again in line {line}: keep one")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """Read a YAML file; raises InputError if it is missing, is no YAML or holds a key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _complaint(detail: Mapping[str, Any]) -> str:
    location, kind, message = detail["loc"], detail["type"], str(detail["msg"])
    section: Any = Params if len(location) < 2 else Params.model_fields[location[0]].annotation
    key, known = ".".join(map(str, location)), ", ".join(section.model_fields)
    if kind == "extra_forbidden" and key in _MOVED:
        return f"{key}: {_MOVED[key]}"
    if kind == "extra_forbidden":
        return f"unknown key {key} (known here: {known})"
    if kind == "missing":
        return f"missing key {key} (expected here: {known})"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"{key} is {detail.get('input')!r}: {message[0].lower()}{message[1:]}"


def flatten(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested params to dotted names (`train.learning_rate`), as DVC and MLflow show them."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
