"""Detection on a trained model: the sample without one of its classes, an 8-hour video, a real server."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import av
import mlflow
import numpy as np
import psutil
import pytest
import yaml
from conftest import PROJECT
from detect_helpers import make_model, make_videos
from mlflow.models import ModelSignature
from sklearn.metrics import roc_auc_score

from vadclip.config import ClipParams
from vadclip.datasets.sample import ensure_rendered
from vadclip.detect.model import load
from vadclip.events import find_events, threshold_from_peaks
from vadclip.features.reader import FeatureReader
from vadclip.features.shards import Shard
from vadclip.frame_figures import frames_in_snippets
from vadclip.manifest import read_manifest
from vadclip.model.folder import read_model_info
from vadclip.model.inference import class_texts
from vadclip.sample.world import CLASSES, sample_plans
from vadclip.score.scores import read_scores
from vadclip.tracking.mlflow_store import SERVED_PARAMS
from vadclip.tracking.served import requirements, write_served

pytestmark = pytest.mark.soak
LEFT_OUT = "Explosion"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(PROJECT),
    "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",  # where MLflow finds its server
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def _vadclip(folder, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from vadclip.cli import main; main()", *map(str, arguments)],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The pipeline's files over the sample, trained without one class."""
    folder = tmp_path_factory.mktemp("project")
    plans = [plan for plan in sample_plans() if plan.split == "test" or plan.label != LEFT_OUT]
    ensure_rendered(folder / "train", tuple(plan for plan in plans if plan.split == "train"))
    ensure_rendered(folder / "test", tuple(plan for plan in plans if plan.split == "test"))
    with (folder / "videos.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label", "split", "segments"])
        for plan in plans:
            label = "Normal" if plan.label == LEFT_OUT else plan.label  # its truth is read off the plan
            deed = plan.anomaly if plan.split == "test" and label != "Normal" else None
            span = f"{deed.start}-{deed.end}" if deed else ""
            writer.writerow([f"{plan.split}/{plan.video_id}.mp4", label, plan.split, span])
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    classes = dict(zip(CLASSES.labels, CLASSES.prompts, strict=True))
    del classes[LEFT_OUT]
    params["dataset"].update(name="table", table="videos.csv", root=".", classes=classes)
    params["clip"] = {
        "model": str(PROJECT / "vadclip/sample/clip.json"),
        "pretrained": str(PROJECT / "vadclip/sample/clip.safetensors"),
        "quick_gelu": None,
        "precision": "fp32",
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for stage in ("ingest", "extract", "train", "score"):
        ran = subprocess.run(
            [sys.executable, "-m", f"flows.{stage}"],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="module")
def found(project):
    """`vadclip detect` on the test videos, interrupted, killed and run again."""
    prompt = f"{LEFT_OUT}={LEFT_OUT.lower()}"
    command = ["detect", "test", "--out", "found", "--prompt", prompt]
    for stop, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = len(list((project / "found").glob("features/part-*.parquet")))
        process = subprocess.Popen(
            [sys.executable, "-c", "from vadclip.cli import main; main()", *command],
            cwd=project, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 280
        while len(list((project / "found").glob("features/part-*.parquet"))) <= before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, stop)
        assert process.wait() == status
        assert not (project / "found" / "events.json").exists()
    ran = _vadclip(project, *command)
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)
    return project / "found"


def test_rows_scores_and_events_are_the_pipelines(project, found):
    manifest, info = read_manifest(project / "manifest.parquet"), read_model_info(project / "model")
    pipeline = FeatureReader(project / "features", manifest)
    theirs = read_scores(project / "scores.parquet")
    ours = read_scores(found / "scores.parquet")
    rows = {}
    for path in (found / "features").glob("shard-*.parquet"):
        shard = Shard(path)
        for number, block in enumerate(shard.blocks):
            rows.setdefault(block.video_id, {})[block.start] = shard.rows(number).tobytes()
    threshold = threshold_from_peaks(info.normal_peaks, selection=info.selection).value
    told = {video["video"]: video for video in json.loads((found / "events.json").read_text())["videos"]}
    videos = pipeline.videos("test")
    assert len(videos) == len(told) > 0
    for video in videos:
        name = video.video_id  # both are named by folder and file
        parts = b"".join(rows[name][start] for start in sorted(rows[name]))
        assert parts == pipeline.array(name, 0).tobytes()
        at, our_at = (scores.rows(scores.video_ids.index(name)) for scores in (theirs, ours))
        np.testing.assert_allclose(ours.anomaly_score_N[our_at], theirs.anomaly_score_N[at], atol=2e-6)
        events = find_events(theirs.anomaly_score_N[at], None, threshold)
        by_score = [event for event in told[name]["events"] if event["by"] == "score"]
        assert [(16 * event.start, 16 * event.stop) for event in events] == [
            (event["start_frame"], event["end_frame"]) for event in by_score
        ]


