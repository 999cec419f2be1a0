"""`vadclip detect` and the Detector, with a tiny model: one trained set of files for all tests."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import pytest
import torch
from bucket_helpers import put
from conftest import PROJECT, sound_page
from detect_helpers import CLASSES, make_model, make_videos
from params_helpers import write_params
from rich.console import Console
from safetensors.torch import load_file, save_file
from video_helpers import frame_number, write_video

from vadclip.detect.command import Request, detect
from vadclip.detect.detector import Detector
from vadclip.detect.page import write_pages
from vadclip.detect.results import describe_threshold
from vadclip.detect.sources import find_sources, unlabelled
from vadclip.errors import InputError, VideoError
from vadclip.events import Peak, threshold_from_peaks
from vadclip.features.index import read_index
from vadclip.files import held_alone
from vadclip.ingest.probe_cache import Probe
from vadclip.ingest.video_row import video_row
from vadclip.manifest import Manifest, Segment, write_manifest
from vadclip.score.scores import read_scores

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with model/ and videos/; tests write only below folders of their own."""
    folder = tmp_path_factory.mktemp("world")
    make_model(folder)
    make_videos(folder / "videos")
    return folder


def _run(world, out, *paths, **changes):
    settings = {"model": world / "model", "out": out, "threshold": THRESHOLD} | changes
    with open(out.parent / f"{out.name}.log", "w") as log:
        results = detect(
            Request(paths=[str(path) for path in paths or [world / "videos"]], **settings),
            Console(file=log, width=100),
        )
    return results, Path(log.name).read_text()


@pytest.fixture(scope="module")
def found(world):
    """One run over both videos, in one process."""
    return world / "found", *_run(world, world / "found")


def test_files_are_written_and_agree(found):
    out, results, printed = found
    assert [result.video_id for result in results] == ["videos__v0", "videos__v1"]
    events = [event for result in results for event in result.events]
    assert events
    rows = list(csv.DictReader((out / "events.csv").open()))
    told = [
        event
        for video in json.loads((out / "events.json").read_text())["videos"]
        for event in video["events"]
    ]
    assert len(rows) == len(told) == len(events)
    for row, entry, event in zip(rows, told, events, strict=True):
        assert int(row["start_frame"]) == entry["start_frame"] == event.start_frame
        assert entry["start_seconds"] == pytest.approx(event.start_frame / 25)
        assert entry["end_seconds"] == pytest.approx(event.end_frame / 25)
        assert row["class"] == entry["class"] in ("Fighting", "Fire")
        assert float(row["peak_score"]) == pytest.approx(event.peak, abs=1e-6)
        assert event.peak > THRESHOLD
    assert re.search(rf"^{len(events)} events? in", printed, re.MULTILINE)
    assert "Threshold 0.5, as given" in printed


def test_python_gives_the_same(world, found):
    detector = Detector.load(world / "model", threshold=THRESHOLD)
    scores = read_scores(found[0] / "scores.parquet")
    for position, result in enumerate(found[1]):
        detection = detector.detect(result.location)
        rows = scores.rows(position)
        # Chunks of all videos share a pass there, which rounds otherwise.
        np.testing.assert_allclose(detection.scores, scores.main_score_N[rows], atol=2e-6)
        np.testing.assert_allclose(detection.probabilities, scores.class_probabilities_NK[rows], atol=2e-6)
        assert [(event.start_frame, event.end_frame, event.label) for event in detection.events] == [
            (event.start_frame, event.end_frame, event.label) for event in result.events
        ]
    with pytest.raises(VideoError, match="no such file"):
        detector.detect(world / "absent.mp4")


def test_the_same_again_decodes_nothing_and_changes_nothing(world, found, monkeypatch):
    out = found[0]
    before = {path: path.stat().st_mtime_ns for path in (out / "features").iterdir()}
    page = (out / "index.html").read_bytes()
    for module, name in (("vadclip.detect.here", "extract"), ("vadclip.detect.looks", "FrameReader")):
        monkeypatch.setattr(f"{module}.{name}", None)
    _run(world, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "features").iterdir()} == before
    assert (out / "index.html").read_bytes() == page


