"""Fire, smoke, blasts, flying bits and rain: functions of time alone, so any frame can be drawn alone."""

import math
import random
from dataclasses import dataclass

from vadclip.sample.canvas import Canvas, Colour


@dataclass(frozen=True)
class Fire:
    """Flames standing on (x, y), `size` units high at full strength."""

    x: float
    y: float
    size: float
    seed: int

    def draw(self, canvas: Canvas, t: float, strength: float) -> None:
        """Draw the flames at second t; `strength` 0 to 1 scales their height."""
        if strength <= 0.02:
            return
        height = self.size * strength
        flicker = 0.85 + 0.15 * math.sin(19 * t + self.seed) * math.sin(31 * t)
        canvas.glow(self.x, self.y - height * 0.5, height * 1.9, (255, 120, 30), 0.75 * flicker)
        layers: tuple[tuple[Colour, float, int], ...] = (
            ((214, 58, 12), 1.0, 9),
            ((250, 128, 18), 0.75, 7),
            ((255, 222, 96), 0.45, 5),
        )
        for colour, reach, count in layers:
            for i in range(count):
                wave = math.sin(t * (9 + 2.3 * i) + 1.7 * i + self.seed)
                spread = (i / (count - 1) - 0.5) * height * 0.75
                tall = height * reach * (0.62 + 0.3 * wave) * (1.05 - 0.9 * abs(i / (count - 1) - 0.5))
                base = self.x + spread
                tip = base + height * 0.1 * math.sin(t * 7 + i)
                half = height * 0.14
                canvas.polygon(
                    [(base - half, self.y), (base - half * 0.7, self.y - tall * 0.4), (tip, self.y - tall),
                     (base + half * 0.7, self.y - tall * 0.45), (base + half, self.y)],
                    colour, shines=True,
                )  # fmt: skip


def draw_smoke(
    canvas: Canvas,
    x: float,
    y: float,
    t: float,
    size: float,
    strength: float,
    colour: Colour = (58, 56, 58),
    seed: int = 0,
) -> None:
    """Draw smoke that rises from (x, y) as 9 puffs; `strength` 0 to 1 is how dense it is."""
    for i in range(9):
        age = (t * 0.42 + i / 9) % 1.0
        drift = math.sin(2.1 * i + seed) * size * 0.3 + age * size * 0.45
        radius = size * (0.16 + 0.42 * age)
        fade = strength * (1 - age) ** 0.7 * min(1.0, age * 6)
        canvas.puff(x + drift * age, y - age * size * 1.6, radius, colour, 0.75 * fade)


@dataclass(frozen=True)
class Blast:
    """An explosion at (x, y): a flash, a fireball that grows for 0.7 s, then rising smoke for `seconds`."""

    x: float
    y: float
    size: float
    seconds: float
    seed: int

    def draw(self, canvas: Canvas, age: float) -> None:
        """Draw the blast `age` seconds after it went off; nothing before or after its time."""
        if not 0 <= age < self.seconds:
            return
        rng = random.Random(self.seed)
        if age < 0.28:
            canvas.glow(self.x, self.y, 300, (255, 240, 200), 1 - age / 0.3)
        fading = min(1.0, (self.seconds - age) / (0.3 * self.seconds))
        ball = self.size * min(1.0, 0.35 + age / 0.55)
        heat = max(0.0, 1 - age / (0.45 * self.seconds))
        rise = self.size * 0.5 * age**0.8
        for i in range(16):
            angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.85)
            u = self.x + math.cos(angle) * far * ball * (1 + 0.12 * age)
            v = self.y - rise * rng.uniform(0.4, 1.2) + math.sin(angle) * far * ball * 0.75
            radius = ball * rng.uniform(0.35, 0.6) * (1 + 0.12 * age)
            canvas.puff(u, v, radius, (50, 46, 46), fading * min(1.0, age / 0.5))
            if heat > 0.05 and i % 5 != 4:
                hot: Colour = (255, int(90 + 130 * heat * rng.random()), int(20 + 60 * heat * heat))
                canvas.puff(u, v + radius * 0.2, radius * (0.45 + 0.5 * heat), hot, heat * 1.3, shines=True)
        if heat > 0.05:
            canvas.glow(self.x, self.y - rise, ball * 2.4, (255, 150, 50), heat)
            canvas.puff(
                self.x, self.y - rise * 0.7, ball * 0.75 * heat, (255, 244, 190), heat * heat, shines=True
            )
        draw_bits(canvas, self.x, self.y, age, self.size * 2.2, 14, self.seed, (40, 34, 30))


def draw_bits(
    canvas: Canvas,
    x: float,
    y: float,
    age: float,
    reach: float,
    count: int,
    seed: int,
    colour: Colour,
    seconds: float = 1.3,
) -> None:
    """Draw `count` small pieces thrown from (x, y) `age` seconds ago, falling under gravity."""
    if not 0 <= age < seconds:
        return
    rng = random.Random(seed)
    for _ in range(count):
        angle, speed = rng.uniform(-2.9, -0.25), reach * rng.uniform(0.4, 1.0)
        u = x + math.cos(angle) * speed * age
        v = y + math.sin(angle) * speed * age + 0.9 * reach * age * age
        size = rng.uniform(1.2, 3.2)
        spin = rng.uniform(4, 14) * age
        du, dv = size * math.cos(spin), size * math.sin(spin)
        canvas.polygon([(u - du, v - dv), (u + dv, v - du), (u + du, v + dv)], colour)


def draw_ash(canvas: Canvas, x: float, y: float, opacity: float) -> None:
    """Draw the black mark that a fire leaves on the ground."""
    canvas.puff(x, y, 24, (16, 14, 12), opacity, flat=0.35)


def draw_skid_marks(canvas: Canvas, x: float, y: float, way: int) -> None:
    """Draw where tyres slid to (x, y), `way` 1 from the left, -1 from the right."""
    for wheel in (-2, 9):
        canvas.line([(x - way * 95, y + wheel - 3), (x - way * 12, y + wheel)], (34, 34, 36), 1.8)


def draw_broken_glass(canvas: Canvas, x: float, y: float, seed: int) -> None:
    """Draw pieces of glass strewn on the ground around (x, y)."""
    litter = random.Random(seed)
    for _ in range(16):
        u, v, size = x + litter.gauss(0, 24), y + litter.uniform(0, 12), litter.uniform(0.8, 2.2)
        canvas.rectangle(u - size, v - size / 2, u + size, v + size / 2, (206, 212, 216))


def draw_rain(canvas: Canvas, t: float, seed: int) -> None:
    """Draw this moment's rain drops over the whole picture."""
    rng = random.Random(seed * 100_003 + round(t * 1000))
    for _ in range(46):
        x, y, long = rng.uniform(-10, 320), rng.uniform(-15, 235), rng.uniform(7, 15)
        canvas.line([(x, y), (x + long * 0.22, y + long)], (188, 196, 206), 0.8)
