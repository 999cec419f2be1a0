"""The six anomalies: each builds actors whose deed begins at `start` and is over at `end` (seconds).

People come before and leave after; what the deed leaves behind (paint, a dent, ash) may stay.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from vadclip.sample.actors import LEFT_EDGE, RIGHT_EDGE, Actor, Car, Effect, Key, Person, Stage
from vadclip.sample.backdrop import draw_graffiti
from vadclip.sample.canvas import Canvas
from vadclip.sample.effects import (
    Blast,
    Fire,
    draw_ash,
    draw_bits,
    draw_broken_glass,
    draw_skid_marks,
    draw_smoke,
)
from vadclip.sample.figures import Figure, draw_bag

FOREVER = 1e6


def _somebody(stage: Stage, x: float, y: float) -> Person:
    return Person(stage.figure(y), x, y, 0.0, offset=stage.rng.random())


def fighting(stage: Stage, start: float, end: float) -> list[Actor]:
    """Two people hit and kick each other, one goes down for a while; sometimes a third steps in."""
    rng = stage.rng
    x, y = stage.place()
    gap = 0.21 * stage.layout.size_at(y)
    left = (
        _somebody(stage, x - gap, y).arrive(LEFT_EDGE, start - rng.uniform(0, 0.8)).until(start, "stand", 1)
    )
    right = _somebody(stage, x + gap, y + 1).arrive(RIGHT_EDGE, start - rng.uniform(0, 0.8))
    right.until(start, "stand", -1)
    first, second = (left, right) if rng.random() < 0.5 else (right, left)
    step = (end - start) / 6
    down_at = start + step * rng.choice((3, 4))
    for i in range(6):
        now = start + i * step
        first.until(now + step, "kick" if (i % 3 == 2) else "punch")
        if now < down_at:
            second.until(min(now + step, down_at), ("guard", "punch", "punch")[i % 3])
    second.until(down_at + 0.7, "fall").until(end - 0.5, "lie").until(end, "rise")
    first.leave(stage.edge(), rng.choice(("walk", "run")))
    second.leave(stage.edge())
    actors: list[Actor] = [first, second]
    if rng.random() < 0.35:
        third = _somebody(stage, x + rng.choice((-2.6, 2.6)) * gap, y - 3)
        third.arrive(stage.edge(), start + step)
        third.facing = 1 if third.x < x else -1
        actors.append(third.until(end, "punch").leave(stage.edge(), "run"))
    return actors


def explosion(stage: Stage, start: float, end: float) -> list[Actor]:
    """Something by the far side goes off: flash, fireball, a column of smoke; people run."""
    rng = stage.rng
    x, y = rng.uniform(110, 210), stage.layout.bench_y
    actors: list[Actor] = []
    if rng.random() < 0.6:
        actors.append(Car(stage.vehicle(y), [Key(-1, x, y), Key(FOREVER, x, y)], dent_from=start))
    blast = Blast(x, y - 14, rng.uniform(52, 66), end - start, rng.randrange(10**6))
    actors.append(Effect(y + 1, start, end, lambda canvas, t: blast.draw(canvas, t - start)))
    for _ in range(rng.choice((1, 2, 3))):
        u, v = stage.place()
        u = x + rng.choice((-1, 1)) * rng.uniform(35, 80)
        runner = _somebody(stage, u, v).arrive(stage.edge(), start - rng.uniform(0.1, 1.0))
        runner.until(start + 0.15, "stand").do("alarm", 0.4)
        actors.append(runner.leave(LEFT_EDGE if u < x else RIGHT_EDGE, "run"))
    return actors


def arson(stage: Stage, start: float, end: float) -> list[Actor]:
    """Somebody crouches at a car or a door, lights it and makes off; the fire grows, then dies down."""
    rng = stage.rng
    layout = stage.layout
    actors: list[Actor] = []
    span = end - start
    by_car = rng.random() < 0.5
    x, y = (rng.uniform(112, 208), layout.bench_y if by_car else layout.base_y + rng.uniform(4, 16))
    if by_car:
        actors.append(Car(stage.vehicle(y), [Key(-1, x, y), Key(FOREVER, x, y)]))
    fire = Fire(x, y - (6 if by_car else 0), rng.uniform(56, 74), rng.randrange(1000))
    lit = start + 0.18 * span

    def burn(canvas: Canvas, t: float) -> None:
        share = (t - lit) / (end - lit)
        strength = min(1.0, share / 0.45) if share < 0.75 else max(0.0, (1 - share) / 0.25)
        draw_smoke(canvas, fire.x, fire.y - fire.size * 0.6 * strength, t, 40, 0.9 * min(1.0, share * 4))
        fire.draw(canvas, t, strength)

    def ash(canvas: Canvas, t: float) -> None:
        draw_ash(canvas, x, y, 0.7 * min(1.0, (t - lit) / span))

    side = rng.choice((-1, 1))
    arsonist = _somebody(stage, x + side * 27, y + 5).arrive(stage.edge(), start - 0.1).until(start, "stand")
    arsonist.until(start + 0.3 * span, "crouch", -side).hold("")
    if rng.random() < 0.5:
        arsonist.go(x + side * 72, y + 14, "walk").until(start + 0.7 * span, "stand", -side)
    arsonist.leave(LEFT_EDGE if side < 0 else RIGHT_EDGE, "run")
    return [*actors, arsonist, Effect(y + 0.5, lit, FOREVER, ash), Effect(y + 2, lit, end, burn)]


def road_accident(stage: Stage, start: float, end: float) -> list[Actor]:
    """A car runs into another car or knocks somebody down; `start` is when it loses its way."""
    rng = stage.rng
    y = stage.layout.road_y
    x = rng.uniform(130, 190)
    impact = start + 0.35
    way = rng.choice((-1, 1))
    heading = 0.0 if way > 0 else math.pi
    car = stage.vehicle(y)
    dark = stage.conditions.dark
    speed = rng.uniform(150, 200)
    reach = car.length * 0.5

    def keys(stop: float, slew: float, drift: float) -> list[Key]:
        """Come in fast, swerve at `start`, spin at the impact, stand until `end`, then drive off."""
        far = stop - way * speed * 3.0
        return [
            Key(impact - 3.0, far, y, heading),
            Key(start, stop - way * speed * 0.35, y, heading),
            Key(impact, stop, y + 2, heading + 0.12),
            Key(impact + 0.35, stop + way * drift, y + 4, heading + slew * 0.8),
            Key(impact + 0.8, stop + way * drift * 1.5, y + 5, heading + slew),
            Key(end, stop + way * drift * 1.5, y + 5, heading + slew),
            Key(end + 0.8, stop + way * (drift * 1.5 + 14), y + 3, heading),
            Key(end + 6.0, stop + way * 420, y, heading),
        ]

    actors: list[Actor] = []
    glass_seed = rng.randrange(10**6)
    if rng.random() < 0.6:
        hit = x - way * reach
        slew = rng.choice((-0.75, 0.75))
        actors.append(
            Car(
                car, keys(hit, slew, -3), dark, impact, hazard=(impact + 0.5, end), brakes=(start, impact + 1)
            )
        )
        other = stage.vehicle(y)
        comes = rng.random() < 0.7  # from the other side, else it was waiting
        rear = x + way * other.length * 0.42
        pace = rng.uniform(60, 110) if comes else 0.0
        against = math.pi - heading if comes else heading
        actors.append(
            Car(
                other,
                [
                    Key(impact - 4.0, rear + way * pace * 4.0, y - 3, against),
                    Key(impact, rear, y - 3, against),
                    Key(impact + 0.4, rear + way * 7, y - 6, against - slew * 0.7),
                    Key(end, rear + way * 9, y - 6, against - slew),
                    Key(end + 0.8, rear + way * 9, y - 4, against),
                    Key(end + 6, rear + (420 if abs(against) < 1 else -420), y - 3, against),
                ],
                dark,
                impact,
                hazard=(impact + 0.9, end),
            )
        )
    else:
        hit = x - way * reach
        actors.append(
            Car(car, keys(hit, 0.3, 22), dark, hazard=(impact + 0.5, end), brakes=(start, impact + 1))
        )
        victim = _somebody(stage, x, y + 3)
        victim.y = y - 30
        victim.clock = impact - 1.6 - 1.0
        victim.facing = -way
        victim.do("stand", 1.0).go(x, y + 3, "walk", 1.6)
        victim.facing = -way
        victim.go(x + way * 56, y + 7, "fall", 0.5)
        victim.facing = -way
        victim.until(end - 0.6, "lie").until(end, "rise").leave(stage.edge())
        actors.append(victim)

    def crash(canvas: Canvas, t: float) -> None:
        age = t - impact
        draw_bits(canvas, x, y - 18, age, 110, 18, glass_seed, (206, 216, 222))
        if age < 0.16:
            canvas.glow(x, y - 16, 34, (255, 250, 220))
        thin = min(1.0, 2 * age) * min(1.0, (end - t) / 0.8)
        draw_smoke(canvas, x, y - 20, t, 40, thin, (150, 150, 154), glass_seed % 7)

    def wreckage(canvas: Canvas, t: float) -> None:
        draw_skid_marks(canvas, x, y, way)
        draw_broken_glass(canvas, x, y, glass_seed)

    return [*actors, Effect(y - 40, impact, FOREVER, wreckage), Effect(y + 8, impact, end, crash)]


def stealing(stage: Stage, start: float, end: float) -> list[Actor]:
    """A thief tears a bag from somebody, or sneaks up to one that was left and makes off with it."""
    rng = stage.rng
    x, y = stage.place()
    way = rng.choice((-1, 1))
    out = RIGHT_EDGE if way > 0 else LEFT_EDGE
    back = LEFT_EDGE if way > 0 else RIGHT_EDGE
    thief = _somebody(stage, x - way * 20, y + 2)
    if rng.random() < 0.6:
        got = start + 0.5 * (end - start)
        owner = _somebody(stage, x, y).hold("bag").arrive(back, start).hold("")
        owner.until(got, "tug", -way).do("fall", 0.5).until(end, "lie").do("rise", 0.6).leave(stage.edge())
        thief.figure = _with_bag(thief, owner)
        thief.arrive(back, start, "run").until(got, "tug", way).hold("bag")
        thief.leave(out, "run")
        height = owner.figure.height

        def between(canvas: Canvas, t: float) -> None:
            draw_bag(canvas, x - way * 9 + 3 * math.sin(14 * t), y - 0.42 * height, height, owner.figure.bag)

        return [owner, thief, Effect(y + 4, start, got, between)]
    left = start + 0.6 * (end - start)
    owner = _somebody(stage, x + way * 4, y - 3).hold("bag").arrive(out, start - 4.5)
    owner.do("crouch", 0.7).hold("")
    owner.go(x + way * 74, y - 8).until(end, "talk", way)
    owner.go(x + way * 14, y - 3, "run").do("alarm", 1.5).leave(out)
    thief.x = x - way * 56
    thief.figure = _with_bag(thief, owner)
    thief.arrive(back, start - 0.05).until(start, "stand", way)
    thief.go(x - way * 12, y + 2, "sneak", left - start - 0.5).do("crouch", 0.5).hold("bag").leave(
        back, "run"
    )

    def alone(canvas: Canvas, t: float) -> None:
        draw_bag(canvas, x, y - 0.07 * owner.figure.height, owner.figure.height, owner.figure.bag)

    return [owner, thief, Effect(y - 1, start - 3.8, left, alone)]


def _with_bag(thief: Person, owner: Person) -> Figure:
    return replace(thief.figure, bag=owner.figure.bag)


def vandalism(stage: Stage, start: float, end: float) -> list[Actor]:
    """Somebody sprays a wall or beats a parked car with a bat."""
    rng = stage.rng
    layout = stage.layout
    edge = stage.edge()
    if rng.random() < 0.5:
        left, right = layout.wall
        y = layout.base_y + 7
        way = rng.choice((-1, 1))
        origin, target = (left, right) if way > 0 else (right, left)
        vandal = _somebody(stage, origin, y).hold("can").arrive(edge, start - 0.1).until(start, "stand", way)
        for part in (0.25, 0.5, 0.75, 1.0):
            vandal.do("spray", (end - start) * 0.19, way)
            spot = origin + (target - origin) * part - way * 14
            vandal.go(spot, y, "spray", (end - start) * 0.06)
        vandal.leave(stage.edge(), "run")
        seed = rng.randrange(10**6)

        def paint(canvas: Canvas, t: float) -> None:
            done = min(1.0, (t - start) / (end - start))
            inner = (left + 6, right - 6)
            draw_graffiti(canvas, layout, done, seed, inner if way > 0 else (inner[1], inner[0]))

        return [vandal, Effect(layout.base_y + 1, start, FOREVER, paint)]
    x, y = rng.uniform(118, 202), layout.bench_y
    way = rng.choice((-1, 1))
    first = start + 0.45
    target_car = Car(stage.vehicle(y), [Key(-1, x, y), Key(FOREVER, x, y)], smash_from=first)
    vandal = (
        _somebody(stage, x - way * 25, y + 7).hold("bat").arrive(edge, start - 0.1).until(start, "stand", way)
    )
    vandal.until(end, "smash", way).leave(stage.edge(), "run")
    seed = rng.randrange(10**6)

    def shards(canvas: Canvas, t: float) -> None:
        blow = max(0, int((t - first) / 0.91))
        draw_bits(canvas, x, y - 22, t - first - 0.91 * blow, 70, 12, seed + blow, (214, 226, 232), 0.8)

    return [target_car, vandal, Effect(y + 9, first, end, shards)]


ANOMALIES: dict[str, Callable[[Stage, float, float], list[Actor]]] = {
    "Fighting": fighting,
    "Explosion": explosion,
    "Arson": arson,
    "RoadAccident": road_accident,
    "Stealing": stealing,
    "Vandalism": vandalism,
}
