"""Drawing surface of the sample world: units of a 320x240 picture, the scene's light, soft sprites."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

WIDTH, HEIGHT = 320.0, 240.0  # every coordinate of the world is in these units, whatever size a video has


@dataclass(frozen=True)
class Light:
    """Ambient light: a factor per colour channel, laid over whatever does not shine by itself."""

    red: float = 1.0
    green: float = 1.0
    blue: float = 1.0

    def on(self, colour: Colour) -> Colour:
        """Return `colour` as the camera sees it in this light."""
        return (
            min(255, int(colour[0] * self.red)),
            min(255, int(colour[1] * self.green)),
            min(255, int(colour[2] * self.blue)),
        )


class Canvas:
    """An RGB image to draw on; `scale` is its pixels per unit. Colours are lit unless `shines` is said."""

    def __init__(self, image: Image.Image, light: Light) -> None:
        self.image = image
        self.scale = image.width / WIDTH
        self.light = light
        self._draw = ImageDraw.Draw(image)

    def _colour(self, colour: Colour, shines: bool) -> Colour:
        return colour if shines else self.light.on(colour)

    def polygon(self, points: Sequence[Point], colour: Colour, shines: bool = False) -> None:
        """Fill a polygon."""
        k = self.scale
        self._draw.polygon([(x * k, y * k) for x, y in points], fill=self._colour(colour, shines))

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a polyline of `width` units."""
        k = self.scale
        shown = [(x * k, y * k) for x, y in points]
        self._draw.line(shown, fill=self.light.on(colour), width=max(1, round(width * k)))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, shines: bool = False) -> None:
        """Fill an ellipse around (x, y)."""
        k = self.scale
        box = ((x - rx) * k, (y - ry) * k, (x + rx) * k, (y + ry) * k)
        self._draw.ellipse(box, fill=self._colour(colour, shines))

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour, shines: bool = False
    ) -> None:
        """Fill an upright rectangle; nothing is drawn when it has no area."""
        if x1 > x0 and y1 > y0:
            k = self.scale
            self._draw.rectangle((x0 * k, y0 * k, x1 * k, y1 * k), fill=self._colour(colour, shines))

    def puff(
        self,
        x: float,
        y: float,
        radius: float,
        colour: Colour,
        opacity: float,
        flat: float = 1.0,
        shines: bool = False,
    ) -> None:
        """Lay a soft-edged blob over the picture: smoke, shadow. `flat` is its height over its width."""
        width = max(2, round(2 * radius * self.scale))
        height = max(2, round(width * flat))
        level = round(16 * min(1.0, opacity))
        if level <= 0:
            return
        left, top = round(x * self.scale - width / 2), round(y * self.scale - height / 2)
        mask = _soft_mask(width, height, level)
        self.image.paste(self._colour(colour, shines), (left, top, left + width, top + height), mask)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """Add light around (x, y), fading to nothing at `radius`."""
        size = max(2, round(2 * radius * self.scale))
        level = round(16 * min(1.0, strength))
        if level <= 0:
            return
        left, top = round(x * self.scale - size / 2), round(y * self.scale - size / 2)
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.image.width, left + size), min(self.image.height, top + size)
        if x0 >= x1 or y0 >= y1:
            return
        sprite = _glow_sprite(size, colour, level).crop((x0 - left, y0 - top, x1 - left, y1 - top))
        lit = ImageChops.add(self.image.crop((x0, y0, x1, y1)), sprite)
        self.image.paste(lit, (x0, y0))


@lru_cache(maxsize=1)
def _radial_profile() -> Image.Image:
    axis = (np.arange(128) - 63.5) / 64.0
    distance = np.hypot(axis[:, None], axis[None, :])
    profile = np.clip(1.0 - distance, 0.0, 1.0) ** 0.8
    return Image.fromarray((255 * np.sin(profile * math.pi / 2) ** 1.5).astype(np.uint8))


@lru_cache(maxsize=1024)
def _soft_mask(width: int, height: int, level: int) -> Image.Image:
    mask = _radial_profile().resize((width, height), Image.Resampling.BILINEAR)
    return mask.point([value * level // 16 for value in range(256)])


@lru_cache(maxsize=512)
def _glow_sprite(size: int, colour: Colour, level: int) -> Image.Image:
    falloff = _radial_profile().resize((size, size), Image.Resampling.BILINEAR)
    # The square keeps the light close to its source; a linear fall-off looks like fog.
    bands = [
        falloff.point([value * value * band * level // (16 * 255 * 255) for value in range(256)])
        for band in colour
    ]
    return Image.merge("RGB", bands)
