"""What a pool of workers and its users agree on; none of the machinery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Beat = Callable[[float], None]
"""Told how much more is done, in whatever unit; 0 is a sign of life only."""


class Worker(Protocol[T_contra, R_co]):
    """Does tasks one after the other."""

    def run(self, task: T_contra, beat: Beat) -> R_co:
        """Do one task; call `beat` for all that gets done."""


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """How a task ended: with a result, or with the reason why there is none."""

    task: T
    result: R | None
    error: str | None
