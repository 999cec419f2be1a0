"""The frozen CLIP: one factory over open_clip, an image encoder for crops, the text tower, a fingerprint.

open_clip builds both towers; this module decides what may be loaded into them. A setting that would change
every feature in silence is an error: weights trained with QuickGELU in a model that computes GELU, or the
reverse.

Legend of shape suffixes: N frames, H height, W width, C crops, B images of a batch, S side of the image
tower's input, D joint width of CLIP; the axis of 3 is RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch import Tensor, nn

from vadclip.clip.crops import crop_frames
from vadclip.clip.identity import ClipIdentity, is_file_name
from vadclip.clip.on_gpu import full_float32, fuse_quick_gelu, wait_asleep
from vadclip.clip.text import TextTower
from vadclip.clip.weights import (
    clip_fingerprint,
    load_file_weights,
    load_tag_weights,
    read_config,
    tag_settings,
)
from vadclip.config import ClipParams
from vadclip.errors import InputError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Clip(ClipIdentity):
    """A frozen CLIP on one device; made by `load_clip`."""

    weights: str
    """The tag or file that the weights came from."""
    image: nn.Module
    """Image tower, [B, 3, S, S] -> [B, D], in the params' precision."""
    text: TextTower
    """Text tower, float32."""
    mean_3: Tensor
    """Mean and, below, deviation that pixels of 0-255 are normalised with."""
    std_3: Tensor
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode_crops(
        self, frames_NHW3: npt.NDArray[np.uint8], crops: Sequence[int], batch_images: int
    ) -> npt.NDArray[np.float32]:
        """Return features_NCD, raw (not L2-normalised), of the given crops of `resize_frames`'s frames.

        Every forward pass has exactly `batch_images` images, the last one padded: matrix kernels are chosen
        by size, so a smaller batch would round a row otherwise than a full one does. Frames go to the device
        as uint8, each batch's at a time; crop, mirror and normalisation happen there.
        """
        assert batch_images > 0
        assert len(crops) > 0
        C, total = len(crops), len(frames_NHW3) * len(crops)
        frames = torch.from_numpy(np.ascontiguousarray(frames_NHW3))
        features_ND = torch.empty(total, self.embed_dim, device=self.device)
        for start in range(0, total, batch_images):
            stop = min(start + batch_images, total)
            first_frame = start // C
            batch = frames[first_frame : -(-stop // C)]
            if self.device.type == "cuda":  # from pinned memory the copy runs beside the previous batch
                batch = batch.pin_memory()
            batch = batch.to(self.device, non_blocking=True)
            images = crop_frames(batch, self.image_size, crops).flatten(0, 1)
            images_BSS3 = images[start - first_frame * C : stop - first_frame * C]
            features_ND[start:stop] = self._encode_batch(images_BSS3, batch_images)
        wait_asleep(self.device)
        return features_ND.view(-1, C, self.embed_dim).cpu().numpy()

    def _encode_batch(self, images_BSS3: Tensor, batch_images: int) -> Tensor:
        S = self.image_size
        batch_BSS3 = torch.zeros(batch_images, S, S, 3, dtype=self.dtype, device=self.device)
        batch_BSS3[: len(images_BSS3)] = (images_BSS3 - self.mean_3) / self.std_3
        features_BD: Tensor = self.image(batch_BSS3.permute(0, 3, 1, 2))
        return features_BD[: len(images_BSS3)].float()


def load_clip(params: ClipParams, *, device: str) -> Clip:
    """Build the CLIP that `params` name, with its weights, frozen, on `device` ("cpu", "cuda", "cuda:1").

    Raises InputError for everything that cannot be used: model, weights, activation, device.

    >>> from vadclip.clip.crops import resize_frames
    >>> from vadclip.config import load_params
    >>> clip = load_clip(load_params().clip, device="cpu")
    >>> frames_NHW3 = resize_frames(np.zeros((3, 240, 320, 3), np.uint8), clip.image_size)
    >>> features_NCD = clip.encode_crops(frames_NHW3, crops=[0, 5], batch_images=4)
    >>> features_NCD.shape == (3, 2, clip.embed_dim)
    True
    """
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: no CUDA GPU can be used here; set execution.device: cpu")
    model, config, preprocess, known_tokens = _load_model(params)
    text = TextTower(model, params.config_name, known_tokens)
    image = model.get_submodule("visual")
    mean, std = (
        tuple(preprocess.get(key, default))
        for key, default in (("mean", open_clip.OPENAI_DATASET_MEAN), ("std", open_clip.OPENAI_DATASET_STD))
    )
    facts = {"vision": config["vision_cfg"], "text": config["text_cfg"], "mean": mean, "std": std}
    fingerprint = clip_fingerprint(model, facts)  # before the precision touches the values
    dtype = _DTYPES[params.precision]
    if target.type == "cuda":
        full_float32()
        if dtype is not torch.float32:
            fuse_quick_gelu(image)
    return Clip(
        name=Path(params.config_name).name,
        fingerprint=fingerprint,
        quick_gelu=config["quick_gelu"],
        image_size=_side(image, params.config_name),
        embed_dim=int(config["embed_dim"]),
        weights=params.weights_name,
        image=image.to(device=target, dtype=dtype),
        text=text.to(target),
        mean_3=255 * torch.tensor(mean, device=target),
        std_3=255 * torch.tensor(std, device=target),
        device=target,
        dtype=dtype,
    )


@dataclass(frozen=True, eq=False)
class ClipWeights:
    """All weights of a CLIP, float32, under open_clip's names."""

    name: str
    quick_gelu: bool
    state: dict[str, Tensor]
    known_tokens: Tensor | None
    """bool, [vocabulary]: rows of the token table that the weights file held; None for all."""


def load_clip_weights(params: ClipParams) -> ClipWeights:
    """Load the weights of the CLIP that `params` name, both towers; raises InputError as `load_clip` does."""
    model, config, _, known_tokens = _load_model(params)
    return ClipWeights(params.config_name, config["quick_gelu"], model.state_dict(), known_tokens)


def _load_model(params: ClipParams) -> tuple[nn.Module, dict[str, Any], dict[str, Any], Tensor | None]:
    """Return the frozen model, its config with the activation in it, its preprocessing, its known tokens."""
    config = read_config(params.config_name)
    preprocess = config.pop("preprocess_cfg", {})
    weights_file = Path(params.weights_name) if is_file_name(params.weights_name) else None
    if weights_file is not None:
        config["quick_gelu"] = _quick_gelu_of_file(params, config)
        model = _build(params.config_name, config)
        known_tokens = load_file_weights(model, params.config_name, weights_file)
    else:
        settings = tag_settings(params.config_name, params.weights_name)
        preprocess |= {key: settings[key] for key in ("mean", "std") if key in settings}
        config["quick_gelu"] = _quick_gelu_of_tag(params, config, settings)
        model = _build(params.config_name, config)
        known_tokens = None
        load_tag_weights(model, params.weights_name, settings)
    return model.requires_grad_(False).eval(), config, preprocess, known_tokens


def _quick_gelu_of_file(params: ClipParams, config: dict[str, Any]) -> bool:
    # A config file belongs to its weights; an open_clip name says nothing about a user's weights file.
    said = config.get("quick_gelu") if is_file_name(params.config_name) else None
    if params.quick_gelu is None and said is None:
        raise InputError(
            f"clip.quick_gelu is null with the weights file {params.weights_name!r}, which does not tell its "
            "activation: set it to true (OpenAI's weights, DFN, MetaCLIP) or false (trained with GELU)"
        )
    if said is not None and params.quick_gelu not in (None, bool(said)):
        raise InputError(
            f"clip.quick_gelu is {str(params.quick_gelu).lower()} but {params.config_name!r} says "
            f"{str(bool(said)).lower()}: set clip.quick_gelu: null, the config tells it"
        )
    return bool(said if params.quick_gelu is None else params.quick_gelu)


def _quick_gelu_of_tag(params: ClipParams, config: dict[str, Any], settings: dict[str, Any]) -> bool:
    of_model, of_weights = (bool(source.get("quick_gelu", False)) for source in (config, settings))
    names = {False: "GELU", True: "QuickGELU"}
    if of_model != of_weights:
        plain = params.config_name.removesuffix("-quickgelu")
        fitting = f"{plain}-quickgelu" if of_weights else plain
        raise InputError(
            f"clip.model {params.config_name!r} computes {names[of_model]} but the weights "
            f"{params.weights_name!r} were trained with {names[of_weights]}: every feature would be wrong; "
            f"set clip.model: {fitting}"
        )
    if params.quick_gelu not in (None, of_model):
        raise InputError(
            f"clip.quick_gelu is {str(params.quick_gelu).lower()} but {params.config_name!r} with "
            f"{params.weights_name!r} computes {names[of_model]}: set clip.quick_gelu: null, the tag tells it"
        )
    return of_model


def _build(name: str, config: dict[str, Any]) -> nn.Module:
    """Build an open_clip model without weights; the caller loads them."""
    config = {"custom_text": False, **config}
    text_config, vision_config = dict(config["text_cfg"]), dict(config["vision_cfg"])
    foreign = [key for key in ("hf_model_name", "hf_tokenizer_name") if text_config.get(key)]
    if foreign:
        raise InputError(
            f"clip.model {name!r}: its text tower or tokenizer is not CLIP's own ({foreign[0]} is set), "
            "which the learned prompt needs; choose another open_clip model, such as ViT-B-16-quickgelu"
        )
    if "timm_model_name" in vision_config:
        vision_config["timm_model_pretrained"] = False
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text") else open_clip.CLIP
    config |= {"text_cfg": text_config, "vision_cfg": vision_config}
    try:
        with torch.random.fork_rng(devices=[]):  # random weights are replaced later: keep the seed
            model: nn.Module = model_class(**config)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(f"clip.model {name!r}: open_clip cannot build it: {error}") from error
    return model


def _side(visual: object, name: str) -> int:
    """Return S of a square image tower."""
    size = getattr(visual, "image_size", None)
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise InputError(f"clip.model {name!r}: image towers with square input are supported, not {size}")
    return side
