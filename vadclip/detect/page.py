"""index.html: what was found, offline, a row per video with its score over its pictures.

Pages of VIDEOS_A_PAGE videos, the highest peak first. Videos and thumbnails are linked by relative paths, so
the folder may move together with the videos.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from vadclip.detect.results import Result
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.pages import write_page
from vadclip.remote import is_remote

VIDEOS_A_PAGE = 200
_POINTS = 600
_PLAYABLE = (".mp4", ".m4v", ".mov", ".webm", ".ogv", ".mkv")
"""Containers that browsers open; whether they know the codec only they can tell."""


def write_pages(
    folder: Path,
    results: Sequence[Result],
    threshold: float,
    facts: Sequence[str],
    *,
    videos_a_page: int = VIDEOS_A_PAGE,
) -> list[Path]:
    """Write index.html, page-2.html, ... into `folder` and remove pages of an earlier, longer run.

    `facts` are lines about the run that stand on top. Returns the pages' paths.
    """
    scored = sorted(
        (result for result in results if result.peak is not None),
        key=lambda result: (-(result.peak or 0.0), result.video_id),
    )
    pages = max(1, -(-len(scored) // videos_a_page))
    names = ["index.html", *(f"page-{number}.html" for number in range(2, pages + 1))]
    for at, name in enumerate(names):
        shown = scored[at * videos_a_page : (at + 1) * videos_a_page]
        write_page(
            folder / name,
            "detections.html",
            {},
            page=at + 1,
            pages=pages,
            names=names,
            facts=facts,
            total_events=sum(len(result.events) for result in results),
            total_videos=len(results),
            videos=[_row(folder, result, threshold) for result in shown],
            unusable=[(result.name, result.note) for result in results if result.peak is None]
            if at == 0
            else [],
        )
    for path in folder.glob("page-*.html"):
        if path.name not in names:
            path.unlink()
    return [folder / name for name in names]


def _row(folder: Path, result: Result, threshold: float) -> dict[str, Any]:
    assert result.look is not None
    assert result.score_N is not None
    edges = result.look.edges
    return {
        "id": result.video_id,
        "name": result.name,
        "src": _link(folder, result.location),
        "peak": result.peak,
        "seconds": float(edges[-1]),
        "note": result.note,
        "path": _path(result.score_N),
        "limit": round(100 * (1 - threshold), 1) if 0 <= threshold <= 1 else None,
        "stills": [
            {
                "src": quote(os.path.relpath(result.look.folder / name, folder)),
                "at": round(float(edges[frame // SNIPPET_FRAMES]), 2),
            }
            for frame, name in result.look.thumbnails
        ],
        "events": [
            {
                **vars(event),
                # The strip is even in snippets, as the curve is; of a steady frame rate also in time.
                "left": round(100 * event.start_frame / SNIPPET_FRAMES / len(result.score_N), 3),
                "width": round(
                    100 * (event.end_frame - event.start_frame) / SNIPPET_FRAMES / len(result.score_N), 3
                ),
            }
            for event in result.events
        ],
    }


def _link(folder: Path, location: str) -> str | None:
    """How a browser that opened the page gets at the video; None if it cannot play it."""
    if is_remote(location):
        return location if location.startswith(("http://", "https://")) else None
    playable = Path(location).suffix.lower() in _PLAYABLE
    return quote(os.path.relpath(location, folder)) if playable else None


def _path(score_N: npt.NDArray[np.float32]) -> str:
    """Return the score as an SVG path over 1000 x 100, steps of a snippet, or of the highest of several."""
    groups = np.array_split(score_N, min(len(score_N), _POINTS))
    edges = np.cumsum([0, *(len(group) for group in groups)]) * 1000 / len(score_N)
    parts = [f"M0 {100 * (1 - float(groups[0].max())):.1f}"]
    for group, end in zip(groups, edges[1:], strict=True):
        parts.append(f"V{100 * (1 - float(group.max())):.1f}H{end:.1f}")
    return "".join(parts)
