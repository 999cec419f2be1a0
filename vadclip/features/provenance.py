"""Where feature rows come from: the fields that must be equal for two rows to be comparable."""

import hashlib
import json
from dataclasses import asdict, dataclass

from vadclip.clip.identity import ClipIdentity
from vadclip.errors import InputError

RECIPE_VERSION = 2
"""Raised by hand when code changes the features equal input gives; golden features guard it."""

RECIPE = (
    "resize to 340x256 * S/224, bilinear, half-pixel centres, no antialias, uint8; crops of S px: 0 centre, "
    "1-4 corners, 5-9 mirrored; not L2-normalised"
)


@dataclass(frozen=True)
class Provenance:
    """All that decides what a feature row is, apart from the video. A store never mixes two of them."""

    source: str
    """`encoded` from frames, or `imported`."""
    clip_name: str
    clip_fingerprint: str
    """Of the weights."""
    quick_gelu: bool
    precision: str
    image_size: int
    """Side of the image tower's input in pixels."""
    embed_dim: int
    """Width D of a row."""
    frames_per_snippet: int
    recipe: str
    """Sampling, resize and crops in words."""
    recipe_version: int = RECIPE_VERSION

    @property
    def fingerprint(self) -> str:
        """Short hash of all fields."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the fields as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def encoded(clip: ClipIdentity, precision: str, frames_per_snippet: int) -> "Provenance":
        """Provenance of rows that this program encodes from frames."""
        sampling = "frame 8 of each 16" if frames_per_snippet == 1 else "float32 mean of each 16 frames"
        return Provenance(
            source="encoded",
            clip_name=clip.name,
            clip_fingerprint=clip.fingerprint,
            quick_gelu=clip.quick_gelu,
            precision=precision,
            image_size=clip.image_size,
            embed_dim=clip.embed_dim,
            frames_per_snippet=frames_per_snippet,
            recipe=f"{sampling}; {RECIPE}",
        )

    @staticmethod
    def imported(embed_dim: int) -> "Provenance":
        """Provenance of rows that the authors released as .npy files: how they were encoded is not known."""
        return Provenance(
            source="imported",
            clip_name="",
            clip_fingerprint="",
            quick_gelu=True,
            precision="",
            image_size=0,
            embed_dim=embed_dim,
            frames_per_snippet=0,
            recipe="the authors' .npy files; float16 as it is, float32 rounded to float16",
        )

    @staticmethod
    def from_json(text: str | bytes) -> "Provenance":
        """Read what `to_json` wrote; raises InputError for fields of another version of this program."""
        try:
            return Provenance(**json.loads(text))
        except (TypeError, ValueError):
            raise InputError(
                "the features were written by another version of this program: move them away and run the "
                "extract stage again"
            ) from None
