"""When in the week nodes are online: 168 hours, Monday 0:00 first, as weights with mean 1.

A node of uptime a is online in an hour of weight w with chance a·w, never more than 1; what is cut off there is
given back to the other hours, so that the mean stays a.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from potsherd.errors import UsageError

__all__ = ["HABITS", "HOURS_PER_WEEK", "online_by_hour"]

HOURS_PER_WEEK = 168
ROUNDS = 60


def _week(weekday: list[float], weekend: list[float]) -> NDArray[np.float64]:
    week = np.array(weekday * 5 + weekend * 2)
    return np.asarray(week / week.mean())


def _hours(start: int, end: int, inside: float, outside: float) -> list[float]:
    return [inside if start <= hour < end else outside for hour in range(24)]


HABITS: dict[str, NDArray[np.float64]] = {
    "none": np.ones(HOURS_PER_WEEK),
    "office": _week(_hours(8, 19, 1.0, 0.08), _hours(10, 16, 0.12, 0.06)),
    "evening": _week(_hours(17, 23, 1.0, 0.25), _hours(10, 24, 1.0, 0.25)),
    "server": _week(_hours(0, 24, 1.0, 1.0), _hours(0, 24, 0.97, 0.97)),
}
"""office: a lab's desktops, on in working hours; evening: at home; server: maintenance at weekends."""


def online_by_hour(habit: str, uptime: float, shift_hours: int = 0) -> NDArray[np.float64]:
    """Chance of being online in each hour of the week, with mean `uptime`. Raises UsageError for unknown habits."""
    if habit not in HABITS:
        raise UsageError(f"habit = {habit!r}: not one of {', '.join(HABITS)}")
    weights = HABITS[habit]
    level = uptime
    for _ in range(ROUNDS):
        found = np.minimum(1.0, level * weights)
        level *= uptime / found.mean()
    return np.roll(np.minimum(1.0, level * weights), shift_hours)