def test_new_files_are_added_bad_ones_are_rows_and_the_rest_is_done(world, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(world / "videos", videos)
    out = tmp_path / "out"
    _run(world, out, videos / "v0.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    write_video(videos / "short.mp4", 10)
    with pytest.raises(InputError, match=r"^1 of 4 videos could not be used: .*broken\.mp4: FFmpeg cannot"):
        _run(world, out, videos)
    told = {video["video"]: video for video in json.loads((out / "events.json").read_text())["videos"]}
    assert {name: video["status"] for name, video in told.items()} == {
        "videos__broken": "failed", "videos__short": "ok", "videos__v0": "ok", "videos__v1": "ok",
    }  # fmt: skip
    assert told["videos__short"]["note"].startswith("too short: ")
    assert "FFmpeg cannot read" in (out / "index.html").read_text()


def test_a_prompt_adds_a_class_and_leaves_scores_alone(world, found, tmp_path):
    plain = read_scores(found[0] / "scores.parquet")
    results, _ = _run(world, tmp_path / "out", prompts=["smoke", "Fire=red car"], prompt_threshold=0.2)
    scores = read_scores(tmp_path / "out" / "scores.parquet")
    assert scores.info.labels == ("Normal", "Fighting", "Fire", "smoke")
    np.testing.assert_array_equal(scores.anomaly_score_N, plain.anomaly_score_N)
    # Fighting is what it was among the classes it had before, but for the reworded one.
    ratio = scores.class_probabilities_NK[:, 1] / scores.class_probabilities_NK[:, 0]
    np.testing.assert_allclose(
        ratio, plain.class_probabilities_NK[:, 1] / plain.class_probabilities_NK[:, 0], rtol=1e-4
    )
    assert not np.allclose(scores.class_probabilities_NK[:, 2], plain.class_probabilities_NK[:, 2])
    by_prompt = [event for result in results for event in result.events if event.by == "prompt"]
    assert {event.label for event in by_prompt} <= {"smoke", "Fire"}
    columns = dict(zip(scores.info.labels, scores.class_probabilities_NK.T, strict=True))
    assert all(event.peak > 0.2 and event.peak <= columns[event.label].max() for event in by_prompt)
    assert bool(by_prompt) == bool((columns["smoke"] > 0.2).any() or (columns["Fire"] > 0.2).any())


def test_only_prompts_keep_normal(world):
    detector = Detector.load(world / "model", threshold=THRESHOLD, prompts=["smoke"], only_prompts=True)
    detection = detector.detect(world / "videos" / "v0.mp4")
    assert detection.labels == ("Normal", "smoke")
    np.testing.assert_allclose(detection.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_hand_crafted_model_takes_the_text_as_it_is(tmp_path):
    make_model(tmp_path, prompt="hand_crafted")
    detector = Detector.load(tmp_path / "model", threshold=THRESHOLD, prompts=["smoke"])
    prompted = detector._judge.model.alignment.prompts.text_KD
    np.testing.assert_array_equal(prompted[3], detector._judge.loaded.clip.text.encode(["smoke"])[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ["=x"]}, "write TEXT or LABEL=TEXT"),
        ({"prompts": ["zebra"]}, "the word 'zebra' is not known to this CLIP"),
        ({"only_prompts": True}, "leaves no class but normal"),
        ({"clip": "elsewhere.safetensors"}, "no such file"),
        ({"device": "cuda"}, "no CUDA GPU can be used here"),
        ({"threshold": None, "max_flagged_normal": 1.5}, "from 0 to below 1"),
    ],
)
def test_what_cannot_be_done_is_said(world, tmp_path, options, message):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=message):
        _run(world, tmp_path / "out", **options)


def test_a_folder_belongs_to_one_model(world, found, tmp_path):
    make_model(tmp_path, seed=1)
    before = (found[0] / "events.json").read_bytes()
    with pytest.raises(InputError, match="holds detections of another model"):
        _run(world, found[0], model=tmp_path / "model")
    assert (found[0] / "events.json").read_bytes() == before
    with pytest.raises(InputError, match="is no folder of detections and not empty"):
        _run(world, world / "videos")


def test_a_second_detection_into_the_folder_is_refused_at_once(world, found):
    refused = pytest.raises(InputError, match=r"vadclip detect is at work here as process \d+: wait for it, ")
    with held_alone(found[0] / ".cache" / "lock", "vadclip detect"), refused:
        _run(world, found[0])


def test_another_clip_is_refused(world, tmp_path):
    clip = tmp_path / "other.safetensors"
    state = load_file(world / "clip.safetensors")
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, clip)
    with pytest.raises(InputError, match=r"was trained with CLIP .* by --clip"):
        _run(world, tmp_path / "out", clip=str(clip))


def test_a_model_without_peaks_asks_for_a_threshold(world, tmp_path):
    make_model(tmp_path, peaks=())
    with pytest.raises(InputError, match="give one with --threshold"):
        _run(world, tmp_path / "out", model=tmp_path / "model", threshold=None)
    with pytest.raises(InputError, match="give one with --threshold"):
        Detector.load(tmp_path / "model").detect(world / "videos" / "v0.mp4")


