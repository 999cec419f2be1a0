"""The authors' checkpoints: import then export gives every key, type and bit back; misfits are said."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from clip_helpers import config_of_state, sparse_tokens, write_clip
from conftest import PROJECT
from params_helpers import write_params
from safetensors.torch import load_file

from vadclip.clip.frozen import load_clip, load_clip_weights
from vadclip.errors import InputError
from vadclip.labels import UCF_CRIME, XD_VIOLENCE
from vadclip.model.folder import ModelInfo, load_model, named_clip, read_model_info, save_model
from vadclip.model.losses import vadclip_loss
from vadclip.model.official import (
    EXTRA_FILE,
    clip_state,
    export_state,
    import_checkpoint,
    read_checkpoint,
    write_checkpoint,
    write_clip_weights,
)
from vadclip.model.vadclip import VadClip, VadClipConfig

SETTINGS = {"ucf": (UCF_CRIME, 2, 8, "ucf_crime"), "xd": (XD_VIOLENCE, 1, 16, "xd_violence")}
TABLE = "clipmodel.token_embedding.weight"


def golden_state(folder, name):
    """The official state dict as a .pth holds it: a whole token table, made of its used rows."""
    state = load_file(folder / f"{name}_weights.safetensors")
    ids, rows = state.pop(f"{TABLE}.ids"), state.pop(f"{TABLE}.rows")
    state[TABLE] = torch.zeros(49408, rows.shape[1]).index_copy_(0, ids.long(), rows)
    return state


def _half(state):
    return {name: value.half() for name, value in state.items()}


def _mixed(state):
    """As a GPU leaves it: CLIP's linear and convolution weights in float16, the rest in float32."""
    return {
        name: value.half() if name.startswith("clipmodel.") and value.ndim > 1 else value
        for name, value in state.items()
    }


class Case:
    def __init__(self, name, folder, golden_folder):
        self.name = name
        self.classes, layers, window, self.dataset = SETTINGS[name]
        self.official = golden_state(golden_folder, name)
        self.folder = folder
        weights = clip_state(self.official)
        self.clip_params = write_clip(folder, config_of_state(weights, image_heads=1, text_heads=2), weights)
        self.config = VadClipConfig(64, 64, layers, window, 1, 10, 10)

    def read(self, state):
        write_checkpoint(state, self.folder / "checkpoint.pth")
        return read_checkpoint(self.folder / "checkpoint.pth")

    def imported(self, state, clip_params=None, config=None):
        params = clip_params or self.clip_params
        clip = load_clip(params, device="cpu")
        read = self.read(state)
        return import_checkpoint(
            read, config or self.config, self.classes, clip.text, load_clip_weights(params)
        ), clip

    def info(self, clip):
        return ModelInfo(
            self.config,
            self.classes,
            named_clip(clip, self.clip_params),
            {},
            "f",
            "last",
            3,
            {"a": 1.0},
            False,
            0,
            "fp32",
        )


@pytest.fixture(params=SETTINGS)
def case(request, tmp_path, golden_folder):
    return Case(request.param, tmp_path, golden_folder)


@pytest.fixture
def ucf(tmp_path, golden_folder):
    return Case("ucf", tmp_path, golden_folder)


