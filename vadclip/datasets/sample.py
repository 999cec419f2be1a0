"""The embedded sample: 720 train and 164 test videos of a drawn world, rendered where they are missing."""

import time
from concurrent.futures import as_completed
from pathlib import Path

from vadclip.config import DatasetParams
from vadclip.datasets.official_lists import own_classes
from vadclip.datasets.raw import RawDataset, RawVideo
from vadclip.files import held_alone
from vadclip.manifest import Segment, dataset_root
from vadclip.progress import track
from vadclip.sample.film import render_video
from vadclip.sample.workers import drawing_pool
from vadclip.sample.world import CLASSES, WORLD_VERSION, VideoPlan, sample_plans

_ABANDONED_SECONDS = 3600.0  # no video takes a hundredth of this


def sample_root() -> Path:
    """Return the folder of the rendered videos, relative to the project's."""
    return Path(".cache", "sample", WORLD_VERSION)


def load(params: DatasetParams) -> RawDataset:
    """Render what is missing and list all videos; `dataset.classes` may reword the prompts."""
    ensure_rendered(Path(dataset_root(params)) / sample_root())
    return RawDataset(
        name=params.name,
        classes=own_classes(params, CLASSES),
        videos=tuple(
            RawVideo(
                uri=(sample_root() / _file_name(plan)).as_posix(),
                labels=(plan.label,),
                split=plan.split,
                segments=_segments(plan),
                video_id=plan.video_id,
                source_id=plan.video_id,
                origin=f"sample video {plan.video_id}",
            )
            for plan in sample_plans()
        ),
    )


def ensure_rendered(root: Path, plans: tuple[VideoPlan, ...] | None = None) -> int:
    """Render the videos that `root` lacks, on all cores; return how many. An existing file is whole."""
    root.mkdir(parents=True, exist_ok=True)
    for left_over in root.glob(".*.tmp.mp4"):  # of a run that was killed
        if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
            left_over.unlink(missing_ok=True)
    wanted = sample_plans() if plans is None else plans
    missing = [plan for plan in wanted if not (root / _file_name(plan)).is_file()]
    if not missing:
        return 0
    with held_alone(root / ".lock", "rendering the sample", wait=True):
        missing = [plan for plan in missing if not (root / _file_name(plan)).is_file()]
        _render(missing, root)
    return len(missing)


def _render(missing: list[VideoPlan], root: Path) -> None:
    pool = drawing_pool(len(missing))
    try:
        with track(sum(plan.num_frames for plan in missing), "render sample videos", "frames") as bar:
            # Longest first, so that no core waits for a late long one.
            rendering = {
                pool.submit(render_video, plan, root / _file_name(plan)): plan
                for plan in sorted(missing, key=lambda plan: -plan.num_frames)
            }
            for done in as_completed(rendering):
                done.result()
                bar.advance(rendering[done].num_frames)
    finally:
        pool.shutdown(cancel_futures=True)


def _file_name(plan: VideoPlan) -> str:
    return f"{plan.video_id}.mp4"


def _segments(plan: VideoPlan) -> tuple[Segment, ...]:
    deed = plan.anomaly
    return () if deed is None else (Segment(deed.start, deed.end, deed.kind),)
