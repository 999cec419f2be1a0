"""The threshold of a run in words: where it comes from, and which false alarms go with it."""

from collections.abc import Mapping
from typing import Any

from vadclip.events import Threshold


def describe(threshold: float | Threshold) -> list[str]:
    """Say in lines where the threshold comes from, which false alarms go with it, and what weakens that."""
    if isinstance(threshold, float):
        return [f"Threshold {threshold:g}, as given; which false alarms go with it is not known."]
    lines = [
        f"Threshold {threshold.value:.4g}: {threshold.flagged} of {threshold.videos} normal validation "
        "videos have a score above it."
    ]
    rate, interval = threshold.alarms_per_hour, threshold.alarms_interval
    if rate is None or interval is None:
        lines.append("False alarms an hour are not known: not all validation videos say their frame rate.")
    else:
        lines.append(
            f"False alarms an hour on those videos: {rate:.2g} (95 % interval {interval[0]:.2g} to "
            f"{interval[1]:.2g}, from {threshold.hours:.2g} hours of them)."
        )
    return lines + [f"This is weaker than it looks: {reason}." for reason in threshold.weak_because]


def as_json(threshold: float | Threshold) -> Mapping[str, Any]:
    """Return the same for events.json."""
    if isinstance(threshold, float):
        return {"value": threshold, "given": True}
    return {
        "value": threshold.value,
        "given": False,
        "normal_videos": threshold.videos,
        "normal_videos_flagged": threshold.flagged,
        "normal_hours": threshold.hours,
        "false_alarms_per_hour": threshold.alarms_per_hour,
        "false_alarms_per_hour_interval": threshold.alarms_interval,
        "weak_because": threshold.weak_because,
    }