def test_a_class_left_out_of_training_is_found_by_its_prompt(found):
    scores = read_scores(found / "scores.parquet")
    assert scores.info.labels[-1] == LEFT_OUT
    column_N = scores.class_probabilities_NK[:, -1]
    truth_N = np.zeros(len(column_N), np.bool_)
    plans = {plan.video_id: plan for plan in sample_plans()}
    for position, name in enumerate(scores.video_ids):
        plan = plans[name.removeprefix("test__")]
        if plan.label == LEFT_OUT:
            rows = scores.rows(position)
            span = [(plan.anomaly.start, plan.anomaly.end)]
            truth_N[rows] = frames_in_snippets(span, rows.stop - rows.start) >= 8
    auc = roc_auc_score(truth_N, column_N)
    draws = np.random.default_rng(0)
    chance = [roc_auc_score(draws.permutation(truth_N), column_N) for _ in range(1000)]
    print(f"AUC of the prompt's column {auc:.3f}, by chance at most {max(chance):.3f} in 1,000")
    assert auc > max(chance)
    assert auc > 0.8


def _eight_hours(path):
    """Write 8 hours at 25 frames a second: 10 encoded seconds, again and again."""
    piece = path.with_name("piece.mp4")
    make_videos(path.parent, 1, snippets=16)
    (path.parent / "v0.mp4").rename(piece)
    with av.open(str(piece)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
        step = int(1 / 25 / packets[0].time_base)
        kept = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.time_base)
            for packet in packets
        ]
        for turn in range(8 * 3600 * 25 // len(kept)):
            for data, pts, dts, key, base in kept:
                packet = av.Packet(data)
                shift = turn * len(kept) * step
                packet.pts, packet.dts, packet.time_base = pts + shift, dts + shift, base
                packet.is_keyframe, packet.stream = key, stream
                made.mux(packet)
    piece.unlink()


def test_memory_is_bounded_over_eight_hours(tmp_path):
    make_model(tmp_path)
    (tmp_path / "long").mkdir()
    _eight_hours(tmp_path / "long" / "day.mp4")
    process = subprocess.Popen(
        [sys.executable, "-c", "from vadclip.cli import main; main()", "detect", "long"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peaks = {}
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                name = "driver" if one.pid == process.pid else one.name()
                peaks[name] = max(peaks.get(name, 0), one.memory_info().rss / 2**20)
        time.sleep(0.2)
    assert process.returncode == 0
    print({name: round(peak) for name, peak in sorted(peaks.items())}, process.stdout.read())
    (video,) = json.loads((tmp_path / "detections" / "events.json").read_text())["videos"]
    assert video["num_frames"] // 16 == len(
        read_scores(tmp_path / "detections" / "scores.parquet").main_score_N
    )
    assert video["num_frames"] > 8 * 3600 * 25 - 300
    assert peaks["driver"] < 1300  # 1,116 MB for one hour
    assert max(peak for name, peak in peaks.items() if name.startswith("ray::")) < 1200  # 947 MB for one hour


def test_mlflow_serves_videos_and_features(tmp_path):
    model = make_model(tmp_path)
    names = {"model": str(tmp_path / "clip.json"), "pretrained": str(tmp_path / "clip.safetensors")}
    clip = ClipParams(**names, quick_gelu=True, precision="fp32")
    text_KD = class_texts(load(model, clip=None, device="cpu").model, "fp32")
    data, code = write_served(tmp_path / "parts", model, text_KD, clip)
    mlflow.pyfunc.save_model(
        tmp_path / "logged", loader_module="vadclip.tracking.served", data_path=str(data),
        code_paths=[str(code)],
        signature=ModelSignature(params=SERVED_PARAMS), pip_requirements=requirements(),
    )  # fmt: skip
    videos = make_videos(tmp_path / "videos", 1)
    (videos / "text.mp4").write_text("not a video")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "logged"),
         "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path, env={**environment, "VADCLIP_SERVE_ROOTS": str(videos)}, start_new_session=True,
    )  # fmt: skip

    def ask(inputs, **params):
        body = json.dumps({"inputs": inputs, "params": params}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)["predictions"]
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        deadline = time.monotonic() + 120
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5),
            ):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        status, (found,) = ask([str(videos / "v0.mp4")], input="videos", threshold=0.2)
        assert status == 200
        assert found["events"]
        status, (found,) = ask([str(videos / "text.mp4")], input="videos")
        assert status == 200
        assert "FFmpeg cannot read it as a video" in found["error"]
        status, text = ask(["/etc/hostname"], input="videos")
        assert status == 400
        assert "it is not below what VADCLIP_SERVE_ROOTS allows" in text
        status, found = ask(np.ones((1, 3, 64)).tolist())
        assert status == 200
        assert np.shape(found["anomaly_score"]) == (1, 3)
        status, text = ask(np.ones((1, 3, 63)).tolist())
        assert status == 400
        assert "expected [videos, snippets, 64]" in text
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
