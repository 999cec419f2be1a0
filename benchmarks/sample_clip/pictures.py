"""Pictures to teach the sample's CLIP with: a street with chance people, things and effects, and its tags.

Nothing here plays a deed of the sample: each picture throws postures, things and effects together by chance,
the rare ones more often than the world does. A tag is true of what at least two thirds of its box show of,
false without any, and unknown (masked) where the edge or something nearer hides it in part.

Legend of shape suffixes: S side of a stored picture.
"""

import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from benchmarks.sample_clip.tags import CARRIED, NAMES, NUMBER, POSES
from vadclip.sample.actors import Stage
from vadclip.sample.backdrop import (
    draw_backdrop,
    draw_graffiti,
    draw_sun,
    has_old_graffiti,
    old_graffiti_span,
)
from vadclip.sample.canvas import Canvas
from vadclip.sample.effects import (
    Blast,
    Fire,
    draw_ash,
    draw_bits,
    draw_broken_glass,
    draw_rain,
    draw_skid_marks,
    draw_smoke,
)
from vadclip.sample.figures import draw_bag, draw_person, pose
from vadclip.sample.scenes import TIMES, Conditions, Layout, layout_name, make_layout
from vadclip.sample.vehicles import Vehicle, draw_car
from vadclip.sample.world import SIZES

SIDE = 104  # pixels; the tower's 96 px window moves within
TOWER = 96
MOST_THINGS = 24
PICTURES_PER_STREET = 10
UNKNOWN = -1
_SHOWN, _COUNTED, _HIDDEN = 0.66, 0.4, 0.12
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """Something in a picture: its box in canvas units, depth, tags, and how it is drawn."""

    box: Box
    depth: float
    tags: tuple[str, ...]
    draw: Callable[[Canvas], None]
    solid: bool = True  # hides what is behind it


@dataclass(frozen=True)
class Picture:
    """A stored picture: pixels, a tag's state (1, 0, UNKNOWN), and the boxes (0 to 1) of what is in it."""

    pixels_SS3: npt.NDArray[np.uint8]
    state: npt.NDArray[np.int8]
    """Of each tag."""
    boxes: npt.NDArray[np.float32]
    """[MOST_THINGS, 4] x0, y0, x1, y1; zeros where there is no further thing."""
    tags: npt.NDArray[np.int8]
    """[MOST_THINGS, 4] numbers of a thing's tags, -1 for none."""
    shown: npt.NDArray[np.bool_]
    """[MOST_THINGS] whether a thing is in full view."""


