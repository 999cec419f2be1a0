"""What the benchmarks share: repeated timings, facts about the machine, a table, a JSON file.

A machine is seldom idle, and what else runs on it only ever makes work slower. So a figure is measured in
rounds of some runs each, and the best of the rounds' medians is reported, with the fastest and the slowest of
all runs and the load of the machine. Work of one thread is timed by the processor time that it took as well,
which somebody else's load hardly touches.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks", "results")
_QUICK_RESULTS = Path(".cache", "benchmarks")


@dataclass(frozen=True)
class Timing:
    """Seconds that some work took."""

    median: float
    """The lowest of the rounds' medians."""
    fastest: float
    slowest: float
    runs: int
    processor: float | None = None
    """Seconds of processor time, all threads of this process together; as `median`."""


@dataclass(frozen=True)
class Figure:
    """One row of a benchmark's table."""

    what: str
    unit: str
    value: float
    low: float
    """The worst and the best single run, in the figure's unit."""
    high: float
    runs: int
    notes: Mapping[str, float] = field(default_factory=dict)
    """Further columns."""

    @staticmethod
    def rate(what: str, unit: str, amount: float, timing: Timing, **notes: float) -> "Figure":
        """Return `amount` per second."""
        rates = [amount / seconds for seconds in (timing.median, timing.slowest, timing.fastest)]
        if timing.processor is not None:
            notes = {"a processor second": amount / timing.processor, **notes}
        return Figure(what, unit, *rates, runs=timing.runs, notes=notes)

    @staticmethod
    def seconds(what: str, timing: Timing, **notes: float) -> "Figure":
        """Return the seconds themselves."""
        if timing.processor is not None:
            notes = {"processor seconds": timing.processor, **notes}
        return Figure(what, "s", timing.median, timing.fastest, timing.slowest, timing.runs, notes)


def measure(work: Callable[[], object], *, rounds: int, repeats: int) -> Timing:
    """Time `work`, which must end with its result there (a GPU's work waited for), after one run untimed."""
    work()
    taken = [[_seconds(work) for _ in range(repeats)] for _ in range(rounds)]
    wall = timing_of([[run[0] for run in runs] for runs in taken])
    return replace(wall, processor=timing_of([[run[1] for run in runs] for runs in taken]).median)


def timing_of(rounds: Sequence[Sequence[float]]) -> Timing:
    """Sum up seconds measured in rounds."""
    every = [seconds for taken in rounds for seconds in taken]
    return Timing(min(map(statistics.median, rounds)), min(every), max(every), len(every))


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    started, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - processor


def arguments(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes; `doc` is the module's."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    parser.add_argument(
        "--results", type=Path, help=f"folder for the JSON (default: {RESULTS}; quick: .cache)"
    )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device cpu | cuda."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def check_device(device: str) -> None:
    """Leave with one clear line if the device is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: no CUDA GPU can be used here; take --device cpu")


def wait_for(device: str) -> None:
    """Return when the device has done all it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Return what a figure depends on, and nothing that names the machine."""
    import torch

    facts = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def report(
    name: str, title: str, figures: Sequence[Figure], settings: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Print the table and write `<name>.json`; on a GPU `<name>_cuda.json`."""
    from rich.console import Console
    from rich.table import Table

    facts, load = machine(), [round(load, 2) for load in os.getloadavg()]
    on = f"{facts.get('gpu', '')} {facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}".strip()
    notes = list(dict.fromkeys(note for figure in figures for note in figure.notes))
    table = Table("", "best median", "unit", "worst to best run", "runs", *notes, title=title)
    for figure in figures:
        extra = [_short(figure.notes[note]) if note in figure.notes else "" for note in notes]
        spread = f"{_short(figure.low)} to {_short(figure.high)}"
        table.add_row(figure.what, _short(figure.value), figure.unit, spread, str(figure.runs), *extra)
    console = Console()
    console.width = max(console.width, 110)  # a pipe is no reason to break words
    console.print(table)
    console.print(f"{on}; load average {load[0]}, {load[1]}, {load[2]}", soft_wrap=True)
    if args.quick:
        console.print("QUICK: these figures mean nothing")

    result = {
        "benchmark": name,
        "quick": args.quick,
        "machine": facts,
        "load_average": load,
        "settings": dict(settings),
        "figures": [_rounded(asdict(figure)) for figure in figures],
    }
    folder = args.results or (_QUICK_RESULTS if args.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = getattr(args, "device", "cpu") == "cuda"
    path = folder / f"{name}{'_cuda' if on_gpu else ''}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
