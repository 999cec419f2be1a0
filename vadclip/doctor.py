"""`vadclip doctor`: can the pipeline run here? A line a check, and what to do about each miss."""

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vadclip.config import PARAMS_FILE, Params, load_params
from vadclip.errors import VadclipError

_FREE_GIB = 10  # the sample needs one of it
_INSTALL = "install the pinned packages: make .venv"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    state: str
    """`ok`, `note` (something works less well) or `miss` (the pipeline cannot run)."""
    words: str
    fix: str = ""


def examine(params_file: Path = PARAMS_FILE) -> Iterator[Finding]:
    """Check this machine and the project in the current folder, one thing after the other."""
    yield _python()
    yield _torch()
    yield _decoders()
    params: Params | None = None
    try:
        params = load_params(params_file)
        yield Finding("params", "ok", f"{params_file} is complete")
    except VadclipError as error:
        fix = "run in the project's folder, or write one: vadclip recipe sample"
        yield Finding("params", "miss", str(error), fix)
    if params is not None:
        yield _clip(params)
        yield _ray(params)
        yield _store(params)
    yield _dvc()
    yield _disk()


def _python() -> Finding:
    state = "ok" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "miss"
    fix = "use Python 3.11 to 3.13: make .venv PYTHON=..."
    return Finding("python", state, platform.python_version(), fix)


def _torch() -> Finding:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: a torchvision of another torch
        return Finding("torch", "miss", f"it cannot be imported ({str(error).splitlines()[0]})", _INSTALL)
    versions = f"{torch.__version__}, torchvision {torchvision.__version__}"
    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{versions}, GPU {torch.cuda.get_device_name()}")
    fix = "a GPU needs its driver; on a CPU all works, slowly: execution.device: cpu"
    return Finding("torch", "note", f"{versions}, no GPU that can be used", fix)


def _decoders() -> Finding:
    try:
        import av
        import numpy as np

        from vadclip.video.frame_reader import probe

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.mp4"
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
                for _ in range(4):
                    picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                    container.mux(stream.encode(picture))
                container.mux(stream.encode())
            assert probe(path).num_frames == 4
    except Exception as error:  # whatever it is, videos cannot be read here
        return Finding("decoders", "miss", f"PyAV does not work ({error})", _INSTALL)
    if importlib.util.find_spec("decord") is None:
        fix = "none is needed: PyAV gives the same pictures as fast; decord exists for Linux on x86-64"
        return Finding("decoders", "note", f"PyAV {av.__version__}, no decord", fix)
    return Finding("decoders", "ok", f"PyAV {av.__version__}, decord")


def _clip(params: Params) -> Finding:
    from vadclip.clip.identity import identify_clip

    named = f"{params.clip.config_name}, {params.clip.weights_name}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            identity = identify_clip(params.clip, Path(folder))
    except VadclipError as error:
        return Finding("clip", "miss", named, str(error))
    return Finding("clip", "ok", f"{named} (weights {identity.fingerprint[:12]}, D {identity.embed_dim})")


def _ray(params: Params) -> Finding:
    address = os.environ.get("RAY_ADDRESS") or params.execution.ray_address or "this machine"
    try:
        from vadclip.pool.cluster import Cluster

        with Cluster(params.execution) as cluster:
            room = cluster.room
    except VadclipError as error:
        return Finding("ray", "miss", f"{address}: {error}", "docs/scaling.md says what a cluster needs")
    if room == 0:
        fix = "lower execution.cpus_per_actor or gpus_per_actor"
        return Finding("ray", "miss", f"{address} has no room for one worker", fix)
    return Finding("ray", "ok", f"{address} has room for {room} workers")


def _store(params: Params) -> Finding:
    from vadclip.tracking.mlflow_store import store_uri
    from vadclip.tracking.registry import store_fault

    shown, fault = store_fault(store_uri(params.tracking.uri))
    if fault is None:
        return Finding("tracking", "ok", shown)
    fix = "runs are not logged, files are written all the same; check MLFLOW_TRACKING_URI or tracking.uri"
    return Finding("tracking", "note", f"{shown} does not answer ({fault})", fix)


def _dvc() -> Finding:
    if importlib.util.find_spec("dvc") is None:
        return Finding("dvc", "miss", "it is not installed", _INSTALL)
    if shutil.which("git") is None:
        return Finding("dvc", "miss", "there is no git, which dvc repro needs", "install git")
    if any((folder / ".dvc").is_dir() for folder in (Path.cwd(), *Path.cwd().parents)):
        return Finding("dvc", "ok", "the folder is a DVC project")
    fix = "run in the project's folder, or vadclip init"
    return Finding("dvc", "miss", "this folder is no DVC project", fix)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "ok" if free >= _FREE_GIB else "note"
    fix = "features take 1 kB a snippet and crop at D 512"
    return Finding("disk", state, f"{free:.0f} GiB free here", fix)
