"""A scenario drawn as arrays: who is where, until when, what strikes when. Both engines run on these.

Slots stand in a ring, like ids in a DHT; a segment's *home* is a place in the ring and its pool the slots that
follow. When a node leaves, another of its class takes over its slot: with a new life, another generation, no shards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.simulations.montecarlo.distributions import Parameters
from potsherd.simulations.montecarlo.habits import online_by_hour
from potsherd.simulations.montecarlo.scenario import NodeClass, Scenario, Shock
from potsherd.simulations.quantities import HOURS_PER_YEAR, SECONDS_PER_YEAR

__all__ = ["Classes", "Outcome", "Population", "Strikes", "populate"]

BINS = 60
"""Moments at which the state is noted, evenly over the horizon."""
RETRY_YEARS_MIN = 1 / HOURS_PER_YEAR
"""Between tries of a repair that finds fewer than k holders online, on average at least."""
SHOCKS_MAX = 100_000
"""Of one replicate."""


@dataclass(frozen=True)
class Classes:
    """Per class of nodes."""

    parameters: tuple[Parameters, ...]
    up: NDArray[np.float64]
    """Bytes a year that repair may send, uptime taken into account."""
    down: NDArray[np.float64]
    given_up: NDArray[np.float64]
    """A year: absences so long that the node's shards are given up."""
    absence: NDArray[np.float64]
    """Mean, years."""
    capacity: NDArray[np.float64]
    """Bytes."""
    replaced: NDArray[np.bool_]
    online: NDArray[np.float64]
    """Class x hour of the week: chance of being online."""

    @property
    def retry(self) -> float:
        """Mean time until a repair tries again, years: by then another has come back."""
        return max(RETRY_YEARS_MIN, float(self.absence.mean()))


@dataclass(frozen=True)
class Strikes:
    """Shocks in order of time; the nodes hit by number i are `nodes[start[i]:start[i + 1]]`."""

    times: NDArray[np.float64]
    start: NDArray[np.int64]
    nodes: NDArray[np.int32]
    leaves: NDArray[np.bool_]
    dark: NDArray[np.float64]
    """Years that those hit are offline, their data kept; 0: their data is lost."""


@dataclass(frozen=True)
class Population:
    """Everything that an engine needs to run one replicate."""

    scenario: Scenario
    class_of: NDArray[np.int16]
    site: NDArray[np.int32]
    """Per node; −1: not declared."""
    operator: NDArray[np.int32]
    departs: NDArray[np.float64]
    """Years from now, of those who are there at the start."""
    classes: Classes
    strikes: Strikes
    home: NDArray[np.int32]
    """Per segment: first slot of its pool. Rising, so that neighbours in memory share nodes."""
    seed: int
    """Of everything that the engine draws."""


@dataclass(frozen=True)
class Outcome:
    """What happened in one replicate."""

    segments: int
    years: float
    lost_at: NDArray[np.float64]
    """Years at which segments fell below k live shards, rising."""
    times: NDArray[np.float64]
    """Ends of the bins, and 0 first."""
    live: NDArray[np.int64]
    """Bin end x number of live shards: how many segments; lost ones are not counted."""
    passes: NDArray[np.int64]
    """Repairs done in each bin."""
    made: NDArray[np.int64]
    """Shards made anew in each bin."""
    moved: NDArray[np.int64]
    """Shards sent over the network in each bin: k − 1 read and those made, for each repair."""
    departures: int
    """Nodes that left or were struck or given up."""
    busy_years: float
    """Node-years that lines were busy with repair."""
    node_years: float
    unplaced: int
    """Shards made anew for which no node had room."""
    dark_looked: int = 0
    """Segments looked at in the moment after a power cut, over all of them; lost ones are not counted."""
    dark_unreadable: int = 0
    """Of these, such that fewer than k holders were online."""

    @property
    def lost(self) -> int:
        """Segments."""
        return len(self.lost_at)

    @property
    def shard_events(self) -> int:
        """Shards placed and lost: what the run's time follows."""
        return int(self.made.sum())

    @property
    def utilisation(self) -> float:
        """Share of the time that lines were busy with repair, mean over nodes."""
        return self.busy_years / self.node_years if self.node_years else 0.0


