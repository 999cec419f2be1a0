"""At which second of its playing each frame of a video is shown.

Legend of shape suffixes: N snippets.
"""

import numpy as np
from numpy.typing import NDArray

from vadclip.manifest import SNIPPET_FRAMES, Video
from vadclip.video.container import decode, open_video
from vadclip.video.frame_index import scan

_COMMON_FPS = 25.0


def frame_times(path: str) -> NDArray[np.float64] | None:
    """Return the second at which each frame is shown, counted from the file's start.

    None if the file does not say: frame / fps is then all that can be said, and is to be called so. Raises
    VideoError if the file cannot be used.
    """
    index = scan(path)
    times = index.pts
    if not index.ordered:
        with open_video(path) as (container, stream):
            shown = [frame.pts for frame in decode(container, stream)]
        if None in shown:
            return None
        times = np.asarray(shown, np.int64)
        if bool(np.any(np.diff(times) <= 0)):
            return None
    return np.asarray(np.maximum(times - index.start, 0) * float(index.time_base))


def snippet_edges(path: str, video: Video, snippets: int) -> tuple[NDArray[np.float64], str | None]:
    """Return the seconds at which each of N snippets begins and the last one ends, shape [N + 1].

    They are the frames' presentation times; the video's last frame is shown as long as the one before it.
    Where the file does not tell them, a note says what the seconds are instead. Raises VideoError if the file
    cannot be used.
    """
    times = frame_times(path)
    if times is None or len(times) < snippets * SNIPPET_FRAMES:
        return guessed_edges(video.fps, snippets)
    last = times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0.0)
    return np.append(times, last)[: snippets * SNIPPET_FRAMES + 1 : SNIPPET_FRAMES], None


def guessed_edges(fps: float, snippets: int) -> tuple[NDArray[np.float64], str]:
    """Return what `snippet_edges` does where no times are known, and the note."""
    fps = fps or _COMMON_FPS
    note = f"the file does not tell its frames' times: seconds are frame / {fps:g}"
    return np.arange(snippets + 1) * SNIPPET_FRAMES / fps, note
