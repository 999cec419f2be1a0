"""The loss terms, by hand and against a loop."""

import math

import pytest
import torch

from vadclip.model.losses import topk_count, topk_mean, vadclip_loss
from vadclip.model.vadclip import VadClipOutput


def test_topk_count():
    assert [topk_count(length) for length in (1, 15, 16, 31, 32, 256)] == [1, 1, 2, 2, 3, 17]


def test_topk_mean_by_hand():
    # 16 valid of 20: k = 2, the two largest valid are 5 and 3; the 9s are padding. 3 valid: k = 1.
    values_T = torch.tensor([0.0] * 10 + [3.0, 0, 5.0, 1, 0, 0] + [9.0] * 4)
    values_BTK = torch.stack([values_T, values_T.flip(0) - 9])[..., None]
    values_BTK[1, 2] = -4.0
    means = topk_mean(values_BTK, torch.tensor([16, 3]))
    assert means.flatten().tolist() == [4.0, 0.0]
    # negative values only, one valid snippet
    assert topk_mean(torch.tensor([[[-2.0], [-1.0]]]), torch.tensor([1])).item() == -2.0


def _output(anomaly_BT, class_BTK, text_KD):
    return VadClipOutput(anomaly_BT, class_BTK, text_KD)


def test_terms_by_hand():
    # Two videos of 2 valid snippets (k = 1), padded to 3 with values that would win.
    logit = math.log(3)  # sigmoid 0.75
    output = _output(
        torch.tensor([[logit, -logit, 9.0], [-logit, -2 * logit, 9.0]]),
        torch.tensor(
            [
                [[0.0, 2.0, 1.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]],
                [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]],
            ]
        ),
        torch.tensor([[2.0, 0.0], [3.0, 4.0], [-5.0, 0.0]]),
    )
    # The first holds both anomalies, the second is normal.
    labels_BK = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    terms = vadclip_loss(output, labels_BK, torch.tensor([2, 2]), contrast_weight=0.1)
    # Scores 0.75 against 1 and 0.25 against 0: both -log 0.75.
    assert terms.classification.item() == pytest.approx(-math.log(0.75))
    # Best logits per class: (1, 2, 1) against (0, 1/2, 1/2) and (3, 0, 0) against (1, 0, 0).
    first = math.log(math.e + math.e**2 + math.e) - (2 + 1) / 2
    second = math.log(math.e**3 + 2) - 3
    assert terms.alignment.item() == pytest.approx((first + second) / 2)
    # |cos| of normal with (3, 4) is 0.6, with (-5, 0) is 1.
    assert terms.contrast.item() == pytest.approx(0.1 * (0.6 + 1) / 2)
    assert terms.total.item() == pytest.approx(
        terms.classification.item() + terms.alignment.item() + terms.contrast.item()
    )


def test_equals_a_loop_over_videos():
    generator = torch.Generator().manual_seed(0)
    B, T, K, D = 6, 70, 5, 8
    lengths = [70, 1, 15, 16, 33, 64]
    anomaly_BT = torch.randn(B, T, generator=generator)
    class_BTK = 5 * torch.randn(B, T, K, generator=generator)
    text_KD = torch.randn(K, D, generator=generator)
    labels_BK = (torch.rand(B, K, generator=generator) > 0.5).float()
    labels_BK[:, 1] = 1
    terms = vadclip_loss(_output(anomaly_BT, class_BTK, text_KD), labels_BK, torch.tensor(lengths), 0.5)

    bce = nce = 0.0
    for b, length in enumerate(lengths):
        k = length // 16 + 1
        score = sum(sorted(torch.sigmoid(anomaly_BT[b, :length]).tolist())[-k:]) / k
        bce -= math.log(score) if labels_BK[b, 0] == 0 else math.log(1 - score)
        means = [sum(sorted(class_BTK[b, :length, c].tolist())[-k:]) / k for c in range(K)]
        log_total = math.log(sum(math.exp(mean) for mean in means))
        share = (labels_BK[b] / labels_BK[b].sum()).tolist()
        nce -= sum(y * (mean - log_total) for y, mean in zip(share, means, strict=True))
    cosines = [float(text_KD[0] @ other / (text_KD[0].norm() * other.norm())) for other in text_KD[1:]]
    assert terms.classification.item() == pytest.approx(bce / B, rel=1e-5)
    assert terms.alignment.item() == pytest.approx(nce / B, rel=1e-5)
    assert terms.contrast.item() == pytest.approx(0.5 * sum(map(abs, cosines)) / (K - 1), rel=1e-5)


def test_gradients_reach_the_picked_snippets_only():
    anomaly_BT = torch.tensor([[0.3, 2.0, -1.0, 5.0]], requires_grad=True)
    class_BTK = torch.tensor([[[0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]], requires_grad=True)
    output = _output(anomaly_BT, class_BTK, torch.eye(2))
    vadclip_loss(output, torch.tensor([[0.0, 1.0]]), torch.tensor([3]), 1.0).total.backward()
    assert (anomaly_BT.grad[0] != 0).tolist() == [False, True, False, False]
    assert class_BTK.grad[0].nonzero().tolist() == [[0, 1], [1, 0]]


def test_float32_under_autocast():
    # bfloat16 knows no 0.999: binary cross entropy on it would be coarse or refused.
    output = _output(torch.full((1, 1), 6.9), torch.zeros(1, 1, 2), torch.eye(2))
    with torch.autocast("cpu", torch.bfloat16):
        terms = vadclip_loss(output, torch.tensor([[0.0, 1.0]]), torch.tensor([1]), 1.0)
    assert terms.total.dtype == torch.float32
    assert terms.classification.item() == pytest.approx(-math.log(1 / (1 + math.exp(-6.9))), rel=1e-3)
