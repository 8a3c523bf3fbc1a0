"""What is simulated: nodes, data, code, repair, and what strikes many at once (the file that `potsherd simulate` reads)."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal, TypeAlias

import numpy as np

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Distribution, Exponential
from potsherd.simulations.montecarlo.habits import HABITS
from potsherd.simulations.quantities import HOURS_PER_YEAR, SECONDS_PER_YEAR

__all__ = [
    "SEGMENT_BYTES",
    "NodeClass",
    "Repair",
    "Scenario",
    "Scope",
    "Shock",
    "Start",
]

Scope: TypeAlias = Literal["site", "operator", "network"]
Start: TypeAlias = Literal["met", "new"]

SEGMENT_BYTES = 2.0**30
"""Content of a whole segment, about (design: terms)."""
NODES_MAX = 4_000_000
SEGMENTS_MAX = 20_000_000
EVENTS_MAX = 1e11
"""Shard losses of one replicate, as expected; beyond it a run would take hours."""
REPLICATES_MAX = 10_000
YEARS_MAX = 10_000.0


def _check(good: bool, name: str, value: object, why: str) -> None:
    if not good:
        raise UsageError(f"{name} = {value}: {why}")


@dataclass(frozen=True)
class NodeClass:
    """Nodes that are alike."""

    count: int
    life: Distribution
    """Years from coming to leaving for good."""
    name: str = "nodes"
    uptime: float = 1.0
    """Share of time online, above 0, up to 1."""
    session_years: float = 8 / HOURS_PER_YEAR
    """Mean stretch online; the mean absence follows from the uptime. Not used when `absence` is given."""
    absence: Distribution | None = None
    """Stretches offline; None: exponential. The mean stretch online then follows from the uptime."""
    habit: str = "none"
    """One of `potsherd.simulations.montecarlo.habits.HABITS`: when in the week it is online."""
    disk_bytes: float = 1e12
    """Given to the network."""
    up: float = 10e6 / 8
    """Bytes a second that it can send."""
    down: float = 50e6 / 8
    """Bytes a second that it can receive."""
    sites: int = 0
    """Spread evenly over so many sites; 0: no declared site. Classes with sites share them by number."""
    operators: int = 0
    """Likewise for operators."""
    replaced: bool = True
    """Whether a new node of the class comes when one leaves."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check(1 <= self.count <= NODES_MAX, "count", self.count, f"not from 1 to {NODES_MAX}")
        _check(0 < self.uptime <= 1, "uptime", self.uptime, "not above 0 and up to 1")
        _check(self.session_years > 0, "session", self.session_years, "not above 0")
        _check(self.habit in HABITS, "habit", self.habit, f"not one of {', '.join(HABITS)}")
        for name in ("disk_bytes", "up", "down"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value > 0, name, value, "not above 0")
        for name in ("sites", "operators"):
            value = getattr(self, name)
            _check(0 <= value <= self.count, name, value, f"not from 0 to {self.count}")

    @property
    def absence_years(self) -> float:
        """Mean stretch offline."""
        if self.uptime >= 1:
            return 0.0
        if self.absence is not None:
            return self.absence.mean
        return self.session_years * (1 - self.uptime) / self.uptime

    def given_up_per_year(self, gone_after_years: float) -> float:
        """How often an absence is so long that its shards are given up though it comes back."""
        if self.uptime >= 1 or gone_after_years <= 0:
            return 0.0
        # A stretch offline is the share 1 − uptime of a cycle.
        cycle = self.absence_years / (1 - self.uptime)
        if self.absence is not None:
            return float(self.absence.survival(np.array([gone_after_years]))[0]) / cycle
        return math.exp(-gone_after_years / self.absence_years) / cycle


@dataclass(frozen=True)
class Repair:
    """From the loss that takes a segment below r to all n shards being live again."""

    kind: Literal["timed", "exponential"] = "timed"
    """timed: noticing, then transfer through the repairer's line; exponential: of this mean, as the chain has it."""
    notice_years: float = 14 / 365.25
    """Timed: until a silent node counts as gone."""
    mean_years: float = 15 / 365.25
    """Exponential: mean of the whole."""
    bandwidth: float = 0.5
    """Timed: share of a node's bandwidth that repair may use while it is online."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check(self.kind in ("timed", "exponential"), "repair.kind", self.kind, "unknown")
        _check(self.notice_years >= 0, "repair.notice", self.notice_years, "not 0 or more")
        _check(self.mean_years > 0, "repair.mean", self.mean_years, "not above 0")
        _check(0 < self.bandwidth <= 1, "repair.bandwidth", self.bandwidth, "not above 0, up to 1")


@dataclass(frozen=True)
class Shock:
    """Many nodes lose their data at one moment."""

    name: str
    scope: Scope
    """Which nodes may be hit: those of one site or operator, chosen at random, or all."""
    per_year: float = 0.0
    """How often, for each site or operator; for the network as a whole."""
    share: float = 1.0
    """Each node within the scope is hit with this chance."""
    leaves: bool = False
    """Whether those hit are gone for good, without replacement."""
    at_years: tuple[float, ...] = ()
    """Also at these moments."""
    dark_years: float = 0.0
    """Above 0: a power cut. Nodes hit are offline for so long and come back with their data, unless that is so long
    that they are given up."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check(self.scope in ("site", "operator", "network"), "scope", self.scope, "unknown")
        _check(0 <= self.per_year < math.inf, "rate", self.per_year, "not 0 or more")
        _check(0 < self.share <= 1, "share", self.share, "not above 0 and up to 1")
        _check(all(at >= 0 for at in self.at_years), "at", self.at_years, "not 0 or more")
        _check(0 <= self.dark_years < math.inf, "dark", self.dark_years, "not 0 or more")
        good = not (self.dark_years and self.leaves)
        _check(good, "leaves", self.leaves, "who is dark comes back")

    def keeps_data(self, notice_years: float) -> bool:
        """Whether those hit are away for too short a time to be given up."""
        return 0 < self.dark_years < notice_years


