"""The unmoving part of a scene: sky, facades, ground, street furniture, lamps; drawn once per video."""

import random

import numpy as np
from PIL import Image

from vadclip.sample.canvas import HEIGHT, WIDTH, Canvas, Colour, Light
from vadclip.sample.scenes import Conditions, Layout, colour_of

_SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((126, 170, 214), (206, 220, 230)),
    "dusk": ((66, 66, 104), (164, 124, 138)),
    "sunset": ((120, 74, 92), (255, 146, 44)),
    "night": ((10, 12, 26), (32, 34, 56)),
}
_GROUND: dict[str, tuple[Colour, Colour]] = {  # where people walk, and the road
    "street": ((152, 148, 140), (82, 82, 86)),
    "arcade": ((168, 152, 136), (88, 86, 86)),
    "plaza": ((170, 160, 146), (84, 84, 90)),
    "canal": ((146, 140, 134), (92, 90, 90)),
    "carpark": ((104, 104, 106), (98, 98, 102)),
    "station": ((132, 132, 130), (108, 108, 110)),
    "park": ((98, 132, 76), (92, 90, 88)),
    "crossing": ((150, 146, 142), (78, 78, 84)),
}


def draw_backdrop(layout: Layout, conditions: Conditions, seed: int, size: tuple[int, int]) -> Image.Image:
    """Return the still picture of a layout in its conditions; `seed` varies windows and clutter."""
    image = Image.new("RGB", size)
    canvas = Canvas(image, conditions.light)
    look = random.Random(layout.seed)
    _sky(canvas, layout, conditions)
    _facades(canvas, layout, look)
    _ground(canvas, layout, look)
    _furniture(canvas, layout, look)
    image = _grain(image, layout.seed)
    canvas = Canvas(image, conditions.light)
    if conditions.dark:
        _lamps(canvas, layout, random.Random(seed))
    if conditions.rain:
        _puddles(canvas, layout, random.Random(seed))
    return image


def _sky(canvas: Canvas, layout: Layout, conditions: Conditions) -> None:
    high, low = _SKIES[conditions.time]
    if conditions.rain:
        high, low = _greyed(high), _greyed(low)
    steps = 24
    for i in range(steps):
        part = i / (steps - 1)
        mix: Colour = tuple(round(a + (b - a) * part) for a, b in zip(high, low, strict=True))  # type: ignore[assignment]
        canvas.rectangle(
            0, layout.base_y * i / steps, WIDTH, layout.base_y * (i + 1) / steps + 1, mix, shines=True
        )


