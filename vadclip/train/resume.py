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
from vadclip.model.vadclip import VadClip
from vadclip.train.history import History
from vadclip.train.selection import Selection

VERSION = 2  # raise it whenever what is saved or how training goes on from it changes
STATE_FILE = "state.safetensors"


def resume_key(facts: Mapping[str, Any]) -> str:
    """Return a short hash of JSON-like facts: all that decides a training's result."""
    text = json.dumps({"version": VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ResumeFolder:
    """Where one training keeps its state until it has succeeded."""

    folder: Path

    @property
    def file(self) -> Path:
        """The state; absent before the first epoch's end."""
        return self.folder / STATE_FILE

    def held(self) -> AbstractContextManager[None]:
        """Keep the folder to this process; InputError if another one trains the same."""
        return held_alone(self.folder / "lock", "the same training")

    def unfinished_others(self) -> list[Path]:
        """Return the folders beside this one in which another training was begun and not finished."""
        return sorted(path.parent for path in self.folder.parent.glob(f"*/{STATE_FILE}") if path != self.file)

    def remove(self) -> None:
        """Forget the training: it has succeeded."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class TrainingState:
    """All that changes while a training runs."""

    model: VadClip
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    selection: Selection
    history: History
    device: torch.device

    def save(self, file: Path) -> None:
        """Replace the saved state; to be called at an epoch's end."""
        groups = {
            "model": self.model.state_dict(),
            "chosen": self.selection.weights,
            "optimizer": _moments(self.optimizer),
            "random": _random_states(self.device),
        }
        tensors = {
            f"{group}.{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        facts = {  # plain JSON types, in which floats come back exactly
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "selection": self.selection.facts(),
            "history": self.history.facts(),
        }
        with atomic_path(file) as temporary:
            save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})

    def restore(self, file: Path) -> None:
        """Take back what `save` wrote, if it wrote anything."""
        if not file.exists():
            return
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "chosen": {}, "optimizer": {}, "random": {}}
        with safe_open(file, framework="pt") as opened:
            facts = json.loads(opened.metadata()["facts"])
            for full_name in opened.keys():  # noqa: SIM118 - not a dict
                group, _, name = full_name.partition(".")
                groups[group][name] = opened.get_tensor(full_name)
        self.model.load_state_dict(groups["model"])
        self.selection.restore(groups["chosen"], facts["selection"])
        self.history.restore(facts["history"])
        _restore_optimizer(self.optimizer, groups["optimizer"], facts["rates"])
        self.scheduler.last_epoch = len(self.history.epochs)
        torch.set_rng_state(groups["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in groups["random"]:  # another kind of device keeps its own
            torch.cuda.set_rng_state(groups["random"]["cuda"], self.device)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments and counters as `<parameter's number>.<name>` -> tensor."""
    return {
        f"{number}.{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], rates: list[float]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        number, _, moment = name.partition(".")
        state.setdefault(int(number), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that training on `device` may draw from."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states