def _assert_same_bits(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        assert value.numpy().tobytes() == other[name].numpy().tobytes(), name


@pytest.mark.parametrize("types", ["float32", "float16", "mixed"])
def test_golden_round_trip(case, types, golden_folder):
    state = {"float32": dict, "float16": _half, "mixed": _mixed}[types](case.official)
    state["disAdj.sigma"] = torch.tensor([0.1], dtype=state["disAdj.sigma"].dtype)
    imported, clip = case.imported(state)
    folder = case.folder / "model"
    imported.save(folder, case.info(clip))
    # Only what model and CLIP cannot give back is kept: the sigma of another type, if that.
    with (folder / EXTRA_FILE).open("rb") as opened:
        assert len(opened.read()) < 10_000 + 200 * len(state)
    exported = export_state(folder, load_clip_weights(case.clip_params))
    _assert_same_bits(exported, state)
    write_checkpoint(exported, case.folder / "again.pth")
    _assert_same_bits(read_checkpoint(case.folder / "again.pth").state, state)

    model, info = load_model(folder, clip, "cpu")
    assert (info.selection, info.epoch, info.validation, info.test_selected) == ("checkpoint", None, {}, True)
    assert info.checkpoint_sha256 == imported.sha256
    if types == "float32":  # and it is the official model
        golden = load_file(golden_folder / f"{case.name}_golden.safetensors")
        output = model(golden["visual"], golden["lengths"])
        assert (output.anomaly_logits_BT[..., None] - golden["logits1"]).abs().max() <= 2e-5
        weight = {"ucf": 1e-1, "xd": 1e-4}[case.name]
        terms = vadclip_loss(output, golden["labels"], golden["lengths"], weight)
        assert terms.total.item() == pytest.approx(float(golden["loss_terms"].sum()), abs=1e-6)


def test_golden_rounded_clip_is_noted_and_kept(ucf):
    """float32 in the file, but through float16 once: other values than the configured CLIP's."""
    state = {
        name: value.half().float() if name.startswith("clipmodel.") else value
        for name, value in ucf.official.items()
    }
    imported, clip = ucf.imported(state)
    (note,) = [note for note in imported.notes if "rounding" in note]
    assert "tensors of its CLIP differ from" in note
    assert TABLE in imported.extra
    imported.save(ucf.folder / "model", ucf.info(clip))
    _assert_same_bits(export_state(ucf.folder / "model", load_clip_weights(ucf.clip_params)), state)


def test_golden_a_sparse_clip_is_compared_by_the_rows_it_has(ucf):
    weights = sparse_tokens(clip_state(ucf.official), [*UCF_CRIME.prompts])
    config = json.loads((ucf.folder / "clip.json").read_text())
    imported, clip = ucf.imported(ucf.official, write_clip(ucf.folder, config, weights))
    imported.save(ucf.folder / "model", ucf.info(clip))
    _assert_same_bits(export_state(ucf.folder / "model", load_clip_weights(ucf.clip_params)), ucf.official)


def test_golden_another_clip_is_named_with_what_to_do(ucf):
    state = dict(ucf.official)
    state["clipmodel.ln_final.weight"] = state["clipmodel.ln_final.weight"] + 0.01
    with pytest.raises(
        InputError,
        match=r"other weights than .*clip\.json: ln_final\.weight differ by up to 0\.01; .*--write-clip",
    ):
        ucf.imported(state)
    with pytest.raises(InputError, match=r"computes QuickGELU and .*clip\.json GELU"):
        ucf.imported(ucf.official, ucf.clip_params.model_copy(update={"quick_gelu": False}))
    del state["clipmodel.ln_final.weight"]
    with pytest.raises(InputError, match=r"is built otherwise than .* \(ln_final\.weight\)"):
        ucf.imported(state)
    # A scale that only CLIP's own training read is no reason to stop.
    state = dict(ucf.official) | {"clipmodel.logit_scale": torch.tensor(1.5)}
    imported, _ = ucf.imported(state)
    assert "clipmodel.logit_scale" in imported.extra


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers": 1}, r"it has model\.layers 2, not 1 \(UCF-Crime's has 2"),
        ({"length": 32, "layers": 3}, r"model\.layers 2, not 3, model\.length 64, not 32"),
        (
            {"temporal": "gcn", "prompt": "hand_crafted"},
            r"set model\.temporal: local_gcn, model\.prompt: learned",
        ),
    ],
)
def test_golden_sizes_that_do_not_fit_are_one_line(ucf, changes, complaint):
    with pytest.raises(InputError, match=complaint) as raised:
        ucf.imported(ucf.official, config=replace(ucf.config, **changes))
    assert "\n" not in str(raised.value)


def test_golden_names_that_no_official_model_has(ucf):
    with pytest.raises(InputError, match=r"does not fit: 'surplus\.weight' is no parameter of the official"):
        ucf.imported(ucf.official | {"surplus.weight": torch.zeros(1)})
    lacking = {name: value for name, value in ucf.official.items() if name != "mlp1.c_fc.bias"}
    with pytest.raises(InputError, match=r"does not fit: .*alignment\.visual_prompt\.mlp\.expand\.bias"):
        ucf.imported(lacking)


def test_golden_training_checkpoints_are_taken_by_their_model(ucf):
    """The official training also saves {epoch, model_state_dict, optimizer_state_dict, ...}."""
    path = ucf.folder / "epoch.pth"
    torch.save({"epoch": 3, "model_state_dict": ucf.official, "ap": 0.87}, path)
    _assert_same_bits(read_checkpoint(path).state, ucf.official)


@pytest.mark.parametrize(
    "leave",
    [
        lambda state: {
            "epoch": 3,
            "model_state_dict": state,
            "optimizer_state_dict": {},
            "ap": np.float64(0.88),
        },
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": state},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}, "lr": 1e-3},
    ],
)
def test_golden_checkpoints_as_trainings_leave_them(ucf, tmp_path, leave):
    torch.save(leave(ucf.official), tmp_path / "left.pth")
    _assert_same_bits(read_checkpoint(tmp_path / "left.pth").state, ucf.official)


