"""`vadclip init`: what it makes of a folder of videos, and of a table."""

import csv
import os
import shutil
from collections import Counter

import pytest
from video_helpers import numbered_frame, write_video

from vadclip.clip.frozen import load_clip
from vadclip.config import ClipParams, load_params
from vadclip.errors import InputError
from vadclip.ingest.checks import SAMPLE_WORDS
from vadclip.ingest.first_params import begin, split_by_label


def _write(path, snippets, first):
    write_video(path, [numbered_frame(first + number) for number in range(16 * snippets)])


def _begin(path, folder, **changes):
    settings = {"normal": None, "clip": "sample", "force": False, **changes}
    return list(begin(path, params_file=folder / "params.yaml", cache=folder / ".cache", **settings))


def test_a_folder_of_class_folders_becomes_a_table_and_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = tmp_path / "videos"
    for number in range(8):
        label = "NORMAL" if number < 3 else "car_crash"
        _write(videos / label / f"{number}.mp4", 18 if number == 4 else 1, 20 * number)
    shutil.copy(videos / "NORMAL" / "1.mp4", videos / "NORMAL" / "1 copy.mp4")
    shutil.copy(videos / "NORMAL" / "1.mp4", videos / "unlabelled.mp4")
    (videos / "car_crash" / "broken.mp4").write_bytes(b"no video")
    (videos / os.fsdecode(b"caf\xe9")).mkdir()
    (videos / os.fsdecode(b"caf\xe9/x.mp4")).touch()
    said = "\n".join(_begin(videos, tmp_path))
    assert "1 videos lie in no class folder and stay out: unlabelled.mp4" in said
    assert "2 videos cannot be used and stay out: " in said
    assert "car_crash/broken.mp4 (" in said
    assert "/x.mp4 (its name is not UTF-8: rename it)" in said
    assert "1 videos are copies and stay out: NORMAL/1.mp4 (of NORMAL/1 copy.mp4)" in said
    rows = list(csv.DictReader((tmp_path / "videos.csv").open()))
    assert Counter((row["label"], row["split"]) for row in rows) == {
        **{("NORMAL", split): 1 for split in ("train", "val", "test")},
        ("car_crash", "train"): 3,
        ("car_crash", "val"): 1,
        ("car_crash", "test"): 1,
    }
    params = load_params(tmp_path / "params.yaml")
    assert params.dataset.classes == {"NORMAL": "normal", "car_crash": "fighting"}
    assert "the sample's CLIP does not know 'car crash', and reads 'fighting' instead" in said
    assert list(params.dataset.classes) == ["NORMAL", "car_crash"]
    assert (params.dataset.untimed, params.clip.model, params.train.batch_size) == (
        "whole_video",
        "sample",
        1,
    )
    trains = any(row["path"] == "car_crash/4.mp4" and row["split"] == "train" for row in rows)
    assert params.model.length == (32 if trains else 16)
    assert (
        "  untimed: whole_video       # error | whole_video: an anom"
        in (tmp_path / "params.yaml").read_text()
    )
    before = (tmp_path / "videos.csv").read_bytes()
    _begin(videos, tmp_path)
    assert (tmp_path / "videos.csv").read_bytes() == before
    (tmp_path / "videos.csv").write_bytes(before.replace(b",val,", b",test,"))
    with pytest.raises(InputError, match=r"videos\.csv is there already and says something else"):
        _begin(videos, tmp_path)


def test_a_table_with_times_keeps_its_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["Path;Label;Split;Segments"]
    for number in range(12):
        _write(tmp_path / f"{number}.mp4", 1, 20 * number)
        anomalous, test = number % 2, number >= 8
        lines.append(
            f"{number}.mp4;{'fire' if anomalous else 'calm'};{'test' if test else 'train'};"
            f"{'2-9' if anomalous and test else ''}"
        )
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"calm, fire, none is called normal: say which one is by --normal"):
        _begin(tmp_path / "mine.csv", tmp_path)
    _begin(tmp_path / "mine.csv", tmp_path, normal="calm")
    params = load_params(tmp_path / "params.yaml")
    assert params.dataset.classes == {"calm": "normal", "fire": "fire"}
    assert (params.dataset.table, params.dataset.untimed) == (str(tmp_path / "mine.csv"), "error")
    assert (params.train.batch_size, params.train.selection) == (2, "validation")
    assert not (tmp_path / "videos.csv").exists()


def test_what_cannot_be_divided_says_how_many_would_do():
    with pytest.raises(InputError, match=r"2 usable videos of riot: 3 of normal and 3 of one anomaly"):
        split_by_label({"n1": "n", "n2": "n", "n3": "n", "r1": "riot", "r2": "riot", "f": "fire"}, "n")
    found = split_by_label({f"{label}{number}": label for label in "nr" for number in range(50)}, "n")
    assert Counter(split for _, split in found.values()) == {"train": 60, "val": 20, "test": 20}


def test_the_samples_clip_knows_the_words_that_stand_in():
    params = ClipParams(model="sample", pretrained=None, quick_gelu=None, precision="fp32")
    assert len(load_clip(params, device="cpu").text.encode(SAMPLE_WORDS)) == len(set(SAMPLE_WORDS)) == 16


def test_a_clip_that_is_none_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"--clip nothing\.pt: write sample, openai or the path"):
        _begin(tmp_path, tmp_path, clip="nothing.pt")
