"""Which CLIP the params name, known without loading it when it was loaded before.

Building a CLIP takes seconds and hundreds of MB; a run of the extract stage that finds nothing to do needs
only its fingerprint. It is remembered in the cache folder under a hash of all it depends on, the code
included; deleting the file changes nothing.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, fields
from pathlib import Path

from vadclip.config import ClipParams
from vadclip.files import held_alone, remembered, sha256_file

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_CODE = ("identity.py", "frozen.py", "weights.py")


@dataclass(frozen=True)
class ClipIdentity:
    """Which CLIP it is."""

    name: str
    """The open_clip name, or the config file's name without its folder."""
    fingerprint: str
    """SHA-256 of weights, sizes and normalisation; the same on every machine and for every precision."""
    quick_gelu: bool
    """The activation, which is not in the fingerprint."""
    image_size: int
    """Side S of the image tower's input, in pixels."""
    embed_dim: int
    """Joint width D."""


def identify_clip(params: ClipParams, cache: Path) -> ClipIdentity:
    """Return the identity of the CLIP that `params` name; raises InputError as `clip.load_clip` does."""

    def look() -> dict[str, object]:
        from vadclip.clip.frozen import load_clip

        clip = load_clip(params, device="cpu")
        return {field.name: getattr(clip, field.name) for field in fields(ClipIdentity)}

    file = cache / "clip" / f"{_key(params)}.json"
    with held_alone(file.with_suffix(".lock"), "looking into the CLIP", wait=True):
        return ClipIdentity(**remembered(file, look))


def is_file_name(pretrained: str) -> bool:
    """Tell a weights file from an open_clip tag."""
    return Path(pretrained).suffix in WEIGHTS_SUFFIXES or Path(pretrained).is_file()


def clip_width(params: ClipParams) -> int:
    """Return the joint dimension of the CLIP that `params` name: its config says it, without any weights."""
    from vadclip.clip.weights import read_config

    return int(read_config(params.config_name)["embed_dim"])


def _key(params: ClipParams) -> str:
    named = [params.config_name, params.weights_name]
    facts = {
        "files": [sha256_file(Path(name)) if Path(name).is_file() else name for name in named],
        "name": Path(params.config_name).name,
        "quick_gelu": params.quick_gelu,
        "open_clip": importlib.metadata.version("open_clip_torch"),
        "code": [sha256_file(Path(__file__).with_name(name)) for name in _CODE],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
