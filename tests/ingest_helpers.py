"""A small corpus of good and bad files, and a table of it."""

from pathlib import Path

from params_helpers import dataset_params
from video_helpers import write_video

from vadclip.config import DatasetParams

ROWS = [
    "long.mp4,Fire,test,4-20;18-49",
    "sub/a#b=c.d.mp4,Normal,train,",
    "short.mp4,Normal,test,",
    "empty.mp4,Fire,test,3-999",
    "text.mp4,Fire,train,",
    "folder.mp4,Normal,train,",
    "missing.mp4,Normal,train,",
]


def make_corpus(folder: Path) -> Path:
    """Write the files of ROWS but the missing one: two good, one short, three bad."""
    write_video(folder / "long.mp4", 50)
    write_video(folder / "sub" / "a#b=c.d.mp4", 40, fps=10)
    write_video(folder / "short.mp4", 15)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video at all\n" * 20)
    (folder / "folder.mp4").mkdir()
    return folder


def table_params(corpus: Path, rows: list[str], folder: Path, **changes: object) -> DatasetParams:
    """Write `rows` as videos.csv into `folder` and return the params that read it."""
    table = folder / "videos.csv"
    table.write_text("\n".join(["path,label,split,segments", *rows]) + "\n")
    return dataset_params("table", **{"root": str(corpus), "table": str(table), **changes})
