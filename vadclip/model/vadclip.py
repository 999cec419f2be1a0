"""VadCLIP: anomaly score and class of every snippet of a video (Wu et al., AAAI 2024; vadclip.md section 2).

Two branches over one temporal encoding: a classifier (is this snippet anomalous?) and an alignment of the
snippet with the class prompts (which anomaly?), whose text features are shifted by what the classifier looks
at. Deviations from the official code: none in value. Attention windows that do not divide T work (there:
NaN), the text tower stops at the last end-of-text, class text features may be computed once and passed in.

What the paper's ablations leave out (tables 5 to 7) is not built: no parameter exists that nothing reads.

Legend of shape suffixes: B videos, T snippets, D width (the CLIP's joint dimension), K classes, 0 is normal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vadclip.clip.text import TextTower
from vadclip.errors import InputError
from vadclip.labels import Classes
from vadclip.model.prompts import HandCraftedPrompts, LearnedPrompts
from vadclip.model.temporal import Mlp, TemporalEncoder, TemporalKind

TEMPERATURE = 0.07

Branches = Literal["both", "classification", "alignment"]
PromptKind = Literal["learned", "hand_crafted"]
VisualPromptKind = Literal["anomaly_focus", "average_frame", "none"]


@dataclass(frozen=True)
class VadClipConfig:
    """Sizes and parts of a VadCLIP. Official: 512, 256, 2 layers of window 8 (UCF-Crime) or 1 of 64 (XD), 1
    head, and the parts that are defaults here.

    Raises InputError for sizes that do not go together.
    """

    width: int
    """D, the CLIP's joint dimension."""
    length: int
    """T, snippets of a sequence."""
    layers: int
    window: int
    """Snippets of a local attention window."""
    heads: int
    prompt_prefix: int
    prompt_suffix: int
    temporal: TemporalKind = "local_gcn"
    branches: Branches = "both"
    prompt: PromptKind = "learned"
    visual_prompt: VisualPromptKind = "anomaly_focus"

    def __post_init__(self) -> None:
        if self.width % 2 or self.width % self.heads:
            raise InputError(
                f"model.heads {self.heads}: the CLIP's joint dimension {self.width} must be even and "
                "divisible by it; take another number of heads, or another CLIP"
            )
        # config.ModelParams says it to the user.
        assert self.branches != "alignment" or self.visual_prompt != "anomaly_focus"


@dataclass(frozen=True)
class VadClipOutput:
    """What a forward pass gives; always float32. A branch that the model lacks gives None."""

    anomaly_logits_BT: Tensor | None
    """Classification branch; its sigmoid is the anomaly score."""
    class_logits_BTK: Tensor | None
    """Alignment branch: cosine over the temperature; its softmax over K is the class probability."""
    learned_text_KD: Tensor | None
    """Class text features before the visual prompt, not normalised; None where nothing of them is learned."""


