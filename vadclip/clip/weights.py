"""Weights for the frozen CLIP: an open_clip tag or a file, checked before they are trusted.

Files are safetensors or a plain state dict, read without running any code from them. A file may store the
token table by its used rows only, `token_embedding.weight.ids` [n] and `.rows` [n, W]: a small CLIP is mostly
table.
"""

import contextlib
import hashlib
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants, try_to_load_from_cache
from open_clip.model import convert_to_custom_text_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from vadclip.clip.identity import WEIGHTS_SUFFIXES
from vadclip.errors import InputError

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PROBE_SECONDS = 5
_OPENAI_HUB = "timm/vit_base_patch16_clip_224.openai"
# Facts about the model that OpenAI's archives keep beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def read_config(model: str) -> dict[str, Any]:
    """Return the open_clip config of a model name or a .json file: embed_dim, vision_cfg, text_cfg and more.

    A config file wrapped as open_clip publishes them brings its `preprocess_cfg` along under that key.
    Raises InputError for an unknown name, a missing or unreadable file, and missing keys.
    """
    if not model.endswith(".json"):
        config: dict[str, Any] | None = open_clip.get_model_config(model) if ":" not in model else None
        if config is None:
            raise InputError(
                f"clip.model {model!r} is neither an open_clip model name (such as ViT-B-16-quickgelu) nor "
                "the path of an open_clip config file (.json)"
            )
        return config
    try:
        config = json.loads(Path(model).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"clip.model {model!r}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"clip.model {model!r} is not a readable JSON file: {error}") from None
    # open_clip publishes its configs wrapped in model_cfg, beside preprocess_cfg.
    if isinstance(config, dict) and "model_cfg" in config:
        config = {"preprocess_cfg": config.get("preprocess_cfg", {}), **config["model_cfg"]}
    keys = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in keys):
        raise InputError(f"clip.model {model!r}: an open_clip config has the keys {', '.join(keys)}")
    return config


def tag_settings(name: str, tag: str) -> dict[str, Any]:
    """Return what open_clip knows of weights `tag` for model `name`; InputError where it knows none."""
    settings: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not settings:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InputError(
            f"clip.pretrained {tag!r} is neither a weights file ({', '.join(sorted(WEIGHTS_SUFFIXES))}) nor "
            f"a tag that open_clip has for {name} (it has: {tags})"
        )
    return settings


def load_tag_weights(model: nn.Module, tag: str, settings: dict[str, Any]) -> None:
    """Load the weights of an open_clip tag, downloading them where this machine does not have them yet.

    Raises InputError where that fails, for want of internet mostly; it says how to place the file by hand.
    """
    # "owner/model/", or "owner/model/file" where the file has not open_clip's usual name.
    hub, _, file = str(settings.get("hf_hub", "")).rpartition("/")
    files = (file,) if file else _HUB_FILES
    try:
        path = _cached(hub, files) if hub else None
        if path is None:
            if hub:
                _probe(constants.ENDPOINT)
            path = open_clip.download_pretrained(settings)
    except (OSError, RuntimeError) as error:
        what = f"{files[0]} of the Hugging Face model {hub}" if hub else str(settings.get("url"))
        name = files[0] if hub else what.rpartition("/")[2]
        quick_gelu = str(bool(settings.get("quick_gelu", False))).lower()
        raise InputError(
            f"clip.pretrained {tag!r}: the weights cannot be downloaded ({_reason(error)}); fetch {what} "
            "on a machine with internet, put it in this folder, and change two lines of params.yaml: "
            f"`clip.pretrained: {name}` and `clip.quick_gelu: {quick_gelu}`"
        ) from None
    open_clip.load_checkpoint(model, path)


