"""From annotations and files to the manifest: a row per video, which says whether its file can be used.

A bad table stops ingest and names every bad row; a bad file is a row that says why it cannot be used.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vadclip.config import DatasetParams, ExecutionParams, IngestParams
from vadclip.datasets import load_dataset
from vadclip.datasets.raw import RawVideo
from vadclip.errors import InputError
from vadclip.features.npy_files import CROPS, crop_path
from vadclip.ingest.probe_cache import Probe
from vadclip.ingest.probing import MISSING, probe_files
from vadclip.ingest.validation_split import carve_validation
from vadclip.ingest.video_row import is_untimed, video_row
from vadclip.manifest import SNIPPET_FRAMES, SPLITS, Manifest, Video, dataset_root, locate
from vadclip.remote import shown

SHOWN_FAILURES = 20
UNTIMED = (
    "an anomalous test video without segments: say when it happens, or set dataset.untimed to whole_video"
)


@dataclass(frozen=True)
class Ingested:
    """The manifest, and what the user should know though nothing is wrong."""

    manifest: Manifest
    notes: tuple[str, ...]


def ingest(
    params: DatasetParams, split: IngestParams, *, probe_cache: Path, execution: ExecutionParams | None = None
) -> Ingested:
    """Read the annotations, look into the files, carve validation videos.

    Raises InputError for annotations that cannot be used, naming every bad row. `probe_cache` remembers what
    was found out about files; see `probe_cache.ProbeCache`. `execution` may name a cluster for remote files.
    """
    raw = load_dataset(params)
    problems = {**raw.problems}
    if params.untimed == "error":
        untimed = [video.origin for video in raw.videos if is_untimed(video, raw.classes)]
        # A bad row may lack segments because it is bad.
        _add(problems, [(origin, UNTIMED) for origin in untimed if origin not in problems])
    # For a bad table only those files are opened that can add to the error.
    wanted = [video for video in raw.videos if not problems or (video.split == "test" and video.segments)]
    probes = probe_videos(wanted, dataset_root(params), params.source, probe_cache, execution)
    looked = list(zip(wanted, probes, strict=True))
    if raw.name == "table":
        _check_root(looked, dataset_root(params))
        _add(problems, _copies(looked))
    if not raw.may_overrun:
        _add(problems, _overruns(looked))
    if problems:
        rows = "; ".join(f"{origin}: {wrong}" for origin, wrong in problems.items())
        raise InputError(f"{len(problems)} bad rows: {rows}")
    videos = [video_row(video, probe, raw.classes) for video, probe in looked]
    if not any(video.split == "val" for video in videos):
        carved = carve_validation(videos, split.val_fraction, split.seed)
        videos = [replace(video, split="val") if video.video_id in carved else video for video in videos]
    videos.sort(key=lambda video: video.video_id)
    manifest = Manifest(dataset=raw.name, source=params.source, classes=raw.classes, videos=tuple(videos))
    return Ingested(manifest=manifest, notes=raw.notes)


def _add(problems: dict[str, str], more: Iterable[tuple[str, str]]) -> None:
    for origin, wrong in more:
        problems[origin] = f"{problems[origin]}, {wrong}" if origin in problems else wrong


def _check_root(looked: Sequence[tuple[RawVideo, Probe]], root: str) -> None:
    """Raise InputError where most files are not there: then the root is wrong, not the files."""
    missing = [video for video, probe in looked if probe.error == MISSING]
    if 2 * len(missing) > len(looked):
        raise InputError(
            f"dataset.root {root}: {len(missing):,} of the {len(looked):,} files that dataset.table lists "
            f"are not there, {locate(missing[0].uri, root)} for one: set dataset.root to the folder "
            "that the table's paths are relative to, or mount its disk"
        )


def _copies(looked: Iterable[tuple[RawVideo, Probe]]) -> Iterator[tuple[str, str]]:
    """Find equal content that trains and tests, or that has two labels."""
    firsts: dict[str, list[RawVideo]] = {}
    for video, probe in looked:
        if probe.error is not None:
            continue
        for first in firsts.setdefault(probe.content_hash, []):
            if (first.split == "test") != (video.split == "test"):
                differ = f"one is in {first.split}, the other in {video.split}"
            elif set(first.labels) != set(video.labels):
                differ = f"one is labelled {'|'.join(first.labels)} and the other {'|'.join(video.labels)}"
            else:
                continue
            yield video.origin, f"its file is the same as that of {first.origin}, and {differ}: remove one"
            break
        firsts[probe.content_hash].append(video)


def _overruns(looked: Iterable[tuple[RawVideo, Probe]]) -> Iterator[tuple[str, str]]:
    for video, probe in looked:
        for part in video.segments if video.split == "test" and probe.error is None else ():
            if part.end_frame > probe.num_frames:
                segment = f"segment {part.start_frame}-{part.end_frame}"
                yield video.origin, f"{segment} ends behind the {probe.num_frames} frames there are"


def probe_videos(
    videos: Sequence[RawVideo], root: str, source: str, cache: Path, execution: ExecutionParams | None
) -> list[Probe]:
    """Look into the file, or into all crop files, of each video."""
    paths = [locate(video.uri, root) for video in videos]
    if source == "videos":
        found = probe_files(paths, cache, execution=execution)
        return [found[path] for path in paths]
    crops = [{crop: crop_path(path, crop) for crop in CROPS} for path in paths]
    found = probe_files((path for files in crops for path in files.values()), cache, execution=execution)
    _check_kind(found, root)
    return [_of_crops({crop: found[path] for crop, path in files.items()}) for files in crops]


def _check_kind(found: Mapping[str, Probe], root: str) -> None:
    """Raise InputError where all feature files have one fault: then the release is of another kind."""
    there = {path: probe.error for path, probe in found.items() if probe.error != MISSING}
    kinds = {error and re.sub(r"\d+", "", error) for error in there.values()}
    if len(kinds) == 1 and None not in kinds:
        path, error = next(iter(there.items()))
        raise InputError(
            f"dataset.root {root}: all {len(there):,} feature files have the same fault, {shown(path)} for "
            f"one: {error}"
        )


def _of_crops(crops: dict[int, Probe]) -> Probe:
    """What the crop files of one video say together; which crops are needed, extract knows."""
    there = {crop: probe for crop, probe in crops.items() if probe.error != MISSING}
    if not there:
        return Probe(error="there is no crop file (<name>__<crop>.npy) of it")
    digest = hashlib.sha256()
    for crop, probe in there.items():
        digest.update(f"{crop} {probe.content_hash}\n".encode())
    known = Probe(
        bytes=sum(probe.bytes for probe in there.values()),
        content_hash=digest.hexdigest() if all(probe.content_hash for probe in there.values()) else "",
    )
    broken = [f"crop {crop}: {probe.error}" for crop, probe in there.items() if probe.error is not None]
    if broken:
        return replace(known, error="; ".join(broken))
    shapes = {(probe.num_frames // SNIPPET_FRAMES, probe.width) for probe in there.values()}
    if len(shapes) > 1:
        listed = " and ".join(f"{rows}x{width}" for rows, width in sorted(shapes))
        return replace(known, error=f"its crops differ in shape: {listed}")
    return replace(known, num_frames=next(iter(there.values())).num_frames)


def describe(manifest: Manifest, root: str) -> list[str]:
    """Tell the user what is in the manifest: first what to look into, then, as the last line, the counts."""
    videos = manifest.videos
    train, val, test = (manifest.split(name) for name in SPLITS)
    failed = [video for video in videos if video.probe_error is not None]
    lines = [f"{video.video_id} cannot be used: {_said(video, root)}" for video in failed[:SHOWN_FAILURES]]
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"... and {len(failed) - SHOWN_FAILURES} more that cannot be used")
    shared = {video.source_id for video in (*train, *val)} & {video.source_id for video in test}
    if shared:
        lines.append(
            f"{len(shared)} sources (column group) stand in both train and test, {min(shared)} for one: the "
            "test figures may flatter"
        )
    hashes = {video.content_hash for video in (*train, *val) if video.probe_error is None}
    copies = [video.video_id for video in test if video.probe_error is None and video.content_hash in hashes]
    if copies:
        lines.append(f"{len(copies)} test videos are byte for byte in train too, {copies[0]} for one")
    per_class = []
    for label in manifest.classes.labels:
        counts = [sum(label in video.labels for video in part) for part in (train, val, test)]
        per_class.append(f"{label} {'/'.join(map(str, counts))}")
    sources = {video.source_id for video in videos}
    share = len(val) / max(1, len(train) + len(val))
    lines.append(
        f"{len(videos):,} videos of {len(sources):,} sources: train {len(train):,}, val {len(val):,} "
        f"({share:.1%} of both), test {len(test):,}; {', '.join(per_class)}; {len(failed)} failed, "
        f"{sum(video.too_short for video in videos)} too short"
    )
    return lines


def _said(video: Video, root: str) -> str:
    """The reason why a video cannot be used; of a file that is not there with the path that was tried."""
    there = video.probe_error != MISSING
    return str(video.probe_error) if there else f"{MISSING}: {shown(locate(video.uri, root))}"
