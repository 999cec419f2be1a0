"""What moves: people and cars that follow a script of timed steps, so that any moment can be drawn by itself.

Times are seconds from the video's first frame; scripts may begin before it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vadclip.sample.canvas import Canvas, Colour
from vadclip.sample.figures import Figure, draw_person, pose
from vadclip.sample.scenes import Conditions, Layout, colour_of
from vadclip.sample.vehicles import Vehicle, draw_car

WALK_SPEED, RUN_SPEED = 40.0, 112.0  # canvas units a second
LEFT_EDGE, RIGHT_EDGE = -45.0, 365.0
_CYCLES = {"walk": 1.0, "run": 1.9, "stand": 0.2, "talk": 0.7, "hug": 0.35, "punch": 1.7, "kick": 1.3,
           "guard": 1.5, "sneak": 0.9, "crouch": 0.8, "tug": 2.2, "alarm": 1.5, "spray": 0.9, "wipe": 1.0,
           "smash": 1.1, "lie": 0.6, "fall": 0.0, "rise": 0.0}  # fmt: skip
_SKINS: tuple[Colour, ...] = ((232, 190, 160), (206, 158, 120), (150, 104, 74), (98, 66, 46))
_HAIRS: tuple[Colour, ...] = ((34, 28, 26), (84, 56, 34), (150, 116, 66), (120, 120, 120))


class Actor(Protocol):
    """Something that is drawn in order of depth."""

    def depth(self, t: float) -> float | None:
        """Where it stands at second t (larger is nearer), None while it is not in the picture."""

    def draw(self, canvas: Canvas, t: float) -> None:
        """Draw it as it is at second t."""


@dataclass(frozen=True)
class Stage:
    """What a script needs to know of its scene: layout, conditions, and a source of chance."""

    layout: Layout
    conditions: Conditions
    rng: random.Random

    def figure(self, y: float, child: bool = False) -> Figure:
        """Somebody new, sized for where they stand."""
        rng, side = self.rng, self.layout.side
        return Figure(
            height=self.layout.size_at(y) * (0.62 if child else rng.uniform(0.93, 1.07)),
            skin=rng.choice(_SKINS),
            hair=rng.choice(_HAIRS),
            shirt=colour_of(side, rng, 0.35, 0.95, 0.8),
            trousers=colour_of(side, rng, 0.18, 0.5, 0.45),
            bag=colour_of(side, rng, 0.6, 0.95, 0.9),
        )

    def vehicle(self, y: float) -> Vehicle:
        """A car, sized for where it stands."""
        return Vehicle(
            length=self.layout.car_length_at(y) * self.rng.uniform(0.94, 1.06),
            paint=colour_of(self.layout.side, self.rng, 0.45, 0.95, 0.75),
            van=self.rng.random() < 0.22,
        )

    def edge(self) -> float:
        """One side of the picture, just outside."""
        return self.rng.choice((LEFT_EDGE, RIGHT_EDGE))

    def place(self) -> tuple[float, float]:
        """Some (x, y) where an action is well in view."""
        low, high = self.layout.walk_y
        return self.rng.uniform(116, 204), self.rng.uniform(low, high)


@dataclass(frozen=True)
class _Beat:
    start: float
    end: float
    origin: tuple[float, float]
    target: tuple[float, float]
    pose: str
    facing: int
    carried: str


@dataclass
class Person:
    """Somebody with a script: `go`, `do` and `until` add steps, each from where and when the last ended."""

    figure: Figure
    x: float
    y: float
    clock: float
    facing: int = 1
    carried: str = ""
    offset: float = 0.0  # of the phase, so that no two people move in step
    _beats: list[_Beat] = field(default_factory=list)

    def go(self, x: float, y: float, pose_name: str = "walk", seconds: float | None = None) -> "Person":
        """Move to (x, y), in `seconds` or at the pace of the pose."""
        speed = RUN_SPEED if pose_name == "run" else WALK_SPEED
        took = math.hypot(x - self.x, y - self.y) / speed if seconds is None else seconds
        if abs(x - self.x) > 0.5:
            self.facing = 1 if x > self.x else -1
        return self._add(took, (x, y), pose_name)

    def do(self, pose_name: str, seconds: float, facing: int | None = None) -> "Person":
        """Stay in place for `seconds`."""
        self.facing = self.facing if facing is None else facing
        return self._add(seconds, (self.x, self.y), pose_name)

    def until(self, t: float, pose_name: str, facing: int | None = None) -> "Person":
        """Stay in place up to second t, which may be over already."""
        return self.do(pose_name, max(0.0, t - self.clock), facing)

    def arrive(self, edge: float, t: float, pose_name: str = "walk") -> "Person":
        """Begin the script outside at `edge`, so early as to stand at the current place at second t."""
        x, speed = self.x, RUN_SPEED if pose_name == "run" else WALK_SPEED
        self.clock = t - abs(x - edge) / speed
        self.x = edge
        return self.go(x, self.y, pose_name)

    def leave(self, edge: float, pose_name: str = "walk") -> "Person":
        """Go out of the picture at `edge`."""
        return self.go(edge, self.y, pose_name)

    def hold(self, carried: str) -> "Person":
        """Carry something from the next step on; "" puts it down."""
        self.carried = carried
        return self

    def _add(self, seconds: float, target: tuple[float, float], pose_name: str) -> "Person":
        if seconds > 0:
            end = self.clock + seconds
            self._beats.append(
                _Beat(self.clock, end, (self.x, self.y), target, pose_name, self.facing, self.carried)
            )
            self.clock = end
        self.x, self.y = target
        return self

    def _at(self, t: float) -> tuple[_Beat, float] | None:
        for beat in self._beats:
            if beat.start <= t < beat.end:
                return beat, (t - beat.start) / (beat.end - beat.start)
        return None

    def depth(self, t: float) -> float | None:
        """See Actor."""
        now = self._at(t)
        return None if now is None else now[0].origin[1] + (now[0].target[1] - now[0].origin[1]) * now[1]

    def draw(self, canvas: Canvas, t: float) -> None:
        """See Actor."""
        now = self._at(t)
        if now is None:
            return
        beat, share = now
        x = beat.origin[0] + (beat.target[0] - beat.origin[0]) * share
        y = beat.origin[1] + (beat.target[1] - beat.origin[1]) * share
        phase = 2 * math.pi * (_CYCLES[beat.pose] * t + self.offset)
        if beat.pose in {"punch", "guard", "tug"}:  # a scuffle never stands still
            x += 0.035 * self.figure.height * math.sin(phase * 0.6)
        draw_person(canvas, self.figure, x, y, beat.facing, pose(beat.pose, phase, share), beat.carried)


@dataclass(frozen=True)
class Key:
    """A moment of a car's way; between two of them it moves evenly."""

    t: float
    x: float
    y: float
    yaw: float = 0.0


