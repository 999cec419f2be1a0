"""A whole project in a folder of its own: a copy of this one, tiny videos, `dvc repro` as users run it."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import PROJECT
from params_helpers import write_params
from video_helpers import numbered_frame, write_video

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def make_project(folder: Path, *, videos: int = 12, snippets: int = 4) -> Path:
    """Copy the repository's files, add `videos` tiny videos (half of them fights) and commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if not name.startswith(("tests/", "dvc.lock", "metrics.json")) and (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    rows = ["path,label,split,segments"]
    for number in range(videos):
        label = "Fighting" if number % 2 else "Normal"
        split = "test" if number >= videos * 2 // 3 else "train"
        count = 16 * snippets + number
        write_video(folder / "videos" / f"v{number:02d}.mp4", [_frame(number, i) for i in range(count)])
        segments = "16-40" if split == "test" and label == "Fighting" else ""
        rows.append(f"v{number:02d}.mp4,{label},{split},{segments}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    write_params(
        folder,
        folder / "params.yaml",
        dataset={"name": "table", "root": "videos", "table": "videos.csv"},
        ingest={"val_fraction": 0.25},
        extract={"train_crops": 5},
        model={"length": 8, "layers": 1, "window": 4},
        train={"batch_size": 4, "epochs": 8, "milestones": [6]},
        evaluate={"bootstrap_resamples": 20, "timelines": 2},
        execution={"unit_images": 20, "encoder_batch": 16},
    )
    (folder / ".gitignore").open("a").write("/videos/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a project"]):
        git(folder, *command)
    return folder


def _frame(video: int, index: int) -> np.ndarray:
    return numbered_frame(index + 37 * video)


def git(folder: Path, *arguments: str) -> None:
    """Run git with a name of its own, whatever the machine's settings."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dvc to its end; a failure shows what it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert run.returncode == 0, f"dvc {' '.join(arguments)}\n{run.stdout}\n{run.stderr}"
    return run


def repro_killed_when(folder: Path, reached: Callable[[], bool], seconds: float = 90) -> None:
    """Start `dvc repro`, and kill -9 its whole process group at the moment `reached` holds."""
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + seconds
            while not reached():
                assert process.poll() is None, f"repro ended before the kill:\n{Path(log.name).read_text()}"
                assert time.monotonic() < deadline, f"never reached:\n{Path(log.name).read_text()}"
                time.sleep(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fingerprints(folder: Path, names: list[str]) -> dict[str, str]:
    """Content hash of each file below `names` (DVC copies outs it leaves alone, so times say nothing)."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
