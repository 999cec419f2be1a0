"""The official evaluation's own output, from tests/golden/eval_*.json (see the README there)."""

import json

import numpy as np
import pytest
from manifest_helpers import make_manifest
from safetensors.numpy import load_file
from score_helpers import make_scores, make_video

from vadclip.evaluate.metrics import evaluate
from vadclip.labels import Classes


@pytest.mark.parametrize(("case", "dataset"), [("ucf", "ucf_crime"), ("xd", "xd_violence")])
def test_golden_figures(golden_folder, case, dataset):
    golden = json.loads((golden_folder / f"eval_{case}.json").read_text())
    arrays = load_file(golden_folder / f"eval_{case}_scores.safetensors")
    labels = tuple(golden["classes"])
    normal = labels[0]
    videos, anomaly, probabilities = [], {}, {}
    for place, row in enumerate(golden["videos"]):
        name = f"{place:03d}"
        rows = row["num_frames"] // golden["frames_per_snippet"]
        # Normal videos stand in the golden file as a segment of class 'A'; the manifest holds none for them.
        marked = [(*span, label) for span, label in zip(row["segments"], row["labels"], strict=True)]
        is_normal = set(row["labels"]) <= {"A", normal}
        videos.append(make_video(name, rows, [] if is_normal else marked, [normal] if is_normal else ()))
        anomaly[name] = arrays[f"{name}.anomaly_score"]
        probabilities[name] = arrays[f"{name}.class_probs"]
    manifest = make_manifest(videos, Classes(labels, tuple(map(str.lower, labels))), dataset)
    metrics = evaluate(make_scores(anomaly, probabilities, labels), manifest, resamples=0).all_figures

    official = golden["official"]
    for ours, theirs in {"auc": "AUC1", "ap": "AP1", "align_auc": "AUC2", "align_ap": "AP2"}.items():
        assert metrics[ours] == pytest.approx(official[theirs], abs=1e-9), ours
    for threshold, value in official["mAP"].items():
        assert metrics[f"map_official_{threshold}"] == pytest.approx(value, abs=1e-6), threshold
    assert metrics["map_official_avg"] == pytest.approx(official["avg"], abs=1e-6)
    # The corrected figure drops the normal class: on UCF the official one is the same sum over a class more.
    anomalies = len(labels) - 1
    if case == "ucf":
        expected = np.array(list(official["mAP"].values())) * (anomalies + 1) / anomalies
        ours = [metrics[f"map_{threshold}"] for threshold in official["mAP"]]
        np.testing.assert_allclose(ours, expected, atol=1e-6)
