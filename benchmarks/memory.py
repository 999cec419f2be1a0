"""Memory that must not grow: an actor's with the length of a video, the driver's with the number of videos.

    .venv/bin/python -m benchmarks.memory [--hours 3] [--videos 100000]

The actor: ten crops of 320x240 H.264 videos of growing length, read and resized as an actor does, with an
encoder that only makes up rows, so that what is measured stands beside torch and the model. The driver: a
manifest of growing length through `fill_store` and Ray, with workers that return rows and decode nothing.
Each line is the peak of a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vadclip.config import ExtractParams, load_params
from vadclip.extract.coverage import Gap
from vadclip.extract.encode import Extracted, OpenVideo, extract
from vadclip.extract.fill import RunUnits, fill_store
from vadclip.extract.store import FeatureStore
from vadclip.extract.units import Unit, plan_units, split_unit
from vadclip.features.provenance import Provenance
from vadclip.features.shards import write_shard
from vadclip.files import write_text_atomic
from vadclip.labels import Classes
from vadclip.manifest import Manifest, ManifestFile, Video, write_manifest
from vadclip.pool.work import Outcome
from vadclip.video.frame_reader import probe

RESULT = Path("benchmarks/results/memory.json")
FPS, MINUTE = 25, 1500
WIDTH = 512
UNIT_IMAGES, BATCH_IMAGES = 512, 64
CROPS = tuple(range(10))
PROVENANCE = Provenance(
    source="encoded", clip_name="none", clip_fingerprint="0" * 64, quick_gelu=True, precision="fp32",
    image_size=224, embed_dim=WIDTH, frames_per_snippet=1, recipe="made up rows",
)  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--hours", type=float, default=3.0)
    arguments.add_argument("--videos", type=int, default=100_000)
    asked = arguments.parse_args()
    figures = []
    for part in (16, 4, 1):
        figures.append(in_a_process("actor", round(asked.hours * 60 / part)))
    for part in (16, 4, 1):
        figures.append(in_a_process("driver", asked.videos // part))
    table = Table("process", "size", "seconds", "MB before", "peak MB", "MB after")
    for figure in figures:
        table.add_row(
            *(str(figure[key]) for key in ("process", "size", "seconds", "before", "peak", "after"))
        )
    Console().print(table)
    write_text_atomic(RESULT, json.dumps({"benchmark": "memory", "figures": figures}, indent=2) + "\n")


def in_a_process(function: str, arguments: object) -> dict[str, Any]:
    """Call a function of this module in a fresh process: one line of the table, mostly."""
    call = f"from benchmarks.memory import *\nprint(json.dumps({function}({arguments})))"
    command = [sys.executable, "-c", call]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figure: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return figure


def actor(minutes: int) -> dict[str, Any]:
    """All units of one video, one after the other in this process."""
    import torch  # an actor has it in memory from its start

    from vadclip.clip import frozen  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_long_video(Path(folder) / "long.mp4", minutes)
        before, started = rss_mb(), time.perf_counter()
        video = made_up_video("long", probe(path).num_frames)
        gap = Gap(CROPS, 0, video.num_snippets)
        units = plan_units([(video, str(path), gap)], frames_per_snippet=1, unit_images=UNIT_IMAGES)
        videos = OpenVideo("decord")
        for unit in sorted(units, key=lambda unit: unit.slices[0].start):
            out = extract(unit, MadeUpEncoder(), videos, batch_images=BATCH_IMAGES, beat=lambda amount: None)
            write_shard(Path(folder) / "shards", "part", PROVENANCE, out.blocks, out.arrays).unlink()
        return measured("actor", f"{minutes} min", started, before)


def write_made_up_manifest(path: str, count: int) -> dict[str, Any]:
    """Write a manifest of short videos; in a process of its own, since this needs them all in memory."""
    classes = Classes(labels=("Normal", "Fire"), prompts=("normal", "fire"))
    videos = tuple(made_up_video(f"video{number:06d}", 32) for number in range(count))
    write_manifest(Manifest("table", "videos", classes, videos), Path(path))
    return {}


def measured(process: str, size: str, started: float, before: float) -> dict[str, Any]:
    """One line of the table."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds = round(time.perf_counter() - started, 1)
    return {
        "process": process, "size": size, "seconds": seconds, "before": round(before), "peak": round(peak),
        "after": round(rss_mb()),
    }  # fmt: skip


