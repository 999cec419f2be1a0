"""What a training's run is in the tracking store: its identity, its name, the code and data that it has."""

import hashlib
import json
import os
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from vadclip.config import PARAMS_FILE, DatasetParams, Params, TrackingParams, flatten
from vadclip.files import write_text_atomic
from vadclip.manifest import SPLITS, Manifest, Video

SEED = "train.seed"
LOGGED_SECTIONS = {"dataset", "clip", "ingest", "extract", "model", "train"}
VALIDATION = "vadclip.validation"
"""Tag of a run: digest of its validation split."""
HEADLINES = ("auc", "zero_shot_auc", "gain_auc", "ap", "zero_shot_ap", "gain_ap", "ano_auc", "map_avg")
_UNNAMED = ("execution.", "tracking.")  # they change no result
_SHORT_SEED = "s"


@dataclass(frozen=True)
class RunIdentity:
    """The content of run.json."""

    model_id: str
    """Made once per training; finds the run even if a kill came before `run_id` was written down."""
    name: str
    experiment: str
    run_id: str | None
    """None if the store was away."""
    registered: str = ""
    """The name under which the model is registered."""

    @classmethod
    def new(cls, name: str, tracking: TrackingParams, registered: str = "") -> "RunIdentity":
        """Make an identity.

        tracking.run_name replaces `name`, which tells the settings. DVC's name of the experiment ends
        either; without both, a few letters of the id tell runs of equal settings apart.
        """
        model_id = uuid.uuid4().hex
        ending = os.environ.get("DVC_EXP_NAME") or (None if tracking.run_name else model_id[:4])
        full = "-".join(filter(None, (tracking.run_name or name, ending)))
        assert tracking.experiment is not None, "the caller names it after the dataset"
        return cls(model_id, full, tracking.experiment, None, registered)

    @classmethod
    def read(cls, path: Path) -> "RunIdentity | None":
        """Read run.json; None if there is none."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write run.json."""
        write_text_atomic(path, json.dumps(asdict(self), indent=2) + "\n")


def dataset_name(params: DatasetParams) -> str:
    """Return the dataset's name; of a table its file's stem, made safe for addresses and file names."""
    name = Path(params.table).stem if params.table is not None else params.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "table"


def model_name(params: DatasetParams) -> str:
    """Return the name under which models are registered, and of the experiment unless params name one."""
    return f"vadclip-{dataset_name(params)}"


def committed_params() -> dict[str, Any] | None:
    """Return the leaves of params.yaml as git's HEAD holds it; None without git or such a file."""
    try:
        content = yaml.safe_load(_git("show", f"HEAD:./{PARAMS_FILE}") or "")
    except yaml.YAMLError:
        return None
    return flatten(content) if isinstance(content, dict) else None


def changes_name(params: Mapping[str, Any], committed: Mapping[str, Any] | None) -> str:
    """Name the leaves that differ from the committed ones, the shortest key first, the seed last.

    `lr0.001-layers3-s7`: a value is never cut. Empty if nothing differs, or if nothing is committed.
    """
    if committed is None:
        return ""
    keys = _short_keys(params)
    changed = [
        key
        for key, value in params.items()
        if not key.startswith(_UNNAMED) and key in committed and _plain(committed[key]) != _plain(value)
    ]
    changed.sort(key=lambda key: (key == SEED, len(keys[key]), keys[key]))
    return "-".join(f"{keys[key]}{_shown(params[key])}" for key in changed)


def run_name(changes: str, dataset: str, commit: str | None) -> str:
    """Return a run's name: the changed params, or else the commit, and the dataset."""
    first = changes or "-".join(filter(None, ("base", (commit or "")[:7])))
    return f"{first}-{dataset}"


def seeds_group(params: Mapping[str, Any], data: str) -> str:
    """Return a short hash that is equal for runs on equal `data` whose params differ in the seed alone."""
    facts = {key: str(value) for key, value in params.items() if key != SEED}
    return hashlib.sha256(json.dumps([data, facts], sort_keys=True).encode()).hexdigest()[:8]