def test_the_threshold_of_the_model_and_what_it_is_worth():
    peaks = [Peak(f"n{number}", number / 10, 0.5) for number in range(10)]
    threshold = threshold_from_peaks(peaks, selection="validation", max_flagged=0.3)
    printed = " ".join(describe_threshold(threshold))
    # Of 10 peaks 0.0 to 0.9 three may lie above: midway between 0.7 and 0.6; 3 in 5 hours.
    assert "Threshold 0.65: 3 of 10 normal validation videos" in printed
    assert "hour on those videos: 0.6 (95 % interval 0.12 to 1.8, from 5 hours" in printed
    assert "there are only 10 normal validation videos" in printed
    assert "epoch was picked on the same videos" in printed
    (untimed,) = describe_threshold(threshold_from_peaks([Peak("n", 0.5, None)] * 20, selection="last"))[1:]
    assert untimed.startswith("False alarms an hour are not known")


def test_sources(tmp_path, monkeypatch):
    for name in (
        "cam1/a.mp4",
        "cam2/a.mp4",
        "cam2/deep/b.MKV",
        "cam2/notes.txt",
        "cam2/.hidden.mp4",
        "x[1].mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    told = []

    def ids(*paths):
        return [source.video_id for source in find_sources(paths, told.append)]

    assert ids("cam1", "cam2") == ["cam1__a", "cam2__a", "cam2__deep__b"]
    assert ids("cam*/a.mp4", "cam1/a.mp4") == ["cam1__a", "cam2__a"]
    assert ids("cam2/notes.txt") == ["cam2__notes"]
    assert ids("x[1].mp4") == [f"{tmp_path.name}__x[1]"]
    assert ids("http://example.org/cam/a.mp4?key=secret") == ["cam__a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError,
        match=r"absent: there is no such file.*empty: the folder holds no video.*q\*: there is nothing",
    ):
        find_sources(["absent", "empty", "q*"], told.append)
    assert told == []
    (tmp_path / "cam1" / os.fsdecode(b"tor\xe9.mp4")).touch()
    assert ids("cam1", "cam2") == ["cam1__a", "cam2__a", "cam2__deep__b"]
    (line,) = told
    assert line.startswith("left out: a video with a name that is not UTF-8, such as ")
    (tmp_path / "cam1/a.mp4").unlink()
    with pytest.raises(InputError, match=r"^a video with a name that is not UTF-8, .*tor\\udce9.mp4: r"):
        ids("cam1")


def test_sources_in_a_bucket(s3_bucket):
    for name in ("cam1/a.mp4", "cam1/deep/b.mp4", "cam1/notes.txt", "cam2/a.mp4"):
        put(f"{s3_bucket}/{name}", b"x")

    def found(path):
        return {source.video_id: source.uri for source in find_sources([f"{s3_bucket}/{path}"], print)}

    assert found("cam1") == {
        "cam1__a": f"{s3_bucket}/cam1/a.mp4", "cam1__deep__b": f"{s3_bucket}/cam1/deep/b.mp4",
    }  # fmt: skip
    assert found("*/a.mp4") == {"cam1__a": f"{s3_bucket}/cam1/a.mp4", "cam2__a": f"{s3_bucket}/cam2/a.mp4"}
    assert found("cam1/notes.txt") == {"cam1__notes": f"{s3_bucket}/cam1/notes.txt"}
    with pytest.raises(InputError, match="there is no such file or folder"):
        found("cam3")


def test_the_command_line(world, tmp_path, command, capsys):
    assert command("detect", tmp_path / "absent", "--model", world / "model") == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/absent: there is no such file or folder\n"


def test_the_page_stands_alone_and_orders_by_peak(world, found, tmp_path):
    out, results, _ = found
    page = (out / "index.html").read_text()
    peaks = [float(peak) for peak in re.findall(r"peak (\d\.\d\d)", page)]
    assert peaks == sorted((round(result.peak, 2) for result in results), reverse=True)
    assert not re.search(r"(src|href)=\"(https?:|//)", page)
    sources = [unquote(source) for source in re.findall(r"(?:data-src|<img src)=\"([^\"]+)\"", page)]
    assert len(sources) == 2 + 2 * 2  # a video, and two thumbnails of its six snippets
    assert all((out / source).is_file() for source in sources)
    starts = re.findall(r"data-start=\"([\d.]+)\"", page)
    assert {float(start) for start in starts} == {e.start_seconds for r in results for e in r.events}
    # Two pages of one video, and the second goes when all fit one.
    names = [path.name for path in write_pages(out, results, THRESHOLD, ["<b>"], videos_a_page=1)]
    assert names == ["index.html", "page-2.html"]
    assert "&lt;b&gt;" in (out / "page-2.html").read_text()
    assert write_pages(out, results, THRESHOLD, []) == [out / "index.html"]
    assert not (out / "page-2.html").exists()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_page_in_a_browser_plays_events_by_click_and_by_key(found, browser, width, scheme):
    page = sound_page(browser, found[0] / "index.html", width, scheme)
    events = page.locator(".events button")
    dialog, player = page.locator("dialog"), page.locator("dialog video")

    def playing(number):
        start = float(events.nth(number).get_attribute("data-start"))
        page.wait_for_function(
            "start => Math.abs(document.querySelector('dialog video').currentTime - start) < 1", arg=start
        )
        assert player.is_visible()

    last = events.count() - 1
    events.nth(last).click()
    playing(last)
    page.keyboard.press("n")  # after the last comes the first
    playing(0)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.reload()
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    playing(0)
    # A video that the browser cannot play shows its pictures.
    page.reload()
    page.evaluate("document.querySelectorAll('article').forEach(each => each.dataset.src = '')")
    events.nth(0).click()
    assert page.locator("dialog .stills img").count() > 0
    assert not player.is_visible()
    page.close()


def test_rendered_videos_have_every_frame_at_its_time_and_their_sound(world, tmp_path):
    source = write_video(
        tmp_path / "in" / "odd.mkv", 40, size=(97, 63), durations=[30 + i % 5 for i in range(40)]
    )
    sounding = write_video(tmp_path / "in" / "sound.mp4", 40, audio=True)
    options = {"render": True, "threshold": 0.0}
    _run(world, tmp_path / "out", tmp_path / "in", **options)
    for path in (source, sounding):
        made = tmp_path / "out" / "rendered" / f"in__{path.stem}.mp4"
        with av.open(str(made)) as shown, av.open(str(path)) as given:
            assert shown.streams.video[0].codec_context.name == "h264"
            assert [stream.codec_context.name for stream in shown.streams.audio] == [
                stream.codec_context.name for stream in given.streams.audio
            ]
            pictures = list(shown.decode(shown.streams.video[0]))
            times = [frame.time for frame in given.decode(given.streams.video[0])]
        assert [frame.time for frame in pictures] == pytest.approx(times)
        assert [frame_number(picture.to_ndarray(format="rgb24")) for picture in pictures] == list(range(40))
        foot = pictures[20].to_ndarray(format="rgb24")[-2, 2]
        assert foot[0] > 150 > foot[2]  # the bar's alarm colour: every score is above 0
    before = made.read_bytes()
    _, printed = _run(world, tmp_path / "out", tmp_path / "in", **options)
    assert "is there already and was kept" in printed
    made.write_bytes(b"older")
    _run(world, tmp_path / "out", tmp_path / "in", **options, force=True)
    assert made.read_bytes() == before


def test_the_examples_of_the_docs_run(world, found, tmp_path, monkeypatch, capsys):
    shutil.copytree(found[0] / "features", tmp_path / "features")
    shutil.copy(found[0] / "scores.parquet", tmp_path)
    shutil.copytree(world / "model", tmp_path / "model")
    for name in ("clip.json", "clip.safetensors"):
        shutil.copy(world / name, tmp_path)
    (tmp_path / "footage").mkdir()
    shutil.copy(world / "videos" / "v1.mp4", tmp_path / "footage" / "gate.mp4")
    files = {"model": "clip.json", "pretrained": "clip.safetensors"}
    write_params(tmp_path, clip={**files, "quick_gelu": True})
    normal, fight = (
        video_row(
            unlabelled(row.video_id, row.video_id),
            Probe(row.decoded_frames, 25.0, content_hash=row.content_hash),
            CLASSES,
        )
        for row in read_index(found[0] / "features")[0]
    )
    videos = (
        replace(normal, labels=("Normal",)),
        replace(
            fight, labels=("Fighting",), segments=(Segment(32, 64, "Fighting"),), frame_spans=((32, 64),)
        ),
    )
    write_manifest(Manifest("table", "videos", CLASSES, videos), tmp_path / "manifest.parquet")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "library.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(compile(block, "library.md", "exec"), names)
    events, labels, rows, figures = capsys.readouterr().out.strip().rsplit("\n", 3)
    assert re.match(r"\d\.\d-\d\.\d s (Fighting|Fire) 0\.\d\d", events)
    assert labels == str(CLASSES.labels)
    assert rows == "(6, 64) float16"
    assert "auc" in figures or "ap" in figures
