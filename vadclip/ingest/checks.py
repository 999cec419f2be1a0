"""What params and manifest tell before anything expensive: whether a training on these videos can begin.

The train stage has the same checks where it needs them; here they all speak at once, in seconds.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from vadclip.checkout import given_path
from vadclip.config import SAMPLE_CLIP, ModelParams, Params, TrainParams
from vadclip.errors import InputError
from vadclip.files import remembered, sha256_file
from vadclip.manifest import Manifest, Video

SAMPLE_WORDS = (
    "fighting", "stealing", "explosion", "accident", "arson", "vandalism", "fire", "smoke", "crowd",
    "hitting", "kicking", "punching", "running", "burning", "hugging", "spraying",
)  # fmt: skip
"""Words that the sample's CLIP knows, for classes that it has no words for."""


def check_plan(params: Params, manifest: Manifest, cache: Path) -> list[str]:
    """Return what the user should know; raises InputError with everything that would stop a later stage.

    `cache` is a folder in which verdicts on files of weights are remembered, by content.
    """
    problems = list(_problems(params, manifest))
    problems += _prompt_faults(params, manifest.classes.prompts, cache)
    if params.train.checkpoint is not None:
        problems += _checkpoint_faults(given_path(params.train.checkpoint), params.model, cache)
    if problems:
        one = "the train stage cannot work" if len(problems) == 1 else f"{len(problems)} reasons"
        raise InputError(f"{one}: {'; '.join(problems)}")
    if not _usable(manifest, "test"):
        return ["no usable test video: the evaluate stage will have no figures"]
    return []


def _problems(params: Params, manifest: Manifest) -> Iterator[str]:
    normal = manifest.classes.normal
    if params.train.checkpoint is None:
        train = _usable(manifest, "train")
        counts = {
            "normal": sum(video.labels == (normal,) for video in train),
            "anomalous": sum(video.labels != (normal,) for video in train),
        }
        lacking = [kind for kind, count in counts.items() if count == 0]
        if lacking:
            kinds = " and no ".join(lacking)
            yield f"there is no usable {kinds} training video, and training needs both kinds"
        elif params.train.batch_scheme == "paired":
            yield from _batch_fault(params.train, counts, params.extract.train_crops)
        if params.train.selection == "validation":
            advice = "raise ingest.val_fraction, add videos, or set train.selection: last"
            yield from _kinds_fault("train.selection validation", "val", manifest, advice)
    if params.train.selection == "official":
        yield from _kinds_fault("train.selection official", "test", manifest, "take validation or last")


def _batch_fault(train: TrainParams, counts: dict[str, int], crops: int) -> Iterator[str]:
    rows = {kind: count * crops for kind, count in counts.items()}
    least = min(rows, key=lambda kind: rows[kind])
    if rows[least] < train.batch_size:
        yield (
            f"train.batch_size is {train.batch_size} and there are {rows[least]} rows of {least} training "
            f"videos (a row is a crop of a video; {counts[least]} videos, extract.train_crops {crops}): set "
            f"train.batch_size to {rows[least]} or less, or train.batch_scheme: single"
        )


def _kinds_fault(what: str, split: str, manifest: Manifest, advice: str) -> Iterator[str]:
    videos = _usable(manifest, split)
    anomalous = sum(video.labels != (manifest.classes.normal,) for video in videos)
    if not 0 < anomalous < len(videos):
        held = "no usable video" if not videos else f"only {'anomalous' if anomalous else 'normal'} videos"
        yield f"{what} needs normal and anomalous {split} videos, and there is {held}: {advice}"


def _usable(manifest: Manifest, split: str) -> Sequence[Video]:
    return [video for video in manifest.split(split) if video.num_snippets > 0]


def _prompt_faults(params: Params, prompts: Sequence[str], cache: Path) -> Iterator[str]:
    """Say what a CLIP of files cannot read of the class prompts; a known answer is not worked out again."""
    clip, model = params.clip, params.model
    plain = {"normal", "road", *SAMPLE_WORDS}
    if clip.model == SAMPLE_CLIP and plain.issuperset(" ".join(prompts).lower().split()):
        return
    files = [Path(name) for name in (clip.config_name, clip.weights_name)]
    if not all(path.is_file() for path in files):  # an open_clip tag has every word
        return

    def look() -> str | None:
        from vadclip.clip.frozen import load_clip  # torch takes seconds
        from vadclip.model.prompts import LearnedPrompts

        try:
            text = load_clip(clip, device="cpu").text
            LearnedPrompts(text, prompts, model.prompt_prefix, model.prompt_suffix)
        except InputError as error:
            return str(error)
        return None

    facts = [clip.quick_gelu, *map(sha256_file, files), *prompts, model.prompt_prefix, model.prompt_suffix]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    fault = remembered(cache / "prompts" / f"{key}.json", look)
    if fault is not None:
        yield f"{fault} (dataset.classes: a map label: prompt)"


def _checkpoint_faults(path: Path, model: ModelParams, cache: Path) -> Iterator[str]:
    """Say what is wrong with a checkpoint file; known content is not opened again."""
    verdict = cache / "checkpoints" / f"{sha256_file(path)}.json"
    fault, sizes = remembered(verdict, lambda: _look_into(path))
    if fault is not None:
        yield fault
        return
    for key, size in (("model.layers", model.layers), ("model.length", model.length)):
        if sizes[key] != size:
            yield f"{key} is {size} and the checkpoint {path} has {sizes[key]}: set {key}: {sizes[key]}"


def _look_into(path: Path) -> tuple[str | None, dict[str, int]]:
    from vadclip.model.official import read_checkpoint, sizes_of  # torch takes seconds

    try:
        return None, sizes_of(read_checkpoint(path))
    except InputError as error:
        return str(error), {}
