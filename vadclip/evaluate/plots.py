"""Pictures of an evaluation: ROC, precision-recall and confusion; timelines.py has the score timelines.

One look for all: Okabe-Ito colours, which colour-blind readers can tell apart, and the same colour for the
same branch everywhere. Drawn without pyplot, so no global state is touched; equal input gives equal bytes.

Legend of shape suffixes: K classes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vadclip.evaluate.curves import Curves, Floats
from vadclip.evaluate.metrics import Evaluation
from vadclip.files import atomic_path
from vadclip.labels import Classes
from vadclip.manifest import SNIPPET_FRAMES

COLOURS = {"classification": "#0072B2", "alignment": "#D55E00", "zero_shot": "#009E73"}
# Of the figures' names; the last is drawn on top.
_PREFIXES = {"zero_shot": "zero_shot_", "alignment": "align_", "classification": ""}
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
_CHANCE: Any = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 4))}
DPI = 110
Place = Literal["lower left", "lower right", "upper right"]


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of so many inches, then write it as a PNG, atomically.

    Without the metadata that would tell one machine's pictures from another's.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
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
    with picture(path, 5.6, 5.6) as figure:
        axes = figure.add_subplot()
        title(axes, f"ROC over frames, {evaluation.dataset}", _subject(evaluation))
        axes.plot([0, 1], [0, 1], label="chance 0.500", **_CHANCE)
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        points = {
            branch: (curve.false_positive_rate_P, curve.true_positive_rate_P)
            for branch, curve in curves.items()
        }
        _draw_curves(axes, points, "auc", evaluation, "lower right")


def draw_pr(curves: Mapping[str, Curves], evaluation: Evaluation, path: Path) -> None:
    """Draw the precision-recall curves of the same three over frames, as the steps that AP sums up."""
    share = evaluation.test_set.anomalous_share
    with picture(path, 5.6, 5.6) as figure:
        axes = figure.add_subplot()
        title(axes, f"Precision and recall over frames, {evaluation.dataset}", _subject(evaluation))
        axes.axhline(share, label=f"chance {share:.3f}", zorder=1, **_CHANCE)
        axes.set(xlabel="recall", ylabel="precision")
        points = {branch: (curve.recall_P[1:], curve.precision_P[1:]) for branch, curve in curves.items()}
        highest = next((evaluation.metrics[n] for n in ("ap", "align_ap") if n in evaluation.metrics), 0)
        place: Place = "upper right" if highest < 0.5 else "lower left"  # keep the legend off the curves
        _draw_curves(axes, points, "ap", evaluation, place, drawstyle="steps-pre")


def _draw_curves(
    axes: Axes,
    points: Mapping[str, tuple[Floats, Floats]],
    name: str,
    evaluation: Evaluation,
    place: Place,
    **style: Any,
) -> None:
    """Draw each branch's curve, labelled with its figure `name`, or say why there is none."""
    axes.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if not points:
        reason = f"not defined:\n{evaluation.undefined[name]}"
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=11, color="#555555")
        return
    for branch, prefix in _PREFIXES.items():
        if branch in points:
            label = _label(evaluation, branch, prefix + name)
            axes.plot(*points[branch], color=COLOURS[branch], linewidth=2, label=label, **style)
    handles, labels = axes.get_legend_handles_labels()
    has_interval = any(figure in evaluation.intervals for figure in (name, f"align_{name}"))
    heading = f"{name.upper()} [95 % interval]" if has_interval else name.upper()
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
    with picture(path, side, side) as figure:
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
