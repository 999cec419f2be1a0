"""Street layouts and conditions: where people walk, cars drive and walls stand, and in what light.

Each layout belongs to one side: the sample's train or test videos, the CLIP's training, or the CLIP's own
held-out check. Every video has a layout of its own, so nothing is judged in a street it was trained in, and
no deed can be told by its street. Only the sample's train and test videos share their hues: the CLIP has seen
other colours, in training and in its check.
"""

import colorsys
import random
from dataclasses import dataclass

from vadclip.sample.canvas import Colour, Light

SIDES = ("clip", "check", "train", "test")
TIMES = ("day", "dusk", "sunset", "night")
_FAMILIES = {
    "clip": ("street", "plaza", "carpark", "park", "arcade", "crossing"),
    "check": ("street", "plaza", "carpark", "park", "arcade", "crossing"),
    "train": ("street", "plaza", "carpark", "park", "station"),
    "test": ("street", "plaza", "carpark", "park", "canal"),
}
_BANDS = {"clip": (0, 2), "check": (1,), "train": (3,), "test": (3,)}  # of four, in each seventh of the wheel
_AMBIENT = {
    "day": (1.0, 1.0, 1.0),
    "dusk": (0.66, 0.62, 0.74),
    "sunset": (0.82, 0.62, 0.5),
    "night": (0.4, 0.43, 0.58),
}


@dataclass(frozen=True)
class Layout:
    """One camera position, in canvas units: y grows downwards, `*_y` is where feet or wheels stand."""

    name: str
    side: str
    family: str
    base_y: float  # foot of the far facades
    walk_y: tuple[float, float]  # where people act
    road_y: float  # where cars drive from side to side
    road_band: tuple[float, float]
    bench_y: float  # where cars park
    person: float  # somebody's height at y = 190
    alley_x: float  # a side street that opens towards the camera
    wall: tuple[float, float]  # left and right of a bare wall at base_y
    seed: int

    def size_at(self, y: float) -> float:
        """Height of a grown person whose feet stand at y."""
        return self.person * (0.72 + 0.28 * (y - self.base_y) / (190 - self.base_y))

    def car_length_at(self, y: float) -> float:
        """Length of a car whose wheels stand at y."""
        return 1.28 * self.size_at(y)


@dataclass(frozen=True)
class Conditions:
    """Time of day, rain, and the camera's noise in grey levels."""

    time: str
    rain: bool
    noise: float

    @property
    def light(self) -> Light:
        """Ambient light of the scene."""
        red, green, blue = _AMBIENT[self.time]
        wet = 0.82 if self.rain else 1.0
        return Light(red * wet, green * wet, blue * (wet + (0.05 if self.rain else 0.0)))

    @property
    def dark(self) -> bool:
        """Whether lamps burn."""
        return self.time == "night"


def layout_name(side: str, video_id: str, rng: random.Random) -> str:
    """Name the layout of a video, of a family drawn by chance: one that follows the deed would tell it."""
    return f"{side}/{rng.choice(_FAMILIES[side])}/{video_id}"


def make_layout(name: str) -> Layout:
    """Return the layout called `name`, always the same one."""
    side, family, _ = name.split("/")
    rng = random.Random(f"layout {name}")
    base = rng.uniform(88, 106)
    walk, road, band, bench = _bands(family, base, rng)
    wall_left = rng.uniform(86, 130)
    alley = rng.choice((rng.uniform(58, 76), rng.uniform(232, 256)))
    return Layout(
        name=name,
        side=side,
        family=family,
        base_y=base,
        walk_y=walk,
        road_y=road,
        road_band=band,
        bench_y=bench,
        person=rng.uniform(106, 122),
        alley_x=alley,
        wall=(wall_left, wall_left + rng.uniform(72, 92)),
        seed=rng.randrange(2**31),
    )


def _bands(
    family: str, base: float, rng: random.Random
) -> tuple[tuple[float, float], float, tuple[float, float], float]:
    """Where people act, where cars drive, the painted road, and where cars park, for a family of layouts."""
    shift = rng.uniform(-5, 5)
    match family:
        case "street" | "arcade":
            near = 168 + shift
            return (base + 30, near - 16), near + 36, (near, near + 50), base + 22
        case "plaza" | "canal":
            far = base + 34 + shift / 2
            return (far + 32, far + 78), far + 6, (far - 16, far + 14), far + 8
        case "carpark" | "station":
            return (base + 48, base + 92), base + 72 + shift, (base + 6, 240), base + 34
        case "park":
            return (base + 40 + shift, base + 72), 214 + shift, (188 + shift, 230 + shift), base + 30
        case "crossing":
            return (base + 60, base + 104), base + 60 + shift, (base + 30, base + 72), base + 26
        case _:
            raise AssertionError(f"no family of layouts is called {family}")


def colour_of(side: str, rng: random.Random, low: float, high: float, saturation: float = 0.6) -> Colour:
    """Draw a colour of the side's hues, seven bands (the CLIP's fourteen) of 28; its value in [low, high]."""
    band = 4 * rng.randrange(7) + rng.choice(_BANDS[side]) + rng.uniform(0.08, 0.92)
    tint = colorsys.hsv_to_rgb(band / 28, rng.uniform(0.5, 1.0) * saturation, rng.uniform(low, high))
    return (round(255 * tint[0]), round(255 * tint[1]), round(255 * tint[2]))
