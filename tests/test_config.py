"""params.yaml: strict, typed, and every complaint names the key and what is known."""

import copy

import pytest
import yaml
from params_helpers import SHIPPED, write_params

from vadclip.config import flatten, load_params
from vadclip.errors import InputError

DEFAULTS = yaml.safe_load(SHIPPED.read_text())


def _load(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_params(path)


def _changed(tmp_path, key, value):
    section, name = key.split(".")
    return load_params(write_params(tmp_path, **{section: {name: value}}))


def test_the_committed_params_load_and_are_frozen():
    params = load_params(SHIPPED)
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 3


def test_yaml_text_that_is_a_number_is_taken_as_one(tmp_path):
    # YAML 1.1 wants 2.0e-5; people and papers write 2e-5, which PyYAML reads as text.
    assert yaml.safe_load("x: 2e-5")["x"] == "2e-5"
    assert _changed(tmp_path, "train.learning_rate", "2e-5").train.learning_rate == 2e-5
    assert _changed(tmp_path, "train.weight_decay", 1).train.weight_decay == 1.0


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("train.epochz", 3, r"unknown key train\.epochz \(known here: batch_scheme, .*epochs"),
        ("train.epochs", 0, r"train\.epochs is 0: input should be greater than 0"),
        ("train.epochs", "ten", r"train\.epochs is 'ten': input should be a valid integer"),
        ("train.epochs", True, r"train\.epochs is True: input should be a valid integer"),
        ("train.learning_rate", "fast", r"train\.learning_rate is 'fast': input should be a valid number"),
        ("train.learning_rate", "nan", r"train\.learning_rate is 'nan': input should be a finite number"),
        ("train.milestones", [8, 4], r"train\.milestones \[8, 4\] must rise"),
        ("extract.train_crops", 3, r"extract\.train_crops is 3: input should be 1, 5 or 10"),
        ("extract.test_crop", 10, r"extract\.test_crop is 10: input should be less than or equal to 9"),
        ("extract.max_failed_fraction", 1.5, r"extract\.max_failed_fraction is 1\.5"),
        ("ingest.val_fraction", 0, r"train\.selection validation needs validation videos"),
        (
            "model.temporal",
            "lstm",
            r"model\.temporal is 'lstm': input should be 'none', 'global', 'local', 'gcn'",
        ),
        ("model.branches", "alignment", r"model\.visual_prompt anomaly_focus looks where the classification"),
        ("train.selection", "official", r"train\.selection official trains on all training videos"),
        ("dataset.name", "table", r"dataset\.table is None with dataset\.name 'table': give a CSV"),
        ("dataset.name", "ucf_crime", r"dataset\.annotations is None with dataset\.name 'ucf_crime'"),
        ("dataset.root", "videos", r"dataset\.root is 'videos': the sample renders its own"),
        ("dataset.source", "official_features", r"official_features goes with dataset\.name ucf_crime or xd"),
        ("dataset.classes", {"Normal": "normal"}, r"dataset\.classes needs normal and at least one anomaly"),
        ("execution.device", "cuda", r"execution\.gpus_per_actor is 0 with execution\.device 'cuda'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(tmp_path, key, value, complaint):
    with pytest.raises(InputError, match=complaint) as raised:
        _changed(tmp_path, key, value)
    assert "\n" not in str(raised.value)


def test_a_missing_key_and_a_missing_section_are_named(tmp_path):
    content = copy.deepcopy(DEFAULTS)
    del content["train"]["seed"], content["score"]
    with pytest.raises(
        InputError, match=r"missing key train\.seed .*missing key score \(expected here: data"
    ):
        _load(tmp_path, content)


def test_an_imported_checkpoint_needs_no_validation_videos(tmp_path):
    path = write_params(tmp_path, ingest={"val_fraction": 0}, train={"checkpoint": "model_ucf.pth"})
    assert load_params(path).train.checkpoint == "model_ucf.pth"


def test_what_is_not_params_at_all_is_said(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file; run in the project's folder"):
        load_params(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"is not YAML"):
        _load(tmp_path, "train: [")
    with pytest.raises(InputError, match=r"must hold the sections dataset, clip"):
        _load(tmp_path, "just text")


def test_flatten_gives_the_names_that_dvc_shows():
    assert flatten({"train": {"seed": 1, "milestones": [4]}}) == {"train.seed": 1, "train.milestones": [4]}