def populate(scenario: Scenario, replicate: int) -> Population:
    """Draw replicate number `replicate`; the same numbers for the same scenario and seed."""
    seeds = np.random.SeedSequence([scenario.seed, replicate]).spawn(3)
    rng, shock_rng = (np.random.default_rng(seed) for seed in seeds[:2])
    class_of = np.repeat(
        np.arange(len(scenario.nodes), dtype=np.int16), [c.count for c in scenario.nodes]
    )
    order = rng.permutation(len(class_of))
    site = _labels(scenario, "sites")[order]
    operator = _labels(scenario, "operators")[order]
    class_of = class_of[order]
    return Population(
        scenario=scenario,
        class_of=class_of,
        site=site,
        operator=operator,
        departs=_first_lives(scenario, class_of, rng),
        classes=_classes(scenario),
        strikes=_strikes(scenario, site, operator, shock_rng),
        home=(np.arange(scenario.segments) * len(class_of) // scenario.segments).astype(np.int32),
        seed=int(seeds[2].generate_state(1, np.uint64)[0]),
    )


def _labels(scenario: Scenario, what: str) -> NDArray[np.int32]:
    """Site or operator of each node, class after class; −1 where a class declares none."""
    found = []
    for c in scenario.nodes:
        labels = int(getattr(c, what))
        number = np.arange(c.count, dtype=np.int32)
        found.append(number % labels if labels else np.full(c.count, -1, dtype=np.int32))
    return np.concatenate(found)


def _first_lives(
    scenario: Scenario, class_of: NDArray[np.int16], rng: np.random.Generator
) -> NDArray[np.float64]:
    departs = np.empty(len(class_of))
    for number, c in enumerate(scenario.nodes):
        here = np.flatnonzero(class_of == number)
        if scenario.start == "met":
            departs[here] = c.life.met(rng, len(here))[1]
        else:
            departs[here] = c.life.inverse(1.0 - rng.random(len(here)))
    return departs


def _classes(scenario: Scenario) -> Classes:
    nodes, repair = scenario.nodes, scenario.repair

    def line(c: NodeClass, speed: float) -> float:
        return speed * c.uptime * repair.bandwidth * SECONDS_PER_YEAR

    gone_after = repair.notice_years if repair.kind == "timed" else 0.0
    return Classes(
        parameters=tuple(c.life.parameters for c in nodes),
        up=np.array([line(c, c.up) for c in nodes]),
        down=np.array([line(c, c.down) for c in nodes]),
        given_up=np.array([c.given_up_per_year(gone_after) for c in nodes]),
        absence=np.array([c.absence_years for c in nodes]),
        capacity=np.array([c.disk_bytes for c in nodes]),
        replaced=np.array([c.replaced for c in nodes]),
        online=np.array([online_by_hour(c.habit, c.uptime) for c in nodes]),
    )


def _strikes(
    scenario: Scenario,
    site: NDArray[np.int32],
    operator: NDArray[np.int32],
    rng: np.random.Generator,
) -> Strikes:
    """All shocks within the horizon, in order of time."""
    found: list[tuple[float, NDArray[np.int32], bool, float]] = []
    for shock in scenario.shocks:
        dark = shock.dark_years if scenario.is_dark(shock) else 0.0
        labels = {"site": site, "operator": operator}.get(shock.scope)
        domains = _domains(labels, len(site))
        moments = [(at, domain) for domain in domains for at in _moments(shock, scenario, rng)]
        moments += [(at, domains[rng.integers(len(domains))]) for at in shock.at_years if domains]
        for at, domain in moments:
            hit = domain[rng.random(len(domain)) < shock.share]
            found.append((at, hit, shock.leaves, dark))
    found.sort(key=lambda strike: strike[0])
    sizes = [len(hit) for _, hit, _, _ in found]
    return Strikes(
        times=np.array([strike[0] for strike in found], dtype=float),
        start=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64),
        nodes=np.concatenate([np.empty(0, np.int32), *(strike[1] for strike in found)]),
        leaves=np.array([strike[2] for strike in found], dtype=bool),
        dark=np.array([strike[3] for strike in found], dtype=float),
    )


def _domains(labels: NDArray[np.int32] | None, nodes: int) -> list[NDArray[np.int32]]:
    everybody = np.arange(nodes, dtype=np.int32)
    if labels is None:
        return [everybody]
    return [everybody[labels == label] for label in range(int(labels.max(initial=-1)) + 1)]


def _moments(shock: Shock, scenario: Scenario, rng: np.random.Generator) -> list[float]:
    """Of one domain: a Poisson process over the horizon."""
    mean = min(shock.per_year * scenario.years, float(SHOCKS_MAX))
    return sorted((rng.random(rng.poisson(mean)) * scenario.years).tolist())
