"""The sample's videos as a plan: which scene, which deeds, from which frame to which; seeds decide all."""

import math
import random
from dataclasses import dataclass
from functools import cache

from vadclip.labels import Classes
from vadclip.sample.actors import Actor, Stage
from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.everyday import CONFUSERS, parked, passers_by, sunset, traffic
from vadclip.sample.scenes import TIMES, Conditions, Layout, layout_name, make_layout

WORLD_VERSION = "street-2"  # raised whenever a pixel of the sample changes
CLASSES = Classes(
    labels=("Normal", "Fighting", "Explosion", "Arson", "RoadAccident", "Stealing", "Vandalism"),
    prompts=("normal", "fighting", "explosion", "arson", "road accident", "stealing", "vandalism"),
)
SIZES = ((256, 192), (288, 216), (320, 240))
RATES = (12, 15)
SECONDS = (15.0, 23.0)
ANOMALY_SECONDS = {
    "Fighting": (3.2, 6.0),
    "Explosion": (2.8, 4.5),
    "Arson": (3.6, 6.5),
    "RoadAccident": (3.0, 5.0),
    "Stealing": (2.8, 4.5),
    "Vandalism": (3.2, 6.0),
}
_ON_THE_ROAD = {"RoadAccident", "parking", "headlights"}
_PER_ANOMALY = {"train": 60, "test": 14}
_NORMALS = {"train": 360, "test": 80}


@dataclass(frozen=True)
class Happening:
    """An anomaly (by its label) or a confuser (by its name), frames [start, end)."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class VideoPlan:
    """All that decides a video's pixels, with the world's version."""

    video_id: str
    split: str
    label: str
    seed: int
    layout: str
    conditions: Conditions
    size: tuple[int, int]
    fps: int
    num_frames: int
    happenings: tuple[Happening, ...]

    @property
    def anomaly(self) -> Happening | None:
        """The video's anomaly, None in a normal video."""
        return next((deed for deed in self.happenings if deed.kind in ANOMALIES), None)


@cache
def sample_plans() -> tuple[VideoPlan, ...]:
    """Return the plans of the sample's train and test videos, in the order of their ids."""
    plans = []
    for split in ("train", "test"):
        labels = [CLASSES.normal] * _NORMALS[split]
        labels += [label for label in ANOMALIES for _ in range(_PER_ANOMALY[split])]
        seen: dict[str, int] = {}
        for i, label in enumerate(labels):
            number = seen[label] = seen.get(label, 0) + 1
            plans.append(make_plan(f"{split}_{label.lower()}_{number:03d}", split, label, i))
    return tuple(plans)


def make_plan(video_id: str, side: str, label: str, turn: int) -> VideoPlan:
    """Plan one video. `turn` walks normal videos through the confusers, the id seeds the rest."""
    rng = random.Random(f"{WORLD_VERSION} {video_id}")
    time = rng.choice(TIMES)
    conditions = Conditions(
        time, rain=time != "sunset" and rng.random() < 0.22, noise=rng.choice((1.5, 4.0, 8.0))
    )
    fps = rng.choice(RATES)
    num_frames = round(rng.uniform(*SECONDS) * fps)
    happenings: list[Happening] = []
    confusers = list(CONFUSERS)
    free = [(round(1.0 * fps), num_frames - round(1.0 * fps))]
    if label != CLASSES.normal:
        longest = min(ANOMALY_SECONDS[label][1] * fps, 0.35 * num_frames)
        length = math.floor(rng.uniform(ANOMALY_SECONDS[label][0] * fps, longest))
        start = rng.randint(round(2.2 * fps), num_frames - length - round(0.8 * fps))
        happenings.append(Happening(label, start, start + length))
        margin = round(3.0 * fps)
        free = [(free[0][0], start - margin), (start + length + margin, free[0][1])]
    for i, (first, last) in enumerate(free):
        if last - first < 3 * fps or (label != CLASSES.normal and rng.random() < 0.3):
            continue
        kind = confusers[(turn + i) % len(confusers)] if label == CLASSES.normal else rng.choice(confusers)
        length = min(last - first, round(rng.uniform(3.0, 6.0) * fps))
        start = rng.randint(first, last - length)
        happenings.append(Happening(kind, start, start + length))
        later = start + length + round(3.5 * fps)
        if label == CLASSES.normal and last - later > 3 * fps:
            happenings.append(Happening(rng.choice(confusers), later, min(last, later + round(4.5 * fps))))
    return VideoPlan(
        video_id=video_id,
        split=side,
        label=label,
        seed=rng.randrange(2**31),
        layout=layout_name(side, video_id, rng),
        conditions=conditions,
        size=rng.choice(SIZES),
        fps=fps,
        num_frames=num_frames,
        happenings=tuple(sorted(happenings, key=lambda deed: deed.start)),
    )


@dataclass(frozen=True)
class Cast:
    """A plan's layout and everything that moves in it."""

    layout: Layout
    actors: tuple[Actor, ...]


def cast(plan: VideoPlan) -> Cast:
    """Return who and what plays in a plan's video."""
    layout = make_layout(plan.layout)
    stage = Stage(layout, plan.conditions, random.Random(plan.seed))
    seconds = plan.num_frames / plan.fps
    actors: list[Actor] = []
    closed = []
    if plan.conditions.time == "sunset":
        actors += sunset(stage, 0.0, seconds)
    for deed in plan.happenings:
        build = ANOMALIES.get(deed.kind) or CONFUSERS[deed.kind]
        actors += build(stage, deed.start / plan.fps, deed.end / plan.fps)
        if deed.kind in _ON_THE_ROAD:
            closed.append((deed.start / plan.fps - 4.0, deed.end / plan.fps + 4.0))
    actors += parked(stage)
    actors += passers_by(stage, seconds)
    actors += traffic(stage, seconds, closed)
    return Cast(layout, tuple(actors))
