"""The model folder: model.safetensors (trained parameters only) and model.json (all it takes to use them).

No pickle. model.json names the weights file's hash and is written last, so a folder is whole or refused.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vadclip.errors import InputError
from vadclip.events import Peak
from vadclip.files import atomic_path, sha256_file, write_text_atomic
from vadclip.labels import Classes
from vadclip.model.vadclip import VadClip, VadClipConfig

if TYPE_CHECKING:
    from vadclip.clip.frozen import Clip
    from vadclip.config import ClipParams

WEIGHTS_FILE = "model.safetensors"
INFO_FILE = "model.json"
EXTRA_FILE = "official_extra.safetensors"
"""What exporting an imported model needs beside its weights; see official.py."""
_VERSION = 2


@dataclass(frozen=True)
class NamedClip:
    """A CLIP as model.json names it."""

    name: str
    """The open_clip name, or the config file's name without its folder."""
    pretrained: str
    """The open_clip tag, or the weights file's name without its folder; empty if it was not noted."""
    fingerprint: str
    quick_gelu: bool


def named_clip(clip: "Clip", params: "ClipParams") -> NamedClip:
    """Return how model.json names the CLIP that `params` led to."""
    return NamedClip(clip.name, Path(params.weights_name).name, clip.fingerprint, clip.quick_gelu)


@dataclass(frozen=True)
class ModelInfo:
    """What model.json says of a model."""

    config: VadClipConfig
    classes: Classes
    clip: NamedClip
    """The CLIP whose text tower the model was trained with; it works with no other."""
    feature_provenance: Mapping[str, Any]
    """How the features were made; features made otherwise would be scored in silence, and wrongly."""
    feature_fingerprint: str
    """Of the very features it was trained on."""
    selection: str
    """Rule that picked the epoch."""
    epoch: int | None
    """From 1; None for an imported checkpoint, which does not tell."""
    validation: Mapping[str, float]
    """That epoch's figures on the validation videos; empty if there were none."""
    test_selected: bool
    """The epoch was picked on the test videos, so test figures flatter the model."""
    test_crop: int
    """Crop of the features that the model is to score."""
    score_precision: Literal["fp32", "bf16"]
    normal_peaks: tuple[Peak, ...] = ()
    """Of the normal validation videos, scored in float32; a threshold is read off them (vadclip.events)."""
    checkpoint_sha256: str | None = None
    """Of the official checkpoint that the model was imported from, instead of trained."""


def save_model(folder: Path, model: VadClip, info: ModelInfo) -> None:
    """Write the trained parameters and `info` to `folder`; equal content gives equal bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = folder / WEIGHTS_FILE
    if info.checkpoint_sha256 is None:  # of an imported model that was here before
        (folder / EXTRA_FILE).unlink(missing_ok=True)
    with atomic_path(weights) as temporary:
        save_file(state, temporary)
    content = {"version": _VERSION, "weights_sha256": sha256_file(weights), **asdict(info)}
    write_text_atomic(folder / INFO_FILE, json.dumps(content, indent=2) + "\n")


def read_model_info(folder: Path) -> ModelInfo:
    """Read model.json.

    Raises InputError if it is missing, something else, or not that of the weights beside it.
    """
    path = folder / INFO_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the train stage writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    version = content.pop("version", None) if isinstance(content, dict) else None
    if version == 1:  # knew no thresholds and not what scoring takes
        clip = {name: content.pop(f"clip_{name}") for name in ("name", "fingerprint", "quick_gelu")}
        content |= {"clip": clip | {"pretrained": ""}, "test_crop": 0, "score_precision": "fp32"}
    elif version != _VERSION:
        raise InputError(f"{path} is no model.json of version {_VERSION}; train again to write one")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or sha256_file(weights) != content.pop("weights_sha256"):
        raise InputError(f"{weights} is missing or not the one that {INFO_FILE} was written for; train again")
    classes = content.pop("classes")
    return ModelInfo(
        config=VadClipConfig(**content.pop("config")),
        classes=Classes(tuple(classes["labels"]), tuple(classes["prompts"])),
        clip=NamedClip(**content.pop("clip")),
        normal_peaks=tuple(Peak(**peak) for peak in content.pop("normal_peaks", ())),
        **content,
    )


def check_clip(folder: Path, info: ModelInfo, clip: "Clip") -> None:
    """Raise InputError unless `clip` is the one that the model of `folder` was trained with.

    With any other, every score would be wrong in silence.
    """
    if clip.fingerprint != info.clip.fingerprint:
        raise InputError(
            f"{folder}: the model was trained with CLIP {info.clip.name} (weights "
            f"{info.clip.fingerprint[:12]}), and this is {clip.name} (weights {clip.fingerprint[:12]} of "
            f"{clip.weights}): put the other one back (in the clip section of params.yaml, or by --clip or "
            "VADCLIP_CLIP), or train again"
        )


def load_model(folder: Path, clip: "Clip", device: str | torch.device) -> tuple[VadClip, ModelInfo]:
    """Build the model of `folder` over its CLIP's text tower, in eval mode on `device`.

    Raises InputError if the folder holds no whole model, or one of another CLIP.

    >>> from vadclip.clip.frozen import load_clip
    >>> from vadclip.config import load_params
    >>> clip = load_clip(load_params().clip, device="cpu")
    >>> model, info = load_model(Path("model"), clip, "cpu")
    >>> info.classes.normal, info.clip.fingerprint == clip.fingerprint
    ('Normal', True)
    """
    info = read_model_info(folder)
    check_clip(folder, info, clip)
    # The seed is left alone: the initialisation that loading replaces must not move a caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = VadClip(info.config, info.classes, clip.text)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder / WEIGHTS_FILE} does not fit: {' '.join(str(error).split())}") from None
    return model.to(device).eval(), info
