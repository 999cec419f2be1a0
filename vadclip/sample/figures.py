"""People, drawn as jointed figures: a pose is a set of angles, a figure a set of colours and sizes."""

import math
from dataclasses import dataclass

from vadclip.sample.canvas import Canvas, Colour, Point


@dataclass(frozen=True)
class Figure:
    """How somebody looks: height in canvas units and the colours of skin, hair, shirt, trousers and bag."""

    height: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    bag: Colour


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians, 0 straight down, positive forward; `tilt` turns all about the feet."""

    lean: float = 0.0
    drop: float = 0.0  # how far the hips sink, as a share of the leg
    thighs: tuple[float, float] = (0.06, -0.06)
    shins: tuple[float, float] = (0.0, 0.0)
    uppers: tuple[float, float] = (0.1, -0.1)
    forearms: tuple[float, float] = (0.2, 0.05)
    tilt: float = 0.0


def pose(name: str, phase: float, progress: float) -> Pose:
    """Return the named pose; `phase` (radians) drives what repeats, `progress` (0 to 1) what happens once."""
    s, c = math.sin(phase), math.cos(phase)
    match name:
        case "walk":
            return Pose(
                lean=0.04,
                thighs=(0.45 * s, -0.45 * s),
                shins=(0.45 * s - 0.35 * max(0.0, c), -0.45 * s - 0.35 * max(0.0, -c)),
                uppers=(-0.4 * s, 0.4 * s),
                forearms=(-0.4 * s + 0.3, 0.4 * s + 0.3),
            )
        case "run":
            return Pose(
                lean=0.28,
                drop=0.04,
                thighs=(0.95 * s + 0.1, -0.95 * s + 0.1),
                shins=(0.6 * s - 0.8, -0.6 * s - 0.8),
                uppers=(-1.0 * s, 1.0 * s),
                forearms=(-1.0 * s + 1.4, 1.0 * s + 1.4),
            )
        case "stand":
            return Pose(lean=0.02 * s)
        case "talk":
            return Pose(uppers=(0.3 + 0.25 * s, -0.05), forearms=(1.2 + 0.4 * s, 0.2))
        case "hug":
            return Pose(
                lean=0.16 + 0.02 * s,
                uppers=(1.25, 1.05),
                forearms=(1.55 + 0.05 * s, 1.2),
                thighs=(0.0, -0.14),
            )
        case "punch":
            left, right = max(0.0, s), max(0.0, -s)
            return Pose(
                lean=0.18 + 0.22 * c,
                drop=0.08,
                thighs=(0.5, -0.5),
                shins=(0.15, -0.7),
                uppers=(0.7 + 0.9 * left, 0.7 + 0.9 * right),
                forearms=(2.4 - 0.8 * left, 2.4 - 0.8 * right),
            )
        case "kick":
            raised = max(0.0, s)
            return Pose(
                lean=-0.25 * raised + 0.1,
                thighs=(0.2 + 1.3 * raised, -0.15),
                shins=(1.5 * raised - 0.2, -0.25),
                uppers=(-0.8, 0.9),
                forearms=(0.2, 2.0),
            )
        case "guard":
            return Pose(
                lean=-0.15 - 0.2 * max(0.0, s),
                drop=0.1,
                thighs=(0.4, -0.45),
                shins=(0.0, -0.7),
                uppers=(1.1 + 0.3 * s, 1.3),
                forearms=(2.7, 2.9),
            )
        case "fall":
            return Pose(tilt=-1.45 * min(1.0, progress * 3), uppers=(1.2, 0.8), forearms=(1.8, 1.0))
        case "lie":
            return Pose(tilt=-1.45, uppers=(0.9 + 0.3 * s, 0.5), forearms=(1.4, 0.6), thighs=(0.3, 0.0))
        case "rise":
            return Pose(tilt=-1.45 * (1 - progress), drop=0.4 * (1 - progress), thighs=(0.5, -0.2))
        case "crouch":
            return Pose(
                lean=0.55,
                drop=0.5,
                thighs=(1.35, 0.9),
                shins=(-0.9, -1.2),
                uppers=(0.9, 0.7 + 0.2 * s),
                forearms=(0.9 + 0.3 * s, 0.9),
            )
        case "sneak":
            return Pose(
                lean=0.5,
                drop=0.12,
                thighs=(0.5 * s + 0.3, -0.5 * s + 0.3),
                shins=(0.3 * s - 0.7, -0.3 * s - 0.7),
                uppers=(0.6, 0.2),
                forearms=(1.3, 1.0),
            )
        case "tug":
            return Pose(
                lean=-0.3 + 0.16 * s,
                drop=0.1,
                thighs=(0.6, -0.3),
                shins=(0.4, -0.4),
                uppers=(1.2, 1.4),
                forearms=(1.5, 1.6),
            )
        case "alarm":
            return Pose(lean=-0.05, uppers=(2.5 + 0.3 * s, 2.6 - 0.3 * s), forearms=(2.9 + 0.3 * s, 3.0))
        case "spray":
            return Pose(lean=0.12, uppers=(1.75 + 0.45 * s, 0.3), forearms=(1.75 + 0.55 * s, 0.9))
        case "wipe":
            return Pose(lean=0.06, uppers=(1.9 + 0.35 * s, 0.1), forearms=(2.2 + 0.3 * s, 0.3))
        case "smash":
            blow = 0.5 + 0.5 * s
            return Pose(
                lean=-0.15 + 0.55 * blow,
                drop=0.06,
                thighs=(0.45, -0.4),
                shins=(0.1, -0.6),
                uppers=(2.9 - 1.7 * blow, 2.7 - 1.6 * blow),
                forearms=(3.1 - 1.8 * blow, 2.9 - 1.7 * blow),
            )
        case _:
            raise AssertionError(f"no pose is called {name}")


def draw_person(
    canvas: Canvas, figure: Figure, x: float, y: float, facing: int, stance: Pose, carried: str
) -> None:
    """Draw somebody whose feet stand at (x, y). `carried`: "" or bag, bat, can, cloth, umbrella."""
    h = figure.height
    turn_cos, turn_sin = math.cos(stance.tilt * facing), math.sin(stance.tilt * facing)

    def at(dx: float, dy: float) -> Point:
        return (x + dx * turn_cos - dy * turn_sin, y + dx * turn_sin + dy * turn_cos)

    def limb(start: Point, first: float, second: float, length: float) -> tuple[Point, Point]:
        knee = (start[0] + facing * math.sin(first) * length, start[1] + math.cos(first) * length)
        return knee, (knee[0] + facing * math.sin(second) * length, knee[1] + math.cos(second) * length)

    canvas.puff(x, y, 0.26 * h, (20, 20, 24), 0.45, flat=0.28)
    hip = (0.0, -0.47 * h * (1 - stance.drop))
    shoulder = (hip[0] + facing * math.sin(stance.lean) * 0.31 * h, hip[1] - math.cos(stance.lean) * 0.31 * h)
    head = (
        shoulder[0] + facing * math.sin(stance.lean) * 0.13 * h,
        shoulder[1] - math.cos(stance.lean) * 0.12 * h,
    )
    darker: Colour = (figure.shirt[0] * 3 // 4, figure.shirt[1] * 3 // 4, figure.shirt[2] * 3 // 4)
    elbow_far, hand_far = limb(shoulder, stance.uppers[1], stance.forearms[1], 0.18 * h)
    canvas.line([at(*shoulder), at(*elbow_far), at(*hand_far)], darker, 0.075 * h)
    for thigh, shin in zip(stance.thighs, stance.shins, strict=True):
        knee, foot = limb(hip, thigh, shin, 0.24 * h)
        canvas.line([at(*hip), at(*knee), at(*foot)], figure.trousers, 0.095 * h)
    canvas.line([at(*hip), at(*shoulder)], figure.shirt, 0.2 * h)
    skull = at(*head)
    canvas.ellipse(skull[0], skull[1] - 0.012 * h, 0.078 * h, 0.088 * h, figure.hair)
    canvas.ellipse(skull[0] + facing * 0.02 * h, skull[1] + 0.018 * h, 0.062 * h, 0.07 * h, figure.skin)
    elbow, hand = limb(shoulder, stance.uppers[0], stance.forearms[0], 0.18 * h)
    canvas.line([at(*shoulder), at(*elbow), at(*hand)], figure.shirt, 0.075 * h)
    grip = at(*hand)
    canvas.ellipse(*grip, 0.04 * h, 0.04 * h, figure.skin)
    if carried:
        reach = (math.sin(stance.forearms[0]) * facing, math.cos(stance.forearms[0]))
        _draw_carried(canvas, figure, carried, grip, reach, at(*head))


def _draw_carried(
    canvas: Canvas, figure: Figure, carried: str, grip: Point, reach: Point, head: Point
) -> None:
    h = figure.height
    if carried == "bag":
        draw_bag(canvas, grip[0], grip[1] + 0.15 * h, h, figure.bag)
    elif carried == "bat":
        tip = (grip[0] + reach[0] * 0.36 * h, grip[1] + reach[1] * 0.36 * h)
        canvas.line([grip, tip], (96, 62, 34), 0.06 * h)
    elif carried == "can":
        canvas.rectangle(grip[0] - 1.6, grip[1] - 4, grip[0] + 1.6, grip[1] + 3, figure.bag)
    elif carried == "cloth":
        canvas.ellipse(*grip, 0.075 * h, 0.06 * h, (235, 235, 225))
    elif carried == "umbrella":
        canvas.line([grip, (head[0], head[1] - 0.2 * h)], (30, 30, 30), 1.2)
        top = head[1] - 0.3 * h
        canvas.polygon(
            [(head[0] - 0.36 * h, top + 0.16 * h), (head[0], top), (head[0] + 0.36 * h, top + 0.16 * h)],
            figure.bag,
        )
    else:
        raise AssertionError(f"nothing called {carried} can be carried")


def draw_bag(canvas: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    """Draw a hand bag with its middle at (x, y), sized for somebody of `height`."""
    half, deep = 0.13 * height, 0.1 * height
    canvas.line([(x - half * 0.5, y - deep), (x, y - 2 * deep), (x + half * 0.5, y - deep)], colour, 1.4)
    canvas.rectangle(x - half, y - deep, x + half, y + deep, colour)
