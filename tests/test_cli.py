"""`vadclip recipe`: whole params files that load, and a change that is shown."""

import json
from pathlib import Path

import pytest
from conftest import PROJECT
from pydantic import ValidationError

from vadclip.clip.frozen import load_clip
from vadclip.config import ClipParams, load_params
from vadclip.errors import InputError
from vadclip.extract.on_ray import clip_files
from vadclip.files import sha256_file
from vadclip.ingest.inputs import named_files, write_inputs


@pytest.mark.parametrize("name", ["sample", "ucf_crime", "xd_violence"])
def test_a_recipe_is_a_whole_params_file(name, tmp_path, command, capsys):
    path = tmp_path / "params.yaml"
    assert command("recipe", name, "--params", path) == 0
    assert load_params(path).dataset.name == name
    assert f"wrote {path} for {name}" in capsys.readouterr().out


def test_the_official_hyper_parameters(tmp_path, monkeypatch):
    """vadclip.md section 4: the table of official protocols."""
    expected = {
        "ucf_crime": (2, 8, "paired", 64, 2e-5, [4, 8], 1e-1, 5),
        "xd_violence": (1, 64, "single", 96, 1e-5, [3, 6, 10], 1e-4, 0),
    }
    for name, figures in expected.items():
        params = load_params(PROJECT / "vadclip" / "recipes" / f"{name}.yaml")
        model, train = params.model, params.train
        optimiser = (train.batch_scheme, train.batch_size, train.learning_rate, train.milestones)
        rest = (train.contrast_weight, params.extract.test_crop)
        assert figures == (model.layers, model.window, *optimiser, *rest)
        assert (model.length, train.epochs, train.seed, params.extract.train_crops) == (256, 10, 234, 10)


def test_the_committed_params_are_the_sample_recipe():
    assert load_params(PROJECT / "params.yaml") == load_params(
        PROJECT / "vadclip" / "recipes" / "sample.yaml"
    )


def test_only_what_changes_is_shown(tmp_path, command, capsys):
    path = tmp_path / "params.yaml"
    command("recipe", "ucf_crime", "--params", path)
    capsys.readouterr()
    command("recipe", "xd_violence", "--params", path)
    shown = capsys.readouterr().out
    assert "model.window: 8 -> 64" in shown
    assert "model.length" not in shown


def test_a_changed_params_file_is_kept(tmp_path, command, capsys):
    path = tmp_path / "params.yaml"
    command("recipe", "sample", "--params", path)
    own = path.read_text().replace("epochs: 15", "epochs: 3")
    path.write_text(own)
    assert command("recipe", "ucf_crime", "--params", path) == 1
    assert "params.yaml has values of your own" in capsys.readouterr().err
    assert path.read_text() == own
    assert command("recipe", "ucf_crime", "--params", path, "--force") == 0
    assert load_params(path).dataset.name == "ucf_crime"


def test_params_with_a_key_that_stands_twice_are_refused(tmp_path, command, capsys):
    path = tmp_path / "params.yaml"
    command("recipe", "sample", "--params", path)
    text = path.read_text()
    path.write_text(text.replace("  epochs: 15", "  epochs: 15\n  epochs: 3"))
    line = text[: text.index("  epochs: 15")].count("\n") + 2
    with pytest.raises(InputError, match=f"the key 'epochs' stands twice, again in line {line}: keep one"):
        load_params(path)
    assert command("recipe", "ucf_crime", "--params", path) == 1
    assert "the key 'epochs' stands twice" in capsys.readouterr().err


def test_the_packaged_clip_is_named_and_found_anywhere(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    command("recipe", "sample")
    params = load_params()
    assert (params.clip.model, params.clip.pretrained) == ("sample", None)
    write_inputs(named_files(params.clip, params.train), tmp_path / "inputs.json")
    inputs = json.loads((tmp_path / "inputs.json").read_text())
    weights = PROJECT / "vadclip" / "sample" / "clip.safetensors"
    assert inputs["clip.model"]["path"] == "vadclip/sample/clip.json"
    assert inputs["clip.pretrained"]["sha256"] == sha256_file(weights)
    assert [Path(name).name for name in clip_files(params.clip)] == ["clip.json", "clip.safetensors"]
    assert load_clip(params.clip, device="cpu").name == "clip.json"
    with pytest.raises(ValidationError, match=r"clip\.pretrained is 'openai' with clip\.model 'sample'"):
        ClipParams(**{**params.clip.model_dump(), "pretrained": "openai"})


def test_an_unknown_recipe_is_one_line_and_status_1(tmp_path, command, capsys):
    assert command("recipe", "shanghaitech", "--params", tmp_path / "p.yaml") == 1
    assert capsys.readouterr().err == (
        "error: no recipe 'shanghaitech'; there are sample, ucf_crime, xd_violence\n"
    )
    assert not (tmp_path / "p.yaml").exists()
