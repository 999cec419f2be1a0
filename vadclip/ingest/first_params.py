"""The first params.yaml of a project with videos of its own: what `vadclip init` chooses, and why.

Everything is chosen from what the files hold, and written as plain numbers for the user to change.
"""

import csv
import hashlib
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from vadclip.clip.identity import identify_clip
from vadclip.config import SAMPLE_CLIP, ClipParams, DatasetParams, IngestParams, load_params
from vadclip.datasets import load_dataset
from vadclip.datasets.class_folders import read_classes
from vadclip.datasets.table import labels_in
from vadclip.errors import InputError
from vadclip.files import is_utf8, write_text_atomic
from vadclip.ingest.checks import SAMPLE_WORDS, check_plan
from vadclip.ingest.probe_cache import Probe
from vadclip.ingest.probing import probe_files
from vadclip.ingest.rows import ingest
from vadclip.ingest.video_row import is_untimed
from vadclip.manifest import SNIPPET_FRAMES, SPLITS, Manifest
from vadclip.remote import shown

SEED, SHARE = 0, 0.2
"""Of the split: val and test get this share of each label's videos."""
FEWEST = 3
UPDATES = 150
"""Training steps to aim at; the official schedules make 126 (UCF-Crime) and more."""
LENGTHS = (16, 32, 64, 128, 256)
_SHOWN = 3


def begin(
    path: Path, *, normal: str | None, clip: str, params_file: Path, force: bool, cache: Path
) -> Iterator[str]:
    """Write params.yaml, and videos.csv for a folder; yield what was chosen, and why.

    `path` is a table, or a folder with a subfolder for each class; `normal` the normal class where none is
    called that; `clip` is sample, openai or a weights file. Raises InputError for what cannot become a
    training; what was written before stays.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not is_utf8(str(path)):
        raise InputError(f"{path}: its name is not UTF-8, and params.yaml cannot hold it: rename it")
    chosen_clip, why = _clip(clip)  # before files are looked into
    table = path
    if path.is_dir():
        table = params_file.parent / "videos.csv"
        labels, unlabelled = read_classes(path)
        normal = _normal(labels.values(), normal, str(path))
        if unlabelled:
            yield f"{len(unlabelled)} videos lie in no class folder and stay out: {_some(unlabelled)}"
        text = _table(split_by_label((yield from _usable(path, labels, cache)), normal))
        if table.exists() and not force and table.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{table} is there already and says something else: begin from it with `vadclip init "
                f"{table}`, or add --force"
            )
        write_text_atomic(table, text)
        yield f"wrote {table}: 60/20/20 of each label for train, val and test, drawn with seed {SEED}"
    found = labels_in(table)
    normal = _normal(found, normal, str(table))
    classes = _classes(found, normal)
    if clip == SAMPLE_CLIP:
        classes = yield from _in_known_words(classes)
    dataset = DatasetParams(
        name="table",
        root=str(path) if path.is_dir() else None,
        source="videos",
        table=str(table),
        annotations=None,
        classes=classes,
        untimed="whole_video",
    )
    raw = load_dataset(dataset)
    untimed = sum(is_untimed(video, raw.classes) for video in raw.videos)
    split = IngestParams(val_fraction=SHARE, seed=SEED)
    ingested = ingest(dataset, split, probe_cache=cache / "probe.parquet")
    yield from ingested.notes
    values: dict[str, Any] = {
        **{f"dataset.{key}": value for key, value in dataset.model_dump().items()},
        **{f"clip.{key}": value for key, value in chosen_clip.items()},
        "ingest.val_fraction": SHARE,
        "ingest.seed": SEED,
        "train.learning_rate": 3e-4 if clip == SAMPLE_CLIP else 2e-5,
    }
    yield f"dataset.classes: {normal} is normal; a class's text is its label, change it where words say more"
    if untimed:
        yield (
            f"dataset.untimed: whole_video, for anomalous test videos without times ({untimed}): they count "
            "as anomalous throughout"
        )
    else:
        values["dataset.untimed"] = "error"
    yield why
    for key, value, reason in _sizes(ingested.manifest):
        values[key] = value
        yield f"{key}: {value}, {reason}"
    template = files("vadclip.recipes").joinpath("sample.yaml").read_text(encoding="utf-8")
    write_text_atomic(params_file, with_values(template, values))
    yield f"wrote {params_file}"
    params = load_params(params_file)
    yield from check_plan(params, ingested.manifest, cache)
    identify_clip(params.clip, cache)  # downloads the weights of a tag, or says what to do


def split_by_label(videos: Mapping[str, str], normal: str) -> dict[str, tuple[str, str]]:
    """Return path -> (label, split): SHARE of each label for val and for test, at least one of FEWEST.

    Videos of a label with fewer train. Raises InputError if normal, or every anomaly, has too few.
    """
    by_label: dict[str, list[str]] = defaultdict(list)
    for path, label in videos.items():
        by_label[label].append(path)
    sizes = {label: len(paths) for label, paths in by_label.items()}
    most = max(
        (label for label in sizes if label != normal), key=lambda label: sizes[label], default="any anomaly"
    )
    short = [
        f"{sizes.get(label, 0)} usable videos of {label}"
        for label in (normal, most)
        if sizes.get(label, 0) < FEWEST
    ]
    if short:
        raise InputError(
            f"there are {' and '.join(short)}: {FEWEST} of normal and {FEWEST} of one anomaly are the "
            "smallest number with which train, val and test have one of each kind"
        )
    found = {}
    for label, paths in sorted(by_label.items()):
        paths.sort(key=lambda path: hashlib.sha256(f"{SEED}\0{path}".encode()).digest())
        held = max(1, round(SHARE * len(paths))) if len(paths) >= FEWEST else 0
        for place, path in enumerate(paths):
            found[path] = (label, "test" if place < held else "val" if place < 2 * held else "train")
    return dict(sorted(found.items()))


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return a params file with the values of dotted keys set and its comments kept."""
    left, section, lines = dict(values), "", []
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w+):", line):
            section = match[1]
        elif (match := re.fullmatch(r"  (\w+): (.*?)(\s+#.*)?", line)) and f"{section}.{match[1]}" in left:
            value = left.pop(f"{section}.{match[1]}")
            written = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=math.inf)
            comment = (match[3] or "").strip()
            line = f"  {match[1]}: {written.strip()[1:-1]}"
            line = f"{line:<28} {comment}" if comment else line
        lines.append(line)
    assert not left, left
    return "\n".join(lines) + "\n"


