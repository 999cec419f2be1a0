"""Scores of videos without labels, by the model's own classes and by prompts of the user's.

Anomaly scores are the model's own whatever is prompted: its threshold was found with its own classes. Prompts
change class probabilities only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vadclip.detect.model import Loaded
from vadclip.detect.user_prompts import with_prompts
from vadclip.manifest import Video
from vadclip.model.inference import plain_texts
from vadclip.model.vadclip import VadClip
from vadclip.score.scores import ScoreInfo, Scores
from vadclip.score.scoring import Features, score_videos


@dataclass(frozen=True, eq=False)
class Judge:
    """A model and its prompts, ready to score."""

    loaded: Loaded
    model: VadClip
    """Of the class probabilities: the loaded one, or one with prompted classes."""
    prompt_labels: tuple[str, ...]

    @classmethod
    def of(cls, loaded: Loaded, prompts: Sequence[str], *, only: bool) -> "Judge":
        """Read prompts as --prompt takes them; raises InputError for what the model cannot take."""
        return cls(loaded, *with_prompts(loaded, prompts, only=only))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the class probabilities, normal first."""
        return self.model.classes.labels

    def score(
        self,
        features: Features,
        videos: Sequence[Video],
        excluded: Mapping[str, str] | None = None,
        lost_frames: Mapping[str, int] | None = None,
    ) -> Scores:
        """Score videos that have features; what is known of others and of lost frames goes along."""
        info = self.loaded.info

        def by(model: VadClip) -> Scores:
            return score_videos(
                model,
                features,
                videos,
                plain_text_KD=plain_texts(self.loaded.clip.text, model.classes),
                crop=self.loaded.recipe.crop,
                precision=info.score_precision,
                info=ScoreInfo(
                    labels=model.classes.labels,
                    test_selected=info.test_selected,
                    excluded=excluded or {},
                    lost_frames=lost_frames or {},
                    normal_peaks=info.normal_peaks,
                    selection=info.selection,
                ),
            )

        scores = by(self.model)
        if self.model is self.loaded.model or self.model.classification is not None:  # it knows no classes
            return scores
        return replace(scores, anomaly_score_N=by(self.loaded.model).main_score_N)
