"""Cars, seen from the side or from the front, with dents, lamps and a turn about their own axis."""

import math
from dataclasses import dataclass

from vadclip.sample.canvas import Canvas, Colour, Point

TYRE: Colour = (24, 24, 26)
RIM: Colour = (120, 120, 124)
GLASS: Colour = (66, 88, 102)


@dataclass(frozen=True)
class Vehicle:
    """How a car looks: length in canvas units at its place, paint, and whether it is a van."""

    length: float
    paint: Colour
    van: bool = False

    @property
    def height(self) -> float:
        """Height in canvas units."""
        return self.length * (0.52 if self.van else 0.41)


def draw_car(
    canvas: Canvas,
    car: Vehicle,
    x: float,
    y: float,
    yaw: float,
    *,
    dent: float = 0.0,
    lamps: bool = False,
    brakes: bool = False,
    hazard: bool = False,
    smashed: bool = False,
) -> None:
    """Draw a car whose wheels stand on y, middle at x. `yaw` 0 drives right, pi left, pi/2 faces the camera.

    `dent` (0 to 1) crumples the nose; `smashed` breaks the side windows; `hazard` lights the blinkers.
    """
    along = math.cos(yaw)
    if abs(along) < 0.45:
        _draw_front(canvas, car, x, y, dent=dent, lamps=lamps, hazard=hazard)
    else:
        _draw_side(canvas, car, x, y, along, dent, lamps, brakes, hazard, smashed)


def _draw_side(
    canvas: Canvas,
    car: Vehicle,
    x: float,
    y: float,
    along: float,
    dent: float,
    lamps: bool,
    brakes: bool,
    hazard: bool,
    smashed: bool,
) -> None:
    length, h = car.length, car.height
    canvas.puff(x, y, 0.62 * length, (14, 14, 16), 0.6, flat=0.2)

    def at(u: float, v: float) -> Point:
        return (x + u * length * along, y - v * h)

    nose = 0.5 - 0.13 * dent
    hood = 0.52 + 0.2 * dent
    roof = (
        [(-0.46, 0.95), (0.3, 0.95), (0.42, 0.55)] if car.van else [(-0.3, 0.98), (0.12, 0.98), (0.28, 0.6)]
    )
    tail = [(-0.5, 0.2), (-0.5, 0.6)]
    front = [(0.38 - 0.05 * dent, hood + 0.05), (nose, 0.45 - 0.15 * dent), (nose, 0.18)]
    canvas.polygon([at(u, v) for u, v in [*tail, *roof, *front]], car.paint)
    shade: Colour = (car.paint[0] * 2 // 3, car.paint[1] * 2 // 3, car.paint[2] * 2 // 3)
    canvas.polygon([at(-0.5, 0.2), at(-0.5, 0.36), at(nose, 0.32), at(nose, 0.18)], shade)
    panes = (
        [[(0.08, 0.86), (0.27, 0.86), (0.35, 0.6), (0.08, 0.6)]]
        if car.van
        else [
            [(-0.28, 0.9), (-0.1, 0.9), (-0.1, 0.62), (-0.38, 0.62)],
            [(-0.06, 0.9), (0.1, 0.9), (0.22, 0.62), (-0.06, 0.62)],
        ]
    )
    for pane in panes:
        canvas.polygon([at(u, v) for u, v in pane], (16, 18, 20) if smashed else GLASS)
        if smashed:
            middle = pane[0][0] + 0.1, 0.76
            for u, v in pane:
                canvas.line([at(*middle), at(u, v)], (215, 225, 230), 1.0)
    for u in (-0.31, 0.3):
        wheel = at(u, 0.14)
        radius = 0.2 * h
        canvas.ellipse(wheel[0], y - radius, radius * max(0.5, abs(along)), radius, TYRE)
        canvas.ellipse(wheel[0], y - radius, radius * 0.5 * abs(along), radius * 0.5, RIM)
    lamp, rear = at(nose - 0.01, 0.38), at(-0.49, 0.5)
    canvas.ellipse(*lamp, 0.025 * length, 0.07 * h, (255, 250, 215), shines=lamps)
    canvas.ellipse(*rear, 0.018 * length, 0.09 * h, (225, 20, 20), shines=lamps or brakes)
    if lamps:
        ahead = math.copysign(1.0, along)
        canvas.glow(lamp[0] + ahead * 0.1 * length, lamp[1], 0.3 * length, (255, 240, 190), 0.9)
        canvas.puff(
            lamp[0] + ahead * 0.42 * length, y, 0.4 * length, (250, 235, 180), 0.3, flat=0.22, shines=True
        )
    if lamps or brakes:
        canvas.glow(*rear, 0.12 * length * (1.6 if brakes else 1.0), (255, 30, 20), 0.9)
    if hazard:
        for spot in (lamp, rear):
            canvas.ellipse(*spot, 0.02 * length, 0.06 * h, (255, 160, 0), shines=True)
            canvas.glow(*spot, 0.14 * length, (255, 140, 0), 0.9)


def _draw_front(
    canvas: Canvas, car: Vehicle, x: float, y: float, *, dent: float, lamps: bool, hazard: bool
) -> None:
    wide, h = 0.23 * car.length, car.height
    canvas.puff(x, y, 1.3 * wide, (14, 14, 16), 0.6, flat=0.25)
    for side in (-1, 1):
        canvas.rectangle(
            x + side * wide * 0.8 - 0.16 * wide, y - 0.3 * h, x + side * wide * 0.8 + 0.16 * wide, y, TYRE
        )
    canvas.polygon(
        [
            (x - wide, y - 0.15 * h),
            (x - wide, y - 0.55 * h),
            (x - 0.72 * wide, y - 0.98 * h),
            (x + 0.72 * wide, y - (0.98 - 0.2 * dent) * h),
            (x + wide, y - 0.55 * h),
            (x + wide, y - 0.15 * h),
        ],
        car.paint,
    )
    canvas.polygon(
        [
            (x - 0.8 * wide, y - 0.6 * h),
            (x - 0.62 * wide, y - 0.9 * h),
            (x + 0.62 * wide, y - 0.9 * h),
            (x + 0.8 * wide, y - 0.6 * h),
        ],
        GLASS,
    )
    canvas.rectangle(x - 0.45 * wide, y - 0.42 * h, x + 0.45 * wide, y - 0.25 * h, (40, 40, 44))
    for side in (-1, 1):
        lamp = (x + side * 0.72 * wide, y - 0.38 * h)
        canvas.ellipse(*lamp, 0.17 * wide, 0.09 * h, (255, 250, 215), shines=lamps)
        if lamps:
            canvas.glow(*lamp, 1.3 * wide, (255, 242, 205), 0.8)
            canvas.glow(*lamp, 0.7 * wide, (255, 250, 230))
        if hazard:
            canvas.glow(*lamp, 0.7 * wide, (255, 140, 0), 0.9)
