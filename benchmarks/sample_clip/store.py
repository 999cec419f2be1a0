"""Drawn pictures on disk, filled by one process while another trains on what is there already.

.venv/bin/python -m benchmarks.sample_clip.store FOLDER [--pictures N]
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.sample_clip.pictures import MOST_THINGS, PICTURES_PER_STREET, SIDE, Picture, street_pictures
from benchmarks.sample_clip.tags import NAMES
from vadclip.files import write_text_atomic
from vadclip.progress import track


class PictureStore:
    """Arrays of `capacity` pictures in `folder`; `filled` says how many are there by now."""

    def __init__(self, folder: Path, capacity: int | None = None) -> None:
        self._count = folder / "filled.txt"
        if capacity is not None:
            folder.mkdir(parents=True, exist_ok=True)

        def array(name: str, kind: type, *shape: int) -> np.memmap:
            path = folder / f"{name}.bin"
            item = np.dtype(kind).itemsize * int(np.prod(shape))
            length = path.stat().st_size // item if path.exists() else capacity
            assert length is not None, f"{folder} holds no pictures"
            mode = "r" if capacity is None else "r+" if path.exists() else "w+"
            return np.memmap(path, kind, mode, shape=(length, *shape))

        self.pixels = array("pixels", np.uint8, SIDE, SIDE, 3)
        self.state = array("state", np.int8, len(NAMES))
        self.boxes = array("boxes", np.float32, MOST_THINGS, 4)
        self.tags = array("tags", np.int8, MOST_THINGS, 4)
        self.shown = array("shown", np.bool_, MOST_THINGS)

    @property
    def filled(self) -> int:
        """Pictures that are there."""
        return int(self._count.read_text()) if self._count.exists() else 0

    def put(self, start: int, pictures: list[Picture]) -> None:
        """Write pictures from number `start` on."""
        stop = start + len(pictures)
        self.pixels[start:stop] = [picture.pixels_SS3 for picture in pictures]
        self.state[start:stop] = [picture.state for picture in pictures]
        self.boxes[start:stop] = [picture.boxes for picture in pictures]
        self.tags[start:stop] = [picture.tags for picture in pictures]
        self.shown[start:stop] = [picture.shown for picture in pictures]
        write_text_atomic(self._count, str(stop))


def main() -> None:
    """Draw until the store is full; what is there is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=150_000)
    arguments = parser.parse_args()
    store = PictureStore(arguments.folder, arguments.pictures)
    streets = range(store.filled // PICTURES_PER_STREET, arguments.pictures // PICTURES_PER_STREET)
    with track(len(streets), "draw pictures", "streets") as bar:
        for street in streets:
            store.put(street * PICTURES_PER_STREET, list(street_pictures(street)))
            bar.advance()


if __name__ == "__main__":
    main()
