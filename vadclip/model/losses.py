"""VadCLIP's training loss: two multiple-instance terms and a push between class texts (vadclip.md section 3).

A video's label says what occurs, not when: each branch is judged by the mean of its k best snippets. Official
src/ucf_train.py and src/xd_train.py loop over the batch; here one sort with masks gives the same numbers.

Legend of shape suffixes: B videos, T snippets, K classes (0 is normal), D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vadclip.model.vadclip import VadClipOutput

SNIPPETS_PER_PICK = 16


@dataclass(frozen=True)
class LossTerms:
    """The three terms, scalars, float32; None for what the model lacks."""

    classification: Tensor | None
    """Binary cross entropy of the mean of the top-k anomaly scores."""
    alignment: Tensor | None
    """Cross entropy of the mean of the top-k class logits."""
    contrast: Tensor | None
    """Similarity of the normal text to the anomalies', weight included; None where no text is learned."""

    @property
    def there(self) -> dict[str, Tensor]:
        """The terms that the model has, by name."""
        terms = {name: getattr(self, name) for name in ("classification", "alignment", "contrast")}
        return {name: term for name, term in terms.items() if term is not None}

    @property
    def total(self) -> Tensor:
        """What training minimises: the sum of the terms that are there."""
        first, *rest = self.there.values()
        return sum(rest, first)


def topk_count(length: int) -> int:
    """Return k, how many of a video's `length` snippets speak for it."""
    return length // SNIPPETS_PER_PICK + 1


def topk_mean(values_BTK: Tensor, lengths_B: Tensor) -> Tensor:
    """Return [B, K], the mean of the `topk_count(length)` largest of the first `length` values over time."""
    T = values_BTK.shape[1]
    valid_BT1 = (torch.arange(T, device=values_BTK.device) < lengths_B[:, None])[..., None]
    lowest = torch.finfo(values_BTK.dtype).min
    best_BJK = values_BTK.masked_fill(~valid_BT1, lowest).topk(min(topk_count(T), T), dim=1).values
    k_B1 = lengths_B[:, None] // SNIPPETS_PER_PICK + 1
    picked_BJ1 = (torch.arange(best_BJK.shape[1], device=values_BTK.device) < k_B1)[..., None]
    return torch.where(picked_BJ1, best_BJK, 0.0).sum(dim=1) / k_B1


def vadclip_loss(
    output: VadClipOutput, labels_BK: Tensor, lengths_B: Tensor, contrast_weight: float
) -> LossTerms:
    """Compute the loss terms of one batch, in float32 whatever autocast says.

    `labels_BK` is multi-hot, one class a video at least; `lengths_B` is 1..T. Nothing is read to the host.
    A model with one branch is trained by that branch's term, with the contrast if its text is learned.
    """
    with torch.autocast(labels_BK.device.type, enabled=False):
        labels_BK = labels_BK.float()
        anomaly_BT, class_BTK = output.anomaly_logits_BT, output.class_logits_BTK
        text_KD = output.learned_text_KD
        return LossTerms(
            None if anomaly_BT is None else _classification(anomaly_BT, labels_BK, lengths_B),
            None if class_BTK is None else _alignment(class_BTK, labels_BK, lengths_B),
            None if text_KD is None else contrast_weight * _contrast(text_KD),
        )


def _classification(anomaly_BT: Tensor, labels_BK: Tensor, lengths_B: Tensor) -> Tensor:
    score_B = topk_mean(anomaly_BT.float().sigmoid()[..., None], lengths_B).squeeze(-1)
    # torch's binary cross entropy fails on NaN (on a GPU it leaves the process unusable), so NaN goes
    # around it: training wants to see it in the loss, to stop and say where.
    around_B = torch.where(score_B.isnan(), score_B, 0.0)
    return F.binary_cross_entropy(score_B.nan_to_num(), 1 - labels_BK[:, 0]) + around_B.sum()


def _alignment(class_BTK: Tensor, labels_BK: Tensor, lengths_B: Tensor) -> Tensor:
    logits_BK = topk_mean(class_BTK.float(), lengths_B)
    share_BK = labels_BK / labels_BK.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits_BK, share_BK)


def _contrast(text_KD: Tensor) -> Tensor:
    text_KD = F.normalize(text_KD.float(), dim=-1)
    return (text_KD[1:] @ text_KD[0]).abs().mean()
