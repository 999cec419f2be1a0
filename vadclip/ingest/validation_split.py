"""Validation videos carved out of the training videos: whole sources, every label set in proportion, seeded.

A source is what must not stand on both sides: one camera, one film, equal content. XD-Violence cuts up to 42
clips from a film.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection

from vadclip.manifest import Video


def carve_validation(videos: Collection[Video], fraction: float, seed: int) -> frozenset[str]:
    """Return the ids of the training videos to validate on, about `fraction` of the usable ones.

    A stratum is the videos of one label set; round(fraction * n) of its n videos are wanted, and at least one
    stays. Sources are taken in a seeded order, each whole, if no stratum gets more than is wanted of it: thus
    a stratum too small (or a source too large) stays in train. Neither the order of the videos nor other
    sources change a source's place in that order. Unusable videos are not counted and stay in train.
    """
    usable = [video for video in videos if video.split == "train" and video.num_snippets > 0]
    sizes = Counter(frozenset(video.labels) for video in usable)
    room = {labels: min(int(fraction * size + 0.5), size - 1) for labels, size in sizes.items()}
    names = _joined_sources(usable)
    sources: dict[str, list[Video]] = defaultdict(list)
    for video in usable:
        sources[names[video.source_id]].append(video)

    def place(source_id: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{source_id}".encode()).digest()

    taken: set[str] = set()
    for source_id in sorted(sources, key=place):
        wanted = Counter(frozenset(video.labels) for video in sources[source_id])
        if all(count <= room[labels] for labels, count in wanted.items()):
            for labels, count in wanted.items():
                room[labels] -= count
            taken.update(video.video_id for video in sources[source_id])
    return frozenset(taken)


def _joined_sources(videos: Collection[Video]) -> dict[str, str]:
    """Return a name for each source; sources that hold equal content have the same."""
    names = {video.source_id: video.source_id for video in videos}

    def name(source_id: str) -> str:
        while names[source_id] != source_id:
            source_id = names[source_id]
        return source_id

    holders: dict[str, str] = {}
    for video in videos:
        one, other = name(video.source_id), name(holders.setdefault(video.content_hash, video.source_id))
        names[max(one, other)] = min(one, other)
    return {source_id: name(source_id) for source_id in names}
