"""Progress of long work, with rate and ETA: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Counts what is done of `total` units of work, and prints a plain line on stderr now and then."""

    def __init__(self, total: float, description: str, unit: str) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._started = self._last_line = time.monotonic()
        self._done = 0.0

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        self._done += amount
        if time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            rate = self._done / (self._last_line - self._started)
            pace = f", {rate:,.1f}/s, ETA {format_seconds((self._total - self._done) / rate)}" if rate else ""
            self.message(f"{self._description}: {self._done:,.0f} of {self._total:,.0f} {self._unit}{pace}")

    def message(self, text: str) -> None:
        """Print a line without disturbing the display."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Say how long the work took, if that was long."""
        elapsed = time.monotonic() - self._started
        if elapsed >= PLAIN_LINE_SECONDS:
            took = f"{format_seconds(elapsed)} ({self._done / elapsed:,.1f}/s)"
            self.message(f"{self._description}: {self._done:,.0f} {self._unit} in {took}")


class _Bar(Progress):
    """Shows a live bar instead."""

    def __init__(self, total: float, description: str, unit: str) -> None:
        super().__init__(total, description, unit)
        self.live = RichBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self.live.add_task(description, total=round(total), rate="")

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        self.live.update(self._task, completed=round(self._done), rate=f"{rate:,.1f} {self._unit}/s")

    def message(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False)


@contextmanager
def track(total: float, description: str, unit: str) -> Iterator[Progress]:
    """Show the progress of `total` units of work on stderr, such as `track(900, "extract", "images")`."""
    if sys.stderr.isatty():
        bar = _Bar(total, description, unit)
        with bar.live:
            yield bar
    else:
        lines = Progress(total, description, unit)
        yield lines
        lines.close()


def format_seconds(seconds: float) -> str:
    """Write a duration the way people read it: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
