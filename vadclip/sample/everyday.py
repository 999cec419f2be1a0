"""What ordinary streets hold: passers-by, traffic, and doings that look like an anomaly in one picture."""

import math
from collections.abc import Callable, Sequence

from vadclip.sample.actors import LEFT_EDGE, RIGHT_EDGE, Actor, Car, Effect, Key, Person, Stage
from vadclip.sample.backdrop import draw_sun
from vadclip.sample.canvas import Canvas
from vadclip.sample.effects import draw_smoke
from vadclip.sample.figures import draw_bag


def hugging(stage: Stage, start: float, end: float) -> list[Actor]:
    """Two people meet and embrace."""
    x, y = stage.place()
    gap = 0.1 * stage.layout.size_at(y)
    actors: list[Actor] = []
    for side, edge in ((-1, LEFT_EDGE), (1, RIGHT_EDGE)):
        one = Person(stage.figure(y), x + side * gap, y + (side > 0), 0.0, offset=stage.rng.random())
        one.arrive(edge, start, stage.rng.choice(("walk", "walk", "run"))).until(end, "hug", -side)
        actors.append(one.leave(stage.edge()))
    return actors


def talking(stage: Stage, start: float, end: float) -> list[Actor]:
    """Two or three people stand together and talk with their hands."""
    x, y = stage.place()
    gap = 0.24 * stage.layout.size_at(y)
    actors: list[Actor] = []
    for i in range(stage.rng.choice((2, 2, 3))):
        side = -1 if i == 0 else 1
        one = Person(
            stage.figure(y), x + side * gap * (1 if i < 2 else 2), y + i, 0.0, offset=stage.rng.random()
        )
        one.arrive(LEFT_EDGE if side < 0 else RIGHT_EDGE, start).until(end, "talk", -side)
        actors.append(one.leave(stage.edge()))
    return actors


def children(stage: Stage, start: float, end: float) -> list[Actor]:
    """Children run about, to and fro, as if chased."""
    rng = stage.rng
    actors: list[Actor] = []
    for _ in range(rng.choice((2, 3, 4))):
        x, y = stage.place()
        child = Person(stage.figure(y, child=True), x, y, 0.0, offset=rng.random())
        child.arrive(stage.edge(), start + rng.uniform(-0.5, 0.3), "run")
        while child.clock < end:
            child.go(*stage.place(), "run").do("stand", rng.uniform(0.05, 0.3))
        actors.append(child.leave(stage.edge(), "run"))
    return actors


def parking(stage: Stage, start: float, end: float) -> list[Actor]:
    """A car brakes hard close behind a waiting one, edges up, and stands."""
    rng = stage.rng
    y = stage.layout.road_y
    x, way = rng.uniform(120, 200), rng.choice((-1, 1))
    heading = 0.0 if way > 0 else math.pi
    dark = stage.conditions.dark
    parked, car = stage.vehicle(y), stage.vehicle(y)
    stop = x - way * 0.5 * car.length
    ahead = x + way * (0.5 * parked.length + 3)
    span = end - start
    swing = rng.choice((-0.55, 0.55))
    return [
        Car(
            parked,
            [Key(start - 6, ahead - way * 330, y - 2, heading), Key(start - 1.5, ahead, y - 2, heading),
             Key(end + 2, ahead, y - 2, heading), Key(end + 6, ahead + way * 380, y - 2, heading)],
            dark, brakes=(start - 2.5, start + 0.5),
        ),
        Car(
            car,
            [Key(start - 4, stop - way * 420, y, heading), Key(start, stop - way * 46, y, heading),
             Key(start + 0.35 * span, stop - way * 16, y + 3, heading + swing),
             Key(start + 0.7 * span, stop - way * 30, y, heading - swing / 2), Key(end, stop, y, heading),
             Key(end + 2.6, stop, y, heading), Key(end + 6.6, stop + way * 420, y, heading)],
            dark, hazard=(start, end) if rng.random() < 0.4 else (math.inf, math.inf), brakes=(start, end),
        ),
    ]  # fmt: skip


def headlights(stage: Stage, start: float, end: float) -> list[Actor]:
    """A car comes out of the side street towards the camera with glaring lamps, and turns away."""
    layout = stage.layout
    y = layout.road_y
    vehicle = stage.vehicle(y)
    x, way = layout.alley_x, 1 if layout.alley_x < 160 else -1
    inward = x + way * stage.rng.uniform(40, 80)
    away = 0.0 if way > 0 else math.pi
    come = start + 0.6 * (end - start)
    front = math.pi / 2
    car = Car(
        vehicle,
        [Key(start, x, layout.base_y + 2, front), Key(come, inward, y, front),
         Key(end, inward + way * 8, y, front),
         Key(end + 0.5, inward + way * 40, y, away), Key(end + 3.5, inward + way * 420, y, away)],
        lamps=True, approach=True,
    )  # fmt: skip

    def glare(canvas: Canvas, t: float) -> None:
        share = min(1.0, (t - start) / (come - start))
        u, v = x + (inward - x) * share, layout.base_y + 2 + (y - layout.base_y - 2) * share
        canvas.glow(u, v - 0.2 * vehicle.length, 26 + 44 * share, (255, 240, 200), 0.4 + 0.3 * share)

    return [car, Effect(239, start, end, glare)] if stage.conditions.time != "day" else [car]


