"""The trained model as MLflow serves it: features in and scores out, or videos' addresses in and events out.

What is logged is the model folder's weights and model.json, the class text features, the CLIP's files where
they are small, and this package's code; MLflow calls `_load_pyfunc`. So nothing is pickled. Scoring features
needs no CLIP. For videos the server's owner names by VADCLIP_SERVE_ROOTS what may be opened; without it,
nothing is. A CLIP that did not travel is found by its open_clip tag, or by VADCLIP_CLIP.

Legend of shape suffixes: V videos, N snippets, K classes, D width of the features.
"""

import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vadclip
from vadclip.clip.on_gpu import full_float32
from vadclip.clip.text import CONTEXT_LENGTH, TextTower
from vadclip.config import ClipParams
from vadclip.detect.detector import Detection, Detector
from vadclip.detect.results import event_fields
from vadclip.errors import InputError, VideoError
from vadclip.model.folder import INFO_FILE, WEIGHTS_FILE, read_model_info
from vadclip.model.inference import video_output
from vadclip.model.vadclip import VadClip
from vadclip.remote import address_fault, is_remote, remote_size, shown

TEXT_FILE = "class_text.safetensors"
PROMPT_VECTORS = "prompts.vectors"
MAX_CLIP_BYTES = 50 * 2**20
"""Larger weights of a CLIP do not travel with the model."""
PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "huggingface_hub", "av", "decord", "einops", "fsspec", "numpy",
    "pillow", "pyarrow", "pydantic", "pyyaml", "rich", "safetensors",
)  # fmt: skip
_ONLY_ON = {"decord": "; sys_platform == 'linux' and platform_machine == 'x86_64'"}

ROOTS, SECONDS, GIB = "VADCLIP_SERVE_ROOTS", "VADCLIP_SERVE_SECONDS", "VADCLIP_SERVE_GIB"
_DEFAULT_SECONDS, _DEFAULT_GIB, _MAX_VIDEOS = 600.0, 2.0, 16