class ClassificationBranch(nn.Module):
    """v_BTD -> anomaly logits (section 2.6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = Mlp(width)
        self.head = nn.Linear(width, 1)

    def forward(self, v_BTD: Tensor) -> Tensor:
        """Return anomaly_BT, float32."""
        seen_BTD = v_BTD + self.mlp(v_BTD)
        with _float32(v_BTD):
            anomaly_BT: Tensor = self.head(seen_BTD.float()).squeeze(-1)
        return anomaly_BT


class VisualPrompt(nn.Module):
    """Class texts shifted by what a video shows (section 2.8): t + V, then t + MLP(t), V = L2norm(sum w v).

    `anomaly_focus` weighs snippets by their raw anomaly logits, over all of T, padding included, as the
    official code does. `average_frame` (the paper's comparison) weighs the valid ones equally.
    """

    def __init__(self, kind: VisualPromptKind, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.mlp = Mlp(width)

    def forward(self, text_KD: Tensor, v_BTD: Tensor, lengths_B: Tensor, anomaly_BT: Tensor | None) -> Tensor:
        """Return text_BKD; v_BTD is float32."""
        with _float32(v_BTD):
            if self.kind == "average_frame":
                position_T = torch.arange(v_BTD.shape[1], device=v_BTD.device)
                weight_BT = (position_T < lengths_B[:, None]).float()
            else:
                assert anomaly_BT is not None, "anomaly_focus goes with the classification branch"
                weight_BT = anomaly_BT
            prompt_BD = F.normalize(torch.einsum("bt,btd->bd", weight_BT, v_BTD), dim=-1)
            text_BKD = text_KD + prompt_BD[:, None]
        shifted_BKD: Tensor = text_BKD + self.mlp(text_BKD)
        return shifted_BKD


class AlignmentBranch(nn.Module):
    """v_BTD against the class texts -> class logits (sections 2.7 to 2.9).

    Without a visual prompt the texts are compared as they are.
    """

    def __init__(self, config: VadClipConfig, classes: Classes, text: TextTower) -> None:
        super().__init__()
        self.prompts: LearnedPrompts | HandCraftedPrompts
        if config.prompt == "learned":
            prefix, suffix = config.prompt_prefix, config.prompt_suffix
            self.prompts = LearnedPrompts(text, classes.prompts, prefix, suffix)
        else:
            self.prompts = HandCraftedPrompts(text, classes.prompts)
        kind = config.visual_prompt
        self.visual_prompt = None if kind == "none" else VisualPrompt(kind, config.width)

    def forward(self, v_BTD: Tensor, lengths_B: Tensor, text_KD: Tensor, anomaly_BT: Tensor | None) -> Tensor:
        """Return class_BTK, float32."""
        v_BTD, text_BKD = v_BTD.float(), text_KD[None]
        if self.visual_prompt is not None:
            text_BKD = self.visual_prompt(text_KD, v_BTD, lengths_B, anomaly_BT)
        with _float32(v_BTD):
            unit_BTD, unit_BKD = F.normalize(v_BTD, dim=-1), F.normalize(text_BKD.float(), dim=-1)
            return torch.einsum("btd,bkd->btk", unit_BTD, unit_BKD) / TEMPERATURE


def _float32(near: Tensor) -> torch.autocast:
    """What is compared, or summed over time, stays float32 under autocast."""
    return torch.autocast(near.device.type, enabled=False)


class VadClip(nn.Module):
    """VadCLIP over precomputed CLIP features, for the classes and text tower of one CLIP.

    The frozen text tower moves with the model (`.to`, `.cuda`) but is no registered submodule: it stands
    neither in `state_dict()` nor in `parameters()`, so files and optimisers hold trained parameters only.
    Raises InputError for class prompts that the text tower cannot take.
    """

    def __init__(self, config: VadClipConfig, classes: Classes, text: TextTower) -> None:
        super().__init__()
        assert config.width == text.embed_dim, (
            f"width {config.width}, CLIP's joint dimension {text.embed_dim}"
        )
        self.config, self.classes = config, classes
        self._text = (text,)  # in a tuple, where nn.Module does not look for submodules
        self.temporal = TemporalEncoder(
            kind=config.temporal,
            width=config.width,
            length=config.length,
            layers=config.layers,
            window=config.window,
            heads=config.heads,
        )
        self.classification = None if config.branches == "alignment" else ClassificationBranch(config.width)
        self.alignment = (
            None if config.branches == "classification" else AlignmentBranch(config, classes, text)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Take the text tower along wherever nn.Module moves this one."""
        for apply in (self._text[0]._apply, super()._apply):
            apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def text_features(self) -> Tensor | None:
        """Return text_KD of the classes, None without an alignment branch; compute it once at evaluation."""
        return None if self.alignment is None else self.alignment.prompts(self._text[0])

    def forward(self, visual_BTD: Tensor, lengths_B: Tensor, text_KD: Tensor | None = None) -> VadClipOutput:
        """Score sequences of T = config.length snippets, of which the first lengths_B (1..T) are valid.

        `visual_BTD` is float32, raw CLIP features, zero where padded; `text_KD` is what `text_features` gave,
        None to compute it here. Reads no value back to the host.
        """
        assert visual_BTD.shape[1:] == (self.config.length, self.config.width), tuple(visual_BTD.shape)
        v_BTD = self.temporal(visual_BTD, lengths_B)
        anomaly_BT = None if self.classification is None else self.classification(v_BTD)
        text_KD = self.text_features() if text_KD is None else text_KD
        if self.alignment is None or text_KD is None:
            return VadClipOutput(anomaly_BT, None, None)
        text_KD = text_KD.float()
        class_BTK = self.alignment(v_BTD, lengths_B, text_KD, anomaly_BT)
        return VadClipOutput(anomaly_BT, class_BTK, text_KD if self.config.prompt == "learned" else None)
