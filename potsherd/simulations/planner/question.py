"""What a planner is asked: donors, data, and what is to be reached."""

from __future__ import annotations

import math
from functools import cached_property

from potsherd.classes import dataclass
from potsherd.durability.census import Churn
from potsherd.durability.long_run import assumed
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Distribution, Exponential
from potsherd.simulations.montecarlo.habits import HABITS
from potsherd.simulations.montecarlo.scenario import NODES_MAX, SEGMENT_BYTES, NodeClass
from potsherd.simulations.quantities import HOURS_PER_YEAR, SECONDS_PER_YEAR

__all__ = ["REPAIRS_COUNTED", "SITES_COUNTED", "Question"]

REPAIRS_COUNTED = 100.0
"""The mean repair is taken as known as if from so many repairs: ± 20 %."""
SITES_COUNTED = 0.5
"""How often a whole site is lost is hardly ever known: as if from half an event."""
DATA_MAX = 1e21


@dataclass(frozen=True)
class Question:
    """Times in years, sizes in bytes, lines in bytes a second, rates per year."""

    donors: int
    uptime: float
    turnover: float
    """Departures for good, per donor and year; whoever leaves is replaced."""
    disk: float
    up: float
    down: float
    data: float
    target: float
    """Chance a year that any of the data is lost."""
    sites: int = 0
    """0: every donor stands for itself."""
    site_loss: float = 0.02
    """How often a year a site is lost whole."""
    gone_after: float = 14 / 365.25
    repair_share: float = 0.5
    """Of a donor's line that repair may use."""
    session: float = 8 / HOURS_PER_YEAR
    habit: str = "none"
    readable: float = 0.999
    """At least this chance that a segment can be read at a moment."""
    spare: float = 0.1
    """Share of the given disk that stays free: for repair, staging, new data."""
    absence: Distribution | None = None
    """Stretches offline, if measured."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check("donors", self.donors, 2 <= self.donors <= NODES_MAX, f"not from 2 to {NODES_MAX:,}")
        _check("uptime", self.uptime, 0 < self.uptime <= 1, "not above 0 and up to 1")
        _check(
            "turnover",
            self.turnover,
            0 < self.turnover < math.inf,
            "not above 0; if nobody leaves, disks still fail: 1%/y",
        )
        for name in ("disk", "up", "down", "session", "gone_after"):
            value = getattr(self, name)
            _check(name, value, 0 < value < math.inf, "not above 0")
        _check("data", self.data, 0 < self.data <= DATA_MAX, f"not above 0, up to {DATA_MAX:g}")
        _check("target", self.target, 0 < self.target < 1, "not above 0 and below 1")
        _check("sites", self.sites, 0 <= self.sites <= self.donors, "not from 0 to donors")
        _check("sites", self.sites, self.sites != 1, "one site is no spread; leave it out")
        _check("site_loss", self.site_loss, 0 < self.site_loss < 365, "not above 0")
        _check("repair_share", self.repair_share, 0 < self.repair_share <= 1, "not above 0 to 1")
        _check("habit", self.habit, self.habit in HABITS, f"not one of {', '.join(HABITS)}")
        _check("readable", self.readable, 0 < self.readable < 1, "not above 0 and below 1")
        _check("spare", self.spare, 0 <= self.spare < 1, "not from 0 to below 1")

    @property
    def segments(self) -> int:
        """Of about 1 GiB, or one of what there is."""
        return max(1, math.ceil(self.data / SEGMENT_BYTES))

    @property
    def segment_bytes(self) -> float:
        """Of one."""
        return self.data / self.segments

    @cached_property
    def nodes(self) -> NodeClass:
        """The donors as the sampled model has them."""
        return NodeClass(
            count=self.donors,
            life=Exponential(1 / self.turnover),
            uptime=self.uptime,
            session_years=self.session,
            habit=self.habit,
            disk_bytes=self.disk,
            up=self.up,
            down=self.down,
            sites=self.sites,
            absence=self.absence,
        )

    @cached_property
    def given_up(self) -> float:
        """Per donor and year: absences so long that shards are given up, though it comes back."""
        return self.nodes.given_up_per_year(self.gone_after)

    @property
    def shard_loss(self) -> float:
        """Of a shard a year, sites not counted."""
        return self.turnover + self.given_up

    @property
    def line_bytes_per_year(self) -> float:
        """That repair may send through all donors' lines together."""
        return self.donors * self.up * self.uptime * self.repair_share * SECONDS_PER_YEAR

    @property
    def expansion_max(self) -> float:
        """n / k for which the disks suffice, the spare left free."""
        return self.donors * self.disk * (1 - self.spare) / self.data

    def churn(self, repair_years: float) -> Churn:
        """As sure as a year of watching these donors would make one."""
        return Churn(
            departures=assumed(self.shard_loss, max(0.5, self.shard_loss * self.donors)),
            repairs=assumed(1 / repair_years, REPAIRS_COUNTED),
            domain_failures=assumed(self.site_loss, SITES_COUNTED),
        )


def _check(name: str, value: object, good: bool, why: str) -> None:
    if not good:
        raise UsageError(f"{name} = {value}: {why}")
