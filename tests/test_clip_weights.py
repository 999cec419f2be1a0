"""What may be loaded into the frozen CLIP: weights files, tags, configs, and the line each refusal gives."""

import hashlib
import json
import struct
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from clip_helpers import clip_params, random_state, sparse_tokens, tiny_config, write_clip
from safetensors.torch import save_file

from vadclip.clip.crops import resize_size
from vadclip.clip.frozen import load_clip
from vadclip.config import ClipParams
from vadclip.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def state():
    return random_state(tiny_config())


@pytest.fixture(scope="module")
def params(folder, state):
    return write_clip(folder, tiny_config(), state)


@pytest.fixture(scope="module")
def clip(params):
    return load_clip(params, device="cpu")


# ---- weights files


def test_sparse_token_rows(tmp_path, clip, state):
    sparse = sparse_tokens(state, ["fire", "road accidents"])
    loaded = load_clip(write_clip(tmp_path, tiny_config(), sparse), device="cpu")
    prompts = ["Road", "fire accidents"]
    assert torch.equal(loaded.text.encode(prompts), clip.text.encode(prompts))
    with pytest.raises(InputError, match="the word 'explosion' is not known to this CLIP"):
        loaded.text.encode(["fire", "fire explosion"])
    # The last word is unknown by its second token only.
    with pytest.raises(InputError, match="the word 'firefight' is not known to this CLIP"):
        loaded.text.encode(["road firefight"])


def test_sparse_token_rows_that_do_not_fit(tmp_path, state):
    sparse = sparse_tokens(state, ["fire"])
    bad = sparse | {"token_embedding.weight.ids": sparse["token_embedding.weight.ids"][:-1]}
    with pytest.raises(InputError, match=r"token_embedding\.weight\.ids and \.rows do not fit each other"):
        load_clip(write_clip(tmp_path, tiny_config(), bad), device="cpu")
    bad = sparse | {"token_embedding.weight.ids": sparse["token_embedding.weight.ids"] + 1}
    with pytest.raises(InputError, match="go beyond the vocabulary of 49408"):
        load_clip(write_clip(tmp_path, tiny_config(), bad), device="cpu")


def test_a_custom_text_config_takes_the_same_file(tmp_path, clip, state):
    # open_clip keeps the text tower of such models in a submodule, under other names.
    config = tiny_config() | {"custom_text": True}
    loaded = load_clip(write_clip(tmp_path, config, sparse_tokens(state, ["fire"])), device="cpu")
    assert torch.equal(loaded.text.encode(["fire"]), clip.text.encode(["fire"]))


def test_plain_state_dict_with_openai_extras_and_float16(tmp_path, params, clip, state):
    half = {key: value.half() for key, value in state.items()}
    extras = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(1),
    }
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in (half | extras).items()}}, tmp_path / "w.pt"
    )
    loaded = load_clip(params.model_copy(update={"pretrained": str(tmp_path / "w.pt")}), device="cpu")
    assert {value.dtype for value in loaded.text.state_dict().values()} == {torch.float32}
    assert torch.allclose(loaded.text.encode(["fire"]), clip.text.encode(["fire"]), atol=1e-2)
    assert loaded.fingerprint != clip.fingerprint  # rounding changed the weights


def test_quick_gelu_of_a_file_decides_the_activation(tmp_path, clip, state):
    gelu = load_clip(write_clip(tmp_path, tiny_config(), state, quick_gelu=False), device="cpu")
    assert (clip.quick_gelu, gelu.quick_gelu) == (True, False)
    assert gelu.fingerprint == clip.fingerprint
    assert not torch.equal(gelu.text.encode(["fire"]), clip.text.encode(["fire"]))
    frames = np.random.default_rng(0).integers(0, 256, (1, *resize_size(32)[::-1], 3), dtype=np.uint8)
    assert not np.array_equal(gelu.encode_crops(frames, [0], 1), clip.encode_crops(frames, [0], 1))


