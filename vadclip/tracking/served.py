"""The trained model as MLflow serves it: features in, scores out, with neither text tower nor CLIP weights.

What is logged is the model folder's weights and model.json, the class text features, and this package's code;
MLflow calls `_load_pyfunc`. So nothing is pickled, and a loaded model needs no other file.

Legend of shape suffixes: V videos, N snippets, K classes, D width of the features.
"""

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vadclip
from vadclip.clip.on_gpu import full_float32
from vadclip.clip.text import CONTEXT_LENGTH, TextTower
from vadclip.errors import InputError
from vadclip.model.folder import INFO_FILE, WEIGHTS_FILE, read_model_info
from vadclip.model.inference import video_output
from vadclip.model.vadclip import VadClip

TEXT_FILE = "class_text.safetensors"
PROMPT_VECTORS = "prompts.vectors"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "einops", "numpy", "safetensors")


class ServedModel:
    """A model loaded from a folder that `write_served` made; runs on the GPU if there is one."""

    def __init__(self, folder: Path) -> None:
        info = read_model_info(folder)
        full_float32()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        state = load_file(folder / WEIGHTS_FILE)
        learned = [tuple(value.shape) for name, value in state.items() if name.endswith(PROMPT_VECTORS)]
        tower = _AbsentTower(*(learned or [(CONTEXT_LENGTH, 1)])[0], embed_dim=info.config.width)
        model = VadClip(info.config, info.classes, cast(TextTower, tower))
        model.load_state_dict(state)
        self._model = model.to(device).eval()
        texts = load_file(folder / TEXT_FILE) if (folder / TEXT_FILE).exists() else {}
        self._text_KD = texts["class_text"].to(device) if texts else None

    def predict(
        self, model_input: npt.NDArray[np.floating[Any]], params: Mapping[str, Any] | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Score whole videos of equal length: features_VND of one crop, raw (not L2-normalised).

        Returns `anomaly_score` [V, N] and, from a model with an alignment branch, `class_probabilities`
        [V, N, K], K in model.json's order. Without a classification branch the score is 1 - p(normal). Raises
        InputError for another shape.
        """
        width = self._model.config.width
        if model_input.ndim != 3 or model_input.shape[1] < 1 or model_input.shape[2] != width:
            raise InputError(
                f"features of shape {list(model_input.shape)}: expected [videos, snippets, {width}] with one "
                "snippet at least"
            )
        V, N, K = len(model_input), model_input.shape[1], len(self._model.classes)
        anomaly_VN, class_VNK = np.empty((V, N), np.float32), np.empty((V, N, K), np.float32)
        for number, rows_ND in enumerate(model_input):
            output = video_output(self._model, rows_ND, self._text_KD, "fp32")
            if output.class_logits_BTK is not None:
                class_VNK[number] = output.class_logits_BTK[0].softmax(dim=-1).cpu().numpy()
            if output.anomaly_logits_BT is not None:
                anomaly_VN[number] = output.anomaly_logits_BT[0].sigmoid().cpu().numpy()
            else:
                anomaly_VN[number] = 1 - class_VNK[number, :, 0]
        found = {"anomaly_score": anomaly_VN}
        return found if self._text_KD is None else found | {"class_probabilities": class_VNK}


def write_served(folder: Path, model_folder: Path, text_KD: Tensor | None) -> tuple[Path, Path]:
    """Put together in `folder` what MLflow logs; return the data that `ServedModel` loads and the code.

    Data: the model's two files and its class text features, if it has any. Code: the modules of this package.
    """
    package = Path(vadclip.__file__).parent
    data, code = folder / "data", folder / package.name
    data.mkdir(parents=True)
    for name in (WEIGHTS_FILE, INFO_FILE):
        shutil.copyfile(model_folder / name, data / name)
    if text_KD is not None:
        save_file({"class_text": text_KD.detach().float().cpu().contiguous()}, data / TEXT_FILE)
    for module in package.rglob("*.py"):
        copied = code / module.relative_to(package)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, copied)
    return data, code


def requirements() -> list[str]:
    """Return the packages that a loaded model needs, in the versions of this environment."""
    return [f"{name}=={version(name).split('+')[0]}" for name in PACKAGES]


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
