"""A model folder with all that it names: the CLIP it was trained with, and the recipe of its features.

The model says which CLIP it needs; one that lies in a file is looked for where it may be, and known by its
fingerprint. Nothing else can be taken by mistake: with another CLIP every score would be wrong in silence.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from vadclip.clip.frozen import Clip, load_clip
from vadclip.clip.identity import is_file_name
from vadclip.config import ClipParams, ExtractParams
from vadclip.errors import InputError
from vadclip.features.provenance import Provenance
from vadclip.model.folder import ModelInfo, load_model, read_model_info
from vadclip.model.vadclip import VadClip

CLIP_VARIABLE = "VADCLIP_CLIP"
MAX_LOST_FRACTION = 0.05
"""A video of which more pictures cannot be decoded is too damaged to be judged."""
ASSUMED = (
    "the model was trained on imported features, whose recipe is not known: frames are encoded with the CLIP "
    "that it names, centre crop, frame 8 of each 16, in fp32; its scores and thresholds may not carry over"
)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How frames become the features that a model takes."""

    provenance: Provenance
    crop: int
    assumed: bool
    """The model does not say; see `ASSUMED`."""

    @property
    def extract(self) -> ExtractParams:
        """The recipe as the extract stage's params, for videos of which each counts as a test video."""
        return ExtractParams(
            frames_per_snippet=cast(Literal[1, 16], self.provenance.frames_per_snippet),
            train_crops=1,
            test_crop=self.crop,
            max_failed_fraction=0.0,
            max_lost_fraction=MAX_LOST_FRACTION,
        )


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to score videos; made by `load`."""

    folder: Path
    model: VadClip
    info: ModelInfo
    clip: Clip
    clip_params: ClipParams
    """What loads the same CLIP on another machine."""
    recipe: Recipe


def load(folder: Path, *, clip: str | None, device: str) -> Loaded:
    """Load the model in `folder` and the CLIP it names on `device`; `clip` is a file or tag of the user's.

    Raises InputError if either cannot be found, or the CLIP is not the one the model was trained with.
    """
    params = clip_params(read_model_info(folder), clip, near=folder)
    loaded = load_clip(params, device=device)
    model, info = load_model(folder, loaded, device)
    return Loaded(folder, model, info, loaded, params, recipe_of(info, loaded))


def clip_params(info: ModelInfo, clip: str | None, *, near: Path) -> ClipParams:
    """Return what loads the CLIP that a model names: by `clip`, VADCLIP_CLIP, its tag, or a file found.

    Files are looked for in the model folder `near`, beside it, in the current folder and in the package,
    which has the sample's.
    """
    named = clip or os.environ.get(CLIP_VARIABLE) or info.clip.pretrained
    provenance: dict[str, Any] = dict(info.feature_provenance)
    precision: Any = provenance["precision"] if provenance["source"] == "encoded" else "fp32"
    if not named:
        raise InputError(
            f"{near} does not say where the weights of its CLIP {info.clip.name} come from (an older version "
            "wrote it): name their file or open_clip tag by --clip"
        )
    places = [near, near.parent, Path(), Path(str(files("vadclip.sample")))]
    if clip is None and is_file_name(named) and not Path(named).is_file():
        named = str(_find(named, places, info))
    model = info.clip.name
    if model.endswith(".json"):
        model = str(_find(model, [Path(named).parent, *places], info))
    return ClipParams(model=model, pretrained=named, quick_gelu=info.clip.quick_gelu, precision=precision)


def _find(name: str, places: Sequence[Path], info: ModelInfo) -> Path:
    for place in places:
        if (place / name).is_file():
            return place / name
    raise InputError(
        f"the model's CLIP is in a file {name!r}, which is not here: name its weights by --clip or "
        f"{CLIP_VARIABLE} (with {info.clip.name} beside them if that is a file); fingerprint "
        f"{info.clip.fingerprint[:12]}"
    )


def recipe_of(info: ModelInfo, clip: Clip) -> Recipe:
    """Return how the features that the model takes are made."""
    made: dict[str, Any] = dict(info.feature_provenance)
    if made["source"] != "encoded":
        return Recipe(Provenance.encoded(clip, "fp32", 1), crop=0, assumed=True)
    provenance = Provenance.encoded(clip, made["precision"], made["frames_per_snippet"])
    return Recipe(provenance, info.test_crop, assumed=False)
