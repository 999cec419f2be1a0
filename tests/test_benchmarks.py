"""Benchmarks run, at sizes that measure nothing: so they cannot rot unseen."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from conftest import PROJECT

from benchmarks.measuring import Figure, timing_of

BENCHMARKS = (
    *("decoding", "evaluation", "extraction", "gpu_extraction", "image_tower", "pool_overhead", "scoring"),
    *("training_step", "rows_home"),
)


@pytest.mark.parametrize("name", [*BENCHMARKS[:-1], pytest.param("rows_home", marks=pytest.mark.soak)])
def test_runs_and_writes_its_figures(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    committed = {path: path.read_bytes() for path in Path("benchmarks", "results").iterdir()}
    importlib.import_module(f"benchmarks.{name}").main(["--quick", "--results", str(tmp_path)])
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["benchmark"] == name
    assert result["quick"] is True
    assert result["machine"].keys() - {"gpu"} == {"cpu", "cores", "python", "torch"}
    for figure in result["figures"]:
        assert figure["value"] > 0
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert "mean nothing" in capsys.readouterr().out
    assert committed == {path: path.read_bytes() for path in Path("benchmarks", "results").iterdir()}


@pytest.mark.parametrize("name", ["gpu_extraction", "image_tower", "scoring", "training_step"])
def test_a_missing_gpu_is_said(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: no CUDA GPU can be used here"):
        importlib.import_module(f"benchmarks.{name}").main(["--quick", "--device", "cuda"])


def test_the_best_round_counts():
    # Medians of the rounds are 3, 2 and 9; the single run of 1 s is luck, and 30 s is somebody else's load.
    timing = timing_of([[3, 3, 4], [1, 2, 30], [9, 9, 9]])
    assert (timing.median, timing.fastest, timing.slowest, timing.runs) == (2, 1, 30, 9)
    # 60 of something: 30 a second at the median, 2 in the slowest run, 60 in the fastest.
    rate = Figure.rate("work", "things/s", 60, timing)
    assert (rate.value, rate.low, rate.high) == (30, 2, 60)


def test_committed_results_are_full_measurements():
    found = {
        path.stem: json.loads(path.read_text()) for path in (PROJECT / "benchmarks" / "results").iterdir()
    }
    ours = [result for result in found.values() if result.get("benchmark") in BENCHMARKS]
    assert ours
    assert not any(result["quick"] for result in ours)
