"""Scores of videos without labels, by the model's own classes and by prompts of the user's.

Anomaly scores are the model's own whatever is prompted: its threshold was found with its own classes. Prompts
change class probabilities only: the learned prompt's vectors belong to positions and are shared by all
classes, so any words fit between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vadclip.clip.text import TextTower
from vadclip.detect.model import Loaded
from vadclip.errors import InputError
from vadclip.labels import Classes
from vadclip.manifest import Video
from vadclip.model.inference import plain_texts
from vadclip.model.prompts import HandCraftedPrompts
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
        return cls(loaded, *_with_prompts(loaded, prompts, only=only))

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


def _with_prompts(loaded: Loaded, prompts: Sequence[str], *, only: bool) -> tuple[VadClip, tuple[str, ...]]:
    """Return the model with `prompts`, each `TEXT` or `LABEL=TEXT`, and their labels.

    `only` keeps normal and the prompted classes. Raises InputError if the model has no alignment branch, or
    the text tower cannot take the words.
    """
    if not prompts:
        if only:
            raise InputError("--only-prompts leaves no class but normal: name one by --prompt")
        return loaded.model, ()
    if loaded.model.alignment is None:
        raise InputError(
            "--prompt: the model has no alignment branch (model.branches: classification), so it knows no "
            "classes by words"
        )
    given = dict(_split(prompt) for prompt in prompts)
    own = dict(zip(loaded.info.classes.labels, loaded.info.classes.prompts, strict=True))
    kept = {label: text for label, text in own.items() if not only or label == loaded.info.classes.normal}
    texts = kept | given
    classes = Classes(tuple(texts), tuple(texts.values()))
    return _rebuilt(loaded.model, classes, loaded.clip.text, given), tuple(given)


def _split(prompt: str) -> tuple[str, str]:
    """Return (label, text); a text without a label is its own."""
    label, separator, text = prompt.partition("=")
    if not separator:
        label = text = prompt
    if not label.strip() or not text.strip():
        raise InputError(f"--prompt {prompt!r}: write TEXT or LABEL=TEXT")
    return label.strip(), text.strip()


def _rebuilt(model: VadClip, classes: Classes, text: TextTower, given: dict[str, str]) -> VadClip:
    """Build the model anew over other classes, with the same trained parameters."""
    with torch.random.fork_rng(devices=[]):  # the initialisation is replaced
        rebuilt = VadClip(model.config, classes, text)
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.alignment is not None
    if isinstance(rebuilt.alignment.prompts, HandCraftedPrompts):  # the user's text stands as it is
        for label, words in given.items():
            rebuilt.alignment.prompts.text_KD[classes.index(label)] = text.encode([words])[0].cpu()
    return rebuilt.to(next(model.parameters()).device).eval()