@dataclass(frozen=True)
class Scenario:
    """One network and its data."""

    nodes: tuple[NodeClass, ...]
    k: int
    n: int
    r: int
    """Repair starts when live < r."""
    segments: int
    segment_bytes: float = SEGMENT_BYTES
    repair: Repair = field(default_factory=Repair)
    shocks: tuple[Shock, ...] = ()
    years: float = 1.0
    start: Start = "met"
    """met: nodes are of all ages when they get shards at the start; new: all have just come."""
    replicates: int = 16
    seed: int = 1
    name: str = "scenario"
    pool: int | None = None
    """Donors near a segment's place among which its holders are drawn; 4n unless given."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        _check(
            1 <= self.k <= self.n <= 255, "k, n", f"{self.k}, {self.n}", "not 1 <= k <= n <= 255"
        )
        _check(self.k <= self.r <= self.n, "r", self.r, f"not from k = {self.k} to n = {self.n}")
        _check(bool(self.nodes), "nodes", "none", "no class of nodes")
        count = sum(c.count for c in self.nodes)
        _check(
            self.n <= count <= NODES_MAX, "nodes", count, f"fewer than n = {self.n}, or too many"
        )
        good = 1 <= self.segments <= SEGMENTS_MAX
        _check(good, "segments", self.segments, f"not from 1 to {SEGMENTS_MAX}")
        _check(0 < self.segment_bytes < math.inf, "segment", self.segment_bytes, "not above 0")
        _check(
            0 < self.years <= YEARS_MAX, "years", self.years, f"not above 0, up to {YEARS_MAX:g}"
        )
        good = 1 <= self.replicates <= REPLICATES_MAX
        _check(good, "replicates", self.replicates, f"not from 1 to {REPLICATES_MAX}")
        _check(self.start in ("met", "new"), "start", self.start, "not met or new")
        _check(
            self.pool is None or self.pool >= self.n, "pool", self.pool, f"less than n = {self.n}"
        )
        _check(
            self.events() <= EVENTS_MAX,
            "shard losses",
            f"{self.events():.2g}",
            "too many for a run",
        )
        free = sum(c.count * c.disk_bytes for c in self.nodes)
        stored = self.stored_bytes()
        _check(
            stored <= free,
            "data",
            f"{stored:.3g} bytes with code",
            f"more than the {free:.3g} given",
        )

    @property
    def node_count(self) -> int:
        """All classes."""
        return sum(c.count for c in self.nodes)

    @property
    def shard_bytes(self) -> float:
        """Of one shard."""
        return self.segment_bytes / self.k

    @property
    def pool_size(self) -> int:
        """Donors among which a segment's holders are drawn."""
        return min(self.node_count, self.pool or 4 * self.n)

    def stored_bytes(self) -> float:
        """Of all shards."""
        return self.segments * self.n * self.shard_bytes

    def is_dark(self, shock: Shock) -> bool:
        """Whether a shock only takes nodes offline. Exponential repair knows no noticing: nobody is given up there."""
        notice = self.repair.notice_years if self.repair.kind == "timed" else math.inf
        return shock.keeps_data(notice)

    def departure_rate(self) -> float:
        """Departures for good per node and year, over all classes."""
        return sum(c.count / c.life.mean for c in self.nodes) / self.node_count

    def loss_rate(self) -> float:
        """Losses of a shard a year: its node leaves, is given up, or is struck."""
        given_up = sum(c.count * c.given_up_per_year(self.repair.notice_years) for c in self.nodes)
        if self.repair.kind == "exponential":
            given_up = 0.0
        struck = sum(s.per_year * s.share for s in self.shocks if not self.is_dark(s))
        return self.departure_rate() + given_up / self.node_count + struck

    def events(self) -> float:
        """Expected shard losses of one replicate: what its time depends on."""
        return self.segments * self.n * self.years * self.loss_rate()

    def transfer_years(self, missing: float) -> float:
        """Mean time that a repairer's line needs to make that many shards anew, waiting not included."""
        seconds = sum(
            c.count
            * self.shard_bytes
            * ((self.k - 1) / c.down + missing / c.up)
            / (self.repair.bandwidth * c.uptime)
            for c in self.nodes
        )
        return seconds / self.node_count / SECONDS_PER_YEAR


def one_class(count: int, mean_life_years: float) -> tuple[NodeClass, ...]:
    """Equal nodes with exponential lives: what the chain assumes."""
    return (NodeClass(count, Exponential(mean_life_years)),)