def _usable(root: Path, labels: Mapping[str, str], cache: Path) -> Generator[str, None, dict[str, str]]:
    """Return path -> label of the videos that can train or test, each content once; say what stays out."""
    named = {path: str(root.absolute() / path) for path in labels if path.isprintable()}
    found = probe_files(named.values(), cache / "probe.parquet")
    firsts: dict[str, str] = {}
    usable, faults, short, copies, wrong = {}, [], [], [], []
    for path in labels:
        what = "has control characters" if is_utf8(path) else "is not UTF-8"
        probe = found[named[path]] if path in named else Probe(error=f"its name {what}: rename it")
        first = firsts.setdefault(probe.content_hash, path) if probe.error is None else path
        if probe.error is not None:
            faults.append(f"{shown(path)} ({probe.error})")
        elif labels[first] != labels[path]:
            wrong.append(f"{first} and {path}")
        elif first != path:
            copies.append(f"{path} (of {first})")
        elif probe.num_frames < SNIPPET_FRAMES:
            short.append(path)
        else:
            usable[path] = labels[path]
    if wrong:
        raise InputError(f"equal files have two labels: {'; '.join(wrong)}: remove the wrong one of each")
    for what, names in (
        ("cannot be used", faults),
        (f"have less than {SNIPPET_FRAMES} frames", short),
        ("are copies", copies),
    ):
        if names:
            yield f"{len(names)} videos {what} and stay out: {_some(names)}"
    return usable


