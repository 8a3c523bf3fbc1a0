"""When a peer tends to be there, how long it tends to stay away, and so how long to wait for it. Pure.

Per peer: a sketch of availability by hour of the week (UTC), and the longest absences of the last half
year. All lengths are *observed* seconds: time in which this node was running and reached its peers.
The reasons for the numbers are in docs/design/liveness.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import NamedTuple

from potsherd.classes import dataclass

__all__ = ["ABSENCES_MAX", "HOURS_PER_WEEK", "Absence", "Habits", "LossPolicy", "hour_of_week"]

HOURS_PER_WEEK = 168
HOUR_S = 3600.0
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
COUNT_MAX = 48
"""Heartbeats counted per hour of the week: eight weeks of six; then both counts are halved."""
ABSENCES_MAX = 8
"""Absences remembered, the longest ones."""
ABSENCE_MEMORY_WEEKS = 26
"""Weeks after which an absence is forgotten."""
SLEEPER_SHARE = 0.1
"""Share of time away from which on a peer counts fully as one that sleeps."""


def hour_of_week(utc: float) -> int:
    """0 to 167; 0 is the first hour of a Thursday, as 1970 began with one."""
    return int(utc // HOUR_S) % HOURS_PER_WEEK


@dataclass(frozen=True)
class LossPolicy:
    """How long a silent peer is waited for before it is given up. Seconds; settings scale them together."""

    prior_s: float = 14 * DAY_S
    """For a newcomer, of whom nothing is known: of the calendar, so a watcher that sleeps needs less of its own."""
    prior_share_min: float = 0.25
    """The least of it that a watcher waits in its own time, however seldom it is on."""
    learned_s: float = 21 * DAY_S
    """Observed time after which only a peer's own habits count; until then they gain weight evenly."""
    floor_s: float = 18 * HOUR_S
    """The least for a peer that is always there."""
    sleeper_floors: float = 7.0
    """The least for a peer that is away a tenth of the time or more, in units of `floor_s`."""
    longest_absences: float = 2.5
    """The least in units of the longest absence remembered."""
    ceiling_s: float = 60 * DAY_S
    """Nobody is waited for longer."""
    missed_s: float = 12 * HOUR_S
    """A peer must have missed this much of the time in which it is usually there."""


class Absence(NamedTuple):
    """One absence that has ended."""

    length_s: float
    week: int
    """Weeks since 1970 of its end."""


@dataclass
class Habits:
    """What has been learned of one peer."""

    up: bytearray = field(default_factory=lambda: bytearray(HOURS_PER_WEEK))
    tries: bytearray = field(default_factory=lambda: bytearray(HOURS_PER_WEEK))
    pending: bytearray | None = None
    """Heartbeats not answered since it was last seen: they count when it returns, because a dead server
    must not look like a sleeper by having been dead for a while."""
    observed_s: float = 0.0
    """Observed time since it was first seen."""
    absences: list[Absence] = field(default_factory=list)
    """At most ABSENCES_MAX, the longest first."""
    _overall: float | None = field(default=None, init=False, repr=False, compare=False)
    """Kept until the sketch changes: it is asked for every minute, the sketch changes every ten."""

    def answered(self, utc: float) -> None:
        """A heartbeat was answered."""
        self._settle()
        hour = hour_of_week(utc)
        self._add(hour, 1)
        self.up[hour] += 1
        self._overall = None

    def missed(self, utc: float) -> None:
        """A heartbeat was not answered."""
        if self.pending is None:
            self.pending = bytearray(HOURS_PER_WEEK)
        hour = hour_of_week(utc)
        self.pending[hour] = min(COUNT_MAX, self.pending[hour] + 1)

    def _add(self, hour: int, tries: int) -> None:
        while self.tries[hour] + tries > COUNT_MAX:
            self.tries[hour] //= 2
            self.up[hour] //= 2
        self.tries[hour] += tries
        self._overall = None

    def _settle(self) -> None:
        """What was missed counts now."""
        pending, self.pending = self.pending, None
        for hour, tries in enumerate(pending or b""):
            self._add(hour, tries)

    def returned(self, away_s: float, utc: float) -> None:
        """An absence has ended."""
        self._settle()
        week = int(utc // WEEK_S)
        known = [a for a in self.absences if abs(week - a.week) <= ABSENCE_MEMORY_WEEKS]
        known.append(Absence(away_s, week))
        self.absences = sorted(known, reverse=True)[:ABSENCES_MAX]

    def overall(self) -> float:
        """Share of heartbeats answered, over all hours; 1.0 for a peer never asked."""
        if self._overall is None:
            self._overall = (sum(self.up) + 1) / (sum(self.tries) + 1)
        return self._overall

    def availability(self, utc: float) -> float:
        """Expected chance that it is there at this hour of the week: its own hour, drawn to the overall."""
        hour = hour_of_week(utc)
        return (self.up[hour] + self.overall()) / (self.tries[hour] + 1)

    def patience_s(self, policy: LossPolicy, week: int, share: float = 1.0) -> float:
        """Observed silence after which it is given up; `share` of the calendar is observed (attendance.py)."""
        longest = max((a.length_s for a in self._recent(week)), default=0.0)
        sleeping = min(1.0, (1.0 - self.overall()) / SLEEPER_SHARE)
        floor = policy.floor_s * (1.0 + (policy.sleeper_floors - 1.0) * sleeping)
        learned = min(policy.ceiling_s, max(floor, policy.longest_absences * longest))
        weight = min(1.0, self.observed_s / policy.learned_s)
        prior = policy.prior_s * max(policy.prior_share_min, share)
        return float(learned**weight * prior ** (1.0 - weight))

    def _recent(self, week: int) -> Sequence[Absence]:
        return [a for a in self.absences if abs(week - a.week) <= ABSENCE_MEMORY_WEEKS]
