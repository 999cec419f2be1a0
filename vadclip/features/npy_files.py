"""The authors' released features: `<name>__<crop>.npy`, floats [rows, D], one file a crop of ten.

Only headers are read here, and nothing is ever unpickled.
"""

import math
import os
from pathlib import Path

import numpy as np

from vadclip.errors import VideoError

CROPS = range(10)


def crop_path(prefix: str, crop: int) -> str:
    """Name the file of one crop, given what the names of a video's crop files begin with."""
    return f"{prefix}__{crop}.npy"


def feature_shape(path: str | Path) -> tuple[int, int]:
    """Return rows and width D of an .npy file of floats, as its header says and its length confirms.

    Raises VideoError with a short reason, without the file's name, if it holds no array of floats [rows, D]
    or [1, rows, D] or is cut off; OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise VideoError(f"it is an .npy file of unknown version {version}")
            shape, _, dtype = read(file)
        except (ValueError, SyntaxError) as error:
            raise VideoError(f"it is no .npy file ({str(error).splitlines()[0]})") from None
        if dtype.hasobject:
            raise VideoError("it holds Python objects, which are never loaded")
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8) or len(plain_shape(shape)) != 2:
            raise VideoError(
                f"it holds {dtype} of shape {list(shape)}, and features are floats [rows, width], one file a "
                "crop: np.save(f'{name}__{crop}.npy', array[:, crop]) makes one of [rows, 10, width]"
            )
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        length = os.fstat(file.fileno()).st_size
    if length != expected:
        raise VideoError(f"it has {length:,} bytes and its header promises {expected:,}")
    rows, width = plain_shape(shape)
    return rows, width


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without a leading axis of one, as some save [1, rows, width]."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
