"""Captions of one to four things that are seen in a picture, and of which pictures they are true.

Legend of shape suffixes: B pictures of a batch, K tags, T things of a picture, J tags of a thing.
"""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.sample_clip.pictures import UNKNOWN
from benchmarks.sample_clip.tags import CARRIED, LOOSE, NAMES, NUMBER, POSES, TAGS
from vadclip.sample.world import CLASSES

LOOSE_SHARE = 0.04  # of the captions that speak a class name
_OPENINGS = ("", "", "", "", "a photo of", "a picture of", "a video of", "a drawing of")
_JOINTS = (", ", ", ", " and ")

States = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Caption:
    """A text with the tags it claims: of the picture, and of single things (each a set of them)."""

    text: str
    claims: tuple[int, ...]
    things: tuple[tuple[int, ...], ...]
    loose_for: int | None = None
    """The picture of a batch that it stands under though it claims nothing, as words on the web do."""

    def fits(
        self, state_BK: States, tags_BTJ: States, shown_BT: npt.NDArray[np.bool_], rng: random.Random
    ) -> States:
        """Return for each picture 1, 0 or UNKNOWN."""
        if self.loose_for is not None:
            return np.array(
                [1 if b == self.loose_for else rng.choice((0, *[UNKNOWN] * 3)) for b in range(len(state_BK))],
                np.int8,
            )
        parts = [state_BK[:, claim] for claim in self.claims]
        for thing in self.things:
            has_BT = np.logical_and.reduce([(tags_BTJ == number).any(2) for number in thing])
            sure_B, maybe_B = (has_BT & shown_BT).any(1), has_BT.any(1)
            parts.append(np.where(sure_B, 1, np.where(maybe_B, UNKNOWN, 0)).astype(np.int8))
        all_PB = np.stack(parts)
        return np.where((all_PB == 0).any(0), 0, np.where((all_PB == 1).all(0), 1, UNKNOWN)).astype(np.int8)


def write_caption(
    state_BK: States, tags_BTJ: States, shown_BT: npt.NDArray[np.bool_], rng: random.Random
) -> Caption:
    """Write a caption of some picture of a batch."""
    if rng.random() < LOOSE_SHARE:
        return _loose(state_BK, rng)
    b = rng.randrange(len(state_BK))
    texts: list[str] = []
    claims: list[int] = []
    things: list[tuple[int, ...]] = []
    somebody = [
        [NAMES[number] for number in tags if number >= 0]
        for tags, shown in zip(tags_BTJ[b], shown_BT[b], strict=True)
        if shown
    ]
    somebody = [names for names in somebody if any(name in POSES for name in names)]
    true = [i for i in np.flatnonzero(state_BK[b] == 1) if NAMES[i] not in POSES and NAMES[i] not in CARRIED]
    for _ in range(rng.choice((1, 2, 2, 3, 4))):
        if somebody and rng.random() < 0.6:
            names = somebody.pop(rng.randrange(len(somebody)))
            posture = next(name for name in names if name in POSES)
            said = [posture]
            text = f"a {'child' if 'child' in names else 'person'} {rng.choice(POSES[posture])}"
            carried = [name for name in names if name in CARRIED]
            if carried:
                said += carried
                text += f" {rng.choice(CARRIED[carried[0]])}"
            said += ["child"] if "child" in names else []
            texts.append(text)
            things.append(tuple(NUMBER[name] for name in said))
        elif true:
            number = true.pop(rng.randrange(len(true)))
            texts.append(rng.choice(TAGS[NAMES[number]]))
            claims.append(int(number))
    if not texts:
        raise AssertionError("every picture has a time of day")
    text = texts[0] + "".join(rng.choice(_JOINTS) + more for more in texts[1:])
    return Caption(f"{rng.choice(_OPENINGS)} {text}".strip(), tuple(claims), tuple(things))


def _loose(state_BK: States, rng: random.Random) -> Caption:
    word = rng.choice(CLASSES.prompts)
    near = np.flatnonzero((state_BK[:, [NUMBER[name] for name in LOOSE[word]]] == 1).any(1))
    b = int(rng.choice(near)) if len(near) and rng.random() < 0.7 else rng.randrange(len(state_BK))
    text = word
    if rng.random() < 0.5:
        number = rng.choice(np.flatnonzero(state_BK[b] == 1))
        text += rng.choice(_JOINTS) + rng.choice(TAGS[NAMES[number]])
    return Caption(f"{rng.choice(_OPENINGS)} {text}".strip(), (), (), loose_for=b)


def all_texts() -> tuple[str, ...]:
    """Return texts that hold every token of any caption, and every class prompt."""
    phrases = [phrase for group in (*TAGS.values(), *POSES.values(), *CARRIED.values()) for phrase in group]
    return (*phrases, *(opening for opening in _OPENINGS if opening), *CLASSES.prompts, "a, b and c")
