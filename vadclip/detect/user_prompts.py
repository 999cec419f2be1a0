"""Classes by words of the user's: what --prompt adds to a model, or rewords.

The learned prompt's vectors belong to positions and are shared by all classes, so any words fit between them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vadclip.clip.text import TextTower
from vadclip.errors import InputError
from vadclip.labels import Classes
from vadclip.model.prompts import HandCraftedPrompts
from vadclip.model.vadclip import VadClip

if TYPE_CHECKING:
    from vadclip.detect.model import Loaded


def with_prompts(loaded: "Loaded", prompts: Sequence[str], *, only: bool) -> tuple[VadClip, tuple[str, ...]]:
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
