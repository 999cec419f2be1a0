"""Stage 5: scores.parquet + manifest.parquet -> figures, plots/ and report.html; no model, no GPU."""

from functools import partial
from pathlib import Path

from flows import run_stage
from vadclip.config import flatten, load_params
from vadclip.evaluate.metrics import evaluate
from vadclip.evaluate.report import write_metrics, write_plots, write_report
from vadclip.manifest import dataset_root, read_manifest
from vadclip.score.scores import read_scores
from vadclip.tracking import runs as tracking
from vadclip.tracking.naming import describe_run, lineage_tags, named_tracking

MANIFEST, SCORES = Path("manifest.parquet"), Path("scores.parquet")
METRICS, FIGURES = Path("metrics.json"), Path("figures.json")
PLOTS, REPORT = Path("plots"), Path("report.html")
MODEL = Path("model")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    chosen, manifest = params.evaluate, read_manifest(MANIFEST)
    evaluation = evaluate(
        read_scores(SCORES), manifest, resamples=chosen.bootstrap_resamples, seed=chosen.bootstrap_seed
    )
    write_metrics(evaluation, METRICS, FIGURES)
    root, decoder = dataset_root(params.dataset), params.execution.decoder
    written = write_plots(evaluation, manifest, PLOTS, chosen, root=root, decoder=decoder)
    made_with = flatten(params.model_dump(exclude={"execution", "tracking"}))
    commit = lineage_tags().get("git_commit")
    write_report(evaluation, written, PLOTS, REPORT, params=made_with, commit=commit)
    shown = [name for name in ("auc", "zero_shot_auc", "ap", "map_avg") if name in evaluation.metrics]
    if shown:
        print("evaluate: " + ", ".join(f"{name} {evaluation.metrics[name]:.4g}" for name in shown))
    for reason in dict.fromkeys(evaluation.undefined.values()):
        names = [name for name, why in evaluation.undefined.items() if why == reason]
        print(f"evaluate: not defined: {', '.join(names)}: {reason}")
    tracking.add_to_run(
        MODEL / "run.json",
        params=flatten(params.model_dump(include={"score", "evaluate"})),
        metrics={**evaluation.metrics, **flatten(evaluation.by_class, "class/")},
        artifacts=[MANIFEST, SCORES, METRICS, FIGURES, PLOTS, REPORT],
        stage="evaluate",
        tracking=named_tracking(params),
        description=describe_run(evaluation.metrics, evaluation.intervals),
        criterion="val_video_ap" if manifest.dataset == "xd_violence" else "val_video_auc",
        training=partial(tracking.log_past_training, MODEL, MANIFEST, manifest, params),
    )


if __name__ == "__main__":
    run_stage(main)