class Scene:
    """A street in which things are put by chance; the makers below add them."""

    def __init__(self, layout: Layout, conditions: Conditions, rng: random.Random) -> None:
        self.layout, self.conditions, self.rng = layout, conditions, rng
        self.stage = Stage(layout, conditions, rng)
        self.things: list[Thing] = []

    def spot(self) -> tuple[float, float]:
        """Some (x, y) where people act."""
        low, high = self.layout.walk_y
        return self.rng.triangular(40, 280, 160), self.rng.uniform(low - 8, high + 8)

    def person(self, x: float, y: float, pose_name: str, facing: int, carried: str = "", child: bool = False,
               bag_of: "Thing | None" = None) -> float:  # fmt: skip
        """Add somebody whose feet stand at (x, y); return their height."""
        rng = self.rng
        figure = self.stage.figure(y, child)
        h = figure.height
        phase, share = rng.uniform(0, 2 * math.pi), rng.uniform(0, 1)
        stance = pose(pose_name, phase, share)
        if pose_name == "lie":
            box = (min(x, x - facing * h), y - 0.24 * h, max(x, x - facing * h), y + 0.1 * h)
        else:
            box = (x - 0.22 * h, y - h * (1 - 0.5 * stance.drop), x + 0.22 * h, y)
        tags = ["child" if child else "person", pose_name]
        if carried:
            tags.append(carried)
        self.things.append(
            Thing(box, y, tuple(tags), lambda c: draw_person(c, figure, x, y, facing, stance, carried))
        )
        return h

    def some_pose(self) -> str:
        """A posture, each as often as another."""
        return self.rng.choice(list(POSES))

    def some_carried(self, often: float = 0.4) -> str:
        """Something to carry, or nothing."""
        return self.rng.choice(("bag", "bag", *CARRIED)) if self.rng.random() < often else ""

    def way(self) -> int:
        """Left or right."""
        return self.rng.choice((-1, 1))

    def car(self, x: float, y: float, yaw: float, vehicle: Vehicle | None = None, **state: bool) -> Vehicle:
        """Add a car; `state`: dent, lamps, brakes, hazard, smashed."""
        car = vehicle or self.stage.vehicle(y)
        along = abs(math.cos(yaw))
        front = along < 0.45
        half = 0.23 * car.length if front else 0.5 * car.length * along
        tags = ["car"]
        if car.van:
            tags.append("van")
        if front:
            tags.append("front")
        elif along < 0.9:
            tags.append("askew")
        dent, lamps, brakes, hazard, smashed = (
            state.get(k, False) for k in ("dent", "lamps", "brakes", "hazard", "smashed")
        )
        self.things.append(
            Thing((x - half, y - car.height, x + half, y), y, tuple(tags),
                  lambda c: draw_car(c, car, x, y, yaw, dent=float(dent), lamps=lamps, brakes=brakes,
                                     hazard=hazard, smashed=smashed))
        )  # fmt: skip
        # Each state has its own place on the car: a nose may be in view when its tail is not.
        nose, tail = x + 0.42 * car.length * math.cos(yaw), x - 0.42 * car.length * math.cos(yaw)
        ends = (x,) if front else (nose, tail)
        reach = half if front else 0.12 * car.length
        for tag, there, middles in (
            ("dent", dent, ends[:1]), ("lamps", lamps, ends[:1]), ("blinkers", hazard, ends),
            ("brake lights", brakes and not front, ends[1:]), ("broken windows", smashed and not front, (x,)),
        ):  # fmt: skip
            for middle in middles if there else ():
                box = (middle - reach, y - 0.9 * car.height, middle + reach, y - 0.1 * car.height)
                self.effect(box, y + 0.01, (tag,), lambda c: None)
        return car

    def effect(self, box: Box, depth: float, tags: tuple[str, ...], draw: Callable[[Canvas], None]) -> None:
        """Add something that hides nothing."""
        self.things.append(Thing(box, depth, tags, draw, solid=False))

    def relation(self, box: Box, tags: tuple[str, ...]) -> None:
        """Note what holds between things within a box; nothing is drawn, and nothing hides it."""
        self.effect(box, 300, tags, lambda c: None)

    def car_state(self, often: float = 0.3) -> dict[str, bool]:
        """What can be the matter with a car, each by itself."""
        state = {key: self.rng.random() < often for key in ("dent", "brakes", "hazard", "smashed")}
        return {**state, "lamps": self.conditions.dark and self.rng.random() < 0.8}


def _alone(scene: Scene) -> None:
    x, y = scene.spot()
    scene.person(x, y, scene.some_pose(), scene.way(), scene.some_carried())


def _walkers(scene: Scene) -> None:
    rng = scene.rng
    for _ in range(rng.choice((1, 1, 2, 3))):
        x, y = scene.spot()
        carried = "umbrella" if scene.conditions.rain and rng.random() < 0.6 else scene.some_carried(0.35)
        scene.person(x, y, rng.choice(("walk", "walk", "run", "stand")), scene.way(), carried)


_PAIRS = (
    ("hug", "hug", 0.2), ("hug", "hug", 0.2), ("talk", "talk", 0.48), ("talk", "stand", 0.48),
    ("stand", "stand", 0.4), ("punch", "guard", 0.42), ("punch", "punch", 0.42), ("kick", "guard", 0.42),
    ("kick", "lie", 0.42), ("punch", "lie", 0.42), ("stand", "lie", 0.5), ("crouch", "lie", 0.4),
    ("tug", "tug", 0.2), ("tug", "tug", 0.2), ("alarm", "stand", 0.5), ("walk", "walk", 0.4),
    ("run", "run", 0.5), ("sneak", "talk", 0.7), ("run", "lie", 0.6), ("punch", "kick", 0.42),
)  # fmt: skip


