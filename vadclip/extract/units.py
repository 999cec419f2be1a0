"""The plan of an extraction: which snippets of which videos make one piece of work.

A unit is slices of snippets of videos that want the same crops, sized in images. Long videos are cut into
slices, short ones share a unit, and large units come first, so that no worker is left with one at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vadclip.features.coverage import Gap
from vadclip.features.shards import Block
from vadclip.manifest import SNIPPET_FRAMES, Video


@dataclass(frozen=True, slots=True)
class Slice:
    """Snippets [start, stop) of one video."""

    video_id: str
    content_hash: str
    location: str
    """Absolute path or URI of the video."""
    num_frames: int
    crops: tuple[int, ...]
    start: int
    stop: int

    @property
    def until_frame(self) -> int:
        """Frames to read up to; of a video's last slice all, so that its true end is known."""
        last = self.stop == self.num_frames // SNIPPET_FRAMES
        return self.num_frames if last else self.stop * SNIPPET_FRAMES

    def block(self, crop: int, *, rows: int = 0, frames: int = 0, decoder: str = "") -> Block:
        """Return what this slice gives for one crop."""
        return Block(
            video_id=self.video_id,
            crop=crop,
            start=self.start,
            stop=self.stop,
            rows=rows,
            frames=frames,
            content_hash=self.content_hash,
            decoder=decoder,
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work: slices with equal crops."""

    slices: tuple[Slice, ...]
    frames_per_snippet: int

    @property
    def crops(self) -> tuple[int, ...]:
        """Crops that every slice wants."""
        return self.slices[0].crops

    @property
    def images(self) -> int:
        """Crops of frames that an encoder gets."""
        snippets = sum(part.stop - part.start for part in self.slices)
        return snippets * len(self.crops) * self.frames_per_snippet

    def blocks(self) -> list[Block]:
        """Blocks that this unit must give, without what only decoding tells."""
        return [part.block(crop) for part in self.slices for crop in self.crops]


def plan_units(
    gaps: Iterable[tuple[Video, str, Gap]], *, frames_per_snippet: int, unit_images: int
) -> list[Unit]:
    """Cut the gaps of videos (each with its location) into units of at most `unit_images`, largest first.

    A snippet is never cut, so a unit of one snippet may be larger.
    """
    slices: dict[tuple[int, ...], list[Slice]] = {}
    for video, location, gap in gaps:
        per_slice = max(1, unit_images // (len(gap.crops) * frames_per_snippet))
        count = -(-(gap.stop - gap.start) // per_slice)
        edges = [gap.start + (gap.stop - gap.start) * part // count for part in range(count + 1)]
        slices.setdefault(gap.crops, []).extend(
            Slice(video.video_id, video.content_hash, location, video.num_frames, gap.crops, start, stop)
            for start, stop in pairwise(edges)
        )
    units = []
    for same_crops in slices.values():
        gathered: list[Slice] = []
        images = 0
        for part in same_crops:
            more = Unit((part,), frames_per_snippet).images
            if gathered and images + more > unit_images:
                units.append(Unit(tuple(gathered), frames_per_snippet))
                gathered, images = [], 0
            gathered.append(part)
            images += more
        units.append(Unit(tuple(gathered), frames_per_snippet))
    return sorted(units, key=lambda unit: -unit.images)


def split_unit(unit: Unit) -> Sequence[Unit]:
    """Return the unit's videos apart, each in a unit of its own."""
    return [Unit((part,), unit.frames_per_snippet) for part in unit.slices]
