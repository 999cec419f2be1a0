"""The paper's ablations (tables 5 to 7): each is another function, it trains, it reads all it has."""

import zlib
from dataclasses import replace

import pytest
import torch
from clip_helpers import random_state, tiny_config, write_clip
from torch.nn import functional as F

from vadclip.clip.frozen import load_clip
from vadclip.config import ModelParams
from vadclip.labels import Classes
from vadclip.model.losses import vadclip_loss
from vadclip.model.prompts import TEMPLATE
from vadclip.model.temporal import TemporalEncoder
from vadclip.model.vadclip import VadClip, VadClipConfig

CLASSES = Classes(labels=("N", "F", "C"), prompts=("normal", "fighting", "car accident"))
OFFICIAL = VadClipConfig(64, length=12, layers=1, window=4, heads=2, prompt_prefix=3, prompt_suffix=2)
KINDS = ("none", "global", "local", "gcn", "local_global", "global_gcn", "local_gcn")
VARIANTS = {
    **{f"temporal {kind}": replace(OFFICIAL, temporal=kind) for kind in KINDS},
    "classification": replace(OFFICIAL, branches="classification"),
    "alignment, average frame": replace(OFFICIAL, branches="alignment", visual_prompt="average_frame"),
    "alignment, no visual prompt": replace(OFFICIAL, branches="alignment", visual_prompt="none"),
    "hand-crafted": replace(OFFICIAL, prompt="hand_crafted"),
    "average frame": replace(OFFICIAL, visual_prompt="average_frame"),
    "no visual prompt": replace(OFFICIAL, visual_prompt="none"),
    "alignment, hand-crafted, no visual prompt": replace(
        OFFICIAL, branches="alignment", prompt="hand_crafted", visual_prompt="none"
    ),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    params = write_clip(tmp_path_factory.mktemp("clip"), tiny_config(), random_state(tiny_config(), seed=1))
    return load_clip(params, device="cpu").text


def _model(config, text):
    """A model whose parameters depend on their names alone, so that variants share those they share."""
    model = VadClip(config, CLASSES, text)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            is_scale = ".norm" in name and name.endswith("weight")
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + is_scale)
    return model


def _batch():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 1, 64, generator=generator)
    visual_BTD = base + 0.7 * torch.randn(6, 12, 64, generator=generator)
    lengths_B = torch.tensor([12, 7, 12, 3, 12, 1])
    visual_BTD *= (torch.arange(12) < lengths_B[:, None])[..., None]
    return visual_BTD, lengths_B, torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]


def _loss(model):
    visual_BTD, lengths_B, labels_BK = _batch()
    return vadclip_loss(model(visual_BTD, lengths_B), labels_BK, lengths_B, 0.1)


def test_the_default_is_the_official_model():
    assert VARIANTS["temporal local_gcn"] == OFFICIAL
    assert (OFFICIAL.temporal, OFFICIAL.branches) == ("local_gcn", "both")
    assert (OFFICIAL.prompt, OFFICIAL.visual_prompt) == ("learned", "anomaly_focus")


@variants
def test_gradients_reach_every_parameter_and_nothing_else(config, text):
    model = _model(config, text)
    _loss(model).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is read by nothing"
        assert float(parameter.grad.abs().max()) > 1e-9, name
    assert model.state_dict().keys() == {name for name, _ in model.named_parameters()}
    assert all(weight.grad is None for weight in text.parameters())


@variants
def test_it_trains(config, text):
    model = _model(config, text)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = _loss(model).total
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_each_is_another_function(text):
    """Parameters of one name have one value in all variants, so what differs is the function."""
    visual_BTD, lengths_B, _ = _batch()
    anomaly, classes = {}, {}
    with torch.no_grad():
        for name, config in VARIANTS.items():
            output = _model(config, text)(visual_BTD, lengths_B)
            if output.anomaly_logits_BT is not None:
                anomaly[name] = output.anomaly_logits_BT
            if output.class_logits_BTK is not None:
                classes[name] = output.class_logits_BTK
    kinds = [f"temporal {kind}" for kind in KINDS]
    for found, names in ((anomaly, kinds), (classes, [name for name in VARIANTS if name in classes])):
        for i, one in enumerate(names):
            for other in names[:i]:
                # What reads the branches alone cannot differ by the other branch.
                same = {one, other} in (
                    {"alignment, average frame", "average frame"},
                    {"alignment, no visual prompt", "no visual prompt"},
                )
                assert torch.allclose(found[one], found[other], atol=1e-5) == same, (one, other)
    # Dropping what comes after the classification branch leaves it as it is.
    for name in ("classification", "hand-crafted", "average frame", "no visual prompt"):
        assert torch.allclose(anomaly[name], anomaly["temporal local_gcn"], atol=1e-6), name


