"""The authors' checkpoint files (model_ucf.pth, model_xd.pth) in and out of a model folder, bit for bit.

A checkpoint is a pickled state dict: VadCLIP's parameters, the whole CLIP, and `disAdj.sigma`, which nothing
reads; float16, float32 or both. The model folder keeps VadCLIP's parameters in float32 (which holds every
float16 value) and CLIP not at all, since params.yaml names it. `official_extra.safetensors` keeps what that
loses: order and type of the keys, and each tensor that could not be made again from model and CLIP. So import
then export gives every key, type and value back.

Parameter names (official src/model.py, as facts): VadCLIP's own, OpenAI's for CLIP under `clipmodel.`, which
are open_clip's too. Files are read with `weights_only`: no code in them is run.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vadclip.clip.frozen import ClipWeights
from vadclip.clip.text import TextTower
from vadclip.errors import InputError
from vadclip.files import atomic_path, sha256_file
from vadclip.labels import Classes
from vadclip.model.folder import EXTRA_FILE, WEIGHTS_FILE, ModelInfo, read_model_info, save_model
from vadclip.model.vadclip import VadClip, VadClipConfig

CLIP_PREFIX = "clipmodel."
UNUSED = "disAdj.sigma"
_UNUSED_VALUE = 0.1  # where the official code leaves it: no gradient ever reaches it

# (official, ours): each pair renames the whole name or its beginning, up to the next dot.
_NAMES = (
    ("text_prompt_embeddings.weight", "alignment.prompts.vectors"),
    ("frame_position_embeddings.weight", "temporal.attention.positions"),
    ("temporal.resblocks", "temporal.attention.blocks"),
    ("gc1", "temporal.graphs.similarity1"),
    ("gc2", "temporal.graphs.similarity2"),
    ("gc3", "temporal.graphs.distance1"),
    ("gc4", "temporal.graphs.distance2"),
    ("linear", "temporal.graphs.fuse"),
    ("mlp1", "alignment.visual_prompt.mlp"),
    ("mlp2", "classification.mlp"),
    ("classifier", "classification.head"),
)
# Parts inside the above.
_PARTS = (
    (".attn.in_proj_", ".attention.project_in."),
    (".attn.out_proj.", ".attention.project_out."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".c_fc.", ".expand."),
    (".c_proj.", ".contract."),
)

NO_TRACE = "window, heads, classes and prompts leave no trace in a checkpoint: they are those of params.yaml"

# float16 keeps 11 bits; below 2^-14 its steps are 2^-24.
_ROUNDING, _SMALLEST = 2.0**-10, 2.0**-24
_POSITIONS, _PROMPTS = "frame_position_embeddings.weight", "text_prompt_embeddings.weight"
_BLOCK = re.compile(r"temporal\.resblocks\.(\d+)\.")
_HOLDERS = ("model_state_dict", "state_dict", "model")
_PREFIXES = ("", "module.", "model.", "model.module.", "module.model.")
# Figures that trainings save beside the weights are numpy's numbers: data, no code.
_NUMBERS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]
_IRRELEVANT = "logit_scale"  # read by CLIP's own training only


def vadclip_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the VadCLIP part of an official state dict under our names, for `VadClip.load_state_dict`.

    Raises InputError for a name that the official model does not have.
    """
    names = (name for name in official if name != UNUSED and not name.startswith(CLIP_PREFIX))
    return {_our_name(name): official[name] for name in names}


def clip_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the CLIP that an official state dict carries, under open_clip's names."""
    return {
        name.removeprefix(CLIP_PREFIX): tensor
        for name, tensor in official.items()
        if name.startswith(CLIP_PREFIX)
    }