def rss_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def made_up_video(name: str, frames: int) -> Video:
    """A row of a manifest."""
    return Video(
        video_id=name, uri=f"{name}.mp4", split="train", source_id=name, labels=("Normal",), segments=(),
        frame_spans=(), num_frames=frames, fps=FPS, width=320, height=240, bytes=1,
        content_hash=f"{name:0>64}", probe_error=None,
    )  # fmt: skip


class MadeUpEncoder:
    """Rows without a model."""

    image_size, embed_dim = 224, WIDTH

    def encode_crops(
        self, frames_NHW3: NDArray[np.uint8], crops: Sequence[int], batch_images: int
    ) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros((len(frames_NHW3), len(crops), WIDTH), np.float32)


class MadeUpWorker:
    """Returns zeros for units."""

    def __init__(self, files: Mapping[str, str]) -> None:
        pass

    def run(self, unit: Unit, beat: Callable[[float], None]) -> Extracted:
        """Do one unit."""
        blocks = [
            part.block(crop, rows=part.stop - part.start, frames=part.num_frames)
            for part in unit.slices
            for crop in part.crops
        ]
        arrays = [np.zeros((block.rows, WIDTH), np.float16) for block in blocks]
        beat(unit.images)
        return Extracted(blocks, arrays, counts={"images": unit.images})


def on_ray(units: Sequence[Unit], **callbacks: Any) -> Generator[Outcome[Unit, Extracted]]:
    """Have two actors do the units."""
    from vadclip.pool.pool import Pool

    execution = load_params().execution.model_copy(update={"actors": 2, "cpus_per_actor": 0.5})
    with Pool(MadeUpWorker, execution) as pool:
        yield from pool.run(units, split=split_unit, **callbacks)


def in_this_process(
    units: Sequence[Unit], *, progress: Callable[[float], None], **callbacks: Any
) -> Generator[Outcome[Unit, Extracted]]:
    """Do the units where the driver is."""
    worker = MadeUpWorker({})
    for unit in units:
        yield Outcome(unit, worker.run(unit, progress), None)


def driver(count: int, run_units: RunUnits = on_ray) -> dict[str, Any]:
    """A store filled with `count` short videos, then opened again with nothing to do."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "manifest.parquet"
        in_a_process("write_made_up_manifest", f"'{path}', {count}")
        before, started = rss_mb(), time.perf_counter()
        params = ExtractParams(
            frames_per_snippet=1, train_crops=1, test_crop=0, max_failed_fraction=0.0, max_lost_fraction=0.05
        )
        for _ in range(2):
            store = FeatureStore(folder / "features", folder / ".cache", PROVENANCE)
            fill_store(
                store, ManifestFile(path), "/videos", params, unit_images=UNIT_IMAGES, run_units=run_units
            )
        return measured("driver", f"{count:,} videos", started, before)


def write_long_video(path: Path, minutes: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Encode one minute of moving noise and write its packets over and over."""
    minute = path.with_name("minute.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (size[1], 4 * size[0], 3), np.uint8)
    with av.open(str(minute), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.thread_count = 250, 2, 1
        stream.options = {"preset": "ultrafast", "crf": "40", "x264-params": "open-gop=0"}
        for number in range(MINUTE):
            left = number * 2 % (3 * size[0])
            picture = np.ascontiguousarray(noise[:, left : left + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in source.demux(old)
            if packet.size
        ]
        assert old.time_base is not None
        ticks = round(60 / old.time_base)
        for number in range(minutes):
            for data, pts, dts, key in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = new, Fraction(old.time_base), key
                packet.pts, packet.dts = pts + number * ticks, dts + number * ticks
                target.mux(packet)
    minute.unlink()
    return path


if __name__ == "__main__":
    main()
