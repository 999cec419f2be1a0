"""`vadclip detect`: the pipeline on videos without labels. Probe, fill a feature store, score, find events.

Each step is the pipeline's own function, so rows and scores are the pipeline's. All is kept in the folder of
the run: the same command again goes on where it was stopped, and opens only videos that are new or changed.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from rich.console import Console

from vadclip.config import ExecutionParams
from vadclip.datasets.raw import RawVideo
from vadclip.detect.find import Rules, events_of
from vadclip.detect.looks import Look, clear_others, look_at, look_folder
from vadclip.detect.out_folder import claim
from vadclip.detect.page import write_pages
from vadclip.detect.render import render
from vadclip.detect.results import (
    Result,
    describe_threshold,
    print_table,
    threshold_json,
    write_csv,
    write_json,
)
from vadclip.detect.sources import find_sources
from vadclip.errors import InputError, VideoError
from vadclip.events import MAX_FLAGGED_NORMAL, Threshold, threshold_from_peaks
from vadclip.extract.encode import Extracted
from vadclip.extract.fill import fill_store
from vadclip.extract.ledger import scratch_faults
from vadclip.extract.on_ray import run_units as run_on_ray
from vadclip.extract.store import FeatureStore
from vadclip.extract.units import Unit
from vadclip.extract.video_cache import default_cache
from vadclip.features.index import IndexRow, read_index
from vadclip.features.reader import FeatureReader
from vadclip.files import held_alone
from vadclip.ingest.probing import probe_files
from vadclip.ingest.video_row import video_row
from vadclip.labels import Classes
from vadclip.manifest import Manifest, Video
from vadclip.pool.work import Outcome
from vadclip.progress import track
from vadclip.remote import is_remote
from vadclip.score.scores import Scores, scores_table, write_scores

if TYPE_CHECKING:
    from vadclip.detect.judge import Judge

FEATURES, CACHE, THUMBNAILS, RENDERED = Path("features"), Path(".cache"), Path("thumbnails"), Path("rendered")
_FAILED_SHOWN = 5
_LOOKERS = 4  # threads; decoding a picture holds no lock of Python's


@dataclass(frozen=True)
class Request:
    """What the user asked for; see `vadclip detect --help`."""

    paths: Sequence[str]
    model: Path
    out: Path
    clip: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    ray_address: str | None = None
    threshold: float | None = None
    max_flagged_normal: float = MAX_FLAGGED_NORMAL
    prompts: Sequence[str] = ()
    only_prompts: bool = False
    prompt_threshold: float | None = None
    render: bool = False
    force: bool = False

    @property
    def cluster(self) -> bool:
        """Whether a cluster is named that does the work."""
        return self.execution.address != "local"

    @property
    def execution(self) -> ExecutionParams:
        """How the work is done."""
        return ExecutionParams(
            device=self.device, ray_address=self.ray_address, actors=None, cpus_per_actor=1.0,
            gpus_per_actor=0.25 if self.device == "cuda" else 0.0, encoder_batch=64, unit_images=512,
            max_attempts=3, stall_seconds=300.0, decoder="decord", reader_threads=1, video_cache_gib=50.0,
        )  # fmt: skip


def detect(request: Request, console: Console) -> list[Result]:
    """Do what `request` says: files are written, events and what they are worth are printed.

    Raises InputError for what cannot be used at all; and, once everything is written, if any video could not
    be.
    """
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    out = request.out
    sources = find_sources(request.paths, tell)
    # Loading torch takes seconds: only for a request that makes sense so far.
    from vadclip.detect.judge import Judge
    from vadclip.detect.model import ASSUMED, load
    from vadclip.model.folder import read_model_info

    info = read_model_info(request.model)
    threshold: float | Threshold | None = request.threshold
    if threshold is None:
        threshold = threshold_from_peaks(
            info.normal_peaks, selection=info.selection, max_flagged=request.max_flagged_normal
        )
    claim(out, request.model)
    with held_alone(out / CACHE / "lock", f"vadclip detect --out {out}"), scratch_faults():
        videos = _probed(sources, info.classes, request)
        # A cluster's actors have the GPUs; this machine need not have one.
        loaded = load(request.model, clip=request.clip, device="cpu" if request.cluster else request.device)
        judge = Judge.of(loaded, request.prompts, only=request.only_prompts)
        if loaded.recipe.assumed:
            tell(f"note: {ASSUMED}")
        manifest = Manifest(dataset="detect", source="videos", classes=info.classes, videos=videos)
        rows = _fill(manifest, judge, request)
        reader = FeatureReader(out / FEATURES, manifest)
        scores = judge.score(reader, reader.videos("test"), reader.excluded, reader.lost_frames)
        write_scores(scores_table(scores), out / "scores.parquet")
        value = threshold if isinstance(threshold, float) else threshold.value
        rules = Rules(value, request.prompt_threshold, judge.prompt_labels)
        results = _results(manifest, rows, scores, out / THUMBNAILS, rules)
        facts = describe_threshold(threshold)
        write_csv(results, out / "events.csv")
        about = {"model": str(request.model), "threshold": threshold_json(threshold), "labels": judge.labels}
        write_json(results, about, out / "events.json")
        page = write_pages(out, results, rules.threshold, facts)[0]
        print_table(results, console)
        lines = [_summary(results), *facts, f"All of it: {page}"]
        if request.render:
            hashes = {video.video_id: video.content_hash for video in videos}
            lines += _render(results, hashes, out / RENDERED, rules.threshold, force=request.force)
        for line in lines:
            tell(line)
    _mind_failed(results)
    return results


def _probed(sources: Sequence[RawVideo], classes: Classes, request: Request) -> tuple[Video, ...]:
    # Arrow imports pandas, where there is one, at its first conversion (0.5 s): now, while a child probes.
    Thread(target=pa.array, args=([0],), daemon=True).start()
    cache = request.out / CACHE / "probe.parquet"
    found = probe_files((source.uri for source in sources), cache, execution=request.execution)
    return tuple(video_row(source, found[source.uri], classes) for source in sources)


def _fill(manifest: Manifest, judge: "Judge", request: Request) -> dict[str, IndexRow]:
    """Bring the feature store up to date; return what became of each video."""
    from vadclip.detect.here import run_here

    loaded, execution = judge.loaded, request.execution
    provenance = loaded.recipe.provenance

    def run_units(units: Sequence[Unit], **callbacks: Any) -> Generator[Outcome[Unit, Extracted], None, None]:
        if len(units) == 1 and not request.cluster:
            return run_here(loaded.clip, execution, units, **callbacks)
        return run_on_ray(loaded.clip_params, execution, provenance, units, **callbacks)

    features = request.out / FEATURES
    fill_store(
        FeatureStore(features, request.out / CACHE, provenance, tell=print),
        manifest.videos,
        "",
        loaded.recipe.extract,
        unit_images=execution.unit_images,
        run_units=run_units,
    )
    return {row.video_id: row for row in read_index(features)[0]}


def _results(
    manifest: Manifest, rows: dict[str, IndexRow], scores: Scores, thumbnails: Path, rules: Rules
) -> list[Result]:
    """Look at every scored video, and find its events."""
    position = {video_id: number for number, video_id in enumerate(scores.video_ids)}
    with (
        track(len(position), "detect: looking at videos", "videos") as progress,
        ThreadPoolExecutor(_LOOKERS) as lookers,
    ):

        def look(video: Video) -> Look | str:
            try:
                with _local(video.uri, video.content_hash) as path:
                    place = look_folder(thumbnails, video.content_hash)
                    looked = look_at(path, place, video, rows[video.video_id].rows)
            except VideoError as error:
                return str(error)
            progress.advance()
            return looked

        seen = [video for video in manifest.videos if video.video_id in position]
        looks = dict(zip((video.video_id for video in seen), lookers.map(look, seen), strict=True))
    clear_others(thumbnails, (video.content_hash for video in seen))
    results = []
    for video in manifest.videos:
        row, looked = rows[video.video_id], looks.get(video.video_id)
        status, note = row.status, row.error or row.note
        if isinstance(looked, str):
            status, note = "failed", looked
        result = Result(video.video_id, video.uri, status, note, video.num_frames, video.fps)
        if isinstance(looked, Look):
            at, probabilities_NK = scores.rows(position[video.video_id]), scores.class_probabilities_NK
            score_N = scores.main_score_N[at]
            own_NK = None if probabilities_NK is None else probabilities_NK[at]
            result = replace(
                result,
                note="; ".join(filter(None, (note, looked.note))) or None,
                score_N=score_N,
                look=looked,
                events=events_of(score_N, own_NK, scores.info.labels, looked.edges, rules),
            )
        results.append(result)
    return results


@contextmanager
def _local(location: str, content_hash: str) -> Iterator[str]:
    """Yield the path of a video, of a remote one in this machine's cache."""
    if not is_remote(location):
        yield location
        return
    held = default_cache().hold(location, content_hash, lambda amount: None)
    try:
        yield str(held.path)
    finally:
        held.release()