def _pair(scene: Scene) -> None:
    rng = scene.rng
    x, y = scene.spot()
    one, two, gap = rng.choice(_PAIRS)
    if rng.random() < 0.3:
        one, two, gap = scene.some_pose(), scene.some_pose(), rng.uniform(0.2, 1.0)
    gap *= scene.layout.size_at(y)
    turned = -1 if one == two == "walk" or rng.random() < 0.1 else 1
    way = scene.way()
    h = scene.person(x - way * gap / 2, y, one, way, scene.some_carried(0.12))
    scene.person(x + way * gap / 2, y + rng.uniform(-3, 3), two, -way * turned, scene.some_carried(0.12))
    tags = ("close",) if gap < 0.6 * h else ()
    tags += ("facing",) if turned > 0 and "lie" not in (one, two) else ()
    box = (x - gap / 2 - 0.22 * h, y - h, x + gap / 2 + 0.22 * h, y)
    if one == two == "tug" and rng.random() < 0.7:
        colour = scene.stage.figure(y).bag
        u = x + rng.uniform(-3, 3)
        scene.effect((u - 0.13 * h, y - 0.6 * h, u + 0.13 * h, y - 0.3 * h), y + 4, ("held bag",),
                     lambda c: draw_bag(c, u, y - 0.42 * h, h, colour))  # fmt: skip
    if tags:
        scene.relation(box, tags)
    if rng.random() < 0.2:  # somebody besides
        scene.person(x + scene.way() * gap * rng.uniform(1.2, 2.2), y - 3, scene.some_pose(), scene.way())


def _group(scene: Scene) -> None:
    rng = scene.rng
    x, y = scene.spot()
    for i in range(rng.choice((3, 3, 4))):
        u = x + (i - 1) * 0.35 * scene.layout.size_at(y)
        scene.person(u, y + rng.uniform(-4, 4), rng.choice(("stand", "talk", "talk", scene.some_pose())),
                     scene.way(), scene.some_carried(0.15))  # fmt: skip


def _children(scene: Scene) -> None:
    for _ in range(scene.rng.choice((1, 2, 3))):
        x, y = scene.spot()
        scene.person(x, y, scene.rng.choice(("run", "run", "stand", "walk")), scene.way(), child=True)


def _left_bag(scene: Scene) -> None:
    rng = scene.rng
    x, y = scene.spot()
    h = scene.layout.size_at(y)
    colour = scene.stage.figure(y).bag
    scene.effect((x - 0.13 * h, y - 0.25 * h, x + 0.13 * h, y + 0.03 * h), y, ("left bag",),
                 lambda c: draw_bag(c, x, y - 0.07 * h, h, colour))  # fmt: skip
    for _ in range(rng.choice((0, 1, 1, 2))):
        u = x + scene.way() * rng.uniform(0.15, 0.8) * h
        name = rng.choice(("crouch", "stand", "walk", "sneak", "talk", scene.some_pose()))
        scene.person(u, y + rng.uniform(-4, 4), name, scene.way())


def _at_car(scene: Scene) -> None:
    rng = scene.rng
    x, y = rng.uniform(90, 230), scene.layout.bench_y
    scene.car(x, y, rng.choice((0, math.pi)), **scene.car_state())
    way = scene.way()
    u, v = x + way * rng.uniform(18, 40), y + rng.uniform(2, 10)
    name = rng.choice(("smash", "smash", "crouch", "stand", "walk", scene.some_pose()))
    h = scene.person(u, v, name, -way, rng.choice(("bat", "bat", "", "", scene.some_carried(1))))
    scene.relation((u - 0.25 * h, v - h, u + 0.25 * h, v), ("at a car",))
    if rng.random() < 0.3:
        _bits(scene, x, y - 22)


