"""From decoded frames to the image tower's crops: one resize, ten crops (vadclip.md section 1).

The authors' demo resizes every frame to 340x256 whatever its aspect and crops 224x224. Towers of another size
take the same picture in proportion. The resize is bilinear with half-pixel centres, no antialias, and rounds
to uint8: cv2.INTER_LINEAR without its coarse fixed-point weights, which are off by up to one grey level.

Legend of shape suffixes: N frames, H height, W width, C crops; S is the side of the image tower's input; the
last axis is RGB.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

NUM_CROPS = 10
"""0 centre, 1 top left, 2 top right, 3 bottom left, 4 bottom right; 5-9 are 0-4 mirrored left to right."""

# The published recipe, for a tower of 224 px: pixels of the resized frame.
_TOWER, _WIDTH, _HEIGHT = 224, 340, 256


def resize_size(image_size: int) -> tuple[int, int]:
    """Return (width, height) in pixels that frames are resized to for a tower of `image_size` px."""
    return round(_WIDTH * image_size / _TOWER), round(_HEIGHT * image_size / _TOWER)


def resize_frames(frames_NHW3: npt.NDArray[np.uint8], image_size: int) -> npt.NDArray[np.uint8]:
    """Return uint8 frames [N, height, width, 3] of `resize_size(image_size)`, from frames of any one size."""
    width, height = resize_size(image_size)
    if frames_NHW3.shape[1:3] == (height, width):
        return frames_NHW3
    resized_NHW3 = np.empty((len(frames_NHW3), height, width, 3), dtype=np.uint8)
    out_NHW3 = torch.from_numpy(resized_NHW3)
    # Frame by frame: the float copy of one frame stays in the cache, that of a batch of large ones does not.
    for source_HW3, out_HW3 in zip(
        torch.from_numpy(np.ascontiguousarray(frames_NHW3)), out_NHW3, strict=True
    ):
        image_13HW = source_HW3.permute(2, 0, 1)[None].float()
        image_13HW = F.interpolate(image_13HW, size=(height, width), mode="bilinear", align_corners=False)
        out_HW3.copy_(image_13HW.round_()[0].permute(1, 2, 0))
    return resized_NHW3


def crop_frames(frames_NHW3: Tensor, image_size: int, crops: Sequence[int]) -> Tensor:
    """Cut `crops` (numbers of NUM_CROPS) out of resized frames: [N, C, S, S, 3], same type and device."""
    S = image_size
    width, height = resize_size(S)
    assert frames_NHW3.shape[1:] == (height, width, 3), f"frames {tuple(frames_NHW3.shape)} are not resized"
    right, bottom = width - S, height - S
    corners = [(right // 2, bottom // 2), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    views = []
    for crop in crops:
        assert 0 <= crop < NUM_CROPS, f"crop {crop}"
        x, y = corners[crop % 5]
        view_NSS3 = frames_NHW3[:, y : y + S, x : x + S]
        views.append(view_NSS3.flip(2) if crop >= 5 else view_NSS3)
    return torch.stack(views, dim=1)