# Which snippets one snippet's change is seen in: T 12, windows 0-3, 4-7, 8-11, the change at 5, all valid.
WINDOW, EVERYWHERE = set(range(4, 8)), set(range(12))
REACH = dict.fromkeys(KINDS, EVERYWHERE) | {"none": {5}, "local": WINDOW}


@pytest.mark.parametrize("kind", KINDS)
def test_temporal_kinds_see_as_far_as_they_should(kind):
    torch.manual_seed(0)
    encoder = TemporalEncoder(kind=kind, width=8, length=12, layers=2, window=4, heads=1)
    x_BTD = torch.randn(1, 12, 8)
    changed = x_BTD.clone()
    changed[0, 5] = 3 * torch.randn(8)
    lengths_B = torch.tensor([12])
    moved_T = (encoder(changed, lengths_B) - encoder(x_BTD, lengths_B)).abs().amax(dim=(0, 2)) > 1e-7
    assert set(moved_T.nonzero().flatten().tolist()) == REACH[kind]
    windows = [block.attention.window for block in encoder.attention.blocks] if encoder.attention else []
    assert windows == {"local": [4, 4], "global": [12, 12], "local_global": [4, 4, 12, 12]}.get(
        kind.removesuffix("_gcn"), []
    )
    assert (encoder.graphs is not None) == ("gcn" in kind)
    assert ("attention.positions" in encoder.state_dict()) == bool(windows)


def test_no_temporal_module_passes_features_on():
    encoder = TemporalEncoder(kind="none", width=8, length=4, layers=2, window=2, heads=1)
    x_BTD = torch.randn(2, 4, 8)
    assert torch.equal(encoder(x_BTD, torch.tensor([4, 1])), x_BTD)
    assert not list(encoder.parameters())


def test_visual_prompts_by_their_definition(text):
    visual_BTD, lengths_B, _ = _batch()

    def expected(model, weights, b):
        v_TD = model.temporal(visual_BTD, lengths_B)[b]
        text_KD = model.text_features()
        if weights is not None:
            text_KD = text_KD + F.normalize(weights @ v_TD, dim=0)
            mlp = model.alignment.visual_prompt.mlp
            text_KD = text_KD + mlp(text_KD)
        return F.normalize(v_TD, dim=1) @ F.normalize(text_KD, dim=1).T / 0.07

    with torch.no_grad():
        for kind in ("none", "average_frame", "anomaly_focus"):
            model = _model(replace(OFFICIAL, visual_prompt=kind), text)
            output = model(visual_BTD, lengths_B)
            for b, length in enumerate(lengths_B.tolist()):
                weights = {
                    "none": None,
                    "average_frame": (torch.arange(12) < length) / length,  # the mean over valid snippets
                    "anomaly_focus": output.anomaly_logits_BT[b],  # over all of T
                }[kind]
                assert torch.allclose(output.class_logits_BTK[b], expected(model, weights, b), atol=1e-4)
            assert (model.alignment.visual_prompt is None) == (kind == "none")


def test_the_hand_crafted_prompt_is_clips_own_text(text):
    model = _model(replace(OFFICIAL, prompt="hand_crafted"), text)
    sentences = [TEMPLATE.format(prompt) for prompt in CLASSES.prompts]
    assert sentences[2] == "a video from a CCTV camera of a car accident"
    assert torch.equal(model.text_features(), text.encode(sentences))
    assert not any("prompts" in name for name in model.state_dict())


def test_the_loss_is_that_of_the_branches_there_are(text):
    both, no_text, only = (
        _loss(_model(VARIANTS[name], text))
        for name in ("temporal local_gcn", "hand-crafted", "classification")
    )
    assert set(both.there) == {"classification", "alignment", "contrast"}
    assert torch.equal(both.total, both.classification + both.alignment + both.contrast)
    assert set(no_text.there) == {"classification", "alignment"}  # nothing of the texts can be pushed apart
    assert set(only.there) == {"classification"}
    assert only.total is only.classification
    alignment = _loss(_model(VARIANTS["alignment, no visual prompt"], text))
    assert set(alignment.there) == {"alignment", "contrast"}


def test_without_an_alignment_branch_there_is_no_text(text):
    model = _model(VARIANTS["classification"], text)
    visual_BTD, lengths_B, _ = _batch()
    assert model.text_features() is None
    output = model(visual_BTD, lengths_B)
    assert (output.class_logits_BTK, output.learned_text_KD) == (None, None)


def test_anomaly_focus_needs_its_branch():
    params = {
        "length": 8, "layers": 1, "window": 4, "heads": 1, "prompt_prefix": 2, "prompt_suffix": 2,
        "temporal": "local_gcn", "branches": "alignment", "prompt": "learned",
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"anomaly_focus looks where the classification branch does, and mod"
    ):
        ModelParams(**params, visual_prompt="anomaly_focus")
    assert ModelParams(**params, visual_prompt="none").branches == "alignment"