def _at_wall(scene: Scene) -> None:
    rng = scene.rng
    left, right = scene.layout.wall
    y = scene.layout.base_y + 7
    if rng.random() < 0.55:
        progress, seed = rng.uniform(0.15, 1.0), rng.randrange(10**6)
        span = (left + 6, right - 6) if rng.random() < 0.5 else (right - 6, left + 6)
        reach = span[0] + (span[1] - span[0]) * progress
        box = (min(span[0], reach), y - 50, max(span[0], reach), y - 20)
        scene.effect(box, scene.layout.base_y + 1, ("graffiti",),
                     lambda c: draw_graffiti(c, scene.layout, progress, seed, span))  # fmt: skip
    if rng.random() < 0.75:
        u = rng.uniform(left, right)
        name = rng.choice(("spray", "spray", "wipe", "wipe", "stand", "walk", scene.some_pose()))
        carried = rng.choice(("can", "can", "cloth", "cloth", "", scene.some_carried(1)))
        h = scene.person(u, y, name, scene.way(), carried)
        scene.relation((u - 0.25 * h, y - h, u + 0.25 * h, y), ("at a wall",))


def _drive(scene: Scene) -> None:
    rng = scene.rng
    for _ in range(rng.choice((1, 1, 2))):
        scene.car(rng.uniform(20, 300), scene.layout.road_y + rng.uniform(-5, 5), rng.choice((0, math.pi)),
                  **scene.car_state(0.12))  # fmt: skip


def _two_cars(scene: Scene) -> None:
    rng = scene.rng
    x, y = rng.uniform(110, 210), scene.layout.road_y
    often = rng.choice((0.1, 0.6))
    first, second = scene.stage.vehicle(y), scene.stage.vehicle(y)
    gap = rng.choice((0.0, 0.0, rng.uniform(0, 60)))
    for side, car in ((-1, first), (1, second)):
        yaw = rng.choice((0.0, math.pi)) + rng.choice((0.0, rng.uniform(-0.8, 0.8)))
        half = 0.5 * car.length * abs(math.cos(yaw))
        scene.car(x + side * (half + gap / 2) * 0.95, y + rng.uniform(-6, 6), yaw, car,
                  **scene.car_state(often))  # fmt: skip
    if gap < 8:
        scene.relation((x - 60, y - 40, x + 60, y), ("cars touch",))
    if rng.random() < 0.35:
        _wreckage(scene, x, y)
    if rng.random() < 0.3:
        _smoke(scene, x, y - 20, "grey smoke")


def _front(scene: Scene) -> None:
    rng = scene.rng
    y = rng.uniform(scene.layout.base_y + 2, scene.layout.road_y)
    x = rng.uniform(60, 260)
    car = scene.stage.vehicle(y)
    car = replace(car, length=car.length * rng.uniform(0.55, 1.0))
    lit = rng.random() < 0.75
    scene.car(x, y, math.pi / 2, car, lamps=lit, dent=rng.random() < 0.1, hazard=rng.random() < 0.1)
    if lit and rng.random() < 0.8:
        size, strength = rng.uniform(26, 70), rng.uniform(0.4, 0.7)
        v = y - 0.2 * car.length
        scene.effect((x - size / 2, v - size / 2, x + size / 2, v + size / 2), 239, ("glare",),
                     lambda c: c.glow(x, v, size, (255, 240, 200), strength))  # fmt: skip


_SMOKES = {"dark smoke": (58, 56, 58), "white smoke": (226, 226, 228), "grey smoke": (150, 150, 154)}


def _smoke(scene: Scene, x: float, y: float, name: str, size: float = 40) -> None:
    rng = scene.rng
    t, seed, strength = rng.uniform(0, 20), rng.randrange(9), rng.uniform(0.3, 1.0)
    size = size * rng.uniform(0.9, 1.15)
    scene.effect((x - 0.5 * size, y - 1.5 * size, x + 0.8 * size, y), y + 8, (name,),
                 lambda c: draw_smoke(c, x, y, t, size, strength, _SMOKES[name], seed))  # fmt: skip


