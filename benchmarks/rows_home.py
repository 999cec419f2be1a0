"""How fast the driver takes in the rows of a cluster's workers, and how many GPUs that feeds.

    .venv/bin/python -m benchmarks.rows_home

Two nodes of Ray beside the driver's, all on this machine: what they send goes over loopback, so a network may
be the limit before the driver is. Their workers make up rows and do nothing else. The driver does what the
extract stage does with them: it fetches a unit's rows, checks them and writes them into a store.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster

from benchmarks.measuring import Figure, arguments, report, timing_of
from vadclip.config import ExecutionParams, load_params
from vadclip.extract.encode import Extracted
from vadclip.extract.fill import fill_store
from vadclip.extract.store import FeatureStore
from vadclip.extract.units import Unit, split_unit
from vadclip.features.provenance import Provenance
from vadclip.manifest import Video
from vadclip.pool.pool import Pool
from vadclip.pool.work import Outcome

NODES, STORE_BYTES = 2, 512 * 2**20
WIDTH, CROPS, SNIPPETS = 512, 10, 450  # a video of UCF-Crime has 450 snippets on average
ROW_BYTES = 2 * WIDTH
UNIT_IMAGES = 20_000  # as the recipes for UCF-Crime and XD-Violence have it
GPU_IMAGES = 8270
"""Images a second of ViT-B/16 on one H200, as measured; each becomes a row."""
PROVENANCE = Provenance(
    source="encoded", clip_name="none", clip_fingerprint="0" * 64, quick_gelu=True, precision="fp16",
    image_size=224, embed_dim=WIDTH, frames_per_snippet=1, recipe="made up rows",
)  # fmt: skip


class MakesUpRows:
    """Returns random rows for units."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._rows = np.random.default_rng(0).standard_normal((UNIT_IMAGES, WIDTH)).astype(np.float16)

    def run(self, unit: Unit, beat: Callable[[float], None]) -> Extracted:
        """Do one unit."""
        blocks = [
            part.block(crop, rows=part.stop - part.start, frames=part.num_frames)
            for part in unit.slices
            for crop in part.crops
        ]
        beat(unit.images)
        return Extracted(blocks, [self._rows[: block.rows] for block in blocks])


class Driver:
    """Runs units on a cluster, and measures from the first rows to the last."""

    def __init__(self, execution: ExecutionParams) -> None:
        self._execution, self._process = execution, psutil.Process()
        self.rows, self.peak_bytes = 0, 0
        self.seconds = self.processor = 0.0

    def __call__(self, units: Sequence[Unit], **callbacks: Any) -> Generator[Outcome[Unit, Extracted]]:
        """Run units as `fill_store` has them run."""
        with Pool(MakesUpRows, self._execution) as pool:
            for number, outcome in enumerate(pool.run(units, split=split_unit, **callbacks)):
                if number == 0:
                    self.seconds, self.processor = -time.perf_counter(), -time.process_time()
                else:
                    self.rows += outcome.task.rows
                yield outcome
                del outcome
                self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
                now, processor = time.perf_counter(), time.process_time()
            self.seconds += now
            self.processor += processor


def take_in(execution: ExecutionParams, videos: Sequence[Video]) -> Driver:
    """Fill a store in a temporary folder."""
    driver = Driver(execution)
    params = load_params().extract.model_copy(update={"frames_per_snippet": 1, "train_crops": CROPS})
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder, "features"), Path(folder, "cache"), PROVENANCE)
        fill_store(store, videos, "/videos", params, unit_images=UNIT_IMAGES, run_units=driver)
    return driver


def made_up_videos(count: int) -> list[Video]:
    """Rows of a manifest."""
    return [
        Video(
            video_id=name, uri=f"{name}.mp4", split="train", source_id=name, labels=("Normal",), segments=(),
            frame_spans=(), num_frames=16 * SNIPPETS, fps=25, width=320, height=240, bytes=1,
            content_hash=f"{name:0>64}", probe_error=None,
        )
        for name in (f"video{number:05d}" for number in range(count))
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments("benchmarks.rows_home", __doc__).parse_args(argv)
    videos, runs = (12, 1) if args.quick else (200, 3)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes need not find it
    node = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    try:
        for _ in range(NODES):
            cluster.add_node(**node, num_cpus=1)
        here = {"ray_address": cluster.address, "actors": None, "cpus_per_actor": 0.5, "gpus_per_actor": 0.0}
        execution = load_params().execution.model_copy(update=here)
        drivers = [take_in(execution, made_up_videos(videos)) for _ in range(runs)]
    finally:
        cluster.shutdown()
    megabytes = [driver.rows * ROW_BYTES / 1e6 / driver.seconds for driver in drivers]
    best = max(zip(megabytes, drivers, strict=True), key=lambda pair: pair[0])[1]
    figure = Figure.rate(
        "rows fetched, checked and written", "MB/s", best.rows * ROW_BYTES / 1e6,
        timing_of([[driver.seconds * best.rows / driver.rows] for driver in drivers]),
        GPUs=max(megabytes) * 1e6 / ROW_BYTES / GPU_IMAGES,
        **{
            "MB a processor second": best.rows * ROW_BYTES / 1e6 / best.processor,
            "driver's cores": best.processor / best.seconds,
            "driver's peak MB": max(driver.peak_bytes for driver in drivers) / 1e6,
        },
    )  # fmt: skip
    settings = {
        "nodes": NODES, "actors": 2 * NODES, "network": "loopback", "unit_images": UNIT_IMAGES,
        "MB": best.rows * ROW_BYTES / 1e6, "images a second of a GPU": GPU_IMAGES, "ray": ray.__version__,
    }  # fmt: skip
    report("rows_home", "Rows of two nodes on their way into a store", [figure], settings, args)


if __name__ == "__main__":
    main()
