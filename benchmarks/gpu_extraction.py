"""How many actors keep a GPU busy: the extract stage's worker in processes of its own, without Ray.

    .venv/bin/python -m benchmarks.gpu_extraction --device cuda --precision bf16 --workers 4 8 12 16

Each process holds an `ExtractWorker` as an actor does: one thread decodes, another drives the tower. All are
there from the start, idle until their turn comes; K at work share the cores as K actors would. The video is
generated (`benchmarks.decoding`, scenes plain and busy by turns, 320x240 H.264) and long enough that PyAV
reads it, as it does most of UCF-Crime. The CLIP is ViT-B/16 with random weights; one frame of 16 is taken,
with ten crops (a training video's) and with one (a test video's). The rate is the sum of the workers', each
from the end of one batch to that of a later one, so neither starts nor ends count. Columns: frames of the
videos a second; the share of the workers' time in which their towers waited for frames; the time in which any
kernel ran on the GPU, as the driver counts it, in percent; and the GPU memory of each process at work.

It needs torch, open_clip, PyAV, pyarrow, pydantic, fsspec, psutil, numpy, rich and, for a GPU, nvidia-ml-py,
and imports neither Ray nor DVC nor MLflow.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from benchmarks.decoding import write_video
from benchmarks.measuring import Figure, add_device, arguments, check_device, report, timing_of
from vadclip.clip.identity import identify_clip
from vadclip.config import ClipParams, load_params
from vadclip.extract.units import Slice, Unit
from vadclip.extract.worker import ExtractWorker
from vadclip.features.provenance import Provenance
from vadclip.manifest import SNIPPET_FRAMES

PATIENCE = 300  # seconds until all workers are there, or have done something


class Turn:
    """Whose turn it is, and what the workers tell, in memory that all processes share."""

    def __init__(self, context: Any, workers: int) -> None:
        self.at_work, self.threads, self.crops = (context.Value("i", 0, lock=False) for _ in range(3))
        # Images since a worker's first batch of the turn, when that was done, and when the last one was.
        self.images, self.first, self.last, self.encode, self.wait = (
            context.Array("d", workers, lock=False) for _ in range(5)
        )
        self.idle = context.Array("b", workers, lock=False)


class _TurnOver(BaseException):
    """This worker's turn is over."""


def work(number: int, make_worker: Callable[[], ExtractWorker], units: dict[int, Unit], turn: Turn) -> None:
    """Be worker `number`: run the unit of the turn's crops again and again whenever it is its turn."""
    worker = make_worker()

    def beat(images: float) -> None:
        if number >= turn.at_work.value:
            raise _TurnOver
        if images and not turn.first[number]:
            turn.first[number] = time.monotonic()
        elif images:
            turn.images[number] += images
            turn.last[number] = time.monotonic()

    while True:
        turn.idle[number] = number >= turn.at_work.value
        if turn.idle[number]:
            time.sleep(0.02)
            continue
        torch.set_num_threads(turn.threads.value)
        with suppress(_TurnOver):
            done = worker.run(units[turn.crops.value], beat)
            assert not done.failures, done.failures
            turn.encode[number] += done.seconds["encode"]
            turn.wait[number] += done.seconds["wait"]


class Gpu:
    """What the driver says of the GPU; nothing on a CPU."""

    def __init__(self, device: str) -> None:
        self._handle = None
        if device == "cuda":
            import pynvml

            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)

    def busy(self) -> dict[str, float]:
        """Percent of the last moments in which a kernel ran."""
        if self._handle is None:
            return {}
        return {"GPU %": float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)}

    def mib(self) -> float:
        """MiB in use."""
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used / 2**20 if self._handle else 0.0


