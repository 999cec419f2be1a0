"""Names that tell runs apart."""

import pytest
from conftest import PROJECT

from vadclip.config import DatasetParams, flatten, load_params
from vadclip.tracking.naming import changes_name, dataset_name, run_name, seeds_group

LEAVES = flatten(load_params(PROJECT / "params.yaml").model_dump())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"train.learning_rate": 1e-4, "train.seed": 3}, "lr1e-4-s3"),
        ({"train.learning_rate": 0.00025}, "lr2.5e-4"),
        ({"train.weight_decay": 0.05, "train.epochs": 40}, "wd0.05-epochs40"),
        (
            {"model.temporal": "local_gcn", "train.seed": 7, "model.layers": 3},
            "layers3-temporal=local_gcn-s7",
        ),
        ({"ingest.seed": 4}, "ingest.seed4"),
        ({"train.milestones": [3, 6]}, "milestones3_6"),
        ({"train.checkpoint": "/a/long folder/model ucf.pth"}, "checkpoint=model_ucf.pth"),
        ({"execution.actors": 9, "tracking.uri": "http://x"}, ""),
    ],
)
def test_what_differs_is_the_name(changes, name):
    assert changes_name({**LEAVES, **changes}, LEAVES) == name


def test_two_runs_of_a_sweep_differ_within_20_characters():
    names = {
        run_name(
            changes_name({**LEAVES, "train.learning_rate": rate, "train.seed": seed}, LEAVES),
            "sample", "0123456789",
        )[:20]
        for rate in (1e-4, 3e-3)
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(names) == 6


def test_a_run_without_changes_is_named_by_its_commit():
    assert run_name("", "sample", "0123456789") == "base-0123456-sample"
    assert run_name("", "sample", None) == "base-sample"
    assert changes_name(LEAVES, None) == ""


def test_what_yaml_writes_as_text_is_the_same_number():
    assert (
        changes_name({**LEAVES, "train.learning_rate": 3e-4}, {**LEAVES, "train.learning_rate": "3e-4"}) == ""
    )


def test_runs_that_differ_only_in_seed_share_a_group():
    group = seeds_group(LEAVES, "data")
    assert seeds_group({**LEAVES, "train.seed": 99}, "data") == group
    assert seeds_group({**LEAVES, "train.epochs": 99}, "data") != group
    assert seeds_group(LEAVES, "other") != group


def test_a_table_is_called_after_its_file(tmp_path):
    params = load_params(PROJECT / "params.yaml").dataset
    assert dataset_name(params) == "sample"
    table = DatasetParams(**{**params.model_dump(), "name": "table", "table": "my videos/cam: 1.csv"})
    assert dataset_name(table) == "cam-1"