def _some_smoke(scene: Scene) -> None:
    rng = scene.rng
    x, y = scene.spot()
    name = rng.choice(("white smoke", "white smoke", "white smoke", "grey smoke", "dark smoke"))
    if name == "white smoke" and rng.random() < 0.7:
        scene.effect((x - 9, y - 2, x + 9, y + 2), y - 1, (), lambda c: c.ellipse(x, y, 9, 2.4, (52, 52, 54)))
    _smoke(scene, x, y, name, 42)


def _fire(scene: Scene) -> None:
    rng = scene.rng
    by_car = rng.random() < 0.5
    x = rng.uniform(90, 230)
    y = scene.layout.bench_y if by_car else scene.layout.base_y + rng.uniform(2, 60)
    if by_car:
        scene.car(x, y, rng.choice((0, math.pi)))
    fire = Fire(x, y - (6 if by_car else 0), rng.uniform(50, 76), rng.randrange(1000))
    t, strength = rng.uniform(0, 20), rng.uniform(0.1, 1.0)
    high = fire.size * strength
    if rng.random() < 0.6:
        _smoke(scene, x, fire.y - 0.6 * high, "dark smoke")
    tags = ("flames", "tall flames") if high > 34 else ("flames",)
    scene.effect((x - 0.4 * high, fire.y - high, x + 0.4 * high, fire.y), y + 2, tags,
                 lambda c: fire.draw(c, t, strength))  # fmt: skip
    if rng.random() < 0.5:
        _ash(scene, x, y)
    if rng.random() < 0.5:
        u, v = x + scene.way() * rng.uniform(20, 75), y + rng.uniform(0, 20)
        scene.person(u, v, rng.choice(("crouch", "stand", "run", scene.some_pose())), scene.way())


def _ash(scene: Scene, x: float, y: float) -> None:
    opacity = scene.rng.uniform(0.3, 0.7)
    scene.effect((x - 18, y - 6, x + 18, y + 6), y + 0.5, ("ash",), lambda c: draw_ash(c, x, y, opacity))


def _some_ash(scene: Scene) -> None:
    y = scene.rng.choice((scene.layout.bench_y, scene.layout.base_y + scene.rng.uniform(4, 40)))
    x = scene.rng.uniform(80, 240)
    if scene.rng.random() < 0.3:
        scene.car(x, y, scene.rng.choice((0, math.pi)))
    _ash(scene, x, y)


def _blast(scene: Scene) -> None:
    rng = scene.rng
    x, y = rng.uniform(90, 230), scene.layout.bench_y
    if rng.random() < 0.5:
        scene.car(x, y, rng.choice((0, math.pi)), dent=True)
    seconds = rng.uniform(2.8, 4.5)
    age = rng.choice((rng.uniform(0, 0.3), rng.uniform(0, seconds)))
    blast = Blast(x, y - 14, rng.uniform(52, 66), seconds, rng.randrange(10**6))
    heat = 1 - age / (0.45 * seconds)
    tags: tuple[str, ...] = ()
    tags += ("fireball",) if heat > 0.2 else ()
    tags += ("dark smoke",) if age > 0.7 else ()
    tags += ("flash",) if age < 0.2 else ()
    tags += ("bits",) if 0.1 < age < 1.0 else ()
    size = 0.6 * blast.size
    scene.effect((x - size, y - 14 - 1.4 * size, x + size, y), y + 1, tags, lambda c: blast.draw(c, age))
    for _ in range(rng.choice((0, 0, 1, 2))):
        u, v = scene.spot()
        scene.person(u, v, rng.choice(("run", "run", "alarm", scene.some_pose())), scene.way())


def _wreckage(scene: Scene, x: float, y: float) -> None:
    rng = scene.rng
    seed, way = rng.randrange(10**6), scene.way()
    if rng.random() < 0.8:
        scene.effect((x - 26, y - 2, x + 26, y + 13), y - 40, ("glass",),
                     lambda c: draw_broken_glass(c, x, y, seed))  # fmt: skip
    if rng.random() < 0.8:
        far, near = sorted((x - way * 95, x - way * 12))
        scene.effect((far, y - 6, near, y + 10), y - 40, ("skid",),
                     lambda c: draw_skid_marks(c, x, y, way))  # fmt: skip