def official_state(vadclip: Mapping[str, Tensor], clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict that the official model loads, from `VadClip.state_dict()` and its whole CLIP."""
    official = {_official_name(name): tensor for name, tensor in vadclip.items()}
    official |= {CLIP_PREFIX + name: tensor for name, tensor in clip.items()}
    official[UNUSED] = torch.tensor([_UNUSED_VALUE])
    return official


def _our_name(official: str) -> str:
    name = _rename(official, _NAMES, _PARTS)
    if name is None:
        raise InputError(
            f"{official!r} is no parameter of the official VadCLIP: give a state dict that its training saved"
        )
    return name


def _official_name(ours: str) -> str:
    name = _rename(ours, *([(b, a) for a, b in pairs] for pairs in (_NAMES, _PARTS)))
    assert name is not None, f"{ours} has no official name"
    return name


def _rename(name: str, beginnings: Iterable[tuple[str, str]], parts: Iterable[tuple[str, str]]) -> str | None:
    for old, new in beginnings:
        rest = name.removeprefix(old)
        if rest != name and rest[:1] in ("", "."):
            for part, replacement in parts:
                rest = rest.replace(part, replacement)
            return new + rest
    return None


@dataclass(frozen=True)
class Checkpoint:
    """A state dict of the official code, as it stands in the file."""

    path: Path
    state: dict[str, Tensor]
    sha256: str


@dataclass(frozen=True)
class Imported:
    """A checkpoint as a model of ours."""

    model: VadClip
    """On the CPU, in eval mode."""
    sha256: str
    extra: dict[str, Tensor]
    """Tensors that model and CLIP do not give back."""
    types: dict[str, str]
    """Each key's type (`float16`, ...), in the file's order."""
    notes: tuple[str, ...]
    """What the user should know though it is no error."""

    def save(self, folder: Path, info: ModelInfo) -> None:
        """Write the model folder, with what export needs; `info` is taken as an imported model's.

        The authors picked their checkpoints on the test set, so the model counts as test-selected.
        """
        imported = replace(
            info,
            selection="checkpoint",
            epoch=None,
            validation={},
            test_selected=True,
            checkpoint_sha256=self.sha256,
        )
        metadata = {"checkpoint_sha256": self.sha256, "types": json.dumps(self.types)}
        with atomic_path(folder / EXTRA_FILE) as temporary:
            save_file(self.extra, temporary, metadata=metadata)
        save_model(folder, self.model, imported)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .pth: a state dict, by itself or as trainings leave it.

    Known are `model_state_dict` (the authors' training script), `state_dict` (Lightning) and `model` in a
    dict with other things, and names that begin with `module.` or `model.`. Raises InputError for a missing
    or empty file and for anything else, naming what it holds.
    """
    try:
        if path.stat().st_size == 0:
            raise InputError(f"checkpoint {path}: the file is empty")
        with torch.serialization.safe_globals(_NUMBERS):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # of a foreign file torch raises whatever it trips over
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it holds Python objects ({foreign[1]}), which are never loaded: save the state dict alone"
            if foreign
            else f"torch cannot read it ({type(error).__name__})"
        )
        raise InputError(f"checkpoint {path} is no plain state dict by torch.save: {reason}") from None
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__} and no state dict")
    content = next((inner for key in _HOLDERS if isinstance(inner := content.get(key), Mapping)), content)
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    prefix = next((prefix for prefix in _PREFIXES if prefix + _POSITIONS in tensors), "")
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if _POSITIONS not in state or _PROMPTS not in state or not clip_state(state):
        found = ", ".join(list(map(str, content))[:6]) or "nothing"
        raise InputError(
            f"checkpoint {path} is none of the official VadCLIP: it lacks {_POSITIONS}, {_PROMPTS} or "
            f"{CLIP_PREFIX}*; it holds {found}{', ...' if len(content) > 6 else ''}"
        )
    return Checkpoint(path, state, sha256_file(path))


def import_checkpoint(
    checkpoint: Checkpoint, config: VadClipConfig, classes: Classes, text: TextTower, clip: ClipWeights
) -> Imported:
    """Make a model of a checkpoint, for the sizes and the CLIP that params.yaml names.

    Raises InputError where they are not the checkpoint's, naming what differs.
    """
    _check_parts(checkpoint, config)
    _check_sizes(checkpoint, config, text)
    notes = [NO_TRACE, *_check_clip(checkpoint, clip)]
    with torch.random.fork_rng(devices=[]):
        model = VadClip(config, classes, text)
    try:
        model.load_state_dict(vadclip_state(checkpoint.state))
    except (RuntimeError, InputError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"checkpoint {checkpoint.path} does not fit: {reason}") from None
    made = official_state(model.state_dict(), clip.state)
    extra = {
        name: value.contiguous()
        for name, value in checkpoint.state.items()
        if name not in made or not _same_bits(made[name].cpu().to(value.dtype), value)
    }
    types = {name: str(value.dtype).removeprefix("torch.") for name, value in checkpoint.state.items()}
    return Imported(model.eval(), checkpoint.sha256, extra, types, tuple(notes))


def export_state(folder: Path, clip: ClipWeights) -> dict[str, Tensor]:
    """Return the state dict that the official code loads, of a model folder and its CLIP.

    Of an imported model it is the checkpoint it came from, bit for bit; of one trained here, all float32.
    Raises InputError for a model that the official code has no place for. That `clip` is the model's is for
    the caller to check, by `clip_fingerprint`.
    """
    info = read_model_info(folder)
    _check_exportable(folder, info, clip)
    made = official_state(load_file(folder / WEIGHTS_FILE), clip.state)
    if info.checkpoint_sha256 is None:
        return made
    path = folder / EXTRA_FILE
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            extra = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (FileNotFoundError, OSError):
        raise InputError(f"{path}: no such file, and the model was imported: import it again") from None
    if metadata.get("checkpoint_sha256") != info.checkpoint_sha256:
        raise InputError(f"{path} belongs to another checkpoint than the model beside it: import it again")
    types: dict[str, str] = json.loads(metadata["types"])
    return {
        name: extra[name] if name in extra else made[name].to(getattr(torch, kind))
        for name, kind in types.items()
    }