def _greyed(colour: Colour) -> Colour:
    mean = sum(colour) // 3
    return ((colour[0] + 2 * mean) // 3, (colour[1] + 2 * mean) // 3, (colour[2] + 2 * mean) // 3)


def has_old_graffiti(layout: Layout) -> bool:
    """Say whether the wall bears a scrawl from the start."""
    blank = Canvas(Image.new("RGB", (1, 1)), Light())
    return _facades(blank, layout, random.Random(layout.seed))


def _facades(canvas: Canvas, layout: Layout, look: random.Random) -> bool:
    """Draw what stands at the far side; say whether the wall bears a scrawl."""
    if layout.family == "park":
        _trees_behind(canvas, layout, look)
    elif layout.family == "canal":
        _water_behind(canvas, layout, look)
    else:
        _houses(canvas, layout, look)
    # Every layout has the bare wall: a shed in a park or at a canal, a house front elsewhere.
    left, right = layout.wall
    top = layout.base_y - look.uniform(50, 62)
    paint = colour_of(layout.side, look, 0.55, 0.8, 0.25)
    canvas.rectangle(left, top, right, layout.base_y, paint)
    canvas.rectangle(left - 2, top - 4, right + 2, top, _shade(paint, 0.6))
    for row in range(1, 8):
        y = top + row * (layout.base_y - top) / 8
        canvas.line([(left, y), (right, y)], _shade(paint, 0.92), 0.8)
    scrawled = look.random() < 0.35
    if scrawled:
        draw_graffiti(canvas, layout, 1.0, look.randrange(1000), old_graffiti_span(layout))
    gate = layout.alley_x  # where cars come out towards the camera
    canvas.rectangle(gate - 17, layout.base_y - 40, gate + 17, layout.base_y, _shade(paint, 0.75))
    canvas.rectangle(gate - 13, layout.base_y - 34, gate + 13, layout.base_y, (46, 46, 50))
    return scrawled


def old_graffiti_span(layout: Layout) -> tuple[float, float]:
    """Where on the wall, in x, a scrawl stands that was there from the start."""
    return layout.wall[1] - 26, layout.wall[1] - 4


def _houses(canvas: Canvas, layout: Layout, look: random.Random) -> None:
    low = layout.family in {"carpark", "station"}
    x = -look.uniform(0, 20)
    while x < WIDTH:
        wide = look.uniform(44, 84)
        top = layout.base_y - (look.uniform(26, 48) if low else look.uniform(44, 84))
        paint = colour_of(layout.side, look, 0.45, 0.78, 0.4)
        canvas.rectangle(x, top, x + wide, layout.base_y, paint)
        canvas.rectangle(x, top, x + wide, top + 3, _shade(paint, 0.7))
        pane = (70, 84, 96)
        columns = max(2, int(wide // 17))
        for c in range(columns):
            for y in np.arange(top + 8, layout.base_y - 26, 19):
                u = x + (c + 0.5) * wide / columns
                canvas.rectangle(u - 4, y, u + 4, y + 11, pane)
        if layout.family == "arcade":
            canvas.rectangle(x + 3, layout.base_y - 24, x + wide - 3, layout.base_y - 3, (104, 118, 120))
            awning = colour_of(layout.side, look, 0.6, 0.9, 0.8)
            canvas.polygon(
                [
                    (x + 1, layout.base_y - 32),
                    (x + wide - 1, layout.base_y - 32),
                    (x + wide + 2, layout.base_y - 23),
                    (x - 2, layout.base_y - 23),
                ],
                awning,
            )
        else:
            u = x + wide * look.uniform(0.2, 0.8)
            canvas.rectangle(u - 6, layout.base_y - 22, u + 6, layout.base_y, _shade(paint, 0.45))
        x += wide + look.choice((0.0, 0.0, 5.0))


def _trees_behind(canvas: Canvas, layout: Layout, look: random.Random) -> None:
    canvas.rectangle(0, layout.base_y - 16, WIDTH, layout.base_y, (64, 92, 54))
    for _ in range(11):
        x, r = look.uniform(-10, 330), look.uniform(18, 32)
        y = layout.base_y - r * look.uniform(0.9, 1.5)
        canvas.rectangle(x - 3, y, x + 3, layout.base_y, (84, 66, 50))
        green = (look.randrange(48, 84), look.randrange(92, 126), look.randrange(44, 66))
        for dx, dy in ((0, 0), (-0.5, 0.25), (0.5, 0.3)):
            canvas.ellipse(x + dx * r, y + dy * r, r * 0.8, r * 0.75, green)


def _water_behind(canvas: Canvas, layout: Layout, look: random.Random) -> None:
    canvas.rectangle(0, layout.base_y - 34, WIDTH, layout.base_y, (86, 112, 124))
    for _ in range(30):
        x, y = look.uniform(0, 320), layout.base_y - look.uniform(2, 32)
        canvas.line([(x, y), (x + look.uniform(5, 16), y)], (128, 150, 158), 1)
    for x in np.arange(-10, 330, look.uniform(38, 54)):
        top = layout.base_y - look.uniform(54, 76)
        canvas.rectangle(x, top, x + 34, layout.base_y - 34, colour_of(layout.side, look, 0.4, 0.62, 0.35))


def _ground(canvas: Canvas, layout: Layout, look: random.Random) -> None:
    walk, road = _GROUND[layout.family]
    canvas.rectangle(0, layout.base_y, WIDTH, HEIGHT, walk)
    top, bottom = layout.road_band
    canvas.rectangle(0, top, WIDTH, bottom, road)
    if layout.family == "park":
        low, high = layout.walk_y
        canvas.polygon([(0, low - 8), (320, low - 2), (320, high + 6), (0, high + 2)], (178, 160, 126))
    elif layout.family == "carpark":
        for x in np.arange(-30, 350, layout.car_length_at(layout.bench_y) * 1.12):
            canvas.line([(x, layout.base_y + 8), (x - 12, layout.bench_y + 6)], (214, 214, 206), 2)
    elif layout.family == "station":
        canvas.rectangle(
            20, layout.base_y - 66, 300, layout.base_y - 54, colour_of(layout.side, look, 0.6, 0.9)
        )
        for x in (44, 276):
            canvas.rectangle(x - 4, layout.base_y - 54, x + 4, layout.base_y + 10, (196, 196, 190))
        for x in (30, 292):
            canvas.rectangle(x - 8, layout.base_y - 14, x + 8, layout.base_y + 20, (178, 60, 52))
    else:
        middle = (top + bottom) / 2
        for x in np.arange(look.uniform(-20, 0), 330, 34):
            canvas.rectangle(x, middle - 1, x + 16, middle + 1, (206, 204, 190))
        for y in (top, bottom):
            canvas.line([(0, y), (320, y)], (188, 186, 178), 2.4)
    if layout.family == "crossing":
        x = look.uniform(120, 190)
        canvas.polygon([(x - 16, layout.base_y), (x + 16, layout.base_y), (x + 70, 240), (x - 70, 240)], road)
    if layout.family in {"plaza", "canal"}:
        for i in range(7):
            y = layout.road_band[1] + 6 + i * i * 2.4
            canvas.line([(0, y), (320, y)], _shade(walk, 0.92), 0.8)
    if layout.family == "canal":
        y = layout.base_y
        canvas.line([(0, y - 12), (320, y - 12)], (60, 62, 66), 1.6)
        for x in range(0, 320, 14):
            canvas.line([(x, y - 12), (x, y)], (60, 62, 66), 1.2)


def _furniture(canvas: Canvas, layout: Layout, look: random.Random) -> None:
    for _ in range(look.choice((1, 2))):
        x = look.choice((look.uniform(8, 44), look.uniform(276, 312)))
        y = layout.base_y + look.uniform(12, 24)
        tall = look.uniform(72, 92)
        canvas.line([(x, y), (x, y - tall)], (52, 54, 58), 3)
        if layout.family in {"park", "plaza"}:
            canvas.ellipse(x, y - tall, 19, 17, (62, 104, 56))
        else:
            canvas.line([(x, y - tall), (x + (12 if x < 160 else -12), y - tall - 2)], (52, 54, 58), 2.4)
    x, y = look.choice((look.uniform(14, 40), look.uniform(280, 306))), layout.base_y + 26
    canvas.rectangle(x - 14, y - 12, x + 14, y - 9, (104, 74, 48))
    canvas.rectangle(x - 14, y - 20, x + 14, y - 16, (104, 74, 48))
    canvas.line([(x - 11, y - 9), (x - 11, y)], (44, 44, 44), 2)
    canvas.line([(x + 11, y - 9), (x + 11, y)], (44, 44, 44), 2)


def _grain(image: Image.Image, seed: int) -> Image.Image:
    """Roughen all surfaces a little: drawn areas are flatter than any real one."""
    pixels = np.asarray(image).astype(np.float32)
    pixels += np.random.default_rng(seed).normal(0, 4, (*pixels.shape[:2], 1)).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _lamps(canvas: Canvas, layout: Layout, rng: random.Random) -> None:
    for _ in range(rng.choice((2, 3))):
        x, y = rng.uniform(20, 300), layout.base_y + rng.uniform(-40, -20)
        canvas.glow(x, y, 12, (255, 220, 160))
        canvas.glow(x, y + 70, 74, (120, 96, 60), 0.8)
    if layout.family not in {"park", "canal"}:
        for _ in range(rng.randrange(3, 9)):
            x, y = rng.uniform(4, 310), layout.base_y - rng.uniform(28, 60)
            if not layout.wall[0] - 9 < x < layout.wall[1] + 2:
                canvas.rectangle(x, y, x + 7, y + 10, (244, 206, 128), shines=True)


def _puddles(canvas: Canvas, layout: Layout, rng: random.Random) -> None:
    for _ in range(7):
        x, y = rng.uniform(0, 320), rng.uniform(layout.base_y + 20, 236)
        canvas.puff(x, y, rng.uniform(14, 34), (150, 160, 172), 0.4, flat=0.2)


def draw_sun(canvas: Canvas, layout: Layout, x: float, progress: float) -> None:
    """Draw a setting sun, lower as `progress` goes from 0 to 1, and its red light."""
    y = layout.base_y - 74 + 26 * progress
    canvas.glow(x, y, 90, (255, 120, 20), 0.9)
    canvas.ellipse(x, y, 15, 15, (255, 206, 92), shines=True)
    canvas.glow(x, y, 34, (255, 170, 60), 0.9)
    canvas.puff(x, layout.base_y + 50, 80, (255, 140, 50), 0.28, flat=0.4, shines=True)


def draw_graffiti(
    canvas: Canvas, layout: Layout, progress: float, seed: int, span: tuple[float, float] | None = None
) -> None:
    """Draw the share `progress` of a scrawl on the bare wall, over `span` of x."""
    rng = random.Random(seed)
    left, right = span if span is not None else (layout.wall[0] + 6, layout.wall[1] - 6)
    strokes = 9
    for i in range(strokes):
        colour = rng.choice(((214, 30, 120), (20, 150, 214), (240, 200, 20), (30, 30, 36), (120, 214, 40)))
        points = []
        for j in range(4):
            x = left + (right - left) * (i + j * 0.4 + rng.uniform(-0.3, 0.3)) / (strokes + 0.6)
            points.append((x, layout.base_y - rng.uniform(12, 44)))
        if i < progress * strokes:
            canvas.line(points, colour, 2.8)


def _shade(colour: Colour, factor: float) -> Colour:
    return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
