"""Pictures of an evaluation: ROC, precision-recall and confusion; timelines.py has the score timelines.

One look for all: Okabe-Ito colours, which colour-blind readers can tell apart, and the same colour for the
same branch everywhere. Drawn without pyplot, so no global state is touched; equal input gives equal bytes.

Legend of shape suffixes: K classes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vadclip.evaluate.curves import Curves
from vadclip.evaluate.metrics import Evaluation
from vadclip.files import atomic_path
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES

COLOURS = {"classification": "#0072B2", "alignment": "#D55E00", "zero_shot": "#009E73"}
_PREFIXES = {
    "zero_shot": "zero_shot_",
    "alignment": "align_",
    "classification": "",
}  # of figures, last on top
TRUTH_COLOUR = "#F0C75E"
INK = "#222222"
FAINT = "#8A8A8A"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a name may hold dollar signs
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
DPI = 110
Place = Literal["lower left", "lower right", "upper right"]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches; draw in it inside `mpl.rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, without the metadata that would tell one machine's from another's."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def title(axes: Axes, text: str, below: str) -> None:
    """Set a bold title with a fainter line below it, both at the left edge of the plot."""
    axes.set_title(f"{text}\n", loc="left", fontsize=12, fontweight="bold")
    axes.annotate(
        below, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", color="#555555"
    )


def draw_roc(curves: Mapping[str, Curves], evaluation: Evaluation, path: Path) -> None:
    """Draw the ROC curves of both branches and of the CLIP alone, over frames."""
    with mpl.rc_context(STYLE):
        figure = new_figure(5.6, 5.6)
        axes = figure.add_subplot()
        title(axes, f"ROC over frames, {evaluation.dataset}", _subject(evaluation))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 4)), label="chance 0.500")
        for branch, prefix in _PREFIXES.items():
            if branch in curves:
                curve = curves[branch]
                axes.plot(
                    curve.false_positive_rate_P,
                    curve.true_positive_rate_P,
                    color=COLOURS[branch],
                    linewidth=2,
                    label=_label(evaluation, branch, f"{prefix}auc"),
                )
        axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        _finish_curves(axes, curves, ("auc", "align_auc"), evaluation, "AUC", "lower right")
        save(figure, path)


def draw_pr(curves: Mapping[str, Curves], evaluation: Evaluation, path: Path) -> None:
    """Draw the precision-recall curves of the same three over frames, as the steps that AP sums up."""
    test_set = evaluation.test_set
    share = test_set.anomalous_share
    with mpl.rc_context(STYLE):
        figure = new_figure(5.6, 5.6)
        axes = figure.add_subplot()
        title(axes, f"Precision and recall over frames, {evaluation.dataset}", _subject(evaluation))
        axes.axhline(
            share, color=FAINT, linewidth=1, linestyle=(0, (4, 4)), label=f"chance {share:.3f}", zorder=1
        )
        for branch, prefix in _PREFIXES.items():
            if branch in curves:
                curve = curves[branch]
                axes.step(
                    curve.recall_P[1:],
                    curve.precision_P[1:],
                    where="pre",
                    color=COLOURS[branch],
                    linewidth=2,
                    label=_label(evaluation, branch, f"{prefix}ap"),
                )
        axes.set(xlabel="recall", ylabel="precision", aspect="equal")
        figures = ("ap", "align_ap")
        highest = next((evaluation.metrics[name] for name in figures if name in evaluation.metrics), 0)
        place: Place = "upper right" if highest < 0.5 else "lower left"  # keep the legend off the curves
        _finish_curves(axes, curves, figures, evaluation, "AP", place)
        save(figure, path)


def _finish_curves(
    axes: Axes,
    curves: Mapping[str, Curves],
    figures: tuple[str, ...],
    evaluation: Evaluation,
    name: str,
    place: Place,
) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if not curves:
        reason = f"not defined:\n{evaluation.undefined[figures[0]]}"
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=11, color="#555555")
        return
    handles, labels = axes.get_legend_handles_labels()
    has_interval = any(figure in evaluation.intervals for figure in figures)
    heading = f"{name} [95 % interval]" if has_interval else name
    legend = axes.legend(
        handles[::-1], labels[::-1], loc=place, title=heading, alignment="left", frameon=True
    )
    legend.get_frame().set(alpha=0.9, facecolor="white", edgecolor="none")


def _subject(evaluation: Evaluation) -> str:
    test_set = evaluation.test_set
    frames = SNIPPET_FRAMES * len(test_set.positive_N)
    videos, share = len(test_set.videos), test_set.anomalous_share
    return f"{videos:,} test videos, {frames:,} frames, {share:.1%} of them anomalous"


def _label(evaluation: Evaluation, branch: str, name: str) -> str:
    value = f"{branch.replace('_', '-')} {evaluation.metrics[name]:.3f}"
    if name not in evaluation.intervals:
        return value
    low, high = evaluation.intervals[name]
    return f"{value} [{low:.3f}, {high:.3f}]"


def draw_confusion(evaluation: Evaluation, predicted_class_V: Sequence[str], path: Path) -> None:
    """Draw how many videos of each true class were taken for each class."""
    labels = evaluation.test_set.scores.info.labels
    count_KK = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for truth, predicted in zip(evaluation.true_class_V, predicted_class_V, strict=True):
        count_KK[labels.index(truth), labels.index(predicted)] += 1
    of_class_K1 = count_KK.sum(axis=1, keepdims=True)
    share_KK = count_KK / np.maximum(of_class_K1, 1)
    right, videos = int(np.trace(count_KK)), len(evaluation.true_class_V)
    side = 2.6 + 0.52 * len(labels)
    with mpl.rc_context(STYLE):
        figure = new_figure(side, side)
        axes = figure.add_subplot()
        title(
            axes,
            f"Class of each test video, {evaluation.dataset}",
            f"{right} of {videos} videos right; shade: share of the true class",
        )
        axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1.15, aspect="equal")
        for (row, column), count in np.ndenumerate(count_KK):
            colour = "white" if share_KK[row, column] > 0.55 else INK
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
        names = [class_name(evaluation.classes, label) for label in labels]
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), names)
        axes.set(xlabel="predicted class (alignment branch)", ylabel="true class")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(True)
        for line in np.arange(len(labels) - 1) + 0.5:
            axes.axhline(line, color="#EEEEEE", linewidth=0.8)
            axes.axvline(line, color="#EEEEEE", linewidth=0.8)
        save(figure, path)


def class_name(classes: Classes, label: str) -> str:
    """Name a class for people: its label as words, and its prompt where that says more: `B4 (riot)`."""
    words, prompt = _words(label), _words(classes.prompts[classes.index(label)])
    return words if words.lower() == prompt.lower() else f"{words} ({shortened(prompt, 28)})"


def _words(text: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ")


def shortened(text: str, length: int) -> str:
    """Cut the middle out of a text that is too long for its place."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"
