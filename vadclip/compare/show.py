"""A comparison for the terminal, for machines and as a page."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from vadclip.compare.comparison import Comparison, Value, difference_shown, shown
from vadclip.files import write_text_atomic
from vadclip.pages import write_page


def print_comparison(found: Comparison, console: Console) -> None:
    """Print the table of figures and what can be said, on a console that takes no markup."""
    base = next(iter(found.sides))
    several = any(runs > 1 for runs in found.runs.values())
    title = f"{found.dataset}, {found.videos:,} test videos; differences are from {base}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0, show_edge=False)
    headings = ("figure", "side", "value [95 %]", *(["sd over runs"] if several else ()))
    for heading in (*headings, "difference [95 %]", "p"):
        table.add_column(heading, overflow="fold")
    differences = {one.name: one.differences for one in found.against}
    for name in found.figures:
        for at, (side, values) in enumerate(found.sides.items()):
            if name not in values:
                continue
            value = values[name]
            spread = [shown(name, value.sd) if value.sd is not None else ""] if several else []
            difference = differences.get(side, {}).get(name)
            against = difference_shown(name, difference) if difference else ""
            p = f"{difference.p:.3f}" if difference and difference.p is not None else ""
            table.add_row(name if at == 0 else "", side, interval_shown(name, value), *spread, against, p)
        table.add_section()
    console.print(table)
    for one in found.against:
        if one.moved:
            console.print(f"\nmoved most from {base} to {one.name} (share of pairs of frames in order):")
        for video in one.moved[:5]:
            change = f"{video.before:.3f} -> {video.after:.3f}"
            console.print(f"  {video.video_id} ({', '.join(video.labels)}): {change}")
    for note in found.notes:
        console.print(f"note: {note}")
    console.print()
    for one in found.against:
        console.print(one.sentence)


def interval_shown(name: str, value: Value) -> str:
    """A figure with its interval."""
    return f"{shown(name, value.value)} [{shown(name, value.low)}, {shown(name, value.high)}]"


def write_json(found: Comparison, path: Path) -> None:
    """Write all of a comparison as JSON."""
    write_text_atomic(path, json.dumps(asdict(found), indent=2) + "\n")


def write_html(found: Comparison, path: Path) -> None:
    """Write a comparison as one page."""
    filters: dict[str, Callable[..., str]] = {
        "shown": shown,
        "interval": interval_shown,
        "difference": difference_shown,
    }
    write_page(path, "compare.html", filters, found=found, base=next(iter(found.sides)))
