"""Workers for the pool's tests: what each does is written on its tasks."""

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vadclip.errors import InputError


class FaultyWorker:
    """Runs tasks that are tuples of words; logs each run in `folder`, so that a test can count them."""

    def __init__(self, folder: Path, start: str, files: Mapping[str, str]) -> None:
        self.folder = folder
        if start == "bad input":
            raise InputError("the weights are of another model")
        if start == "die":
            os._exit(1)

    def run(self, task: tuple[str, ...], beat: Callable[[float], None]) -> list[str]:
        done = []
        for word in task:
            runs = len(list(self.folder.glob(f"{word}.*")))
            (self.folder / f"{word}.{runs}").touch()
            beat(1)
            if word.startswith("poison"):
                os._exit(1)
            if word.startswith("once") and runs == 0:
                os._exit(1)
            if word.startswith("raise"):
                raise KeyError("no such thing")
            if word.startswith("full"):
                raise InputError("the disk is full")
            if word.startswith("hang"):
                # PyDLL keeps the GIL while the C function sleeps, as a stuck native decoder may.
                ctypes.PyDLL(None).sleep(1000)
            if word.startswith("slow"):
                for _ in range(30):
                    time.sleep(0.1)
                    beat(0)
            done.append(word.upper())
        return done