def _clip(clip: str) -> tuple[dict[str, Any], str]:
    """Return the clip section that `--clip` means, and what to tell of it."""
    if clip == SAMPLE_CLIP:
        sample = {"model": SAMPLE_CLIP, "pretrained": None, "quick_gelu": None}
        return sample, "clip: the sample's, which knows drawn streets only: the figures mean nothing"
    section: dict[str, Any] = {"model": "ViT-B-16-quickgelu", "pretrained": clip, "quick_gelu": None}
    if clip == "openai":
        return section, "clip: OpenAI's ViT-B/16, downloaded once"
    file = Path(clip)
    if not file.is_file():
        raise InputError(f"--clip {clip}: write sample, openai or the path of a weights file")
    if (config := file.with_suffix(".json")).is_file():
        return {**section, "model": str(config)}, f"clip: {file}, with the config file beside it"
    section["quick_gelu"] = True
    return section, f"clip: {file}, taken for OpenAI's ViT-B/16 (QuickGELU): set clip.model if it is another"


def _normal(labels: Iterable[str], normal: str | None, where: str) -> str:
    found = set(labels)
    alike = sorted(label for label in found if label.casefold() == "normal")
    normal = normal or (alike[0] if alike else None)
    if normal not in found:
        listed = ", ".join(sorted(found))
        said = "none is called normal" if normal is None else f"none is called {normal}"
        raise InputError(f"{where}: of the classes {listed}, {said}: say which one is by --normal NAME")
    return normal


def _classes(labels: Iterable[str], normal: str) -> dict[str, str]:
    rest = sorted(set(labels) - {normal})
    return {normal: "normal", **{label: label.replace("_", " ") for label in rest}}


def _in_known_words(classes: Mapping[str, str]) -> Generator[str, None, dict[str, str]]:
    """Reword prompts that the sample's CLIP has no words for: it knows those of its own world only."""
    from vadclip.clip.frozen import load_clip

    params = ClipParams(model=SAMPLE_CLIP, pretrained=None, quick_gelu=None, precision="fp32")
    text = load_clip(params, device="cpu").text
    taken = {prompt.lower() for prompt in classes.values()}
    words = [word for word in SAMPLE_WORDS if word not in taken]
    known = {}
    for label, prompt in classes.items():
        try:
            text.encode([prompt])
        except InputError:
            if not words:
                raise
            word = (get_close_matches(prompt.lower(), words, 1) or words)[0]
            words.remove(word)
            yield f"dataset.classes: the sample's CLIP does not know {prompt!r}, and reads {word!r} instead"
            prompt = word
        known[label] = prompt
    return known


def _table(videos: Mapping[str, tuple[str, str]]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "split", "segments"))
    rows.writerows((path, label, split, "") for path, (label, split) in videos.items())
    return text.getvalue()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sizes(manifest: Manifest) -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, reason) of what depends on how many videos there are, and how long they are."""
    normal = (manifest.classes.normal,)
    usable = {part: [video for video in manifest.split(part) if video.num_snippets] for part in SPLITS}
    kinds = {part: Counter(video.labels == normal for video in videos) for part, videos in usable.items()}
    fewest = min(kinds["train"][True], kinds["train"][False])
    most = max(1, min(64, max(2, fewest // 4), fewest))
    batch = 2 ** int(math.log2(most))
    steps = max(1, fewest // batch)
    epochs = min(50, max(10, math.ceil(UPDATES / steps)))
    longest = max((video.num_snippets for video in usable["train"]), default=1)
    length = next((length for length in LENGTHS if length >= longest), LENGTHS[-1])
    train = f"{kinds['train'][True]} normal and {kinds['train'][False]} anomalous training videos"
    yield "model.length", length, f"the longest training video has {longest} snippets"
    yield "model.temporal", "local_gcn", "VadCLIP's own"
    yield "train.batch_size", batch, f"{train}, steps an epoch: {steps}"
    yield "train.epochs", epochs, f"{epochs * steps} steps in all"
    yield "train.milestones", [round(0.6 * epochs), round(0.8 * epochs)], "at 60 and 80 % of them"
    normal_val, anomalous_val = kinds["val"][True], kinds["val"][False]
    if min(normal_val, anomalous_val) == 0:
        yield "train.selection", "last", "the videos are too few to keep some of both kinds for validation"
    else:
        videos = f"on {normal_val} normal and {anomalous_val} anomalous videos"
        yield "train.selection", "validation", videos
    yield "evaluate.timelines", min(8, len(usable["test"])), f"of {len(usable['test'])} test videos"
