"""VadCLIP against a slow, direct reading of vadclip.md, and what the golden files' sizes do not reach."""

import math
from dataclasses import replace

import pytest
import torch
from clip_helpers import random_state, sparse_tokens, tiny_config, write_clip
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from vadclip.clip.frozen import load_clip
from vadclip.clip.text import tokenize
from vadclip.errors import InputError
from vadclip.labels import Classes
from vadclip.model.losses import vadclip_loss
from vadclip.model.temporal import TemporalEncoder, WindowAttention, distance_graph, similarity_graph
from vadclip.model.vadclip import VadClip, VadClipConfig

CLASSES = Classes(labels=("N", "F", "C"), prompts=("normal", "fighting", "car accident"))
CONFIG = VadClipConfig(width=64, length=20, layers=2, window=8, heads=1, prompt_prefix=3, prompt_suffix=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    params = write_clip(tmp_path_factory.mktemp("clip"), tiny_config(), random_state(tiny_config(), seed=1))
    return load_clip(params, device="cpu").text


def _model(text, config=CONFIG, seed=0):
    torch.manual_seed(seed)
    model = VadClip(config, CLASSES, text)
    with torch.no_grad():  # biases and prompts large enough to matter
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _batch(config=CONFIG, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, 1, config.width, generator=generator)  # snippets of a video resemble each other
    visual_BTD = base + 0.7 * torch.randn(count, config.length, config.width, generator=generator)
    lengths_B = torch.randint(1, config.length + 1, (count,), generator=generator)
    lengths_B[0] = config.length
    for visual_TD, length in zip(visual_BTD, lengths_B.tolist(), strict=True):
        visual_TD[length:] = 0
    return visual_BTD, lengths_B


# ---- a direct reading of vadclip.md section 2, one video, one snippet, one head at a time


def _reference(model, text, visual_TD, n):
    config, state = model.config, model.state_dict()
    T, D = visual_TD.shape

    def act(u):
        return u * torch.sigmoid(1.702 * u)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def mlp(x, name):
        return linear(act(linear(x, f"{name}.expand")), f"{name}.contract")

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def cosine(a, b):
        return a @ b / (a.norm() * b.norm())

    # 1, 2: positions, transformer with a block-diagonal mask
    h = visual_TD + state["temporal.attention.positions"]
    mask = torch.full((T, T), -math.inf)
    for i in range(T):
        for j in range(T):
            if i // config.window == j // config.window:
                mask[i, j] = 0
    for layer in range(config.layers):
        block = f"temporal.attention.blocks.{layer}"
        q, k, v = linear(norm(h, f"{block}.norm1"), f"{block}.attention.project_in").split(D, dim=1)
        heads = []
        for head in range(config.heads):
            part = slice(head * D // config.heads, (head + 1) * D // config.heads)
            scores = q[:, part] @ k[:, part].T / math.sqrt(D // config.heads) + mask
            heads.append(scores.softmax(dim=1) @ v[:, part])
        h = h + linear(torch.cat(heads, dim=1), f"{block}.attention.project_out")
        h = h + mlp(norm(h, f"{block}.norm2"), f"{block}.mlp")

    # 3, 4: graphs
    S, G = torch.zeros(T, T), torch.zeros(T, T)
    for i in range(n):
        row = torch.stack([cosine(h[i], h[j]) for j in range(n)])
        row[row <= 0.7] = 0
        S[i, :n] = row.exp() / row.exp().sum()
    for i in range(T):
        for j in range(T):
            G[i, j] = math.exp(-abs(i - j) / math.e)

    # 5: graph convolutions
    def convolve(graph, x, name):
        out = graph @ (x @ state[f"{name}.weight"])
        if f"{name}.residual.weight" not in state:
            return out + x
        kernel = state[f"{name}.residual.weight"]  # [out, in, 5]
        for t in range(T):
            out[t] += state[f"{name}.residual.bias"]
            for tap in range(5):
                if 0 <= t + tap - 2 < T:
                    out[t] += kernel[:, :, tap] @ x[t + tap - 2]
        return out

    x1 = act(convolve(S, h, "temporal.graphs.similarity1"))
    x1 = act(convolve(S, x1, "temporal.graphs.similarity2"))
    x2 = act(convolve(G, h, "temporal.graphs.distance1"))
    x2 = act(convolve(G, x2, "temporal.graphs.distance2"))
    v = linear(torch.cat([x1, x2], dim=1), "temporal.graphs.fuse")

    # 6: classification branch
    a = linear(v + mlp(v, "classification.mlp"), "classification.head").squeeze(1)

    # 7: learned prompt, all positions of the text tower
    features = []
    for prompt in model.classes.prompts:
        tokens = tokenize([prompt], text.context_length)
        embedded = text.token_embedding(tokens)[0]
        words = int(tokens.argmax()) - 1
        p, q_ = config.prompt_prefix, config.prompt_suffix
        sequence = state["alignment.prompts.vectors"].clone()
        sequence[0] = embedded[0]
        sequence[p + 1 : p + 1 + words] = embedded[1 : 1 + words]
        eot = p + words + 1 + q_
        sequence[eot] = embedded[words + 1]
        features.append(text(sequence[None], torch.tensor([eot]))[0])

    # 8, 9: visual prompt, alignment
    total = sum(a[t] * v[t] for t in range(T))
    total = total / total.norm()
    logits = torch.zeros(T, len(features))
    for k_, feature in enumerate(features):
        t_k = feature + total
        t_k = t_k + mlp(t_k, "alignment.visual_prompt.mlp")
        for t in range(T):
            logits[t, k_] = cosine(v[t], t_k) / 0.07
    return a, logits, torch.stack(features)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,  # window does not divide T: 8, 8, 4
        replace(CONFIG, window=5, layers=1),  # divides
        replace(CONFIG, window=32),  # one short window
        replace(CONFIG, window=1, heads=2),
        replace(CONFIG, window=7, heads=4, length=17, prompt_prefix=0, prompt_suffix=0),
        replace(CONFIG, layers=0, length=1, prompt_prefix=10, prompt_suffix=10),
    ],
    ids=str,
)
def test_model_equals_the_direct_reading(text, config):
    model = _model(text, config)
    visual_BTD, lengths_B = _batch(config)
    with torch.no_grad():
        output = model(visual_BTD, lengths_B)
        for b, length in enumerate(lengths_B.tolist()):
            anomaly_T, class_TK, text_KD = _reference(model, text, visual_BTD[b], length)
            assert torch.allclose(output.anomaly_logits_BT[b], anomaly_T, atol=2e-5)
            assert torch.allclose(output.class_logits_BTK[b], class_TK, atol=5e-5)
            assert torch.allclose(output.learned_text_KD, text_KD, atol=2e-5)


def test_a_samples_output_does_not_depend_on_its_batch(text):
    model = _model(text)
    visual_BTD, lengths_B = _batch(count=5)
    with torch.no_grad():
        together = model(visual_BTD, lengths_B)
        for b in range(5):
            alone = model(visual_BTD[b : b + 1], lengths_B[b : b + 1])
            assert torch.allclose(together.anomaly_logits_BT[b], alone.anomaly_logits_BT[0], atol=1e-5)
            assert torch.allclose(together.class_logits_BTK[b], alone.class_logits_BTK[0], atol=1e-5)


def test_text_features_may_be_computed_once(text):
    model = _model(text)
    batch = _batch()
    with torch.no_grad():
        assert torch.equal(
            model(*batch).class_logits_BTK, model(*batch, model.text_features()).class_logits_BTK
        )
        shifted = model(*batch, model.text_features() + 1)
    assert not torch.equal(model(*batch).class_logits_BTK, shifted.class_logits_BTK)


# ---- parts


def test_attention_sees_padding_and_no_other_window():
    torch.manual_seed(0)
    attention = WindowAttention(width=8, window=3, heads=2)
    x_BTD = torch.randn(1, 8, 8)  # windows 0-2, 3-5, 6-7
    changed = x_BTD.clone()
    changed[0, 7] += 1
    moved_T = (attention(changed) - attention(x_BTD)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved_T.tolist() == [False] * 6 + [True] * 2


def test_attention_starts_like_pytorchs_own():
    torch.manual_seed(0)
    ours, theirs = WindowAttention(64, 8, 1), torch.nn.MultiheadAttention(64, 1)
    limit = math.sqrt(6 / (64 + 3 * 64))  # Xavier's, over the joint projection
    for weight in (ours.project_in.weight, theirs.in_proj_weight):
        assert 0.99 * limit < float(weight.detach().abs().max()) <= limit
    assert not ours.project_in.bias.any()
    assert not ours.project_out.bias.any()


def test_similarity_graph_by_hand():
    # Unit vectors at 0, 30 and 60 degrees: cos 30 = 0.866 passes the threshold, cos 60 = 0.5 becomes 0 and
    # still weighs exp(0) = 1. The fourth snippet is padding.
    h_BTD = torch.tensor([[[1.0, 0.0], [0.75**0.5, 0.5], [0.5, 0.75**0.5], [9.0, 9.0]]])
    graph = similarity_graph(h_BTD, torch.tensor([3]))[0]
    near = math.exp(0.75**0.5)
    rows = [[math.e, near, 1.0, 0], [near, math.e, near, 0], [1.0, near, math.e, 0]]
    expected = [[value / sum(row) for value in row] for row in rows] + [[0.0] * 4]
    assert torch.allclose(graph, torch.tensor(expected), atol=1e-6)


def test_a_cosine_at_the_threshold_is_dropped():
    h_BTD = torch.tensor([[[1.0, 0.0], [0.69, math.sqrt(1 - 0.69**2)], [0.71, math.sqrt(1 - 0.71**2)]]])
    weight = similarity_graph(h_BTD, torch.tensor([3]))[0, 0]
    total = math.e + 1 + math.exp(0.71)
    assert torch.allclose(weight, torch.tensor([math.e, 1.0, math.exp(0.71)]) / total, atol=1e-5)


def test_distance_graph_by_hand():
    expected = [[1.0, math.exp(-1 / math.e)], [math.exp(-1 / math.e), 1.0]]
    assert torch.allclose(distance_graph(2), torch.tensor(expected))


def test_all_zero_features_give_numbers(text):
    model = _model(text)
    output = model(torch.zeros(2, 20, 64), torch.tensor([20, 1]))
    vadclip_loss(output, torch.eye(3)[:2], torch.tensor([20, 1]), 0.1).total.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_positions_and_prompts_start_small(text):
    torch.manual_seed(0)
    model = VadClip(replace(CONFIG, length=256), CLASSES, text)
    for parameter in (model.temporal.attention.positions, model.alignment.prompts.vectors):
        assert float(parameter.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert abs(float(parameter.detach().mean())) < 1e-3


# ---- prompts


def test_only_learned_positions_get_gradients(text):
    model = _model(text)  # prefix 3, suffix 2; names of 1, 1 and 2 tokens: the last end of text stands at 8
    model.text_features().sum().backward()
    touched = model.alignment.prompts.vectors.grad.abs().sum(dim=1) > 0
    # 0 is the start of text, 4 every name's first token; 5 is suffix for the short names, 7 their end of text
    # and suffix for the long one.
    assert touched.nonzero().flatten().tolist() == [1, 2, 3, 5, 6, 7]


def test_a_name_that_does_not_fit(text):
    # "car accident" has two tokens: 40 + 2 + 35 + start and end = 79.
    config = replace(CONFIG, prompt_prefix=40, prompt_suffix=35)
    with pytest.raises(
        InputError, match=r"'normal' has 1 tokens: .* the prompt has 78 positions, the text tower 77"
    ):
        VadClip(config, CLASSES, text)
    assert VadClip(replace(config, prompt_suffix=33), CLASSES, text).text_features().shape == (3, 64)


def test_a_class_name_that_the_clip_does_not_know(tmp_path):
    state = sparse_tokens(random_state(tiny_config()), ["normal", "fighting", "car"])
    text = load_clip(write_clip(tmp_path, tiny_config(), state), device="cpu").text
    with pytest.raises(InputError, match="the word 'accident' is not known to this CLIP"):
        VadClip(CONFIG, CLASSES, text)


def test_heads_must_divide_the_width():
    with pytest.raises(
        InputError, match=r"model\.heads 3: the CLIP's joint dimension 64 must be even and divisible"
    ):
        replace(CONFIG, heads=3)


# ---- the model as a module


def test_state_and_parameters_are_the_trained_ones_only(text):
    model = _model(text)
    names = dict(model.named_parameters())
    assert model.state_dict().keys() == names.keys()  # no buffer is state
    assert {name.split(".")[0] for name in names} == {"temporal", "classification", "alignment"}
    assert all(parameter.requires_grad for parameter in names.values())
    frozen = {id(parameter) for parameter in text.parameters()}
    assert not frozen & {id(parameter) for parameter in names.values()}


def test_size_is_the_published_one(tmp_path):
    # vadclip.md: 12.6 M trained parameters for UCF-Crime.
    config = tiny_config(width=512, heads=8, layers=1) | {"embed_dim": 512}
    state = sparse_tokens(random_state(config), CLASSES.prompts)
    text = load_clip(write_clip(tmp_path, config, state), device="cpu").text
    model = VadClip(VadClipConfig(512, 256, 2, 8, 1, 10, 10), CLASSES, text)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 12.6


def test_the_text_tower_moves_with_the_model(tmp_path):
    text = load_clip(write_clip(tmp_path, tiny_config()), device="cpu").text
    model = _model(text).to(torch.float64)
    assert {tensor.dtype for tensor in text.parameters()} == {torch.float64}
    assert model.text_features().dtype == torch.float64


def test_nothing_is_read_back_to_the_host(text):
    # Fake tensors hold no values: reading one, as a host sync does, raises.
    model, (visual_BTD, lengths_B), labels_BK = _model(text), _batch(), torch.eye(3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        visual_BTD, lengths_B, labels_BK = map(mode.from_tensor, (visual_BTD, lengths_B, labels_BK))
        terms = vadclip_loss(model(visual_BTD, lengths_B), labels_BK, lengths_B, 0.1)
        assert terms.total.shape == ()
        with pytest.raises(DataDependentOutputException):
            terms.total.detach().item()


def test_bf16_stays_near_and_gives_float32(text):
    model = _model(text, seed=1)
    visual_BTD, lengths_B = _batch(count=4)
    labels_BK = torch.eye(3)[torch.tensor([0, 1, 2, 0])]

    def run(enabled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(visual_BTD, lengths_B)
            terms = vadclip_loss(output, labels_BK, lengths_B, 0.1)
        terms.total.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return output, terms, gradient

    (full, terms, gradient), (half, half_terms, half_gradient) = run(False), run(True)
    assert {half.anomaly_logits_BT.dtype, half.class_logits_BTK.dtype, half_terms.total.dtype} == {
        torch.float32
    }
    assert not torch.equal(half.class_logits_BTK, full.class_logits_BTK)
    for ours, exact in (
        (half.anomaly_logits_BT, full.anomaly_logits_BT),
        (half.class_logits_BTK, full.class_logits_BTK),
    ):
        assert (
            float(((ours - exact).norm() / exact.norm()).detach()) < 0.02
        )  # bfloat16 keeps 8 bits: 0.4 % an operation
    assert half_terms.total.item() == pytest.approx(terms.total.item(), rel=0.02)
    assert float(F.cosine_similarity(half_gradient, gradient, dim=0)) > 0.95


def test_temporal_encoder_keeps_its_graph_out_of_the_state():
    encoder = TemporalEncoder(kind="local_gcn", width=8, length=4, layers=0, window=2, heads=1)
    assert "distance_graph_TT" not in encoder.state_dict()
    assert encoder.graphs.distance_graph_TT.shape == (4, 4)