def cleaning(stage: Stage, start: float, end: float) -> list[Actor]:
    """Somebody wipes the wall."""
    left, right = stage.layout.wall
    y = stage.layout.base_y + 7
    cleaner = Person(stage.figure(y), left + 8, y, 0.0, offset=stage.rng.random()).hold("cloth")
    cleaner.arrive(stage.edge(), start)
    for i in range(4):
        cleaner.until(start + (i + 0.7) * (end - start) / 4, "wipe", 1)
        cleaner.go(left + 8 + (right - left - 24) * (i + 1) / 4, y, "walk", 0.3 * (end - start) / 4)
    return [cleaner.leave(stage.edge())]


def resting(stage: Stage, start: float, end: float) -> list[Actor]:
    """Somebody puts a bag down, searches it, takes it up again and walks on."""
    x, y = stage.place()
    one = Person(stage.figure(y), x, y, 0.0, offset=stage.rng.random()).hold("bag")
    one.arrive(stage.edge(), start).hold("").do("crouch", 1.0).until(end - 1.0, "stand").do("crouch", 1.0)
    facing = one.facing
    one.hold("bag").leave(stage.edge(), stage.rng.choice(("walk", "walk", "run")))
    height = one.figure.height

    def bag(canvas: Canvas, t: float) -> None:
        draw_bag(canvas, x + facing * 0.2 * height, y - 0.07 * height, height, one.figure.bag)

    return [one, Effect(y + 1, start, end, bag)]


def steam(stage: Stage, start: float, end: float) -> list[Actor]:
    """White steam rises from a manhole."""
    x, y = stage.place()

    def cloud(canvas: Canvas, t: float) -> None:
        strength = min(1.0, (t - start) / 0.8, (end - t) / 0.8)
        canvas.ellipse(x, y, 9, 2.4, (52, 52, 54))
        draw_smoke(canvas, x, y, t, 44, strength, (226, 226, 228), seed=3)

    return [Effect(y, start, end, cloud)]


def sunset(stage: Stage, start: float, end: float) -> list[Actor]:
    """The sun goes down over the roofs; only where the light is a sunset's."""
    x = stage.rng.uniform(70, 250)

    def sun(canvas: Canvas, t: float) -> None:
        draw_sun(canvas, stage.layout, x, min(1.0, max(0.0, (t - start) / (end - start))))

    return [Effect(0.0, -1e6, 1e6, sun)]


CONFUSERS: dict[str, Callable[[Stage, float, float], list[Actor]]] = {
    "hugging": hugging,
    "talking": talking,
    "children": children,
    "parking": parking,
    "headlights": headlights,
    "cleaning": cleaning,
    "resting": resting,
    "steam": steam,
}


def passers_by(stage: Stage, seconds: float) -> list[Actor]:
    """People who cross the picture, alone or two together, at their own pace."""
    rng = stage.rng
    low, high = stage.layout.walk_y
    actors: list[Actor] = []
    t = rng.uniform(-8, 2)
    while t < seconds:
        edge = stage.edge()
        y = rng.choice((rng.uniform(low - 8, low + 6), rng.uniform(high - 4, high + 8)))
        pace = rng.choice((rng.uniform(30, 50), rng.uniform(30, 50), 90.0))
        carried = "umbrella" if stage.conditions.rain and rng.random() < 0.7 else rng.choice(("", "", "bag"))
        for i in range(rng.choice((1, 1, 2))):
            one = Person(stage.figure(y + 3 * i), edge, y + 3 * i, t + 0.45 * i, offset=rng.random())
            one.hold(carried)
            target = RIGHT_EDGE if edge < 0 else LEFT_EDGE
            one.go(target, one.y, "run" if pace > 80 else "walk", (RIGHT_EDGE - LEFT_EDGE) / pace)
            actors.append(one)
        t += rng.uniform(5.0, 12.0)
    return actors


def traffic(stage: Stage, seconds: float, closed: Sequence[tuple[float, float]]) -> list[Actor]:
    """Cars that drive through, never while the road is `closed` for something else."""
    rng = stage.rng
    actors: list[Actor] = []
    t = rng.uniform(-2, 4)
    while t < seconds:
        way = rng.choice((-1, 1))
        y = stage.layout.road_y + (4 if way > 0 else -4)
        car = stage.vehicle(y)
        took = 520 / rng.uniform(75, 140)
        heading = 0.0 if way > 0 else math.pi
        if not any(t < b and a < t + took for a, b in closed):
            keys = [Key(t, 160 - way * 260, y, heading), Key(t + took, 160 + way * 260, y, heading)]
            actors.append(Car(car, keys, lamps=stage.conditions.dark))
        t += rng.uniform(2.5, 8.0)
    return actors


def parked(stage: Stage) -> list[Actor]:
    """A car or two that stand by the far side the whole time, at the picture's ends."""
    rng = stage.rng
    actors: list[Actor] = []
    for x in (rng.uniform(10, 40), rng.uniform(285, 315)):
        if rng.random() < 0.5:
            y = stage.layout.bench_y
            actors.append(Car(stage.vehicle(y), [Key(-1, x, y), Key(1e6, x, y)]))
    return actors