class ServedModel:
    """A model loaded from a folder that `write_served` made; runs on the GPU if there is one.

    Where VADCLIP_SERVE_ROOTS names what may be opened (folders or addresses, separated by commas), the CLIP
    is loaded as well; raises InputError if it cannot be.
    """

    def __init__(self, folder: Path) -> None:
        info = read_model_info(folder)
        full_float32()
        name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        state = load_file(folder / WEIGHTS_FILE)
        learned = [tuple(value.shape) for key, value in state.items() if key.endswith(PROMPT_VECTORS)]
        tower = _AbsentTower(*(learned or [(CONTEXT_LENGTH, 1)])[0], embed_dim=info.config.width)
        model = VadClip(info.config, info.classes, cast(TextTower, tower))
        model.load_state_dict(state)
        self._model = model.to(device).eval()
        texts = load_file(folder / TEXT_FILE) if (folder / TEXT_FILE).exists() else {}
        self._text_KD = texts["class_text"].to(device) if texts else None
        self._roots = [root.strip() for root in os.environ.get(ROOTS, "").split(",") if root.strip()]
        self._detector = Detector.load(folder, device=name) if self._roots else None  # type: ignore[arg-type]
        self._one_at_a_time = threading.Lock()

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Score features, or with `params` {"input": "videos"} look at videos.

        Features: whole videos of equal length, features_VND of one crop, raw (not L2-normalised). Returns
        `anomaly_score` [V, N] and, from a model with an alignment branch, `class_probabilities` [V, N, K], K
        in model.json's order. Without a classification branch the score is 1 - p(normal).

        Videos: their paths or addresses. Returns a dict for each, with its events, or with `error` for one
        that cannot be used. `params` may hold a `threshold`; below 0 the model's own.

        A request that cannot be met is an MlflowException, which a server answers with status 400.
        """
        params = dict(params or {})
        kind = params.get("input", "features")
        try:
            if kind == "features":
                return self._score(model_input)
            if kind == "videos":
                return self._look(model_input, params.get("threshold", -1.0))
            raise InputError(f"params.input is {kind!r}: it must be 'features' or 'videos'")
        except InputError as error:
            from mlflow.exceptions import MlflowException
            from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _score(self, model_input: Any) -> dict[str, npt.NDArray[np.float32]]:
        try:
            features_VND = np.asarray(model_input, dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError("features must be numbers; for videos send params {'input': 'videos'}") from None
        width = self._model.config.width
        if features_VND.ndim != 3 or features_VND.shape[1] < 1 or features_VND.shape[2] != width:
            raise InputError(
                f"features of shape {list(features_VND.shape)}: expected [videos, snippets, {width}] with "
                "one snippet at least"
            )
        V, N, K = len(features_VND), features_VND.shape[1], len(self._model.classes)
        anomaly_VN, class_VNK = np.empty((V, N), np.float32), np.empty((V, N, K), np.float32)
        for number, rows_ND in enumerate(features_VND):
            output = video_output(self._model, rows_ND, self._text_KD, "fp32")
            if output.class_logits_BTK is not None:
                class_VNK[number] = output.class_logits_BTK[0].softmax(dim=-1).cpu().numpy()
            if output.anomaly_logits_BT is not None:
                anomaly_VN[number] = output.anomaly_logits_BT[0].sigmoid().cpu().numpy()
            else:
                anomaly_VN[number] = 1 - class_VNK[number, :, 0]
        found = {"anomaly_score": anomaly_VN}
        return found if self._text_KD is None else found | {"class_probabilities": class_VNK}

    def _look(self, model_input: Any, threshold: float) -> list[dict[str, Any]]:
        values = getattr(model_input, "values", model_input)  # of a data frame its cells
        paths = [str(path) for path in np.asarray(values, dtype=object).reshape(-1)]
        if self._detector is None:
            raise InputError(f"this server opens no videos: {ROOTS} names no folder or address")
        if not 1 <= len(paths) <= _MAX_VIDEOS:
            raise InputError(f"{len(paths)} videos in a request: between 1 and {_MAX_VIDEOS} are taken")
        allowed = [allowed_place(path, self._roots) for path in paths]
        return [self._looked_at(path, place, threshold) for path, place in zip(paths, allowed, strict=True)]

    def _looked_at(self, path: str, place: str, threshold: float) -> dict[str, Any]:
        assert self._detector is not None
        try:
            _check_size(place)
            with self._one_at_a_time:
                found = self._detector.detect(
                    place, threshold=threshold if threshold >= 0 else None, beat=_deadline()
                )
        except VideoError as error:
            return {"video": shown(path), "error": str(error)}
        return {"video": shown(path), **_answer(found)}


def allowed_place(path: str, roots: Sequence[str]) -> str:
    """Return the real path, or the address, of a video below one of `roots`; InputError for any other."""
    refusal = InputError(f"{shown(path)}: it is not below what {ROOTS} allows")
    if is_remote(path):
        if (fault := address_fault(unquote(path))) is not None:
            raise InputError(f"{shown(path)}: {fault}")
        if any(is_remote(root) and path.startswith(root.rstrip("/") + "/") for root in roots):
            return path
        raise refusal
    try:
        real = Path(os.path.realpath(path))
    except ValueError:  # a null byte
        raise refusal from None
    folders = [Path(os.path.realpath(root)) for root in roots if not is_remote(root)]
    if not any(real.is_relative_to(folder) for folder in folders):
        raise refusal
    return str(real)


def _check_size(place: str) -> None:
    limit = float(os.environ.get(GIB, _DEFAULT_GIB))
    try:
        size = remote_size(place) if is_remote(place) else os.path.getsize(place)
    except OSError as error:
        raise VideoError(f"it cannot be read ({error.strerror or type(error).__name__})") from None
    if is_remote(place) and size == 0:
        raise VideoError("its server does not say how large it is")
    if size > limit * 2**30:
        raise VideoError(f"it has {size / 2**30:.1f} GiB, more than {GIB} ({limit:g}) allows")


def _deadline() -> Callable[[float], None]:
    limit, started = float(os.environ.get(SECONDS, _DEFAULT_SECONDS)), time.monotonic()

    def beat(amount: float) -> None:
        if time.monotonic() - started > limit:
            raise VideoError(f"it takes longer than {SECONDS} ({limit:g}) allows")

    return beat


def _answer(found: Detection) -> dict[str, Any]:
    return {
        "num_frames": found.num_frames,
        "fps": found.fps or None,
        "threshold": found.threshold,
        "peak_score": float(found.scores.max()),
        "events": [event_fields(event) for event in found.events],
    }


def write_served(
    folder: Path, model_folder: Path, text_KD: Tensor | None, clip: ClipParams
) -> tuple[Path, Path]:
    """Put together in `folder` what MLflow logs; return the data that `ServedModel` loads and the code.

    Data: the model's two files, its class text features, if it has any, and the files that `clip` names, of
    weights up to MAX_CLIP_BYTES. Code: the modules of this package without those that draw the sample.
    """
    package = Path(vadclip.__file__).parent
    data, code = folder / "data", folder / package.name
    data.mkdir(parents=True)
    named = [Path(name) for name in (clip.config_name, clip.weights_name)]  # or names that open_clip knows
    small = [path for path in named if path.is_file() and path.stat().st_size <= MAX_CLIP_BYTES]
    for path in (model_folder / WEIGHTS_FILE, model_folder / INFO_FILE, *small):
        shutil.copyfile(path, data / path.name)
    if text_KD is not None:
        save_file({"class_text": text_KD.detach().float().cpu().contiguous()}, data / TEXT_FILE)
    for module in package.rglob("*.py"):
        name = module.relative_to(package)
        if name.parts[0] == "sample" and name.name != "__init__.py":
            continue
        copied = code / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, copied)
    return data, code


def requirements() -> list[str]:
    """Return the packages that a loaded model needs, in the versions of this environment."""
    return [
        f"{name}=={version(name).split('+')[0]}{_ONLY_ON.get(name, '')}"
        for name in PACKAGES
        if name != "decord" or importlib.util.find_spec(name)
    ]


def _load_pyfunc(data_path: str) -> ServedModel:
    """Load what was logged; MLflow finds this function by its name."""
    return ServedModel(Path(data_path))


class _AbsentTower(nn.Module):
    """Stands where the text tower stood in training: its sizes, none of its weights, no text of its own."""

    def __init__(self, context_length: int, width: int, *, embed_dim: int) -> None:
        super().__init__()
        self.context_length, self.width, self.embed_dim = context_length, width, embed_dim

    def token_embeddings(self, tokens_KL: Tensor) -> Tensor:
        """Return zeros: embeddings only lead to class text features, which are read from a file."""
        return torch.zeros(*tokens_KL.shape, self.width)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return zeros, for the same reason."""
        return torch.zeros(len(prompts), self.embed_dim)
