"""Which rows of which videos are there, and which are missing."""

from collections.abc import Iterable, Sequence
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


class Coverage:
    """The blocks of a store, by video, content and crop; what is there twice counts once."""

    def __init__(self) -> None:
        self._placed: dict[tuple[str, str], dict[int, list[Placed]]] = {}

    def add(self, placed: Placed) -> bool:
        """Take a block in; False if some of its snippets are there already."""
        block = placed.block
        crops = self._placed.setdefault((block.video_id, block.content_hash), {})
        there = crops.setdefault(block.crop, [])
        if any(block.start < other.block.stop and other.block.start < block.stop for other in there):
            return False
        there.append(placed)
        there.sort(key=lambda one: one.block.start)
        return True

    def crops(self, video: Video) -> dict[int, list[Placed]]:
        """Return the blocks of a video as it is now, in order, by crop."""
        return self._placed.get((video.video_id, video.content_hash), {})

    def blocks(self, video: Video, crop: int) -> list[Placed]:
        """Blocks of one crop of a video as it is now, in order."""
        return self.crops(video).get(crop, [])

    def end(self, video: Video) -> int:
        """Snippets of the video: as the manifest says, or fewer if decoding has shown that it ends before."""
        ends = [
            placed.block.start + placed.block.rows
            for run in self.crops(video).values()
            for placed in run
            if placed.block.short
        ]
        return min([video.num_snippets, *ends])

    def gaps(self, video: Video, crops: Iterable[int]) -> list[Gap]:
        """Return what is missing of `crops`, crops that miss the same snippets together."""
        end = self.end(video)
        missing: dict[tuple[int, int], list[int]] = {}
        for crop in sorted(crops):
            at = 0
            for placed in self.blocks(video, crop):
                if placed.block.start > at:
                    missing.setdefault((at, min(placed.block.start, end)), []).append(crop)
                at = max(at, placed.block.stop)
            if at < end:
                missing.setdefault((at, end), []).append(crop)
        return [
            Gap(tuple(crops), start, stop) for (start, stop), crops in sorted(missing.items()) if stop > start
        ]

    def disagreement(self, video: Video, crops: Iterable[int]) -> str | None:
        """Say whether the blocks of a video contradict each other about where it ends."""
        end = self.end(video)
        for crop in crops:
            if sum(placed.block.rows for placed in self.blocks(video, crop)) != end:
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
        decoder=decoders(run),
    )


def decoders(run: Iterable[Placed]) -> str:
    """Names of the decoders that read a run of blocks."""
    return "+".join(sorted({name for placed in run for name in placed.block.decoder.split("+") if name}))