def test_fingerprint_by_hand(clip, state):
    # SHA-256 over the facts as JSON, then sorted "name shape\n" + little-endian float32.
    config = tiny_config()
    facts = {"vision": config["vision_cfg"], "text": config["text_cfg"]}
    facts |= {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(state):
        values = state[key].flatten().tolist()
        digest.update(
            f"{key} {tuple(state[key].shape)}\n".encode() + struct.pack(f"<{len(values)}f", *values)
        )
    assert clip.fingerprint == digest.hexdigest()
    assert clip.name == "clip.json"  # no folder, which would differ between machines


def test_fingerprint_tells_weights_and_heads_apart(tmp_path, clip, state):
    changed = state | {"visual.proj": state["visual.proj"] + 1e-6}
    other = load_clip(write_clip(tmp_path, tiny_config(), changed), device="cpu")
    config = tiny_config()
    config["vision_cfg"]["head_width"] = 16  # the same weights serve other heads, and give other features
    heads = load_clip(write_clip(tmp_path, config, state), device="cpu")
    assert len({clip.fingerprint, other.fingerprint, heads.fingerprint}) == 3


def test_loading_leaves_the_random_seed_alone(params):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    load_clip(params, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def _torchscript(path):
    # What torch.jit.save writes: beside the data, code and its constants.
    with zipfile.ZipFile(path, "w") as archive:
        for member in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"{path.stem}/{member}", b"")


@pytest.mark.parametrize(
    ("name", "make", "complaint"),
    [
        ("gone.safetensors", None, r"gone\.safetensors': no such file"),
        (
            "ViT-B-16.pt",
            _torchscript,
            r"TorchScript archive.*open_clip_model\.safetensors of the Hugging Face",
        ),
        ("text.pt", lambda path: path.write_text("hello"), "neither safetensors nor a plain state dict"),
        ("text.safetensors", lambda path: path.write_text("hello"), "neither safetensors nor a plain state"),
        ("code.pt", lambda path: torch.save(open_clip.CLIP, path), "neither safetensors nor a plain state"),
        ("list.pt", lambda path: torch.save([1, 2], path), "holds no plain state dict"),
        ("steps.pt", lambda path: torch.save({"epoch": 3}, path), "holds no plain state dict"),
        (
            "other.safetensors",
            lambda path: save_file({"logit_scale": torch.ones(()), "head": torch.ones(2)}, path),
            r"does not fit clip\.model .*: it lacks ln_final\.bias, .* and \d+ more; it has besides head",
        ),
    ],
)
def test_weights_files_that_cannot_be_used(tmp_path, params, name, make, complaint):
    if make is not None:
        make(tmp_path / name)
    with pytest.raises(InputError, match=complaint) as caught:
        load_clip(params.model_copy(update={"pretrained": str(tmp_path / name)}), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_size_is_refused(tmp_path, state):
    with pytest.raises(
        InputError, match=r"another shape has visual\.positional_embedding \[5, 64\] for \[17, 64\]"
    ):
        load_clip(write_clip(tmp_path, tiny_config(image_size=64), state), device="cpu")


def test_a_file_needs_quick_gelu(params):
    with pytest.raises(InputError, match=r"clip\.quick_gelu is null with the weights file .*set it to true"):
        load_clip(params.model_copy(update={"quick_gelu": None}), device="cpu")


def test_a_config_file_may_say_quick_gelu(tmp_path, params, clip, state):
    config = tiny_config() | {"quick_gelu": True}
    told = write_clip(tmp_path, config, state).model_copy(update={"quick_gelu": None})
    assert load_clip(told, device="cpu").quick_gelu
    assert load_clip(told, device="cpu").fingerprint == clip.fingerprint
    with pytest.raises(
        InputError, match=r"clip\.quick_gelu is false but .*clip\.json' says true: set .*null"
    ):
        load_clip(told.model_copy(update={"quick_gelu": False}), device="cpu")


# ---- names and tags


def _tag(model, pretrained="openai", quick_gelu=None):
    return ClipParams(model=model, pretrained=pretrained, quick_gelu=quick_gelu, precision="fp32")


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        (
            _tag("ViT-B-16"),
            r"'ViT-B-16' computes GELU but the weights 'openai' were trained with QuickGELU.*"
            r"set clip\.model: ViT-B-16-quickgelu",
        ),
        (_tag("ViT-B-16-quickgelu", quick_gelu=False), r"clip\.quick_gelu is false but .*computes QuickGELU"),
        (_tag("ViT-B-17"), r"clip\.model 'ViT-B-17' is neither an open_clip model name"),
        (
            _tag("hf-hub:someone/model"),
            r"clip\.model 'hf-hub:someone/model' is neither an open_clip model name",
        ),
        (
            _tag("ViT-B-16-quickgelu", "opanai"),
            r"'opanai' is neither a weights file .* \(it has: openai, dfn2b",
        ),
        (_tag("gone.json"), r"clip\.model 'gone\.json': no such file"),
        (
            _tag("ViT-B-16-SigLIP", "webli"),
            r"text tower or tokenizer is not CLIP's own \(hf_tokenizer_name is set",
        ),
        (_tag("coca_ViT-B-32", "laion2b_s13b_b90k"), r"open_clip cannot build it: .*multimodal_cfg"),
    ],
)
def test_models_and_tags_that_cannot_be_used(params, complaint):
    with pytest.raises(InputError, match=complaint):
        load_clip(params, device="cpu")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "is not a readable JSON file"),
        ('{"embed_dim": 64}', "an open_clip config has the keys embed_dim, vision_cfg, text_cfg"),
        (json.dumps(tiny_config(no_causal_mask=True)), "its text tower is not CLIP's causal one"),
        (json.dumps(tiny_config(pool_type="last")), "its text tower is not CLIP's causal one"),
        (json.dumps(tiny_config(image_size=[32, 64])), r"image towers with square input are supported"),
        (json.dumps(tiny_config(depth=3)), "open_clip cannot build it: .*depth"),
    ],
)
def test_config_files_that_cannot_be_used(tmp_path, config, complaint):
    (tmp_path / "clip.json").write_text(config)
    try:
        state = open_clip.CLIP(**json.loads(config)).state_dict()
    except (ValueError, TypeError):
        state = {"x": torch.zeros(1)}
    save_file(state, tmp_path / "clip.safetensors")
    params = clip_params(tmp_path)
    with pytest.raises(InputError, match=complaint):
        load_clip(params, device="cpu")


