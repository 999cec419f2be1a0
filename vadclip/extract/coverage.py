"""Which rows of one video are there, and which are missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vadclip.features.shards import Block
from vadclip.manifest import Video


@dataclass(frozen=True, slots=True)
class Placed:
    """A block and where it is: the shard's name and the block's number in it."""

    block: Block
    shard: str
    number: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Snippets [start, stop) of some crops of a video that are missing."""

    crops: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Coverage:
    """What a store holds of a video as it is now: blocks by crop, in order, none over another."""

    video: Video
    crops: Mapping[int, Sequence[Placed]]

    def blocks(self, crops: Iterable[int]) -> list[Placed]:
        """Blocks of some crops."""
        return [placed for crop in crops for placed in self.crops.get(crop, ())]

    @property
    def end(self) -> int:
        """Snippets of the video: as the manifest says, or fewer if decoding has shown that it ends before."""
        ends = [
            placed.block.start + placed.block.rows for placed in self.blocks(self.crops) if placed.block.short
        ]
        return min([self.video.num_snippets, *ends])

    def gaps(self, crops: Iterable[int]) -> list[Gap]:
        """Return what is missing of `crops`, crops that miss the same snippets together."""
        end = self.end
        missing: dict[tuple[int, int], list[int]] = {}
        for crop in sorted(crops):
            at = 0
            for placed in self.crops.get(crop, ()):
                if placed.block.start > at:
                    missing.setdefault((at, min(placed.block.start, end)), []).append(crop)
                at = max(at, placed.block.stop)
            if at < end:
                missing.setdefault((at, end), []).append(crop)
        return [
            Gap(tuple(crops), start, stop) for (start, stop), crops in sorted(missing.items()) if stop > start
        ]

    def complete(self) -> list[int]:
        """Return the crops that lack nothing."""
        return [crop for crop in self.crops if not self.gaps([crop])]

    def disagreement(self, crops: Iterable[int]) -> str | None:
        """Say whether the blocks contradict each other about where the video ends."""
        end = self.end
        for crop in crops:
            if sum(placed.block.rows for placed in self.blocks([crop])) != end:
                return "its end is decoded differently each time"
        return None


def joined(run: Sequence[Placed]) -> Block:
    """One block in place of adjacent ones of the same crop."""
    first, last = run[0].block, run[-1].block
    return replace(
        first,
        stop=last.stop,
        rows=sum(placed.block.rows for placed in run),
        frames=max(placed.block.frames for placed in run),
        lost=sum(placed.block.lost for placed in run),
    )
