"""Which epoch's weights become the model: figures over validation videos, and the rule that picks by them.

Validation knows video labels only, as in deployment: segments are never read here, even where they are known.

Legend of shape suffixes: T snippets of one video.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from vadclip.errors import InputError
from vadclip.frame_figures import top_mean

Rule = Literal["validation", "last"]
Criterion = Literal["val_video_auc", "val_video_ap"]


@dataclass(frozen=True)
class ValidationFigures:
    """How one epoch does on the validation videos."""

    val_video_auc: float
    """ROC AUC over videos of the top mean of the classification branch."""
    val_video_ap: float
    """Average precision over videos of the top mean of 1 - p(normal), the alignment branch."""
    val_loss: float
    """Summed training loss on the validation videos; breaks ties only."""


def criterion_for(dataset: str) -> Criterion:
    """Return the figure that picks the epoch: AP on XD-Violence, AUC elsewhere, as they are reported."""
    return "val_video_ap" if dataset == "xd_violence" else "val_video_auc"


def check_validation_videos(anomalous: Sequence[bool]) -> None:
    """Raise InputError unless there are normal and anomalous validation videos (vadclip.md section 6)."""
    found = sum(anomalous)
    if 0 < found < len(anomalous):
        return
    held = (
        "no video"
        if not anomalous
        else f"only {'anomalous' if found else 'normal'} videos ({len(anomalous)})"
    )
    raise InputError(
        f"train.selection validation: the val split holds {held}, and picking an epoch needs normal and "
        "anomalous ones; raise ingest.val_fraction, add videos, or set train.selection: last"
    )


def validation_figures(
    anomaly_scores: Sequence[npt.NDArray[np.floating[Any]]],
    normal_probabilities: Sequence[npt.NDArray[np.floating[Any]]],
    anomalous: Sequence[bool],
    loss: float,
) -> ValidationFigures:
    """Compute the figures of one epoch.

    `anomaly_scores` and `normal_probabilities` hold one array [T] per video: sigmoid of the classification
    branch and p(normal) of the alignment branch. Raises InputError if all videos are of one kind.
    """
    assert len(anomaly_scores) == len(normal_probabilities) == len(anomalous)
    check_validation_videos(anomalous)
    by_classification = [top_mean(scores_T) for scores_T in anomaly_scores]
    by_alignment = [top_mean(1.0 - normal_T) for normal_T in normal_probabilities]
    return ValidationFigures(
        val_video_auc=float(roc_auc_score(anomalous, by_classification)),
        val_video_ap=float(average_precision_score(anomalous, by_alignment)),
        val_loss=float(loss),
    )


class Selector:
    """Remembers the chosen epoch while epochs are offered in their order.

    `validation`: the highest criterion wins, at a tie the lower validation loss, then the earlier epoch.
    `last`: every epoch replaces the one before.
    """

    def __init__(self, rule: Rule, criterion: Criterion) -> None:
        assert rule in ("validation", "last"), rule
        self.rule = rule
        self.criterion = criterion
        self.epoch: int | None = None
        self.figures: ValidationFigures | None = None

    def offer(self, epoch: int, figures: ValidationFigures | None) -> bool:
        """Note an epoch's figures (None only under `last`) and say whether it is now the chosen one."""
        assert self.epoch is None or epoch > self.epoch, "epochs come in order"
        chosen = self.rule == "last" or self.figures is None or self._key(figures) > self._key(self.figures)
        if chosen:
            self.epoch, self.figures = epoch, figures
        return chosen

    def _key(self, figures: ValidationFigures | None) -> tuple[float, float]:
        assert figures is not None, "rule validation needs figures at every epoch"
        return getattr(figures, self.criterion), -figures.val_loss

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, in plain types."""
        return {"epoch": self.epoch, "figures": asdict(self.figures) if self.figures else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.epoch = state["epoch"]
        self.figures = ValidationFigures(**state["figures"]) if state["figures"] else None
