"""How a stage ends: exit status and message for success, the user's mistake and an interrupt."""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from vadclip.errors import VadclipError
from vadclip.files import held_alone

INTERRUPTED = 130
LOCK = Path(".cache/stage.lock")


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main` and leave the process with the exit status that DVC must see.

    The user's mistake is one line and status 1; Ctrl-C and SIGTERM end with 130, never 0, because DVC would
    lock the half-written output of a stage that "succeeded"; a bug keeps its traceback. A stage outlives a
    DVC that was killed: while it lives, no other starts in this folder.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that this locale cannot write must not stop a stage
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with held_alone(LOCK, f"stage {Path(sys.argv[0]).stem}"):
            main()
    except VadclipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "interrupted: nothing done is lost; run the same command again to go on",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: a native decoder thread or an exit hook must not turn an interrupt into a hang.
        os._exit(INTERRUPTED)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
