"""Files looked into: what is remembered, and what a crash or a hang costs."""

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from ingest_helpers import ROWS, make_corpus, table_params
from video_helpers import write_video

import vadclip.ingest.probing
from vadclip.config import IngestParams
from vadclip.features.npy_files import feature_shape
from vadclip.ingest.processes import run_supervised
from vadclip.ingest.rows import ingest


def test_only_new_and_changed_files_are_opened(tmp_path, monkeypatch):
    root, cache = tmp_path / "root", tmp_path / "probe.parquet"
    make_corpus(root)
    opened = []

    def recording(function, items, limits, workers):
        opened.extend(Path(item).name for item in items)
        return run_supervised(function, items, limits, workers)

    monkeypatch.setattr(vadclip.ingest.probing, "run_supervised", recording)

    def look():
        opened.clear()
        manifest = ingest(
            table_params(root, ROWS, tmp_path), IngestParams(val_fraction=0, seed=0), probe_cache=cache
        ).manifest
        return manifest, sorted(opened)

    manifest, names = look()
    assert names == ["a#b=c.d.mp4", "long.mp4", "short.mp4", "text.mp4"]
    assert look() == (manifest, [])
    write_video(root / "short.mp4", 16)
    changed, names = look()
    assert names == ["short.mp4"]
    assert {video.video_id: video.num_frames for video in changed.videos}["short"] == 16
    cache.write_bytes(b"not parquet")
    assert look() == (changed, ["a#b=c.d.mp4", "long.mp4", "short.mp4", "text.mp4"])
    table = pq.read_table(cache)
    pq.write_table(table.replace_schema_metadata({"vadclip.probe_version": "0"}), cache)
    assert len(look()[1]) == 4  # counted by other rules: forgotten


def test_feature_headers_of_both_versions(tmp_path):
    for version in ((1, 0), (2, 0)):
        with open(tmp_path / "a.npy", "wb") as file:
            np.lib.format.write_array(file, np.zeros((3, 2), np.float32), version=version)
        assert feature_shape(tmp_path / "a.npy") == (3, 2)


def misbehave(item):
    """Die, hang, or die once, as the item says."""
    kind, _, marker = item.partition(":")
    if kind == "crash" or (kind == "once" and not os.path.exists(marker)):
        Path(marker or os.devnull).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        signal.pause()
    return f"did {kind}"


def test_crashes_and_hangs_cost_one_item_each(tmp_path):
    once = f"once:{tmp_path / 'marker'}"
    items = ["good1", "crash", "hang", once, "good2", "good3"]
    before = set(psutil.Process().children())
    answers = {
        item: (result, failure)
        for item, result, failure in run_supervised(misbehave, items, dict.fromkeys(items, 1.0), 2)
    }
    assert answers == {
        "good1": ("did good1", None), "good2": ("did good2", None), "good3": ("did good3", None),
        once: ("did once", None),
        "crash": (None, "it makes the decoder crash (SIGSEGV)"),
        "hang": (None, "no answer in 1 s; it was given up"),
    }  # fmt: skip
    assert set(psutil.Process().children()) <= before
