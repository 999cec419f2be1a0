"""The authors' checkpoints: their parameter names and ours (official src/model.py, names as facts).

An official state dict holds VadCLIP's parameters, a whole CLIP under `clipmodel.` with OpenAI's names, which
are open_clip's too, and `disAdj.sigma`, which no computation reads.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vadclip.errors import InputError

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
