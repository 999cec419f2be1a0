"""Detection on a trained model: the sample without one of its classes, an 8-hour video, a real server."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from conftest import PROJECT
from sklearn.metrics import roc_auc_score

from vadclip.datasets.sample import ensure_rendered
from vadclip.events import find_events, threshold_from_peaks
from vadclip.features.reader import FeatureReader
from vadclip.features.shards import Shard
from vadclip.frame_figures import frames_in_snippets
from vadclip.manifest import read_manifest
from vadclip.model.folder import read_model_info
from vadclip.sample.world import sample_plans
from vadclip.score.table import read_scores

pytestmark = pytest.mark.soak
LEFT_OUT, TRAIN_VIDEOS = "Explosion", 200
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "MLFLOW_DISABLE_TELEMETRY": "true"}


def _vadclip(folder, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from vadclip.cli import main; main()", *map(str, arguments)],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The pipeline's files over a part of the sample, trained without one class."""
    folder = tmp_path_factory.mktemp("project")
    plans = sample_plans()
    known = [plan for plan in plans if plan.split == "train" and plan.label != LEFT_OUT][::2][:TRAIN_VIDEOS]
    plans = (*known, *(plan for plan in plans if plan.split == "test"))
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
    params["dataset"].update(name="table", table="videos.csv", root=".")
    params["clip"] = {
        "model": str(PROJECT / "vadclip/sample/clip.json"),
        "pretrained": str(PROJECT / "vadclip/sample/clip.safetensors"),
        "quick_gelu": None,
        "precision": "fp32",
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
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
    """`vadclip detect` on the test videos, killed in its middle and run again."""
    prompt = f"{LEFT_OUT}={LEFT_OUT.lower()}"
    command = ["detect", "test", "--out", "found", "--prompt", prompt]
    process = subprocess.Popen(
        [sys.executable, "-c", "from vadclip.cli import main; main()", *command],
        cwd=project, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 280
    while not list((project / "found" / "features").glob("part-*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
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
    rows: dict[str, dict[int, bytes]] = {}
    for path in (found / "features").glob("shard-*.parquet"):
        shard = Shard(path)
        for number, block in enumerate(shard.blocks):
            rows.setdefault(block.video_id, {})[block.start] = shard.rows(number).tobytes()
    threshold = threshold_from_peaks(info.normal_peaks, selection=info.selection).value
    told = {video["video"]: video for video in json.loads((found / "events.json").read_text())["videos"]}
    videos = pipeline.videos("test")
    assert len(videos) == len(told) == 44
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
