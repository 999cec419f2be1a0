"""How a picture must be turned or mirrored to stand as players show it."""

import struct
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from numpy.typing import NDArray


@dataclass(frozen=True)
class Orientation:
    """Exchange the axes, then mirror: any rotation by 90 degrees with or without a mirror."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @staticmethod
    def of(frame: VideoFrame) -> "Orientation":
        """Read a frame's display matrix (ISO/IEC 14496-12, `tkhd`): x' = ax + cy, y' = bx + dy.

        Other angles are taken for the nearest of these.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if not isinstance(matrix, SideData):
            return Orientation()
        a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
        transpose = abs(b) + abs(c) > abs(a) + abs(d)
        x, y = (c, b) if transpose else (a, d)
        return Orientation(transpose, flip_x=x < 0, flip_y=y < 0)

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a picture [H, W, 3]."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        step_y, step_x = -1 if self.flip_y else 1, -1 if self.flip_x else 1
        return np.ascontiguousarray(picture[::step_y, ::step_x])
