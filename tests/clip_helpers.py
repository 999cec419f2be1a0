"""Small CLIPs for tests: open_clip configs with random weights, in files as a user would place them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from vadclip.config import ClipParams


def tiny_config(image_size: int = 32, **text: Any) -> dict[str, Any]:
    """Return an open_clip config that runs in milliseconds; real proportions, real vocabulary."""
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": image_size,
            "patch_size": 16,
            "width": 64,
            "layers": 2,
            "head_width": 32,
        },
        "text_cfg": {"width": 64, "heads": 2, "layers": 2, "context_length": 77, "vocab_size": 49408} | text,
    }


def random_state(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Return the state dict of open_clip's own random initialisation, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**config).state_dict()


def sparse_tokens(state: Mapping[str, Tensor], words: Sequence[str]) -> dict[str, Tensor]:
    """Keep only the token rows that `words` need, with those of the start and end of a text."""
    tokenizer = open_clip.SimpleTokenizer()
    needed = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    needed.update(token for word in words for token in tokenizer.encode(word))
    ids = torch.tensor(sorted(needed))
    table = state["token_embedding.weight"]
    rest = {key: value for key, value in state.items() if key != "token_embedding.weight"}
    return rest | {"token_embedding.weight.ids": ids.int(), "token_embedding.weight.rows": table[ids]}


def write_clip(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    *,
    quick_gelu: bool = True,
    precision: str = "fp32",
) -> ClipParams:
    """Write config and weights to `folder`; return the params that load them."""
    state = random_state(config) if state is None else state
    (folder / "clip.json").write_text(json.dumps(config))
    save_file(
        {key: value.detach().clone().contiguous() for key, value in state.items()},
        folder / "clip.safetensors",
    )
    return clip_params(folder, quick_gelu=quick_gelu, precision=precision)


def clip_params(folder: Path, *, quick_gelu: bool | None = True, precision: str = "fp32") -> ClipParams:
    """Params that name the two files in `folder`."""
    files = {"model": str(folder / "clip.json"), "pretrained": str(folder / "clip.safetensors")}
    return ClipParams(**files, quick_gelu=quick_gelu, precision=precision)


def config_of_state(state: Mapping[str, Tensor], *, image_heads: int, text_heads: int) -> dict[str, Any]:
    """Read an open_clip config off the shapes of a CLIP's state dict (heads leave no trace there)."""

    def layers(prefix: str) -> int:
        numbers = [re.match(rf"{prefix}transformer\.resblocks\.(\d+)\.", key) for key in state]
        return 1 + max(int(number[1]) for number in numbers if number)

    image_width, _, patch, _ = state["visual.conv1.weight"].shape
    patches = state["visual.positional_embedding"].shape[0] - 1
    context_length, text_width = state["positional_embedding"].shape
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": patch * round(patches**0.5),
            "patch_size": patch,
            "width": image_width,
            "layers": layers(r"visual\."),
            "head_width": image_width // image_heads,
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": 49408,
            "width": text_width,
            "heads": text_heads,
            "layers": layers(""),
        },
    }
