"""docs/reproduce.md names only params, figures and commands that exist."""

import re

import pytest
import yaml
from conftest import PROJECT
from params_helpers import write_params

from vadclip.cli import app
from vadclip.config import load_params
from vadclip.evaluate.detection import IOU_THRESHOLDS
from vadclip.evaluate.metrics import HEADLINE

TEXT = (PROJECT / "docs" / "reproduce.md").read_text()
SETTINGS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


@pytest.mark.parametrize("dataset", ["ucf_crime", "xd_violence"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_load_on_top_of_the_recipe(settings, dataset, tmp_path):
    recipe = PROJECT / "vadclip" / "recipes" / f"{dataset}.yaml"
    params = load_params(write_params(tmp_path, recipe, **settings)).model_dump()
    for section, changes in settings.items():
        assert changes.items() <= params[section].items()


def test_there_are_settings_for_each_way():
    chosen = [settings.get("train", {}) for settings in SETTINGS]
    assert {"checkpoint": "model_ucf.pth"} in chosen
    assert {"selection": "official"} in chosen
    assert {"selection": "validation"} in chosen


def test_params_in_passing_are_params():
    sections = load_params(PROJECT / "params.yaml").model_dump()
    named = re.findall(r"`(dataset|clip|ingest|extract|model|train)\.(\w+)", TEXT)
    assert len(named) >= 8
    for section, key in named:
        assert key in sections[section], f"{section}.{key}"
    for kind in re.findall(r"`(\w+)` \| [\d.]+ / ", TEXT):
        assert kind in str(
            type(load_params(PROJECT / "params.yaml").model).model_fields["temporal"].annotation
        )


def test_figures_and_commands_are_ours():
    named = set(re.findall(r"\| `([\w.]+)` \| (?=\*{0,2}[\d| ])", TEXT)) - {"none", "global", "local", "gcn"}
    by_iou = {f"map_official_{iou}" for iou in IOU_THRESHOLDS}
    assert named & set(HEADLINE) == {"auc", "ano_auc", "align_ap", "map_official_avg"}
    assert {name for name in named if name.startswith("map_official_0")} == by_iou
    assert "under `iou` in `figures.json`" in TEXT
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    used = set(re.findall(r"bin/vadclip ([\w-]+)", TEXT))
    assert used == {"recipe", "import-checkpoint", "export-checkpoint"}
    assert used <= commands