def write_checkpoint(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as the official code loads it (torch.save)."""
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def write_clip_weights(checkpoint: Checkpoint, path: Path) -> None:
    """Write the CLIP that a checkpoint contains, for `clip.pretrained`; types as they are."""
    weights = {name: value.contiguous() for name, value in clip_state(checkpoint.state).items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary)


def _check_parts(checkpoint: Checkpoint, config: VadClipConfig) -> None:
    official = VadClipConfig(64, 1, 1, 1, 1, 0, 0)
    parts = ("temporal", "branches", "prompt", "visual_prompt")
    other = [name for name in parts if getattr(config, name) != getattr(official, name)]
    if other:
        fix = ", ".join(f"model.{name}: {getattr(official, name)}" for name in other)
        raise InputError(f"checkpoint {checkpoint.path} is of the whole VadCLIP; set {fix}")


def sizes_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the sizes that a checkpoint's shapes tell, by what of params.yaml must say the same."""
    length, width = checkpoint.state[_POSITIONS].shape
    context_length, text_width = checkpoint.state[_PROMPTS].shape
    return {
        "model.layers": len({match[1] for match in map(_BLOCK.match, checkpoint.state) if match}),
        "model.length": length,
        "the CLIP's joint dimension": width,
        "the CLIP's text width": text_width,
        "the CLIP's text positions": context_length,
    }


def _check_sizes(checkpoint: Checkpoint, config: VadClipConfig, text: TextTower) -> None:
    ours = (config.layers, config.length, config.width, text.width, text.context_length)
    pairs = zip(sizes_of(checkpoint).items(), ours, strict=True)
    wrong = [f"{name} {theirs}, not {size}" for (name, theirs), size in pairs if theirs != size]
    if wrong:
        raise InputError(
            f"checkpoint {checkpoint.path} does not fit params.yaml: it has {', '.join(wrong)} (UCF-Crime's "
            "has 2 layers, XD-Violence's 1; `vadclip recipe` writes what fits)"
        )


def _check_clip(checkpoint: Checkpoint, clip: ClipWeights) -> list[str]:
    """Compare the CLIP inside with the configured one; return notes, or raise InputError.

    The official code freezes CLIP, so what is inside is what it was trained with. Rounding to float16 is
    fine; more would change every text feature, and features must come from the same image tower.
    """
    remedy = (
        f"name the CLIP that it was trained with (official: ViT-B-16-quickgelu, openai), or extract it with "
        f"`vadclip import-checkpoint {checkpoint.path} --write-clip FILE.safetensors` and set "
        "clip.pretrained: FILE.safetensors, clip.quick_gelu: true"
    )
    if not clip.quick_gelu:
        raise InputError(
            f"checkpoint {checkpoint.path}: its CLIP computes QuickGELU and {clip.name} GELU; {remedy}"
        )
    inside = clip_state(checkpoint.state)
    inside.pop(_IRRELEVANT, None)
    misfit = sorted(inside.keys() ^ (clip.state.keys() - {_IRRELEVANT}))
    misfit += [
        name for name, value in inside.items() if name in clip.state and value.shape != clip.state[name].shape
    ]
    if misfit:
        raise InputError(
            f"checkpoint {checkpoint.path}: its CLIP is built otherwise than {clip.name} ({_named(misfit)}); "
            f"{remedy}"
        )
    differing, rounded = {}, []
    for name, value in inside.items():
        ours, theirs = clip.state[name].cpu(), value.to(torch.float32)
        if name == "token_embedding.weight" and clip.known_tokens is not None:
            ours, theirs = ours[clip.known_tokens], theirs[clip.known_tokens]
        if torch.equal(ours.to(value.dtype).float(), theirs):
            continue
        distance = (ours - theirs).abs()
        if bool((distance <= _ROUNDING * ours.abs() + _SMALLEST).all()):
            rounded.append(name)
        else:
            differing[name] = float(distance.max())
    if differing:
        raise InputError(
            f"checkpoint {checkpoint.path}: its CLIP has other weights than {clip.name}: "
            f"{_named(differing)} differ by up to {max(differing.values()):.2g}; {remedy}"
        )
    if rounded:
        return [f"{len(rounded)} tensors of its CLIP differ from {clip.name} by rounding: {_named(rounded)}"]
    return []


def _check_exportable(folder: Path, info: ModelInfo, clip: ClipWeights) -> None:
    config = info.config
    parts = (config.temporal, config.branches, config.prompt, config.visual_prompt)
    if parts != ("local_gcn", "both", "learned", "anomaly_focus"):
        raise InputError(f"{folder}: the official code has no place for this model: {', '.join(parts)}")
    if not clip.quick_gelu or "text_projection" not in clip.state or "visual.proj" not in clip.state:
        raise InputError(
            f"{folder}: the official code loads OpenAI's CLIP with QuickGELU, not such as {clip.name}"
        )


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat, other_flat = (tensor.detach().contiguous().reshape(-1) for tensor in (one, other))
    return torch.equal(flat.view(torch.uint8), other_flat.view(torch.uint8))
