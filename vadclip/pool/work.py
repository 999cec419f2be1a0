"""What a pool of workers and those who use it agree on, without any of the machinery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vadclip.config import ExecutionParams

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


@dataclass(frozen=True)
class PoolOptions:
    """Where the actors run, how many, and when to lose patience."""

    address: str | None
    """None starts Ray on this machine; the environment's RAY_ADDRESS wins."""
    actors: int | None
    """None takes as many as fit, at most one per task."""
    cpus_per_actor: float
    gpus_per_actor: float
    max_attempts: int
    stall_seconds: float

    @staticmethod
    def of(execution: ExecutionParams) -> "PoolOptions":
        """Options as the params say."""
        return PoolOptions(
            address=execution.ray_address,
            actors=execution.actors,
            cpus_per_actor=execution.cpus_per_actor,
            gpus_per_actor=execution.gpus_per_actor,
            max_attempts=execution.max_attempts,
            stall_seconds=execution.stall_seconds,
        )
