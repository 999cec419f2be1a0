"""Rows built from tables and files, and the stage as DVC runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from conftest import PROJECT, wait_for
from ingest_helpers import ROWS, make_corpus, table_params
from manifest_helpers import make_manifest, make_video
from params_helpers import write_params
from video_helpers import write_video

from vadclip.config import IngestParams, load_params
from vadclip.errors import InputError
from vadclip.files import sha256_file
from vadclip.ingest.checks import check_plan
from vadclip.ingest.rows import describe, ingest
from vadclip.labels import Classes
from vadclip.manifest import Manifest, Segment, read_manifest, write_manifest

SPLIT = IngestParams(val_fraction=0.25, seed=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Good and bad files, and a probe cache that this module's tests share."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def _cache(corpus):
    return corpus / ".cache" / "probe.parquet"


def test_a_bad_file_is_a_row_that_says_why(corpus, tmp_path):
    manifest = ingest(table_params(corpus, ROWS, tmp_path), SPLIT, probe_cache=_cache(corpus)).manifest
    assert [video.video_id for video in manifest.videos] == sorted(
        ["long", "sub__a#b=c.d", "short", "empty", "text", "folder", "missing"]
    )
    videos = {video.video_id: video for video in manifest.videos}
    good = videos["sub__a#b=c.d"]
    assert (good.num_frames, good.fps, good.width, good.height) == (40, 10.0, 96, 64)
    assert good.content_hash == sha256_file(corpus / good.uri)
    assert good.bytes == (corpus / good.uri).stat().st_size
    assert good.probe_error is None
    assert videos["short"].too_short
    assert videos["empty"].probe_error == "the file is empty"
    assert "FFmpeg cannot read it as a video" in videos["text"].probe_error
    assert videos["text"].content_hash == sha256_file(corpus / "text.mp4")
    assert videos["folder"].probe_error == "it is a folder or a device, not a file"
    assert videos["missing"].probe_error == "there is no such file"
    assert all(video.num_frames == 0 for video in videos.values() if video.probe_error)
    # 50 frames give 3 snippets, so frame truth ends at 48; the segments stay as they are, overlap and all.
    assert videos["long"].frame_spans == ((4, 48),)
    assert videos["long"].segments == (Segment(4, 20, "Fire"), Segment(18, 49, "Fire"))

    lines = describe(manifest, str(corpus))
    assert f"missing cannot be used: there is no such file: {corpus}/missing.mp4" in lines
    assert "text cannot be used: FFmpeg" in " ".join(lines)
    assert lines[-1] == (
        "7 videos of 7 sources: train 4, val 0 (0.0% of both), test 3; Normal 3/0/1, Fire 1/0/2; "
        "4 failed, 1 too short"
    )


def test_a_manifest_does_not_depend_on_row_order_cache_or_place(corpus, tmp_path):
    def manifest_bytes(rows, root, cache):
        write_manifest(
            ingest(table_params(root, rows, tmp_path), SPLIT, probe_cache=cache).manifest, tmp_path / "m"
        )
        return (tmp_path / "m").read_bytes()

    first = manifest_bytes(ROWS, corpus, _cache(corpus))
    assert str(corpus).encode() not in first
    elsewhere = tmp_path / "else where"
    shutil.copytree(corpus, elsewhere, ignore=shutil.ignore_patterns(".cache"))
    (elsewhere / "long.mp4").touch()
    rows = [ROWS[0].replace("long.mp4", f"{elsewhere}/long.mp4"), *ROWS[1:]]
    assert manifest_bytes(rows[::-1], elsewhere, tmp_path / "new" / "probe.parquet") == first


def test_a_bad_table_names_every_bad_row_those_that_only_the_files_show_too(corpus, tmp_path):
    rows = [
        "long.mp4,Fire,test,4-20;40-51",
        "./long.mp4,Fire,test,4-20",
        "../x.mp4,Fire,train,",
        "sub/a#b=c.d.mp4,Flood,test,60-70",
        "short.mp4,Fire,test,",
        "text.mp4,Normal|Fire,train,",
        "missing.mp4,Fire,test,9-3",
        "empty.mp4,Fire,test,5-500",
    ]
    params = table_params(corpus, rows, tmp_path, classes={"Normal": "normal", "Fire": "fire"})
    with pytest.raises(InputError) as raised:
        ingest(params, SPLIT, probe_cache=_cache(corpus))
    for part in (
        "7 bad rows: ",
        "row 2 (long.mp4): segment 40-51 ends behind the 50 frames there are",
        "row 3 (./long.mp4): the same video (duplicate id) as row 2 (long.mp4)",
        "row 4 (../x.mp4): the path leaves the root",
        "row 5 (sub/a#b=c.d.mp4): unknown label 'Flood' (dataset.classes has Normal, Fire), "
        "segment 60-70 ends behind the 40 frames there are",
        "row 6 (short.mp4): an anomalous test video without segments: say when it happens, or set",
        "row 7 (text.mp4): Normal (normal) together with another label",
        "row 8 (missing.mp4): segment '9-3' is empty or reversed",
    ):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_untimed_videos_count_throughout_when_that_is_said(corpus, tmp_path):
    rows = ["long.mp4,Fire|Theft,test,", "sub/a#b=c.d.mp4,Normal,test,", "text.mp4,Fire,test,"]
    params = table_params(corpus, rows, tmp_path, untimed="whole_video")
    long, normal, broken = ingest(params, SPLIT, probe_cache=_cache(corpus)).manifest.videos
    assert long.untimed
    assert long.segments == (Segment(0, 50, "Fire"), Segment(0, 50, "Theft"))
    assert long.frame_spans == ((0, 48),)
    assert (normal.untimed, normal.segments, normal.frame_spans) == (False, (), ())
    assert (broken.untimed, broken.segments) == (True, ())


def test_a_split_column_that_says_val_wins(corpus, tmp_path):
    rows = ["long.mp4,Fire,val,4-20", "sub/a#b=c.d.mp4,Normal,train,", "short.mp4,Normal,train,"]
    manifest = ingest(
        table_params(corpus, rows, tmp_path),
        IngestParams(val_fraction=0.9, seed=0),
        probe_cache=_cache(corpus),
    ).manifest
    assert [video.video_id for video in manifest.split("val")] == ["long"]
    assert manifest.split("val")[0].segments == ()  # validation never sees times


def test_a_root_behind_an_address_gives_the_same_rows(corpus, tmp_path):
    local = ingest(table_params(corpus, ROWS[:3], tmp_path), SPLIT, probe_cache=_cache(corpus)).manifest
    params = table_params(corpus, ROWS[:3], tmp_path, root=f"file://{corpus}")
    assert ingest(params, SPLIT, probe_cache=tmp_path / "probe.parquet").manifest == local


def test_equal_content_that_trains_and_tests_or_has_two_labels_names_both(corpus, tmp_path):
    for name in ("copy1.mp4", "copy2.mp4", "copy3.mp4"):
        shutil.copyfile(corpus / "long.mp4", tmp_path / name)
    rows = ["copy1.mp4,Normal,train,", "copy2.mp4,Normal,test,", "copy3.mp4,Fire,train,"]
    with pytest.raises(InputError) as error:
        ingest(table_params(tmp_path, rows, tmp_path), SPLIT, probe_cache=_cache(corpus))
    assert str(error.value) == (
        "2 bad rows: row 3 (copy2.mp4): its file is the same as that of row 2 (copy1.mp4), and one is in "
        "train, the other in test: remove one; row 4 (copy3.mp4): its file is the same as that of row 2 "
        "(copy1.mp4), and one is labelled Normal and the other Fire: remove one"
    )


def test_a_root_under_which_little_is_there_is_wrong(corpus, tmp_path):
    rows = ["long.mp4,Fire,train,", "no.mp4,Normal,train,", "none.mp4,Normal,train,"]
    with pytest.raises(InputError, match=rf"{corpus}: 2 of the 3 files .* not there, {corpus}/no.mp4 for"):
        ingest(table_params(corpus, rows, tmp_path), SPLIT, probe_cache=_cache(corpus))


def _plan(train, counts, crops=1, tmp=None, prompt="fire"):
    """Check params against so many normal and anomalous usable videos in each split."""
    params = load_params(PROJECT / "params.yaml")
    params = params.model_copy(
        update={
            "train": params.train.model_copy(update={"batch_size": 4, **train}),
            "extract": params.extract.model_copy(update={"train_crops": crops}),
        }
    )
    videos = [
        make_video(f"{split}{label}{number}", 32, split, labels=(label,))
        for split, kinds in counts.items()
        for label, count in zip(("Normal", "Fire"), kinds, strict=True)
        for number in range(count)
    ]
    classes = Classes(labels=("Normal", "Fire"), prompts=("normal", prompt))
    return check_plan(params, make_manifest(videos, classes), tmp or Path("nowhere"))


def test_what_would_stop_training_is_said_at_once_and_together():
    enough = {"train": (4, 4), "val": (1, 1), "test": (1, 1)}
    assert _plan({}, enough) == []
    assert _plan({}, {**enough, "test": (0, 0)}) == [
        "no usable test video: the evaluate stage will have no figures"
    ]
    with pytest.raises(InputError) as error:
        _plan({}, {"train": (4, 3), "val": (2, 0)})
    assert str(error.value) == (
        "2 reasons: train.batch_size is 4 and there are 3 rows of anomalous training videos (a row is a crop "
        "of a video; 3 videos, extract.train_crops 1): set train.batch_size to 3 or less, or "
        "train.batch_scheme: single; train.selection validation needs normal and anomalous val videos, "
        "and there is only normal videos: raise ingest.val_fraction, add videos, or set train.selection: last"
    )
    assert _plan({"batch_size": 15}, {**enough, "train": (3, 3)}, crops=5) == []
    assert _plan({"batch_scheme": "single"}, {**enough, "train": (1, 1)}) == []
    with pytest.raises(InputError, match="there is no usable anomalous training video, and training needs"):
        _plan({"selection": "last"}, {**enough, "train": (9, 0)})
    with pytest.raises(InputError, match="official needs normal and anomalous test videos, and there is no "):
        _plan({"selection": "official"}, {"train": (4, 4)})


def test_a_class_word_that_the_clip_lacks_is_said_before_anything_expensive(tmp_path, monkeypatch):
    enough = {"train": (4, 4), "val": (1, 1), "test": (1, 1)}
    assert _plan({}, enough, tmp=tmp_path, prompt="white smoke") == []
    for _ in range(2):
        with pytest.raises(InputError, match=r"the word 'brawl' is not known to this CLIP.*dataset\.classes"):
            _plan({}, enough, tmp=tmp_path, prompt="brawl")
        monkeypatch.setattr("vadclip.clip.frozen.load_clip", lambda *_, **__: pytest.fail("loaded again"))


def test_a_checkpoint_is_looked_into_once(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.touch()
    train = {"checkpoint": str(path), "selection": "last"}
    for _ in range(2):
        with pytest.raises(InputError, match=r"cannot work: checkpoint .*model\.pth: the file is empty"):
            _plan(train, {"test": (1, 1)}, tmp=tmp_path)
        monkeypatch.setattr("vadclip.model.official.read_checkpoint", lambda path: pytest.fail("again"))


def test_a_checkpoint_of_another_shape_is_named_with_what_to_set(tmp_path):
    path = tmp_path / "model.pth"
    state = {
        "frame_position_embeddings.weight": torch.zeros(256, 4),
        "text_prompt_embeddings.weight": torch.zeros(77, 4),
        "temporal.resblocks.0.ln_1.weight": torch.zeros(4),
        "clipmodel.logit_scale": torch.zeros(()),
    }
    torch.save(state, path)
    for _ in range(2):
        with pytest.raises(InputError, match=r"model\.layers is 2 and the .* has 1: .*model\.length: 256"):
            _plan({"checkpoint": str(path), "selection": "last"}, {"test": (1, 1)}, tmp=tmp_path)


def test_the_user_is_told_what_to_look_into():
    base = make_video("a", source_id="film", content_hash="1")
    empty = replace(base, num_frames=0, content_hash="0", probe_error="the file is empty")
    videos = [base, replace(base, video_id="b", split="test"), replace(base, video_id="c", split="val")]
    # Two empty files are no copies of a video.
    videos += [replace(empty, video_id=f"e{i:04d}", split="test" if i else "train") for i in range(1022)]
    classes = Classes(labels=("Normal", "Fire"), prompts=("normal", "fire"))
    lines = describe(Manifest("table", "videos", classes, tuple(videos)), "/videos")
    assert lines[0] == "e0000 cannot be used: the file is empty"
    assert lines[20:] == [
        "... and 1002 more that cannot be used",
        "1 sources (column group) stand in both train and test, film for one: the test figures may flatter",
        "1 test videos are byte for byte in train too, b for one",
        "1,025 videos of 1 sources: train 2, val 1 (33.3% of both), test 1,022; Normal 2/1/1022, Fire 0/0/0; "
        "1022 failed, 0 too short",
    ]


# The stage


@pytest.fixture
def project(corpus, tmp_path):
    """A folder with params.yaml, a table and the corpus, and the way to start the stage in it."""
    write_params(
        tmp_path,
        clip={"model": "ViT-B-16-quickgelu", "pretrained": "openai", "quick_gelu": None},
        dataset={"name": "table", "root": str(corpus), "table": "videos.csv"},
        train={"batch_size": 1, "selection": "last"},
    )
    write_video(tmp_path / "fire.mp4", 20)
    table_params(corpus, [*ROWS, f"{tmp_path}/fire.mp4,Fire,train,"], tmp_path)
    return tmp_path


def _stage(project):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.ingest"], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_the_stage_writes_both_files_and_ends_with_the_counts(project):
    process = _stage(project)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1].startswith("ingest: 8 videos of 8 sources: train 5, val 0")
    assert len(read_manifest(project / "manifest.parquet").videos) == 8
    assert json.loads((project / "inputs.json").read_text()) == {}
    assert (project / ".cache" / "probe.parquet").is_file()


def test_the_stage_ends_at_once_on_ctrl_c_and_leaves_no_process(project, corpus):
    with open(project / "huge.mp4", "wb") as huge:
        huge.truncate(50 << 30)  # sparse: takes minutes to hash, and no disk
    table_params(project, ["huge.mp4,Normal,train,", f"{corpus}/long.mp4,Fire,train,"], project)
    params = (project / "params.yaml").read_text().replace(str(corpus), str(project))
    (project / "params.yaml").write_text(params)
    process = _stage(project)
    parent = psutil.Process(process.pid)
    wait_for(lambda: any("spawn_main" in " ".join(one.cmdline()) for one in parent.children()), process)
    workers = parent.children()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    assert not (project / "manifest.parquet").exists()
    (project / "huge.mp4").unlink()
