"""metrics.json, figures.json, plots/, report.html: an evaluation for machines, `dvc plots` and people.

plots/ holds roc, pr and confusion twice, as PNG and as the small JSON tables that `dvc plots` draws from, and
timelines/<number>_<class>_<standing>.png. report.html is one file with everything in it: it opens offline and
can be mailed.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vadclip.config import EvaluateParams
from vadclip.evaluate.curves import branch_curves, pr_table, roc_table
from vadclip.evaluate.detection import IOU_THRESHOLDS
from vadclip.evaluate.event_figures import MIN_IOU
from vadclip.evaluate.metrics import EVENTS, GAINS, Evaluation
from vadclip.evaluate.plots import class_name, draw_confusion, draw_pr, draw_roc
from vadclip.evaluate.timelines import Choice, choose, draw_timeline, thumbnails, time_axis
from vadclip.files import write_text_atomic
from vadclip.manifest import SNIPPET_FRAMES, Manifest
from vadclip.pages import write_page
from vadclip.progress import track


@dataclass(frozen=True)
class Written:
    """What `write_plots` made."""

    timelines: tuple[tuple[Choice, Path], ...]
    without_thumbnails: int
    """Timelines whose video could not be read."""


def write_metrics(evaluation: Evaluation, metrics: Path, figures: Path) -> None:
    """Write metrics.json, flat numbers, and figures.json: intervals, figures by IoU and by class."""
    for path, content in ((metrics, evaluation.metrics), (figures, evaluation.figures())):
        write_text_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_plots(
    evaluation: Evaluation,
    manifest: Manifest,
    folder: Path,
    params: EvaluateParams,
    *,
    root: str,
    decoder: str,
) -> Written:
    """Write all of plots/. Timelines show thumbnails where the dataset has videos, found under `root`."""
    curves = branch_curves(evaluation.test_set)
    draw_roc(curves, evaluation, folder / "roc.png")
    draw_pr(curves, evaluation, folder / "pr.png")
    confusion = []
    if evaluation.predicted_class_V is not None:
        draw_confusion(evaluation, evaluation.predicted_class_V, folder / "confusion.png")
        pairs = zip(evaluation.true_class_V, evaluation.predicted_class_V, strict=True)
        confusion = [{"actual": truth, "predicted": predicted} for truth, predicted in pairs]
    for name, rows in (("roc", roc_table(curves)), ("pr", pr_table(curves)), ("confusion", confusion)):
        write_text_atomic(folder / f"{name}.json", json.dumps(rows) + "\n")
    timelines = folder / "timelines"
    timelines.mkdir(parents=True, exist_ok=True)
    for old in timelines.glob("*.png"):  # of a run by hand; DVC empties the folder itself
        old.unlink()
    choices, test_set = choose(evaluation, params.timelines), evaluation.test_set
    drawn: list[tuple[Choice, Path]] = []
    bare = 0
    with track(len(choices), "timelines", "pictures") as progress:
        for number, choice in enumerate(choices, 1):
            video, snippets = test_set.videos[choice.place], int(test_set.scores.rows_V[choice.place])
            pictures = None
            if manifest.source == "videos":
                pictures = thumbnails(video, root, decoder, snippets * SNIPPET_FRAMES)
                bare += pictures is None
            axis = time_axis(video, root if pictures else None, snippets)
            path = timelines / choice.file_name(number)
            draw_timeline(evaluation, choice, pictures, axis, path)
            drawn.append((choice, path))
            progress.advance()
    return Written(tuple(drawn), bare)


def write_report(
    evaluation: Evaluation,
    written: Written,
    plots: Path,
    path: Path,
    *,
    params: Mapping[str, Any],
    commit: str | None = None,
) -> None:
    """Write report.html from an evaluation and the pictures in `plots`; it holds no time and no path.

    `params` are the run's settings by their dotted names, `commit` is git's.
    """
    figures, test_set = evaluation.all_figures, evaluation.test_set
    lost_frames = test_set.scores.info.lost_frames
    meanings = _meanings(evaluation)
    by_iou = [name for name in meanings if name in evaluation.by_iou]
    by_class = [name for name in meanings if name in evaluation.by_class]
    others = [name for name in meanings if name in figures and name not in (*by_iou, *by_class, *EVENTS)]
    events = [name for name in EVENTS if name in figures]
    write_page(
        path,
        "report.html",
        {"shown": _shown},
        evaluation=evaluation,
        videos=len(test_set.videos),
        frames=SNIPPET_FRAMES * len(test_set.positive_N),
        beside=[(name, f"zero_shot_{name}", f"gain_{name}") for name in GAINS],
        figures=figures,
        tables={
            "Figures": others,
            "Events": events,
            "Each class": by_class,
            "Detection mAP at each IoU": by_iou,
        },
        meanings=meanings,
        rows=[_video_row(evaluation, place) for place in range(len(test_set.videos))],
        lost={v.video_id: lost for v in test_set.videos if (lost := lost_frames.get(v.video_id))},
        pictures={
            name: _data(plots / f"{name}.png")
            for name in ("roc", "pr", "confusion")
            if name != "confusion" or evaluation.predicted_class_V is not None
        },
        timelines=[(test_set.videos[c.place].video_id, _data(picture)) for c, picture in written.timelines],
        without_thumbnails=written.without_thumbnails,
        params=params,
        commit=commit,
    )


def _shown(evaluation: Evaluation, name: str) -> str:
    """A figure with its interval: in percent, or a rate an hour."""
    digits, factor = 2, 1 if "map_" in name or name == "false_alarms_per_hour" else 100
    sign = "+" if name.startswith("gain") else ""
    value = f"{factor * evaluation.all_figures[name]:{sign}.{digits}f}"
    if name not in evaluation.intervals:
        return value
    low, high = (f"{factor * end:{sign}.{digits}f}" for end in evaluation.intervals[name])
    return f"{value} [{low}, {high}]"


def _video_row(evaluation: Evaluation, place: int) -> dict[str, Any]:
    """What the table of test videos says of one."""
    test_set = evaluation.test_set
    video, rows = test_set.videos[place], test_set.scores.rows(place)
    score_T, positive_T = test_set.scores.main_score_N[rows], test_set.positive_N[rows]
    auc = test_set.auc_within(place)
    lost = test_set.scores.info.lost_frames.get(video.video_id, 0)
    notes = [f"{lost} frames lost"] if lost else []
    if video.untimed:
        notes.append("untimed")
    return {
        "id": video.video_id,
        "labels": ", ".join(video.labels),
        "predicted": evaluation.predicted_class_V[place] if evaluation.predicted_class_V else "",
        "anomalous": 100 * float(positive_T.sum()) / (SNIPPET_FRAMES * len(positive_T)),
        "peak": float(score_T.max()),
        "auc": None if auc is None else 100 * auc,
        "events": len(evaluation.events_V[place]) if evaluation.events_V else None,
        "notes": "; ".join(notes),
    }


def _data(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _meanings(evaluation: Evaluation) -> Mapping[str, str]:
    """Every figure there can be, in the order of the report, and what it says."""
    meanings = {
        "auc": "ROC AUC over all frames, classification branch",
        "ap": "average precision over all frames, classification branch",
        "ano_auc": "ROC AUC over frames of videos with an anomaly, classification branch",
        "event_precision": f"events that fit an annotated one, at IoU {MIN_IOU}, whatever the class",
        "event_recall": "annotated events that an event fits",
        "event_class_agreement": "of the events that fit, those with the annotated class",
        "false_alarms_per_hour": "events an hour of normal test video: a rate, no percentage",
        "align_auc": "ROC AUC over all frames, alignment branch (1 - p(normal))",
        "align_ap": "average precision over all frames, alignment branch (1 - p(normal))",
        "map_avg": "detection mAP, mean over IoU 0.1 to 0.5, anomaly classes with truth",
    }
    meanings |= {f"map_{iou}": f"the same at IoU {iou}" for iou in IOU_THRESHOLDS}
    meanings["map_official_avg"] = "detection mAP as the authors' script has it, normal class counted"
    meanings |= {f"map_official_{iou}": f"the same at IoU {iou}" for iou in IOU_THRESHOLDS}
    meanings |= {f"zero_shot_map_{iou}": f"mAP of the CLIP alone at IoU {iou}" for iou in IOU_THRESHOLDS}
    for label in evaluation.classes.labels[1:]:
        name = class_name(evaluation.classes, label)
        meanings[f"auc_{label}"] = f"ROC AUC over frames of videos with {name} and of normal videos"
    return meanings
