"""Features of fixed pictures, as the recipe gave them when RECIPE_VERSION was last raised.

If this fails because the recipe was changed on purpose, raise provenance.RECIPE_VERSION (stores are then made
anew) and rewrite the file: `python tests/test_golden_recipe.py tests/golden` with . and tests on PYTHONPATH.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from clip_helpers import config_of_state, write_clip
from devices import DEVICES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from video_helpers import numbered_frame

from vadclip.clip.crops import resize_frames
from vadclip.clip.frozen import load_clip
from vadclip.features.provenance import RECIPE_VERSION
from vadclip.model.official import clip_state

FILE = Path(__file__).with_name("recipe_golden.safetensors")


def features(golden: Path, folder: Path, device: str = "cpu") -> np.ndarray:
    """Ten crops of a wide, a tall and an odd picture: [3, 10, 64]."""
    weights = clip_state(load_tensors(golden / "ucf_weights.safetensors"))
    config = config_of_state(weights, image_heads=1, text_heads=2)
    clip = load_clip(write_clip(folder, config, weights, quick_gelu=True), device=device)
    pictures = [numbered_frame(1234 + size[0], *size)[None] for size in ((160, 90), (90, 160), (95, 63))]
    resized = np.concatenate([resize_frames(picture, clip.image_size) for picture in pictures])
    return clip.encode_crops(resized, range(10), batch_images=16)


@pytest.mark.parametrize("device", DEVICES)
def test_golden_features_of_the_recipe(device: str, golden_folder: Path, tmp_path: Path) -> None:
    with safe_open(FILE, "numpy") as opened:
        assert opened.metadata() == {"recipe_version": str(RECIPE_VERSION)}
    expected = load_file(FILE)["features"]
    got = features(golden_folder, tmp_path, device)
    # A few pixels that round the other way on another machine make 1e-3; antialiasing would make 0.3.
    np.testing.assert_allclose(got, expected, atol=5e-3)
    assert np.abs(np.diff(expected, axis=1)).max() > 0.1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        made_features = features(Path(sys.argv[1]), Path(made))
    save_file({"features": made_features}, FILE, {"recipe_version": str(RECIPE_VERSION)})
