"""Score timelines: what the branches say over the seconds of one video, its truth, and what it showed.

Legend of shape suffixes: T snippets of the video, S thumbnails.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from vadclip.errors import VadclipError
from vadclip.evaluate.metrics import Evaluation
from vadclip.evaluate.plots import COLOURS, TRUTH_COLOUR, class_name, picture, shortened, title
from vadclip.manifest import SNIPPET_FRAMES, Video, locate
from vadclip.video.frame_reader import read_frames
from vadclip.video.times import guessed_edges, snippet_edges

THUMBNAILS = 9
_WIDTH = 10.0  # inches
_PLOT_WIDTH = 9.3  # of the axes, about


@dataclass(frozen=True)
class Choice:
    """A video to draw."""

    place: int
    """Its position in the test set."""
    label: str
    """The class it was chosen for."""
    standing: str
    """Where it stands in that class: `best`, `worst`, `2nd best`, ..., or `only one`."""
    goodness: float
    """What it was ranked by, 0 to 1: frame AUC within the video where it has both kinds of frames; else the
    mean score of an anomalous one, 1 - the highest score of a normal one."""

    def file_name(self, number: int) -> str:
        """Name its picture by class and standing: `dvc plots diff` sets equal names side by side."""
        return re.sub(r"[^\w.-]+", "_", f"{number:02d}_{self.label}_{self.standing}") + ".png"


def choose(evaluation: Evaluation, count: int) -> list[Choice]:
    """Pick up to `count` test videos, good and bad ones alike; the same for the same scores.

    Classes take turns, the normal one second; each gives its best, then its worst, then its second best and
    so on, every other class beginning with its worst. A video counts for its first label.
    """
    videos = evaluation.test_set.videos
    goodness = [_goodness(evaluation, place) for place in range(len(videos))]
    labels = evaluation.classes.labels
    queues: list[list[Choice]] = []
    for label in (*labels[1:2], labels[0], *labels[2:]):
        places = [place for place, video in enumerate(videos) if video.labels[0] == label]
        ranked = sorted(places, key=lambda place: (-goodness[place], videos[place].video_id))
        if ranked:
            queues.append(_from_both_ends(label, ranked, goodness, worst_first=len(queues) % 2 == 1))
    chosen: list[Choice] = []
    for turn in range(max(map(len, queues), default=0)):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:count]


def _from_both_ends(
    label: str, ranked: Sequence[int], goodness: Sequence[float], *, worst_first: bool
) -> list[Choice]:
    """Order a class's videos, best first, as they take their turns."""
    choices = []
    for turn in range(len(ranked)):
        from_end, back = divmod(turn, 2)
        worst = (back == 1) != worst_first
        place = ranked[-1 - from_end] if worst else ranked[from_end]
        standing = f"{_ordinal(from_end)}{'worst' if worst else 'best'}" if len(ranked) > 1 else "only one"
        choices.append(Choice(place, label, standing, goodness[place]))
    return choices


def _ordinal(index: int) -> str:
    if index == 0:
        return ""
    number = index + 1
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending} "


def _goodness(evaluation: Evaluation, place: int) -> float:
    test_set = evaluation.test_set
    if (auc := test_set.auc_within(place)) is not None:
        return auc
    rows = test_set.scores.rows(place)
    score_T = test_set.scores.main_score_N[rows]
    return float(score_T.mean() if test_set.positive_N[rows].any() else 1 - score_T.max())


def thumbnails(video: Video, root: str, decoder: str, frames: int) -> list[npt.NDArray[np.uint8]] | None:
    """Read the middle frame of each of THUMBNAILS equal parts of the first `frames`; None if unreadable.

    A picture less is no reason to lose an evaluation, so a file that went away since extraction is no error.
    """
    middles_S = ((np.arange(THUMBNAILS) + 0.5) * frames / THUMBNAILS).astype(np.int64)
    try:
        path = locate(video.uri, root)
        batches = list(read_frames(path, middles_S.tolist(), decoder=decoder, intact=video.intact))
    except (VadclipError, OSError):
        return None
    pictures = [shown for batch in batches for shown in batch]
    return pictures if len(pictures) == THUMBNAILS else None


