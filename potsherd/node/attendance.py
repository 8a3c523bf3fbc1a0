"""How much of the calendar a node observes, so that waits in its own time can be told as days. Pure.

A workstation that is on for 68 hours of the week observes 0.4 of it: running, and within reach of its peers.
The calendar is the only clock that goes on while a machine sleeps or is off, and it cannot be trusted; so one
gap counts for GAP_MAX_S at most, forward or back, and a jump weighs no more than a long weekend.
The reasons are in docs/design/liveness.md.
"""

from __future__ import annotations

from potsherd.classes import dataclass

__all__ = ["GAP_MAX_S", "SHARE_MIN", "Attendance"]

DAY_S = 86_400.0
GAP_MAX_S = 4 * DAY_S
"""What one gap of the calendar counts for at most: a long weekend."""
WINDOW_S = 56 * DAY_S
"""Calendar time after which both sums are halved: habits change."""
BEGIN_S = 3 * DAY_S
"""Taken as observed at the begin, so that the first night does not decide."""
SHARE_MIN = 0.02
"""The least share that is told."""


@dataclass
class Attendance:
    """Sums that fade: `observed_s` of `calendar_s` seconds, counted up to the date `at` (None: not begun)."""

    observed_s: float = BEGIN_S
    calendar_s: float = BEGIN_S
    at: float | None = None

    def count(self, observed_s: float, utc: float) -> None:
        """So much was observed since the last call; `utc` is what the calendar says now."""
        gap = 0.0 if self.at is None else utc - self.at
        self.at = utc
        self.observed_s += observed_s
        self.calendar_s += min(GAP_MAX_S, max(-GAP_MAX_S, gap))
        # a clock set back does not make us observe more than there was
        self.calendar_s = max(self.calendar_s, self.observed_s)
        if self.calendar_s > WINDOW_S:
            self.observed_s, self.calendar_s = self.observed_s / 2, self.calendar_s / 2

    @property
    def share(self) -> float:
        """Of the calendar: SHARE_MIN to 1."""
        return max(SHARE_MIN, self.observed_s / self.calendar_s)