def load_file_weights(model: nn.Module, name: str, path: Path) -> Tensor | None:
    """Load a weights file; return which token rows it held (bool, [vocabulary]), None where all.

    Raises InputError for a missing, unreadable or foreign file and for one that does not fit the model.
    """
    state = {key: value for key, value in _read_state(path).items() if key not in _NOT_WEIGHTS}
    if hasattr(model, "text"):
        state = convert_to_custom_text_state_dict(state)
    expected = model.state_dict()
    known_tokens = _expand_token_rows(state, expected, path)
    if "logit_scale" in state and "logit_scale" in expected:  # some files hold it as [1], not as a scalar
        state["logit_scale"] = state["logit_scale"].reshape(expected["logit_scale"].shape)
    complaints = _misfits(state, expected)
    if complaints:
        raise InputError(f"clip.pretrained {str(path)!r} does not fit clip.model {name!r}: {complaints}")
    model.load_state_dict(state)  # copies into float32 whatever the file's type
    return known_tokens


def clip_fingerprint(model: nn.Module, facts: Mapping[str, object]) -> str:
    """Return a SHA-256 over all weights' names, shapes and float32 values: the same on every machine.

    `facts` joins what decides the features but leaves no trace in the weights: heads, normalisation.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().float().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _cached(hub: str, files: Sequence[str]) -> str | None:
    """Return the weights file of a hub model that was downloaded before, without asking the network."""
    for file in files:
        path = try_to_load_from_cache(hub, file)
        if isinstance(path, str):
            return path
    return None


def _probe(url: str) -> None:
    """Raise OSError soon where a server is out of reach; the hub's client retries for most of a minute."""
    with contextlib.suppress(urllib.error.HTTPError):  # an error status is an answer too
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_SECONDS).close()


def _reason(error: BaseException) -> str:
    """Return the first line of the error's innermost cause."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"clip.pretrained {str(path)!r}: no such file")
    if zipfile.is_zipfile(path) and any(
        member.endswith("constants.pkl") for member in zipfile.ZipFile(path).namelist()
    ):
        raise InputError(
            f"clip.pretrained {str(path)!r} is a TorchScript archive, which holds code: use the same weights "
            f"as safetensors (OpenAI's ViT-B/16: {_HUB_FILES[0]} of the Hugging Face model {_OPENAI_HUB}), "
            "or write a plain state dict once with torch.save(torch.jit.load(ARCHIVE).state_dict(), FILE)"
        )
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes the readers raise errors of any kind
        raise InputError(
            f"clip.pretrained {str(path)!r} is neither safetensors nor a plain state dict: {_reason(error)}"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"clip.pretrained {str(path)!r} holds no plain state dict (names to tensors)")
    # Checkpoints of distributed training carry this prefix.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _expand_token_rows(state: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> Tensor | None:
    key = next((key for key in expected if key.endswith("token_embedding.weight")), "token_embedding.weight")
    # A custom text tower's prefix was added to known names only: these two lack it.
    ids, rows = (
        _pop_first(state, f"{key}.{part}", f"token_embedding.weight.{part}") for part in ("ids", "rows")
    )
    if ids is None and rows is None:
        return None
    table = expected.get(key)
    if ids is None or rows is None or table is None or rows.shape != (len(ids), table.shape[1]):
        raise InputError(
            f"clip.pretrained {str(path)!r}: {key}.ids and .rows do not fit each other or the model"
        )
    ids = ids.long()
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise InputError(f"clip.pretrained {str(path)!r}: {key}.ids go beyond the vocabulary of {len(table)}")
    state[key] = torch.zeros_like(table).index_copy_(0, ids, rows.to(table.dtype))
    known_tokens = torch.zeros(len(table), dtype=torch.bool)
    known_tokens[ids] = True
    return known_tokens


def _pop_first(state: dict[str, Tensor], *keys: str) -> Tensor | None:
    return next((state.pop(key) for key in keys if key in state), None)


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    lists = {
        "it lacks": sorted(expected.keys() - state.keys()),
        "it has besides": sorted(state.keys() - expected.keys()),
        "another shape has": [
            f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ],
    }
    return "; ".join(
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in lists.items()
        if names
    )