def time_axis(video: Video, root: str | None, snippets: int) -> tuple[npt.NDArray[np.float64], str]:
    """Return where on a timeline each snippet begins and the last one ends, shape [T + 1], and the unit.

    Seconds of presentation where the video is found under `root`; frame / fps where not, or where it does not
    tell them, and the unit says so; frames where no rate is known either.
    """
    edges: npt.NDArray[np.float64] | None = None
    note: str | None = None
    if video.fps > 0:
        edges, note = guessed_edges(video.fps, snippets)
    if root is not None:
        with suppress(VadclipError, OSError):
            edges, note = snippet_edges(locate(video.uri, root), video, snippets)
    if edges is None:  # imported features
        return np.arange(snippets + 1.0) * SNIPPET_FRAMES, "frame"
    said = f", frame / {video.fps:g}" if note and video.fps > 0 else ""
    return (edges / 60, f"time (min{said})") if edges[-1] > 30 * 60 else (edges, f"time (s{said})")


def draw_timeline(
    evaluation: Evaluation,
    choice: Choice,
    pictures: Sequence[npt.NDArray[np.uint8]] | None,
    axis: tuple[npt.NDArray[np.float64], str],
    path: Path,
) -> None:
    """Draw one video: thumbnails (where there are any) above the branches' scores, the true spans shaded.

    `axis` is `time_axis`'s.
    """
    test_set = evaluation.test_set
    video, rows = test_set.videos[choice.place], test_set.scores.rows(choice.place)
    edges, unit = axis
    end = edges[-1]

    def at(frames: Sequence[float]) -> npt.NDArray[np.float64]:
        return np.interp(frames, np.arange(len(edges)) * SNIPPET_FRAMES, edges)

    strip = _PLOT_WIDTH / THUMBNAILS * pictures[0].shape[0] / pictures[0].shape[1] if pictures else 0.0
    with picture(path, _WIDTH, 2.8 + strip) as figure:
        if pictures:
            top, axes = figure.subplots(2, 1, sharex=True, height_ratios=[strip, 2.05])
            parts = np.linspace(0, (len(edges) - 1) * SNIPPET_FRAMES, len(pictures) + 1)
            _draw_strip(top, pictures, at(parts.tolist()).tolist())
        else:
            top = axes = figure.add_subplot()
        shown = " + ".join(class_name(evaluation.classes, label) for label in video.labels)
        title(top, f"{shortened(video.video_id, 80)}: {shown}", _facts(evaluation, choice))
        for first, last in video.frame_spans:
            axes.axvspan(*at([first, last]), color=TRUTH_COLOUR, alpha=0.55, linewidth=0, zorder=0)
        branches = test_set.scores.branches
        for branch, score_N in reversed(branches.items()):  # the main one on top
            width = 2.2 if branch == next(iter(branches)) else 1.4
            axes.stairs(
                score_N[rows], edges, baseline=None, color=COLOURS[branch], linewidth=width, label=branch
            )
        axes.set(xlim=(0, end), ylim=(-0.03, 1.03), ylabel="anomaly score")
        axes.set_xlabel(unit, loc="left")
        axes.set_yticks([0, 0.5, 1])
        axes.grid(visible=False, axis="x")
        handles: list[Any] = axes.get_legend_handles_labels()[0][::-1]
        names = [f"{branch} branch" for branch in branches]
        if video.frame_spans:
            handles.append(Patch(color=TRUTH_COLOUR, alpha=0.55, linewidth=0))
            names.append("truly anomalous")
        place = (1.0, -0.09)  # on the line of the axis label, which stands at the left
        axes.legend(handles, names, loc="upper right", bbox_to_anchor=place, ncols=len(names), fontsize=9)


def _draw_strip(axes: Axes, pictures: Sequence[npt.NDArray[np.uint8]], edges: Sequence[float]) -> None:
    """Lay the thumbnails side by side, each over the part of the time axis whose middle it shows."""
    for shown, (left, right) in zip(pictures, pairwise(edges), strict=True):
        axes.imshow(shown, extent=(left, right, 0, 1), aspect="auto", zorder=1)
    for edge in edges[1:-1]:
        axes.axvline(edge, color="white", linewidth=2, zorder=2)
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1), yticks=[])
    axes.tick_params(length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _facts(evaluation: Evaluation, choice: Choice) -> str:
    positive_T = evaluation.test_set.positive_N[evaluation.test_set.scores.rows(choice.place)]
    if not positive_T.any():
        measured = f"highest score {1 - choice.goodness:.2f}"
    elif (positive_T < SNIPPET_FRAMES).any():
        measured = f"frame AUC within it {choice.goodness:.2f}"
    else:
        measured = f"mean score {choice.goodness:.2f}"
    of_class = class_name(evaluation.classes, choice.label)
    facts = f"{measured}, {choice.standing} of {of_class}"
    if evaluation.predicted_class_V is None:
        return facts
    taken_for = class_name(evaluation.classes, evaluation.predicted_class_V[choice.place])
    return f"{facts}; class predicted: {taken_for}"