def _render(
    results: Sequence[Result], hashes: Mapping[str, str], folder: Path, threshold: float, *, force: bool
) -> list[str]:
    """Write the scored videos with what was found drawn in; return lines about those that were not."""
    lines = []
    shown = [result for result in results if result.score_N is not None]
    with track(sum(result.num_frames for result in shown), "detect: rendering", "frames") as progress:
        for result in shown:
            assert result.score_N is not None
            target = folder / f"{result.video_id}.mp4"
            if target.exists() and not force:
                lines.append(f"{target} is there already and was kept; --force writes it anew")
                continue
            try:
                with _local(result.location, hashes[result.video_id]) as path:
                    render(path, target, result.score_N, threshold, result.events, progress.advance)
            except VideoError as error:
                lines.append(f"{result.name} was not rendered: {error}")
    return lines


def _summary(results: Sequence[Result]) -> str:
    events = sum(len(result.events) for result in results)
    hit = sum(bool(result.events) for result in results)
    failed = sum(result.status == "failed" for result in results)
    short = sum(result.status == "ok" and result.score_N is None for result in results)
    rest = f", {failed} failed" * bool(failed) + f", {short} too short" * bool(short)
    return f"{events} event{'s' * (events != 1)} in {hit} of {len(results)} videos{rest}."


def _mind_failed(results: Sequence[Result]) -> None:
    failed = [result for result in results if result.status == "failed"]
    if failed:
        named = "; ".join(f"{result.name}: {result.note}" for result in failed[:_FAILED_SHOWN])
        more = f"; and {len(failed) - _FAILED_SHOWN} more, see events.json" * (len(failed) > _FAILED_SHOWN)
        raise InputError(
            f"{len(failed)} of {len(results)} videos could not be used: {named}{more}. The others are done"
        )
