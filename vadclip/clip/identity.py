"""Which CLIP the params name, known without loading it when it was loaded before.

Building a CLIP takes seconds and hundreds of MB; a run of the extract stage that finds nothing to do needs
only its fingerprint. It is remembered in the cache folder under a hash of all it depends on, the code
included; deleting the file changes nothing.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vadclip.files import held_alone, sha256_file, write_text_atomic

if TYPE_CHECKING:
    from vadclip.config import ClipParams

_CODE = ("frozen.py", "weights.py")


@dataclass(frozen=True)
class ClipIdentity:
    """Which CLIP it is: name, fingerprint of the weights, activation, side of its input, joint width."""

    name: str
    fingerprint: str
    quick_gelu: bool
    image_size: int
    embed_dim: int


def identify_clip(params: "ClipParams", cache: Path) -> ClipIdentity:
    """Return the identity of the CLIP that `params` name; raises InputError as `clip.load_clip` does."""
    remembered = cache / "clip" / f"{_key(params)}.json"
    with held_alone(remembered.with_suffix(".lock"), "looking into the CLIP", wait=True):
        try:
            return ClipIdentity(**json.loads(remembered.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            pass
        from vadclip.clip.frozen import load_clip

        identity = load_clip(params, device="cpu").identity
        write_text_atomic(remembered, json.dumps(asdict(identity), indent=2) + "\n")
        return identity


def clip_width(params: "ClipParams") -> int:
    """Return the joint dimension of the CLIP that `params` name: its config says it, without any weights."""
    from vadclip.clip.weights import read_config

    return int(read_config(params.config_name)["embed_dim"])


def _key(params: "ClipParams") -> str:
    named = [params.config_name, params.weights_name]
    facts = {
        "files": [sha256_file(Path(name)) if Path(name).is_file() else name for name in named],
        "name": Path(params.config_name).name,
        "quick_gelu": params.quick_gelu,
        "open_clip": importlib.metadata.version("open_clip_torch"),
        "code": [sha256_file(Path(__file__).with_name(name)) for name in _CODE],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
