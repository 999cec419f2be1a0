"""Draw the README's picture of the classes: `python -m benchmarks.contact_sheet [--out FILE]`.

A row per class, six moments from just before the deed to just after it; scenes of the CLIP's training side:
nobody looks at a test video.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from vadclip.files import atomic_path
from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.film import draw_frames
from vadclip.sample.world import CLASSES, Happening, VideoPlan, make_plan

MOMENTS = (-0.15, 0.06, 0.3, 0.55, 0.8, 1.12)  # shares of the deed
TILE, LABEL = (168, 126), 16
_NORMAL_ROWS = ("hugging", "headlights")
_CHOICE = {"Fighting": 5, "Explosion": 5, "Arson": 0, "RoadAccident": 3, "Stealing": 1, "Vandalism": 7}


def contact_sheet() -> Image.Image:
    """Return the sheet."""
    plans = list(development_plans("clip", 8))
    rows = []
    for kind in _NORMAL_ROWS:
        plan, deed = next((plan, deed) for plan in plans for deed in plan.happenings
                          if deed.kind == kind and plan.label == CLASSES.normal)  # fmt: skip
        rows.append((f"{CLASSES.prompts[0]} ({kind})", plan, deed))
    for label, prompt in zip(CLASSES.labels[1:], CLASSES.prompts[1:], strict=True):
        plan = [plan for plan in plans if plan.label == label][_CHOICE[label]]
        assert plan.anomaly is not None
        rows.append((prompt, plan, plan.anomaly))
    sheet = Image.new("RGB", (TILE[0] * len(MOMENTS), (TILE[1] + LABEL) * len(rows)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for row, (title, plan, deed) in enumerate(rows):
        top = row * (TILE[1] + LABEL)
        pen.text((4, top + 3), title, fill=(0, 0, 0))
        for column, image in enumerate(draw_frames(plan, _moments(plan, deed))):
            small = image.resize((TILE[0] - 2, TILE[1] - 2), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * TILE[0], top + LABEL))
    return sheet


def development_plans(side: str, per_kind: int) -> Iterator[VideoPlan]:
    """Yield plans outside the sample: `per_kind` videos of each anomaly, and as many normal ones."""
    assert side in {"clip", "check"}
    turn = 0
    for number in range(per_kind):
        for label in ANOMALIES:
            yield make_plan(f"{side}_{label.lower()}_{number:03d}", side, label, turn)
            yield make_plan(f"{side}_normal_{turn:04d}", side, CLASSES.normal, turn)
            turn += 1


def _moments(plan: VideoPlan, deed: Happening) -> list[int]:
    length = deed.end - deed.start
    return [min(plan.num_frames - 1, max(0, round(deed.start + share * length))) for share in MOMENTS]


def main() -> None:
    """Write the sheet as a PNG of 256 colours, which keeps it small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/sample_classes.png"))
    out: Path = parser.parse_args().out
    with atomic_path(out) as temporary:
        contact_sheet().quantize(256, dither=Image.Dither.NONE).save(temporary, optimize=True)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