def split_digest(videos: Iterable[Video]) -> str:
    """Hash which videos a split holds: ids, contents and labels."""
    facts = sorted((video.video_id, video.content_hash, video.labels) for video in videos)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _short_keys(leaves: Iterable[str]) -> dict[str, str]:
    """Return for each leaf its initials where no other has them, else its last part, else all of it."""
    leaves = list(leaves)
    last = {leaf: leaf.rpartition(".")[2] for leaf in leaves}
    initials = {
        leaf: _SHORT_SEED if leaf == SEED else "".join(word[0] for word in last[leaf].split("_"))
        for leaf in leaves
    }
    many = {leaf: text for leaf, text in initials.items() if leaf == SEED or "_" in last[leaf]}
    found = {}
    for leaf in leaves:
        for kind in (many, last):
            if leaf in kind and Counter(kind.values())[kind[leaf]] == 1:
                found[leaf] = kind[leaf]
                break
        else:
            found[leaf] = leaf
    return found


def _plain(value: object) -> object:
    """Take YAML's `3e-4`, which it reads as text, for the number that it is."""
    try:
        return float(value) if isinstance(value, str | int) and not isinstance(value, bool) else value
    except ValueError:
        return value


def _shown(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        text = f"{plain:g}" if plain == 0 or abs(plain) >= 1e-2 else f"{plain:.6e}"
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if e else text
    if isinstance(value, list):
        return "_".join(map(_shown, value))
    words = "null" if value is None else Path(str(value)).name if "/" in str(value) else str(value)
    return "=" + re.sub(r"\s+", "_", words)


def training_facts(
    params: Params, manifest: Manifest, feature_fingerprint: str, *, test_selected: bool
) -> dict[str, Any]:
    """Return what `runs.training_run` is told of a training: names, params, tags and splits."""
    logged = flatten(params.model_dump(include=LOGGED_SECTIONS))
    changes = changes_name(flatten(params.model_dump()), committed_params())
    dataset, registered = dataset_name(params.dataset), model_name(params.dataset)
    splits = {name: manifest.split(name) for name in SPLITS}
    return {
        "name": run_name(changes, dataset, lineage_tags().get("git_commit")),
        "params": logged,
        "tags": {
            "dataset": dataset,
            "feature_fingerprint": feature_fingerprint,
            "device": params.execution.device,
            "test-selected": str(test_selected).lower(),
            "seeds": seeds_group(logged, feature_fingerprint),
            VALIDATION: split_digest(splits["val"]),
        },
        "tracking": named_tracking(params),
        "registered": registered,
        "splits": {name: (split_digest(videos), len(videos)) for name, videos in splits.items()},
    }


def named_tracking(params: Params) -> TrackingParams:
    """Return the tracking params with the experiment's name in them."""
    name = params.tracking.experiment or model_name(params.dataset)
    return params.tracking.model_copy(update={"experiment": name})


def describe_run(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """Return a run's description in Markdown: its headline figures, and what to know of them."""
    lines = ["| figure | value | 95 % interval |", "|---|---|---|"]
    for name in HEADLINES:
        if name in metrics:
            low, high = intervals.get(name, (None, None))
            interval = "" if low is None else f"{low:.3f} to {high:.3f}"
            lines.append(f"| {name} | {metrics[name]:.3f} | {interval} |")
    if metrics.get("test_selected"):
        lines.append(
            "\n**Test-selected**: the epoch was picked on the test videos, so these figures flatter it."
        )
    lines.append("\nThe report is the artifact `report.html`, intervals and figures by class `figures.json`.")
    return "\n".join(lines)


def lineage_tags() -> dict[str, str]:
    """Return `git_commit`, `git_dirty` and `data_version` of the working folder, where they are known.

    Dirty means changed tracked files, but for dvc.lock, which every run of the pipeline changes. The data
    version is the feature store's hash in dvc.lock.
    """
    tags: dict[str, str] = {}
    if commit := _git("rev-parse", "HEAD"):
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
        tags |= {"git_commit": commit, "git_dirty": str(bool(changed)).lower()}
    if version := _locked_features(Path("dvc.lock")):
        tags["data_version"] = version
    return tags


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, no repository, no commit: there is nothing to say then
    return run.stdout.strip()


def _locked_features(lock: Path) -> str | None:
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((out.get("md5") for out in outs if out.get("path") == "features"), None)
