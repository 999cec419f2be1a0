"""What training adds to the small CLIP on the embedded sample: zero-shot, then VadCLIP over three seeds.

    .venv/bin/python -m benchmarks.sample_figures [--seeds 234 1 2]

Run `make repro` first. Zero-shot means no VadCLIP: each snippet's feature against the plain class prompts,
with the temperature that VadCLIP uses. The probe is a ceiling for whatever reads snippets one by one: a
logistic regression that is told the truth of every training snippet, which VadCLIP never is. Each seed is a
DVC experiment (`dvc exp run -S train.seed=...`), so `dvc exp show` and MLflow hold them too; at the end the
seed of params.yaml is put back.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from vadclip.clip.frozen import load_clip
from vadclip.config import load_params
from vadclip.evaluate.metrics import evaluate
from vadclip.features.reader import FeatureReader
from vadclip.files import write_text_atomic
from vadclip.manifest import SNIPPET_FRAMES, Manifest, read_manifest
from vadclip.model.vadclip import TEMPERATURE
from vadclip.sample.world import sample_plans
from vadclip.score.table import ScoreInfo, Scores

RESULT = Path("benchmarks/results/sample_figures.json")
SHOWN = ("auc", "ap", "ano_auc", "map_avg", "map_official_avg")


def zero_shot(manifest: Manifest) -> dict[str, float]:
    """Return the figures of the frozen CLIP alone on the test videos."""
    params = load_params()
    clip = load_clip(params.clip, device="cpu")
    reader = FeatureReader(Path("features"), manifest)
    videos = reader.videos("test")
    features = [reader.array(video.video_id, params.extract.test_crop) for video in videos]
    with torch.inference_mode():
        text_KD = F.normalize(clip.text.encode(manifest.classes.prompts), dim=-1)
        rows_ND = F.normalize(torch.from_numpy(np.concatenate(features)).float(), dim=-1)
        logits_NK = rows_ND @ text_KD.T / TEMPERATURE
    probabilities_NK = logits_NK.softmax(dim=-1).numpy()
    scores = Scores(
        video_ids=tuple(video.video_id for video in videos),
        rows_V=np.array([len(rows) for rows in features]),
        anomaly_score_N=1 - probabilities_NK[:, 0],
        class_probabilities_NK=probabilities_NK,
        log_normaliser_N=logits_NK.logsumexp(dim=-1).numpy(),
        zero_shot_NK=probabilities_NK,
        info=ScoreInfo(labels=manifest.classes.labels, test_selected=False, excluded=reader.excluded),
    )
    return dict(evaluate(scores, manifest, resamples=0, seed=0).metrics)


def probe(manifest: Manifest) -> dict[str, float]:
    """Return the figures of a linear probe that knows when each training video's deed happens."""
    params = load_params()
    reader = FeatureReader(Path("features"), manifest)
    deeds = {plan.video_id: plan.anomaly for plan in sample_plans()}
    rows, truth = [], []
    for video in (*reader.videos("train"), *reader.videos("val")):
        rows.append(reader.array(video.video_id, params.extract.test_crop))
        deed, middles = deeds[video.video_id], np.arange(len(rows[-1])) * SNIPPET_FRAMES + SNIPPET_FRAMES // 2
        truth.append((middles >= deed.start) & (middles < deed.end) if deed else np.zeros(len(middles), bool))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(np.concatenate(rows).astype(np.float32), np.concatenate(truth))
    videos = reader.videos("test")
    features = [reader.array(video.video_id, params.extract.test_crop) for video in videos]
    score_N = model.predict_proba(np.concatenate(features).astype(np.float32))[:, 1]
    others = len(manifest.classes) - 1  # it knows no classes: all anomalies are equally likely
    scores = Scores(
        video_ids=tuple(video.video_id for video in videos),
        rows_V=np.array([len(rows) for rows in features]),
        anomaly_score_N=score_N,
        class_probabilities_NK=np.column_stack([1 - score_N, *[score_N / others] * others]),
        log_normaliser_N=np.zeros(len(score_N)),
        zero_shot_NK=np.full((len(score_N), len(manifest.classes)), 1 / len(manifest.classes)),
        info=ScoreInfo(labels=manifest.classes.labels, test_selected=False, excluded=reader.excluded),
    )
    figures = evaluate(scores, manifest, resamples=0, seed=0).metrics
    return {key: figures[key] for key in ("auc", "ap", "ano_auc")}


def run_with_seed(seed: int) -> None:
    """Run the pipeline with this training seed; DVC restores what it has run before."""
    command = [sys.executable, "-m", "dvc", "exp", "run", "--quiet", "-S", f"train.seed={seed}"]
    subprocess.run(command, check=True)


def trained(seed: int) -> dict[str, float]:
    """Return metrics.json of the pipeline with another training seed."""
    run_with_seed(seed)
    figures: dict[str, float] = json.loads(Path("metrics.json").read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[234, 1, 2])
    seeds = parser.parse_args().seeds
    configured = yaml.safe_load(Path("params.yaml").read_text())["train"]["seed"]
    manifest = read_manifest(Path("manifest.parquet"))
    result = {"zero_shot": zero_shot(manifest), "probe": probe(manifest)}
    try:
        for seed in seeds:
            result[f"seed {seed}"] = trained(seed)
    finally:
        run_with_seed(configured)
    write_text_atomic(RESULT, json.dumps(result, indent=2) + "\n")

    table = Table("", *SHOWN, title="Embedded sample, test videos")
    for name, figures in result.items():
        table.add_row(name, *(f"{figures[key]:.4g}" if key in figures else "" for key in SHOWN))
    spread = {key: np.array([result[f"seed {seed}"][key] for seed in seeds]) for key in SHOWN}
    table.add_row("mean ± sd", *(f"{v.mean():.4g} ± {v.std(ddof=1):.2g}" for v in spread.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
