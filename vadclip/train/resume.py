"""The state of an unfinished training: one file per epoch's end, written whole or not at all, without pickle.

It lies in `.cache/train/<key>/`, where the key stands for everything that decides the result, so a changed
parameter or another feature store starts afresh and an unchanged one goes on. Tensors are safetensors, the
rest is JSON in the same file's header: a kill cannot leave two files that do not belong together.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vadclip.files import atomic_path, held_alone

VERSION = 1  # raise it whenever what is saved or how training goes on from it changes


def resume_key(facts: Mapping[str, Any]) -> str:
    """Return a short hash of JSON-like facts: all that decides a training's result."""
    text = json.dumps({"version": VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ResumeFolder:
    """Where one training keeps its state until it has succeeded."""

    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / "state.safetensors"

    def held(self) -> AbstractContextManager[None]:
        """Keep the folder to this process; InputError if another one trains the same."""
        return held_alone(self.folder / "lock", "the same training")

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the saved state; `facts` are plain JSON types (floats come back exactly)."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_path(self._file) as temporary:
            save_file(plain, temporary, metadata={"facts": json.dumps(facts)})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what `save` was given, tensors on the CPU; None if nothing was saved."""
        if not self._file.exists():
            return None
        with safe_open(self._file, framework="pt") as opened:
            facts = json.loads(opened.metadata()["facts"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, facts  # noqa: SIM118 - not a dict

    def remove(self) -> None:
        """Forget the training: it has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix` and a dot before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `prefixed` put under `prefix`, by their own names."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments and counters as `<parameter's number>.<name>` -> tensor."""
    return {
        f"{number}.{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rates: list[float]
) -> None:
    """Give an optimiser of the same parameters its moments and each group's learning rate back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, moment = name.partition(".")
        state.setdefault(int(number), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that training on `device` may draw from."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo what happened to the generators since `random_states`; another kind of device keeps its own."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
