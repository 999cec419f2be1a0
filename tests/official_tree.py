"""What the VadCLIP authors released, made up: .npy crops in their layout, their lists, their label files.

Rows look like raw ViT-B/16 features: float16, norm about 10, dimension 442 large in every row (where there
are so many). Anomalous spans of test videos and the middle of anomalous training videos share a direction.
"""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

LISTS = {
    "ucf": ("ucf_CLIP_rgb.csv", "ucf_CLIP_rgbtest.csv"),
    "xd": ("xd_CLIP_rgb.csv", "xd_CLIP_rgbtest.csv"),
}
TEST_CROP = {"ucf": 5, "xd": 0}
NORMAL = {"ucf": "Normal", "xd": "A"}


class OfficialTree:
    """`root` with the features, `annotations` with the lists; training cut to two videos a class."""

    def __init__(self, folder: Path, shared: Path, code: str, *, width: int) -> None:
        source = shared / "data" / "annotations"
        self.code, self.width = code, width
        self.root, self.annotations = folder / "features", folder / "list"
        self.annotations.mkdir(parents=True)
        for file in (source / "vadclip_official" / "list").iterdir():
            shutil.copy(file, self.annotations / file.name)
        with open(source / "test_rows.csv") as opened:
            rows = csv.DictReader(opened)
            self.test_rows = {row["video"]: int(row["rows"]) for row in rows if row["dataset"] == code}
        truth = json.loads((source / "vadclip_official" / f"gt_segments_{code}.json").read_text())
        self.truth = {_stem(entry["path"]): entry for entry in truth}
        self._random = np.random.default_rng(0)
        self._pool = self._random_rows(4096)
        self._anomaly = 3 * self._random.standard_normal(width) / np.sqrt(width) * 3
        self.train_rows = self._write_train()
        self._write_test()

    def spans(self, video: str) -> list[tuple[int, int]]:
        """Frame spans as the authors' ground truth has them; none of a normal video."""
        entry = self.truth[video]
        normal = entry["labels"] in (["A"], ["Normal"]) or set(entry["labels"]) <= {"A", "Normal", "normal"}
        return [] if normal else [(int(start), int(end)) for start, end in entry["segments"]]

    def _random_rows(self, count: int) -> np.ndarray:
        rows = self._random.standard_normal((count, self.width))
        if self.width > 442:
            rows[:, 442] = 0
            rows *= 8 / np.linalg.norm(rows, axis=1, keepdims=True)
            rows[:, 442] = 6  # 0.6 of a norm of 10
        return rows * 10 / np.linalg.norm(rows, axis=1, keepdims=True)

    def _array(self, count: int, anomalous: slice | None) -> np.ndarray:
        rows = self._pool[self._random.integers(0, len(self._pool), count)]
        if anomalous is not None:
            rows[anomalous] += self._anomaly
        return rows.astype(np.float16)

    def _write_train(self) -> dict[str, int]:
        name = LISTS[self.code][0]
        with open(self.annotations / name, newline="") as opened:
            listed = [row for row in csv.reader(opened) if row and row[0] != "path"]
        counts: Counter[str] = Counter()
        kept, rows = [], {}
        for path, label in listed:
            first = label.split("-")[0]
            video = _stem(path)
            if video not in rows:
                if counts[first] == 2:
                    continue
                counts[first] += 1
                rows[video] = int(self._random.integers(3, 30))
            kept.append((path, label))
            part = None if first == NORMAL[self.code] else slice(rows[video] // 3, 2 * rows[video] // 3 + 1)
            self._save(path, self._array(rows[video], part))
        with open(self.annotations / name, "w", newline="") as opened:
            csv.writer(opened).writerows([("path", "label"), *kept])
        return rows

    def _write_test(self) -> None:
        with open(self.annotations / LISTS[self.code][1], newline="") as opened:
            for path, _ in (row for row in csv.reader(opened) if row and row[0] != "path"):
                count = self.test_rows[_stem(path)]
                spans = self.spans(_stem(path))
                part = slice(spans[0][0] // 16, -(-spans[0][1] // 16)) if spans else None
                self._save(path, self._array(count, part))

    def _save(self, path: str, array: np.ndarray) -> None:
        """Under the last folder of the list's foreign path, as people unpack the release."""
        target = self.root / "/".join(path.split("/")[-2:])
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, array)


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit("__", 1)[0]
