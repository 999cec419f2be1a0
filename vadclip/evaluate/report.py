"""metrics.json, figures.json, plots/, report.html: an evaluation for machines, `dvc plots` and people.

plots/ holds roc, pr and confusion twice, as PNG and as the small JSON tables that `dvc plots` draws from, and
timelines/<number>_<class>_<standing>.png. report.html is one file with everything in it: it opens offline and
can be mailed.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vadclip.config import EvaluateParams
from vadclip.evaluate.curves import branch_curves, pr_table, roc_table
from vadclip.evaluate.detection import IOU_THRESHOLDS
from vadclip.evaluate.event_figures import MIN_IOU
from vadclip.evaluate.metrics import Evaluation
from vadclip.evaluate.plots import class_name, draw_confusion, draw_pr, draw_roc
from vadclip.evaluate.timelines import Choice, choose, draw_timeline, thumbnails, time_axis
from vadclip.files import write_text_atomic
from vadclip.manifest import SNIPPET_FRAMES, Manifest
from vadclip.progress import track

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { margin: .3rem 0 .8rem }
.faint { color: #666 }
table { border-collapse: collapse } th { text-align: left; font-weight: 600 }
th, td { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e6e6e6; vertical-align: top }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto } .pair { display: flex; flex-wrap: wrap; gap: 1rem }
.pair img { flex: 1 1 24rem; min-width: 0; max-width: 30rem } figure { margin: 1rem 0 }
.warning { background: #fbe3d6; border-left: 6px solid #d55e00; padding: .8rem 1rem; font-size: 1.05rem }
"""


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
    choices = choose(evaluation, params.timelines)
    drawn: list[tuple[Choice, Path]] = []
    bare = 0
    with track(len(choices), "timelines", "pictures") as progress:
        for number, choice in enumerate(choices, 1):
            video = evaluation.test_set.videos[choice.place]
            snippets = int(evaluation.test_set.scores.rows_V[choice.place])
            pictures = None
            if manifest.source == "videos":
                pictures = thumbnails(video, root, decoder, snippets * 16)
                bare += pictures is None
            axis = time_axis(video, root if pictures else None, snippets)
            path = timelines / choice.file_name(number)
            draw_timeline(evaluation, choice, pictures, axis, path)
            drawn.append((choice, path))
            progress.advance()
    return Written(tuple(drawn), bare)