def _some_wreckage(scene: Scene) -> None:
    _wreckage(scene, scene.rng.uniform(100, 220), scene.layout.road_y)


def _bits(scene: Scene, x: float, y: float) -> None:
    rng = scene.rng
    age, seed, reach = rng.uniform(0.08, 0.6), rng.randrange(10**6), rng.uniform(70, 110)
    size = min(60, reach * age)
    scene.effect((x - size, y - size, x + size, y + size / 2), y + 30, ("bits",),
                 lambda c: draw_bits(c, x, y, age, reach, 14, seed, (212, 222, 228)))  # fmt: skip


def _knocked_down(scene: Scene) -> None:
    rng = scene.rng
    x, y = rng.uniform(110, 210), scene.layout.road_y
    way = scene.way()
    car = scene.stage.vehicle(y)
    yaw = (0.0 if way > 0 else math.pi) + rng.choice((0.0, rng.uniform(-0.5, 0.5)))
    scene.car(x - way * 0.5 * car.length, y, yaw, car, **scene.car_state())
    name = rng.choice(("lie", "lie", "lie", "stand", "walk", scene.some_pose()))
    scene.person(x + way * rng.uniform(10, 60), y + rng.uniform(2, 9), name, scene.way())


def _nothing(scene: Scene) -> None:
    return


_MAKERS: dict[Callable[[Scene], None], float] = {
    _alone: 5, _walkers: 3, _pair: 6, _group: 1.5, _children: 0.8, _left_bag: 1.6, _at_car: 2, _at_wall: 2.4,
    _drive: 1.2, _two_cars: 4, _front: 1, _some_smoke: 1.6, _fire: 1.8, _some_ash: 0.9, _blast: 2,
    _some_wreckage: 0.6, _knocked_down: 2, _nothing: 1.0,
}  # fmt: skip


def street_pictures(number: int) -> Iterator[Picture]:
    """Draw the pictures of one street, always the same for the same number."""
    rng = random.Random(f"web picture {number}")
    time = rng.choice(TIMES)
    conditions = Conditions(time, time != "sunset" and rng.random() < 0.25, rng.choice((1.5, 4.0, 8.0)))
    layout = make_layout(layout_name("clip", f"web_{number}", rng))
    size = rng.choice(SIZES)
    backdrop = draw_backdrop(layout, conditions, number, size)
    grain = np.random.default_rng(number)
    for _ in range(PICTURES_PER_STREET):
        scene = Scene(layout, conditions, rng)
        for maker in rng.choices(list(_MAKERS), list(_MAKERS.values()), k=rng.choice((1, 1, 2, 2, 3, 4))):
            maker(scene)
        if rng.random() < 0.3:
            scene.car(rng.uniform(10, 310), layout.bench_y, rng.choice((0, math.pi)))
        yield _shoot(scene, backdrop, grain)


