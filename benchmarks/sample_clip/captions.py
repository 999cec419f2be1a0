"""Captions for single frames of the sample world, each with the claims it makes.

A caption fits every frame of which its claims are true, not only the frame it was written for: training takes
all of them as right answers, all others as wrong ones. Doings that look alike (a hug and a fight, a sunset
and a fire) stand in every batch, so each is the other's hard negative.
"""

import random
from dataclasses import dataclass

from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.everyday import CONFUSERS
from vadclip.sample.world import CLASSES

NORMAL_KINDS = frozenset((*CONFUSERS, "passing", "sunset"))

# The first phrase of an anomaly is its class prompt.
PHRASES: dict[str, tuple[str, ...]] = {
    "Fighting": ("fighting", "a fight", "people fighting", "two people fighting each other", "a brawl",
                 "men hitting and punching each other", "someone kicks another person", "an assault",
                 "a violent fight in the street", "a person beaten to the ground", "a physical fight"),
    "Explosion": ("explosion", "an explosion", "a blast", "a huge fireball", "something explodes",
                  "a bomb going off", "a car exploding", "a bright flash and a fireball",
                  "thick black smoke after an explosion", "people running from an explosion"),
    "Arson": ("arson", "a fire", "fire set on purpose", "someone sets a fire", "flames and smoke",
              "a burning car", "an arsonist lighting a fire", "a person crouching to light a fire",
              "a building on fire", "a person runs away from flames"),
    "RoadAccident": ("road accident", "a car accident", "a car crash", "two cars crash", "a traffic accident",
                     "a collision of vehicles", "a crashed car", "a car hits a pedestrian",
                     "a person lying on the road in front of a car", "damaged cars with warning lights"),
    "Stealing": ("stealing", "a theft", "a thief", "someone steals a bag", "a thief snatches a bag",
                 "a robbery", "a pickpocket", "a person tears a bag from somebody",
                 "a thief runs away with a bag", "a thief sneaks up to a bag left alone"),
    "Vandalism": ("vandalism", "a vandal", "someone spraying graffiti", "a person paints graffiti on a wall",
                  "damage to property", "a person smashing a car with a bat", "breaking car windows",
                  "destroying a parked car", "a man with a bat hits a car"),
    "hugging": ("two people hugging", "an embrace", "friends hug each other", "people greet with a hug"),
    "talking": ("people talking", "a conversation", "friends chat", "two people stand and talk"),
    "children": ("children running", "kids at play", "playing children", "children run about"),
    "parking": ("a car parking", "a car stops behind another", "a driver parks", "a car brakes and parks"),
    "headlights": ("headlights of a car", "a car comes towards the camera", "bright lamps of a car",
                   "glaring headlights"),
    "cleaning": ("a person cleaning a wall", "someone wipes the wall", "a cleaner at work"),
    "resting": ("a person with their own bag", "someone puts a bag down", "a person picks up their bag"),
    "steam": ("steam from a manhole", "white steam rising", "a cloud of steam"),
    "sunset": ("a sunset", "the sun goes down", "an orange evening sky", "the setting sun"),
    "passing": ("people walking", "pedestrians", "passers by", "an ordinary street", "cars driving by",
                "people on their way", "quiet traffic"),
}  # fmt: skip
NORMAL_PHRASES = (
    CLASSES.prompts[0], "normal", "a normal scene", "nothing unusual", "normal activity", "everyday life",
    "a normal street", "an ordinary day", "nothing happens", "a peaceful street",
)  # fmt: skip
_TIMES = {
    "day": ("by day", "in daylight", "at noon"),
    "dusk": ("at dusk", "in the evening", "in the twilight"),
    "sunset": ("at sunset", "in the evening sun", "in orange light"),
    "night": ("at night", "in the dark", "by night"),
}
_WEATHER = {True: ("in the rain", "on a rainy day", "in wet weather"), False: ("in dry weather",)}
_PLACES = {
    "street": ("in a street", "on a pavement"), "plaza": ("on a square", "in a plaza"),
    "carpark": ("in a car park", "in a parking lot"), "park": ("in a park", "on a path in a park"),
    "arcade": ("in a shopping street", "in front of shops"), "crossing": ("at a crossing", "at a crossroads"),
}  # fmt: skip
_OPENINGS = (
    "", "", "", "", "a photo of", "a video of", "a picture of", "surveillance camera footage of",
    "a security camera shows", "an image from a fixed street camera showing", "cctv:",
    "what the camera above the road sees is this:",
)  # fmt: skip
_CLOSINGS = ("", "", "", "recorded by a camera", "seen from far away", "in the city", "caught on camera")


@dataclass(frozen=True)
class Facts:
    """What is true of one frame."""

    kind: str
    time: str
    rain: bool
    family: str


@dataclass(frozen=True)
class Caption:
    """A text and its claims; None claims nothing."""

    text: str
    kinds: frozenset[str]
    time: str | None = None
    rain: bool | None = None
    family: str | None = None

    def fits(self, facts: Facts) -> bool:
        """Say whether every claim is true of a frame."""
        return (
            facts.kind in self.kinds
            and self.time in (None, facts.time)
            and self.rain in (None, facts.rain)
            and self.family in (None, facts.family)
        )


def write_caption(facts: Facts, rng: random.Random) -> Caption:
    """Write one of the many captions that fit a frame; about one in four is a bare phrase."""
    normal = facts.kind in NORMAL_KINDS
    if normal and rng.random() < 0.5:
        kinds, phrase = NORMAL_KINDS, rng.choice(NORMAL_PHRASES)
    else:
        phrases = PHRASES[facts.kind]
        kinds, phrase = frozenset((facts.kind,)), rng.choice((phrases[0], *phrases))
    if facts.kind == "sunset" and kinds is not NORMAL_KINDS:  # the sun is there for whoever passes or hugs
        return Caption(phrase, NORMAL_KINDS, time="sunset")
    if rng.random() < 0.3:
        return Caption(phrase, kinds)
    time = facts.time if rng.random() < 0.35 else None
    rain = facts.rain if rng.random() < (0.4 if facts.rain else 0.05) else None
    family = facts.family if rng.random() < 0.3 else None
    details = [rng.choice(_TIMES[time])] if time is not None else []
    details += [rng.choice(_WEATHER[rain])] if rain is not None else []
    details += [rng.choice(_PLACES[family])] if family is not None else []
    rng.shuffle(details)
    words = [rng.choice(_OPENINGS), phrase, *details, rng.choice(_CLOSINGS)]
    return Caption(" ".join(word for word in words if word), kinds, time, rain, family)


def all_texts() -> tuple[str, ...]:
    """Return texts that hold every word of any caption, and every class prompt."""
    groups = (*PHRASES.values(), NORMAL_PHRASES, *_TIMES.values(), *_WEATHER.values(), *_PLACES.values())
    spoken = {text for group in (*groups, _OPENINGS, _CLOSINGS, CLASSES.prompts) for text in group if text}
    return tuple(sorted(spoken))


assert set(PHRASES) == NORMAL_KINDS | set(ANOMALIES)