def write_clip(folder: Path, *, quick: bool) -> tuple[Path, Path]:
    """Write config and random weights of ViT-B/16 with a small text tower, which no worker uses."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    config["text_cfg"] |= {"width": 32, "heads": 1, "layers": 1}
    if quick:
        config["vision_cfg"] |= {"image_size": 32, "layers": 1, "width": 64, "head_width": 32}
    files = folder / "clip.json", folder / "clip.safetensors"
    files[0].write_text(json.dumps(config))
    save_file(open_clip.CLIP(**config).state_dict(), files[1])
    return files


def make_unit(folder: Path, frames: int, crops: int, videos: int) -> Unit:
    """Return a unit of so many videos."""
    return Unit(
        tuple(
            Slice(
                video_id=f"{number:03d}",
                content_hash="0",
                location=str(folder / "video.mp4"),
                num_frames=frames,
                crops=tuple(range(crops)),
                start=0,
                stop=frames // SNIPPET_FRAMES,
            )
            for number in range(videos)
        ),
        frames_per_snippet=1,
    )


def until(condition: Callable[[], bool], processes: Sequence[Any], what: str) -> None:
    """Wait for something that workers do; leave with one line if one of them is gone or it takes too long."""
    started = time.monotonic()
    while not condition():
        time.sleep(0.02)
        if not all(process.is_alive() for process in processes):
            raise SystemExit(f"error: a worker ended before {what}; its own words stand above")
        if time.monotonic() - started > PATIENCE:
            raise SystemExit(f"error: {PATIENCE} s went by before {what}; take fewer --workers")


def rates(turn: Turn, processes: Sequence[Any], gpu: Gpu, count: int, crops: int, seconds: float) -> Figure:
    """Give `count` workers their turn and measure them once each has encoded something."""
    turn.at_work.value = 0
    until(lambda: all(turn.idle), processes, "all workers had stopped")
    for told in (turn.images, turn.first, turn.last, turn.encode, turn.wait):
        told[:] = [0.0] * len(told)
    turn.threads.value, turn.crops.value = max(1, len(os.sched_getaffinity(0)) // count), crops
    turn.at_work.value = count
    until(lambda: all(turn.first[:count]), processes, "every worker had encoded something")
    started, busy = time.monotonic(), [gpu.busy()]
    while time.monotonic() - started < seconds:
        until(lambda: True, processes, "the end")
        time.sleep(0.1)
        busy.append(gpu.busy())
    until(lambda: all(turn.images[:count]) and any(turn.encode), processes, "every worker had encoded more")
    found = [turn.images[number] / (turn.last[number] - turn.first[number]) for number in range(count)]
    timing = timing_of([[1 / sum(found)]])
    notes = {
        "frames/s": SNIPPET_FRAMES / crops / timing.median,
        "waiting %": 100 * sum(turn.wait) / (sum(turn.wait) + sum(turn.encode)),
    }
    notes |= {note: statistics.mean(one[note] for one in busy) for note in busy[0]}
    threads = f"{turn.threads.value} thread{'s' if turn.threads.value > 1 else ''}"
    what = f"{count} workers, {threads} each, {crops} crop{'s' if crops > 1 else ''}"
    return Figure.rate(what, "images/s", 1, timing, **notes)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("benchmarks.gpu_extraction", __doc__)
    add_device(parser)
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="how many at once, in this order")
    parser.add_argument("--batch", type=int, default=256, help="execution.encoder_batch (default: 256)")
    args = parser.parse_args(argv)
    check_device(args.device)
    frames, videos, seconds = (32, 2, 0.1) if args.quick else (2048, 4, 10.0)
    gpu, context = Gpu(args.device), multiprocessing.get_context("spawn")
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video(folder / "video.mp4", "mixed", frames)
        model, weights = write_clip(folder, quick=args.quick)
        clip = ClipParams(
            model=str(model), pretrained=str(weights), quick_gelu=True, precision=args.precision
        )
        provenance = Provenance.encoded(identify_clip(clip, folder), args.precision, 1)
        used = {
            "device": args.device,
            "cpus_per_actor": 1.0,
            "decoder": "decord",
            "encoder_batch": args.batch,
        }
        execution = load_params().execution.model_copy(update=used)
        make_worker = partial(ExtractWorker, clip, execution, provenance, {})
        # As many images of one crop as an actor's unit has would take too long to read.
        units = {10: make_unit(folder, frames, 10, videos), 1: make_unit(folder, frames, 1, 2 * videos)}
        most, empty = max(args.workers), gpu.mib()
        turn = Turn(context, most)
        processes = []
        for number in range(most):
            task = (number, make_worker, units, turn)
            processes.append(context.Process(target=work, args=task, daemon=True))
        for process in processes:
            process.start()
        try:
            until(lambda: all(turn.idle), processes, "all workers were there")
            for count in args.workers:
                for crops in units:
                    figure = rates(turn, processes, gpu, count, crops, seconds)
                    if args.device == "cuda" and count == most:
                        held = {"MiB each": (gpu.mib() - empty) / most}
                        figure = replace(figure, notes={**figure.notes, **held})
                    figures.append(figure)
        finally:
            for process in processes:
                process.kill()
                process.join()
    facts = {
        "device": args.device, "precision": args.precision, "batch": args.batch, "frames_each": frames,
        "clip": "ViT-B/16, random weights",
    }  # fmt: skip
    title = f"Workers beside each other, {args.precision}, batches of {args.batch}"
    report("gpu_extraction", title, figures, facts, args)


if __name__ == "__main__":
    main()
