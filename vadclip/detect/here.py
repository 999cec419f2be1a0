"""Extraction in this process, without Ray: for work that is not worth its start."""

from collections.abc import Callable, Generator, Sequence

from vadclip.clip.frozen import Clip
from vadclip.config import ExecutionParams
from vadclip.errors import InputError
from vadclip.extract.encode import Extracted, OpenVideo, extract
from vadclip.extract.units import Unit, split_unit
from vadclip.pool.work import Outcome


def run_here(
    clip: Clip,
    execution: ExecutionParams,
    units: Sequence[Unit],
    *,
    wanted: Callable[[Unit], bool],
    progress: Callable[[float], None],
    tell: Callable[[str], None],
) -> Generator[Outcome[Unit, Extracted], None, None]:
    """Run units as `fill.RunUnits` says; one that raises is tried again video by video: one is guilty."""
    videos = OpenVideo(execution.decoder)
    waiting = list(reversed(units))
    try:
        while waiting:
            unit = waiting.pop()
            if not wanted(unit):
                continue
            try:
                out = extract(unit, clip, videos, batch_images=execution.encoder_batch, beat=progress)
            except InputError:
                raise
            except Exception as error:  # whatever a decoder raises is its video's fault
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                tell(reason)
                if len(unit.slices) > 1:
                    waiting += reversed(split_unit(unit))
                else:
                    yield Outcome(unit, None, reason)
            else:
                yield Outcome(unit, out, None)
    finally:
        videos.close()