@pytest.fixture
def small_tag(monkeypatch, tmp_path):
    """A tag `small` of a model `Tiny-quickgelu`, on a hub that cannot be reached, with an empty cache."""
    settings = {
        "hf_hub": "someone/tiny/",
        "quick_gelu": True,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    config = tiny_config() | {"quick_gelu": True}
    monkeypatch.setattr("open_clip.get_model_config", lambda name: json.loads(json.dumps(config)))
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda name, tag: settings)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return _tag("Tiny-quickgelu", "small")


def test_a_tag_without_internet_says_how_to_place_the_file(small_tag):
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        load_clip(small_tag, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert "fetch open_clip_model.safetensors of the Hugging Face model someone/tiny" in message
    assert "`clip.pretrained: open_clip_model.safetensors` and `clip.quick_gelu: true`" in message


def test_a_tag_downloaded_before_needs_no_internet(small_tag, tmp_path, clip, state):
    # The hub's cache: a branch names a snapshot, the snapshot holds the file.
    cache = tmp_path / "models--someone--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, cache / "snapshots" / "abc" / "open_clip_model.safetensors")
    loaded = load_clip(small_tag, device="cpu")
    assert loaded.quick_gelu
    assert loaded.fingerprint != clip.fingerprint  # the same weights, another normalisation
    assert torch.equal(loaded.text.encode(["fire"]), clip.text.encode(["fire"]))
    # The tag's own normalisation: (x / 255 - 0.5) / 0.25 of a grey frame.
    frame = np.full((1, *resize_size(32)[::-1], 3), 51, dtype=np.uint8)
    expected = loaded.image(torch.full((1, 3, 32, 32), (51 / 255 - 0.5) / 0.25)).numpy()
    np.testing.assert_allclose(loaded.encode_crops(frame, [0], 1)[0], expected, atol=1e-5)


def test_no_silent_fall_back_to_the_cpu(params, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"device 'cuda': no CUDA GPU can be used here; set execution\.device: cpu"
    ):
        load_clip(params, device="cuda")