def write_report(evaluation: Evaluation, written: Written, plots: Path, path: Path) -> None:
    """Write report.html from an evaluation and the pictures in `plots`; it holds no time and no path."""
    body = "\n".join(_body(evaluation, written, plots))
    heading = escape(f"VadCLIP on {evaluation.dataset}")
    write_text_atomic(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


def _body(evaluation: Evaluation, written: Written, plots: Path) -> Iterable[str]:
    test_set = evaluation.test_set
    frames = SNIPPET_FRAMES * len(test_set.positive_N)
    yield f"<h1>VadCLIP on {escape(evaluation.dataset)}</h1>"
    yield (
        f'<p class="faint">{len(test_set.videos):,} test videos, {frames:,} frames, '
        f"{test_set.anomalous_share:.1%} of them anomalous</p>"
    )
    if evaluation.test_selected:
        yield (
            '<p class="warning"><strong>Test-selected.</strong> The epoch of this model was picked on the '
            "test videos, as the authors did. Its figures are too good: they compare with the paper's, and "
            "say nothing about new videos.</p>"
        )
    yield "<h2>Figures</h2>"
    yield _figures_table(evaluation)
    yield from _left_out(evaluation)
    yield '<h2>Over all frames</h2><div class="pair">'
    yield _picture(plots / "roc.png", "ROC curves over frames")
    yield _picture(plots / "pr.png", "Precision-recall curves over frames")
    yield "</div>"
    if evaluation.predicted_class_V is not None:
        yield "<h2>Class of each video</h2>"
        yield (
            "<p>The class with the highest mean of its top logits (alignment branch). A video with several "
            "labels counts as right if the predicted class is one of them, else under its first label.</p>"
        )
        yield _picture(plots / "confusion.png", "Confusion of the videos' classes")
    if written.timelines:
        yield from _timelines(evaluation, written)


def _timelines(evaluation: Evaluation, written: Written) -> Iterable[str]:
    yield "<h2>Score timelines</h2>"
    yield (
        "<p>Classes take turns, each with its best and its worst test video in turn, ranked by frame AUC "
        "within the video, normal videos by their highest score. So these are not only the good ones.</p>"
    )
    if written.without_thumbnails:
        yield f"<p>{written.without_thumbnails} of the videos could not be read for thumbnails.</p>"
    for choice, path in written.timelines:
        video_id = evaluation.test_set.videos[choice.place].video_id
        yield f"<figure>{_picture(path, f'Scores of {video_id} over time')}</figure>"


def _figures_table(evaluation: Evaluation) -> str:
    figures = evaluation.all_figures
    rows = ["<table><tr><th>figure</th><th>value</th><th>95 % interval</th><th>meaning</th></tr>"]
    for name, meaning in _meanings(evaluation).items():
        if name not in figures:
            continue
        decimals = 2 if "map_" in name or name == "false_alarms_per_hour" else 4
        interval = ""
        if name in evaluation.intervals:
            low, high = evaluation.intervals[name]
            interval = f"{low:.{decimals}f} – {high:.{decimals}f}"
        rows.append(
            f'<tr><td>{escape(name)}</td><td class="number">{figures[name]:.{decimals}f}</td>'
            f'<td class="number">{interval}</td><td>{escape(meaning)}</td></tr>'
        )
    rows.append("</table>")
    if evaluation.intervals:
        rows.append('<p class="faint">Intervals: bootstrap over the test videos.</p>')
    return "\n".join(rows)


def _meanings(evaluation: Evaluation) -> Mapping[str, str]:
    """Every figure there can be, in the order of the report, and what it says."""
    meanings = {
        "auc": "ROC AUC over all frames, classification branch",
        "ap": "average precision over all frames, classification branch",
        "ano_auc": "ROC AUC over frames of videos with an anomaly, classification branch",
        "zero_shot_auc": "ROC AUC over all frames of the CLIP alone, by the plain class prompts",
        "gain_auc": "auc over zero_shot_auc, paired over the videos",
        "zero_shot_ap": "average precision over all frames of the CLIP alone",
        "gain_ap": "ap over zero_shot_ap, paired over the videos",
        "zero_shot_map_avg": "detection mAP in percent of the CLIP alone",
        "gain_map_avg": "map_avg over zero_shot_map_avg, paired over the videos",
        "event_precision": f"events that fit an annotated one, at IoU {MIN_IOU}, whatever the class",
        "event_recall": "annotated events that an event fits",
        "event_class_agreement": "of the events that fit, those with the annotated class",
        "false_alarms_per_hour": "events in normal test videos, an hour of them",
        "align_auc": "ROC AUC over all frames, alignment branch (1 - p(normal))",
        "align_ap": "average precision over all frames, alignment branch (1 - p(normal))",
        "map_avg": "detection mAP in percent, mean over IoU 0.1 to 0.5, anomaly classes with truth",
    }
    meanings |= {f"map_{iou}": f"the same at IoU {iou}" for iou in IOU_THRESHOLDS}
    meanings["map_official_avg"] = (
        "detection mAP in percent as the authors' script has it, normal class counted"
    )
    meanings |= {f"map_official_{iou}": f"the same at IoU {iou}" for iou in IOU_THRESHOLDS}
    meanings |= {f"zero_shot_map_{iou}": f"mAP of the CLIP alone at IoU {iou}" for iou in IOU_THRESHOLDS}
    for label in evaluation.classes.labels[1:]:
        name = class_name(evaluation.classes, label)
        meanings[f"auc_{label}"] = f"ROC AUC over frames of videos with {name} and of normal videos"
    return meanings


def _left_out(evaluation: Evaluation) -> Iterable[str]:
    if evaluation.undefined:
        yield "<h2>Undefined</h2><p>Left out, since they have no value here.</p>"
        yield _pairs(evaluation.undefined)
    if evaluation.excluded:
        yield f"<h2>Test videos without scores ({len(evaluation.excluded)})</h2>"
        yield "<p>No figure knows of them.</p>"
        yield _pairs(evaluation.excluded)
    if evaluation.untimed:
        yield f"<h2>Untimed test videos ({len(evaluation.untimed)})</h2>"
        yield (
            "<p>Nobody said when in these videos the anomaly is, so all of their frames count as anomalous "
            "(dataset.untimed: whole_video), rightly or not.</p>"
        )
        yield f"<p>{escape(', '.join(evaluation.untimed))}</p>"


def _pairs(rows: Mapping[str, str]) -> str:
    lines = [f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in rows.items()]
    return "<table>" + "\n".join(lines) + "</table>"


def _picture(path: Path, description: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(description, quote=True)}" src="data:image/png;base64,{data}">'
