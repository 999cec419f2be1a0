"""`vadclip recipe`: whole params files that load, and a change that is shown."""

import sys

import pytest
from conftest import PROJECT

from vadclip.cli import main
from vadclip.config import load_params


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vadclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


@pytest.mark.parametrize("name", ["sample", "ucf_crime", "xd_violence"])
def test_a_recipe_is_a_whole_params_file(name, tmp_path, monkeypatch, capsys):
    path = tmp_path / "params.yaml"
    assert _run(monkeypatch, "recipe", name, "--params", path) == 0
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


def test_only_what_changes_is_shown(tmp_path, monkeypatch, capsys):
    path = tmp_path / "params.yaml"
    _run(monkeypatch, "recipe", "ucf_crime", "--params", path)
    capsys.readouterr()
    _run(monkeypatch, "recipe", "xd_violence", "--params", path)
    shown = capsys.readouterr().out
    assert "model.window: 8 -> 64" in shown
    assert "model.length" not in shown


def test_an_unknown_recipe_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    assert _run(monkeypatch, "recipe", "shanghaitech", "--params", tmp_path / "p.yaml") == 1
    assert capsys.readouterr().err == (
        "error: no recipe 'shanghaitech'; there are sample, ucf_crime, xd_violence\n"
    )
    assert not (tmp_path / "p.yaml").exists()