def test_what_is_no_checkpoint_is_said(tmp_path):
    path = tmp_path / "x.pth"

    def said(content):
        if content is not None:
            torch.save(content, path)
        with pytest.raises(InputError) as error:
            read_checkpoint(path)
        return str(error.value).removeprefix(f"checkpoint {path} ")

    assert said(None) == f"checkpoint {path}: no such file"
    path.write_text("text")
    assert said(None).startswith("is no plain state dict by torch.save: torch cannot read it (")
    path.write_bytes(b"")
    assert said(None) == f"checkpoint {path}: the file is empty"
    # A pickled object of a class is never loaded.
    assert said({"a": PROJECT}) == (
        "is no plain state dict by torch.save: it holds Python objects (pathlib.PosixPath), which are never "
        "loaded: save the state dict alone"
    )
    assert said([torch.zeros(1)]) == "holds a list and no state dict"
    none = (
        "is none of the official VadCLIP: it lacks frame_position_embeddings.weight, text_prompt_embeddings"
    )
    assert said({"a": torch.zeros(1), "b": 3}) == f"{none}.weight or clipmodel.*; it holds a, b"


def test_golden_a_model_trained_here_is_exported_in_float32(ucf):
    clip = load_clip(ucf.clip_params, device="cpu")
    model = VadClip(ucf.config, ucf.classes, clip.text)
    folder = ucf.folder / "model"
    imported, _ = ucf.imported(ucf.official)
    imported.save(folder, ucf.info(clip))
    save_model(folder, model, ucf.info(clip))  # trained over an imported one: nothing of that is left
    assert not (folder / EXTRA_FILE).exists()
    exported = export_state(folder, load_clip_weights(ucf.clip_params))
    assert exported.keys() == ucf.official.keys()
    assert {value.dtype for value in exported.values()} == {torch.float32}
    again, _ = ucf.imported(exported)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), model.parameters(), strict=True))
    ablated = VadClip(replace(ucf.config, visual_prompt="none"), ucf.classes, clip.text)
    save_model(folder, ablated, replace(ucf.info(clip), config=ablated.config))
    with pytest.raises(InputError, match=r"no place for this model: local_gcn, both, learned, none"):
        export_state(folder, load_clip_weights(ucf.clip_params))


def test_golden_a_lost_or_foreign_extra_file(ucf):
    imported, clip = ucf.imported(ucf.official)
    folder, weights = ucf.folder / "model", load_clip_weights(ucf.clip_params)
    imported.save(folder, ucf.info(clip))
    info = read_model_info(folder)
    save_model(folder, imported.model, replace(info, checkpoint_sha256="0" * 64))
    with pytest.raises(InputError, match=r"official_extra\.safetensors belongs to another checkpoint"):
        export_state(folder, weights)
    (folder / EXTRA_FILE).unlink()
    with pytest.raises(InputError, match=r"official_extra\.safetensors: no such file, and the model was imp"):
        export_state(folder, weights)


# ---- the command line


def test_golden_commands(case, monkeypatch, command, capsys):
    monkeypatch.chdir(case.folder)
    write_checkpoint(_half(case.official), case.folder / "official.pth")
    assert command("import-checkpoint", "official.pth", "--write-clip", "inside.safetensors") == 0
    inside = load_file("inside.safetensors")
    assert inside["visual.proj"].dtype == torch.float16
    recipe = PROJECT / "vadclip" / "recipes" / f"{case.dataset}.yaml"
    clip = {**case.clip_params.model_dump(), "pretrained": "inside.safetensors"}
    params = write_params(case.folder, recipe, clip=clip, model={"length": 64, "window": case.config.window})
    assert command("import-checkpoint", "official.pth", "--model-folder", "made") == 0
    assert "note: window, heads, classes and prompts leave no trace" in capsys.readouterr().out
    info = read_model_info(case.folder / "made")
    assert info.classes == case.classes
    assert info.feature_provenance["source"] == "encoded"
    assert info.config == case.config
    assert command("export-checkpoint", "out.pth", "--model-folder", "made") == 0
    _assert_same_bits(read_checkpoint(case.folder / "out.pth").state, _half(case.official))

    # Not rounded: another fingerprint.
    write_params(case.folder, params, clip={"pretrained": case.clip_params.pretrained})
    assert command("export-checkpoint", "out2.pth", "--model-folder", "made") == 1
    assert "put the other one back" in capsys.readouterr().err
    assert command("import-checkpoint", "official.pth", "--write-clip", "inside.pt") == 1
    assert "it writes safetensors" in capsys.readouterr().err
    assert asdict(info)["checkpoint_sha256"]


def test_golden_write_clip_keeps_bits(ucf):
    read = ucf.read(_mixed(ucf.official))
    write_clip_weights(read, ucf.folder / "inside.safetensors")
    _assert_same_bits(
        dict(sorted(load_file(ucf.folder / "inside.safetensors").items())),
        dict(sorted(clip_state(read.state).items())),
    )
