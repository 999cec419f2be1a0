"""One piece of work of an extraction: which snippets of which videos.

A unit is slices of snippets of videos that want the same crops, sized in images. Long videos are cut into
slices, and short ones share a unit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vadclip.extract.coverage import Gap
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
    intact: bool = False
    """As the manifest says."""

    @property
    def since_frame(self) -> int:
        """First frame of the slice."""
        return self.start * SNIPPET_FRAMES

    @property
    def until_frame(self) -> int:
        """Frames to read up to; of a video's last slice all, so that its true end is known."""
        last = self.stop == self.num_frames // SNIPPET_FRAMES
        return self.num_frames if last else self.stop * SNIPPET_FRAMES

    def block(self, crop: int, *, rows: int = 0, frames: int = 0, lost: int = 0) -> Block:
        """Return what this slice gives for one crop."""
        return Block(self.video_id, crop, self.start, self.stop, rows, frames, self.content_hash, lost)


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
    def rows(self) -> int:
        """Rows of all crops."""
        return sum(part.stop - part.start for part in self.slices) * len(self.crops)

    @property
    def images(self) -> int:
        """Crops of frames that an encoder gets."""
        return self.rows * self.frames_per_snippet

    def blocks(self) -> list[Block]:
        """Blocks that this unit must give, without what only decoding tells."""
        return [part.block(crop) for part in self.slices for crop in self.crops]


def plan_units(
    gaps: Iterable[tuple[Video, str, Gap]], frames_per_snippet: int, unit_images: int, *, most_images: int = 0
) -> Iterator[Unit]:
    """Cut the gaps of videos (each with its location) into units of at most `unit_images`, as they come.

    A snippet is never cut, so a unit of one snippet may be larger. Nor is a video whose every slice would be
    decoded from the start, up to `most_images`: work would grow with the square of its length.
    """
    begun: dict[tuple[int, ...], list[Slice]] = defaultdict(list)  # slices of units with room, by crops
    sizes: Counter[tuple[int, ...]] = Counter()  # their images
    for video, location, gap in gaps:
        per_snippet = len(gap.crops) * frames_per_snippet
        limit = unit_images if video.seekable else max(unit_images, most_images)
        count = -(-(gap.stop - gap.start) // max(1, limit // per_snippet))
        edges = [gap.start + (gap.stop - gap.start) * part // count for part in range(count + 1)]
        slices, named = begun[gap.crops], (video.video_id, video.content_hash, location, video.num_frames)
        for start, stop in pairwise(edges):
            images = (stop - start) * per_snippet
            if slices and sizes[gap.crops] + images > unit_images:
                yield Unit(tuple(slices), frames_per_snippet)
                slices.clear()
                sizes[gap.crops] = 0
            slices.append(Slice(*named, gap.crops, start, stop, video.intact))
            sizes[gap.crops] += images
    for slices in begun.values():
        yield Unit(tuple(slices), frames_per_snippet)


def split_unit(unit: Unit) -> Sequence[Unit]:
    """Return the unit's videos apart, each in a unit of its own."""
    return [Unit((part,), unit.frames_per_snippet) for part in unit.slices]