@dataclass
class Car:
    """A car with a script of keys; it is in the picture from the first to the last."""

    vehicle: Vehicle
    keys: list[Key]
    lamps: bool = False
    dent_from: float = math.inf
    smash_from: float = math.inf
    hazard: tuple[float, float] = (math.inf, math.inf)
    brakes: tuple[float, float] = (math.inf, math.inf)
    approach: bool = False  # comes out of the side street: grows from small to its size

    def depth(self, t: float) -> float | None:
        """See Actor."""
        now = self._at(t)
        return None if now is None else now.y

    def draw(self, canvas: Canvas, t: float) -> None:
        """See Actor."""
        now = self._at(t)
        if now is None:
            return
        vehicle = self.vehicle
        if self.approach:
            first, last = self.keys[0], self.keys[-1]
            near = max(0.0, min(1.0, (now.y - first.y) / max(1.0, last.y - first.y)))
            vehicle = Vehicle(vehicle.length * (0.55 + 0.45 * near), vehicle.paint, vehicle.van)
        draw_car(
            canvas,
            vehicle,
            now.x,
            now.y,
            now.yaw,
            dent=1.0 if t >= self.dent_from else 0.0,
            lamps=self.lamps,
            brakes=self.brakes[0] <= t < self.brakes[1],
            hazard=self.hazard[0] <= t < self.hazard[1] and math.sin(9 * t) > 0,
            smashed=t >= self.smash_from,
        )

    def _at(self, t: float) -> Key | None:
        if not self.keys[0].t <= t < self.keys[-1].t:
            return None
        for a, b in zip(self.keys, self.keys[1:], strict=False):
            if a.t <= t < b.t:
                part = (t - a.t) / (b.t - a.t)
                return Key(
                    t, a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part, a.yaw + (b.yaw - a.yaw) * part
                )
        return None


@dataclass(frozen=True)
class Effect:
    """Anything else that is drawn at a depth during a time: flames, a blast, paint on a wall, a bag."""

    at_depth: float
    start: float
    end: float
    paint: Callable[[Canvas, float], None]

    def depth(self, t: float) -> float | None:
        """See Actor."""
        return self.at_depth if self.start <= t < self.end else None

    def draw(self, canvas: Canvas, t: float) -> None:
        """See Actor."""
        self.paint(canvas, t)
