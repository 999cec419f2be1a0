"""Images a second of the extract stage through Ray on this machine, and where the time goes.

    .venv/bin/python -m benchmarks.extraction

A project of generated videos (`benchmarks.decoding`, plain and busy, 320x240) with the params of the embedded
sample, its small CLIP, and five crops. Its ingest and extract stages run as they are, with one actor and with
one per core. Two rates: of the whole stage, which spends seconds on starting Ray and loading CLIP, and of the
actors once they work; the second is what a long extraction converges to. The columns are seconds of work for
1,000 images, by phase; decoding and resizing run in a thread beside the tower, and `wait` is how long the
tower waited for them.
"""

import io
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

import flows.extract
import flows.ingest
from benchmarks.decoding import write_video
from benchmarks.measuring import Figure, arguments, report, timing_of

PROJECT = Path(__file__).resolve().parents[1]
PHASES = ("decode", "resize", "encode", "wait", "write")
# What an actor's main thread does; the rest runs beside it.
BUSY = ("encode", "wait", "write")


def make_project(folder: Path, videos: int, frames: int) -> None:
    """Write params, table and videos of a project, and ingest it."""
    root = folder / "videos"
    root.mkdir()
    for kind in ("plain", "busy"):
        write_video(folder / f"{kind}.mp4", kind, frames)
    lines = ["path,label,split"]
    for number in range(videos):
        kind = ("plain", "busy")[number % 2]
        shutil.copy(folder / f"{kind}.mp4", root / f"{number:03d}.mp4")
        lines.append(f"{number:03d}.mp4,{'Normal' if number % 2 else 'Fighting'},train")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    _write_params(folder, actors=1)
    with chdir(folder), redirect_stdout(io.StringIO()):
        flows.ingest.main()


def extract(folder: Path, actors: int) -> Mapping[str, float]:
    """Extract everything anew; extract_metrics.json."""
    _write_params(folder, actors)
    shutil.rmtree(folder / "features", ignore_errors=True)
    with chdir(folder), redirect_stdout(io.StringIO()):
        flows.extract.main()
    figures: dict[str, float] = json.loads((folder / "extract_metrics.json").read_text())
    return figures


def _write_params(folder: Path, actors: int) -> None:
    params: dict[str, Any] = yaml.safe_load((PROJECT / "vadclip" / "recipes" / "sample.yaml").read_text())
    params["dataset"] |= {"name": "table", "root": str(folder / "videos"), "table": "table.csv"}
    params["extract"]["train_crops"] = 5
    params["execution"] |= {"actors": actors, "ray_address": None}
    params["train"] |= {"batch_scheme": "single", "selection": "last"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments("benchmarks.extraction", __doc__).parse_args(argv)
    os.environ.pop("RAY_ADDRESS", None)
    videos, frames, runs = (2, 32, 1) if args.quick else (24, 640, 2)
    cores = len(os.sched_getaffinity(0))
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, videos, frames)
        for actors in [1] if args.quick else sorted({1, cores}):
            found = [extract(folder, actors) for _ in range(runs)]
            images = found[0]["run_images"]
            phases = {
                f"{phase} s/1000": statistics.median(
                    1000 * run.get(f"run_seconds_{phase}", 0.0) / images for run in found
                )
                for phase in PHASES
            }
            # Each run is a round: they are few, and what disturbs one seldom disturbs all.
            whole = timing_of([[run["run_seconds_total"]] for run in found])
            busy = timing_of([[sum(run[f"run_seconds_{phase}"] for phase in BUSY) / actors] for run in found])
            crew = f"{actors} actor{'s' if actors > 1 else ''}"
            figures.append(Figure.rate(f"{crew}, whole stage", "images/s", images, whole))
            figures.append(Figure.rate(f"{crew}, at work", "images/s", images, busy, **phases))
    settings = {"videos": videos, "frames_each": frames, "crops": 5, "clip": "sample"}
    report("extraction", "The extract stage with the sample's CLIP", figures, settings, args)


if __name__ == "__main__":
    main()
