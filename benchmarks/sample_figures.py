"""What training adds to the small CLIP on the embedded sample: zero-shot, then VadCLIP over three seeds.

    .venv/bin/python -m benchmarks.sample_figures [--seeds 234 1 2]

Run `make repro` first. The figures of zero-shot and what training gains on it, with its paired interval, are
each seed's own (metrics.json, figures.json). The probe is a logistic regression that is told the truth of
every training snippet, which VadCLIP never is: a ceiling for whatever reads snippets one by one, or each with
the two before and after it. Each seed is an experiment (`dvc exp run -S train.seed=...`), so `dvc exp show`
and MLflow hold them too; at the end the seed of params.yaml is put back.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.sample_clip.develop import Part
from benchmarks.sample_clip.develop import probe as truth_probe
from vadclip.config import load_params
from vadclip.evaluate.metrics import evaluate
from vadclip.features.reader import FeatureReader
from vadclip.files import write_text_atomic
from vadclip.manifest import Manifest, read_manifest
from vadclip.sample.world import sample_plans
from vadclip.score.table import ScoreInfo, Scores

RESULT = Path("benchmarks/results/sample_figures.json")
SHOWN = (
    "auc",
    "ap",
    "map_avg",
    "zero_shot_auc",
    "zero_shot_ap",
    "zero_shot_map_avg",
    "gain_auc",
    "gain_map_avg",
)


def probe(manifest: Manifest, reach: int) -> dict[str, float]:
    """Return the figures of a linear probe that knows when each training video's deed happens."""
    crop = load_params().extract.test_crop
    reader = FeatureReader(Path("features"), manifest)
    plans = {plan.video_id: plan for plan in sample_plans()}

    def part(*splits: str) -> Part:
        videos = [video for split in splits for video in reader.videos(split)]
        return Part([plans[v.video_id] for v in videos], [reader.array(v.video_id, crop) for v in videos])

    test_part = part("test")
    score_N = truth_probe(part("train", "val"), test_part, reach).astype(np.float32)
    others = len(manifest.classes) - 1  # it knows no classes: all anomalies are equally likely
    scores = Scores(
        video_ids=tuple(plan.video_id for plan in test_part.plans),
        rows_V=np.array([len(rows) for rows in test_part.rows]),
        anomaly_score_N=score_N,
        class_probabilities_NK=np.column_stack([1 - score_N, *[score_N / others] * others]),
        log_normaliser_N=np.zeros_like(score_N),
        zero_shot_NK=np.full((len(score_N), others + 1), 1 / (others + 1), np.float32),
        info=ScoreInfo(labels=manifest.classes.labels, test_selected=False, excluded=reader.excluded),
    )
    figures = evaluate(scores, manifest, resamples=0, seed=0).metrics
    return {key: figures[key] for key in ("auc", "ap", "ano_auc")}


def run_with_seed(seed: int) -> None:
    """Run the pipeline with this training seed; DVC restores what it has run before."""
    command = [sys.executable, "-m", "dvc", "exp", "run", "--quiet", "-S", f"train.seed={seed}"]
    subprocess.run(command, check=True)


def trained(seed: int) -> dict[str, Any]:
    """Return metrics.json of the pipeline with another training seed, and the intervals of the gains."""
    run_with_seed(seed)
    figures: dict[str, Any] = json.loads(Path("metrics.json").read_text())
    intervals = json.loads(Path("figures.json").read_text())["intervals"]
    gains = {name: interval for name, interval in intervals.items() if name.startswith("gain_")}
    return {**figures, "intervals": gains}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[234, 1, 2])
    seeds = parser.parse_args().seeds
    configured = yaml.safe_load(Path("params.yaml").read_text())["train"]["seed"]
    manifest = read_manifest(Path("manifest.parquet"))
    result: dict[str, dict[str, Any]] = {
        "probe": probe(manifest, 0),
        "probe with two neighbours": probe(manifest, 2),
    }
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
