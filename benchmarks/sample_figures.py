"""What training adds to the small CLIP on the embedded sample: the CLIP alone, and VadCLIP over three seeds.

    .venv/bin/python -m benchmarks.sample_figures [--seeds 234 1 2]

Run `make repro` first. Each seed is an experiment (`dvc exp run -S train.seed=...`), so `dvc exp show` and
MLflow hold them too; at the end the seed of params.yaml is put back. The table is the one of `vadclip compare
zero-shot:A A,B,C` with these experiments. The probe is a logistic regression that is told the truth of every
training snippet, which VadCLIP never is: a ceiling for whatever reads snippets one by one, or each with the
two before and after it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from benchmarks.sample_clip.develop import Part
from benchmarks.sample_clip.develop import probe as truth_probe
from vadclip.compare.comparison import Comparison, compare
from vadclip.compare.show import print_comparison
from vadclip.compare.sides import FILES, ZERO_SHOT, read_sides
from vadclip.config import PARAMS_FILE, load_params
from vadclip.evaluate.metrics import evaluate
from vadclip.features.reader import FeatureReader
from vadclip.files import write_text_atomic
from vadclip.manifest import Manifest, read_manifest
from vadclip.sample.world import sample_plans
from vadclip.score.scores import ScoreInfo, Scores

RESULT = Path("benchmarks/results/sample_figures.json")


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


def compared(folders: Sequence[Path]) -> Comparison:
    """Compare the runs, as one side, with the CLIP that they were trained on."""
    names = [f"{ZERO_SHOT}{folders[0]}", ",".join(map(str, folders))]
    sides = read_sides(names, scratch=folders[0] / "none")  # folders need none
    named = zip(sides, ("zero-shot", "VadCLIP"), strict=True)
    return compare([replace(side, name=name) for side, name in named])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[234, 1, 2])
    seeds = parser.parse_args().seeds
    params = PARAMS_FILE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(seed)) for seed in seeds]
        try:
            for seed, folder in zip(seeds, folders, strict=True):
                run_with_seed(seed)
                folder.mkdir()
                for file in FILES:
                    shutil.copy(file, folder)
        finally:
            run_with_seed(yaml.safe_load(params)["train"]["seed"])
            write_text_atomic(PARAMS_FILE, params)  # DVC writes null as nothing, and lists in rows
        found = compared(folders)
    manifest = read_manifest(Path("manifest.parquet"))
    probes = {f"{reach} neighbours": probe(manifest, reach) for reach in (0, 2)}
    result = {"seeds": seeds, "probe": probes, "compare": asdict(found)}
    write_text_atomic(RESULT, json.dumps(result, indent=2) + "\n")
    print_comparison(found, Console())
    for name, figures in probes.items():
        print(f"a probe that is told when, {name}:", {key: round(value, 4) for key, value in figures.items()})


if __name__ == "__main__":
    main()