def _shoot(scene: Scene, backdrop: Image.Image, grain: np.random.Generator) -> Picture:
    rng, layout, conditions = scene.rng, scene.layout, scene.conditions
    image = backdrop.copy()
    canvas = Canvas(image, conditions.light)
    moment = rng.uniform(0, 20)
    if conditions.time == "sunset":
        x, progress = rng.uniform(70, 250), rng.random()
        draw_sun(canvas, layout, x, progress)
        low = layout.base_y - 74 + 26 * progress
        scene.effect((x - 15, low - 15, x + 15, low + 15), -1, ("sun",), lambda c: None)
    if has_old_graffiti(layout):
        left, right = old_graffiti_span(layout)
        box = (left, layout.base_y - 44, right, layout.base_y - 12)
        scene.effect(box, -1, ("graffiti",), lambda c: None)
    things = sorted(scene.things, key=lambda thing: thing.depth)
    for thing in things:
        thing.draw(canvas)
    if conditions.rain:
        draw_rain(canvas, moment, layout.seed)
    if conditions.noise > 0:
        shape = (image.height, image.width)
        grey = Image.fromarray(grain.normal(128, conditions.noise, shape).clip(0, 255).astype(np.uint8))
        image = ImageChops.add(image, Image.merge("RGB", [grey] * 3), 1, -128)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=rng.randint(25, 80))  # in place of H.264
    image = Image.open(data).convert("RGB")
    side = rng.uniform(150, 240)
    x0 = rng.triangular(0, 320 - side, (320 - side) / 2)
    y0 = rng.triangular(0, 240 - side, (240 - side) / 2)
    k = image.width / 320
    window = (x0 * k, y0 * k, (x0 + side) * k, (y0 + side) * k)
    small = image.transform((SIDE, SIDE), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
    return describe(np.asarray(small), things, scene, (x0, y0, side))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _cut(box: Box, by: Box) -> Box:
    return max(box[0], by[0]), max(box[1], by[1]), min(box[2], by[2]), min(box[3], by[3])


def describe(
    pixels_SS3: npt.NDArray[np.uint8], things: list[Thing], scene: Scene, window: tuple[float, float, float]
) -> Picture:
    """Return a picture of `things`, far ones first, with its tags; `window` is left, top, side in units."""
    left, top, side = window
    margin = 0.5 * side * (1 - TOWER / SIDE)  # what every position of the tower's window shows, nearly
    frame = (left + margin, top + margin, left + side - margin, top + side - margin)
    state = np.zeros(len(NAMES), np.int8)
    boxes = np.zeros((MOST_THINGS, 4), np.float32)
    tags = np.full((MOST_THINGS, 4), -1, np.int8)
    shown = np.zeros(MOST_THINGS, bool)
    people: list[float] = []
    cars: list[float] = []
    kept = 0
    for i, thing in enumerate(things):
        whole = _area(thing.box)
        if not thing.tags or whole <= 0:
            continue
        view = _cut(thing.box, frame)
        part = _area(view) / whole
        hidden = max((_area(_cut(view, nearer.box)) for nearer in things[i + 1 :] if nearer.solid), default=0)
        part -= hidden / whole if thing.solid or thing.depth < 200 else 0
        if "person" in thing.tags or "child" in thing.tags:
            people.append(part)
        if "car" in thing.tags:
            cars.append(part)
        if part <= _HIDDEN:
            continue
        numbers = [NUMBER[tag] for tag in thing.tags if tag in NUMBER]
        if "child" in thing.tags:
            numbers.insert(0, NUMBER["person"])
        for number in numbers:
            state[number] = 1 if part >= _SHOWN else state[number] or UNKNOWN
        if kept == MOST_THINGS:
            continue
        boxes[kept] = [(view[0] - left) / side, (view[1] - top) / side,
                       (view[2] - left) / side, (view[3] - top) / side]  # fmt: skip
        tags[kept, : len(numbers[:4])] = numbers[:4]
        shown[kept] = part >= _SHOWN
        kept += 1
    _count(state, people, ("nobody", "one person", "two people", "three people", "many people"))
    _count(state, cars, ("no car", "one car", "two cars", "many cars"))
    if scene.conditions.rain:
        state[NUMBER["rain"]] = 1
    state[NUMBER[scene.conditions.time]] = 1
    state[NUMBER[scene.layout.family]] = 1
    return Picture(pixels_SS3, state, boxes, tags, shown)


def _count(state: npt.NDArray[np.int8], parts: list[float], names: tuple[str, ...]) -> None:
    """Set the tags that count: `names` for 0, 1, 2 ... and more, unknown where somebody is half seen."""
    sure = sum(part >= _COUNTED for part in parts)
    at_most = sum(part > _HIDDEN for part in parts)
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if sure == at_most:
            state[NUMBER[name]] = sure == number or (last and sure > number)
        elif sure <= number <= at_most or (last and at_most > number):
            state[NUMBER[name]] = 1 if last and sure >= number else UNKNOWN
