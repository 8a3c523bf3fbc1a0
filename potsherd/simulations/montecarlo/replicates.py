"""Whole networks again and again, and what they say together.

Segments share nodes: the number lost varies several times as much between networks as independent segments would.
So intervals come from whole-network replicates, 16 or more: losses are taken as Poisson, with the variance between
replicates over the mean as the factor by which they come in clusters. With no loss seen there is a bound, 3 over
the segment-years, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.durability.uncertainty import gamma_quantile
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.population import Outcome, populate
from potsherd.simulations.montecarlo.scenario import Scenario

__all__ = [
    "Engine",
    "Estimate",
    "Series",
    "engines",
    "estimate_loss",
    "normal_reach",
    "replicate",
    "replicates",
    "series",
]

Engine: TypeAlias = Literal["auto", "numpy", "compiled"]
COMPILED_FROM = 100_000
"""Shard losses of a replicate from which compiling pays: numpy takes a second for them."""
FEW = 1e-300


def engines() -> tuple[str, ...]:
    """Those that can run here."""
    import importlib.util

    return ("numpy", "compiled") if importlib.util.find_spec("numba") else ("numpy",)


def replicate(scenario: Scenario, number: int, engine: Engine = "auto") -> Outcome:
    """One network. Raises UsageError when the engine is not there."""
    if engine == "auto":
        large = scenario.events() >= COMPILED_FROM
        engine = "compiled" if large and "compiled" in engines() else "numpy"
    population = populate(scenario, number)
    if engine == "compiled":
        if "compiled" not in engines():
            raise UsageError(
                "the compiled engine needs numba", remedy="pip install 'potsherd[simulate]'"
            )
        from potsherd.simulations.montecarlo.compiled_engine import run as run_compiled

        return run_compiled(population)
    from potsherd.simulations.montecarlo.numpy_engine import run

    return run(population)


def replicates(scenario: Scenario, engine: Engine = "auto") -> Iterator[Outcome]:
    """All of the scenario's replicates, one at a time: only one is in memory."""
    for number in range(scenario.replicates):
        yield replicate(scenario, number, engine)


@dataclass(frozen=True)
class Estimate:
    """A chance, with the interval that holds it 95 times in 100."""

    value: float
    """0 when nothing was seen; then only `high` says something."""
    low: float
    high: float
    seen: int
    """Events."""
    trials: float
    """Segments, or segment-years."""
    clustering: float = 1.0
    """Variance between replicates over that of independent segments."""

    def words(self) -> str:
        """`4.2e-05 (3.1e-05 … 5.6e-05)`, or `< 3.0e-06` when nothing was seen."""
        if not self.seen:
            return f"< {self.high:.1e}"
        return f"{self.value:.2g} ({self.low:.1e} … {self.high:.1e})"


def normal_reach(samples: int) -> float:
    """Half width of a 95 % interval in standard errors, for so many samples: Student's t, to 1 % from 4 on."""
    z, freedom = 1.959964, max(1, samples - 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def estimate_loss(lost: Sequence[int], segments: int, years: float | None = None) -> Estimate:
    """Chance of a segment to be lost, from how many of `segments` were lost in each replicate.

    With `years`: per year. Raises UsageError without replicates.
    """
    if not lost:
        raise UsageError("no replicates")
    counts = np.asarray(lost, dtype=float)
    trials = len(counts) * segments * (years or 1.0)
    total = float(counts.sum())
    if total == 0:
        return Estimate(0.0, 0.0, 3.0 / trials, 0, trials)
    mean = total / len(counts)
    spread = float(counts.var(ddof=1)) / mean if len(counts) > 1 else 1.0
    spread *= (normal_reach(len(counts)) / normal_reach(10**6)) ** 2  # itself known from few
    # Losses of a whole network at a time can only be seen as clusters; fewer than one of them is no information.
    clustering = max(1.0, spread)
    effective = total / clustering
    low = gamma_quantile(max(effective, FEW), 0.025) * clustering if effective > 0 else 0.0
    high = gamma_quantile(effective + 1, 0.975) * clustering
    return Estimate(
        total / trials, low / trials, min(high / trials, 1.0 if years is None else math.inf),
        int(total), trials, clustering,
    )  # fmt: skip


@dataclass(frozen=True)
class Series:
    """What replicates say together over time; bins as in `Outcome`."""

    times: NDArray[np.float64]
    live_mean: NDArray[np.float64]
    """Live shards of a segment that is not lost."""
    live_low: NDArray[np.float64]
    """Of the weakest 1 %."""
    live_least: NDArray[np.float64]
    lost: NDArray[np.float64]
    """Share of the segments lost until then."""
    moved: NDArray[np.float64]
    """Shards moved per segment and year, by bin."""
    passes: NDArray[np.float64]
    """Repairs per segment and year, by bin."""
    utilisation: float
    unplaced: int
    departures: float
    """Per node and year."""
    replicates: int
    estimate: Estimate
    """Of a segment being lost within the horizon."""


def series(outcomes: Iterable[Outcome]) -> Series:
    """Add up replicates as they come; keeps nothing but sums. Raises UsageError when there are none."""
    sums: _Sums | None = None
    for outcome in outcomes:
        if sums is None:
            sums = _Sums(outcome)
        sums.add(outcome)
    if sums is None:
        raise UsageError("no replicates")
    return sums.series()


class _Sums:
    """Running sums over replicates."""

    def __init__(self, first: Outcome) -> None:
        self.times, self.segments, self.years = first.times, first.segments, first.years
        self.live = np.zeros_like(first.live)
        self.lost = np.zeros(len(first.times))
        self.moved = np.zeros(len(first.moved))
        self.passes = np.zeros(len(first.passes))
        self.busy = self.node_years = 0.0
        self.unplaced = self.departures = 0
        self.lost_counts: list[int] = []

    def add(self, outcome: Outcome) -> None:
        self.live += outcome.live
        self.lost += np.searchsorted(np.sort(outcome.lost_at), self.times, side="right")
        self.moved += outcome.moved
        self.passes += outcome.passes
        self.busy += outcome.busy_years
        self.node_years += outcome.node_years
        self.unplaced += outcome.unplaced
        self.departures += outcome.departures
        self.lost_counts.append(outcome.lost)

    def series(self) -> Series:
        numbers = np.arange(self.live.shape[1])
        kept = np.maximum(self.live.sum(axis=1), 1)
        below = np.cumsum(self.live, axis=1)
        count = len(self.lost_counts)
        per_bin = count * self.segments * self.years / len(self.moved)
        return Series(
            times=self.times,
            live_mean=self.live @ numbers / kept,
            live_low=np.argmax(below > 0.01 * kept[:, None], axis=1).astype(float),
            live_least=np.argmax(below > 0, axis=1).astype(float),
            lost=self.lost / (count * self.segments),
            moved=self.moved / per_bin,
            passes=self.passes / per_bin,
            utilisation=self.busy / self.node_years if self.node_years else 0.0,
            unplaced=self.unplaced,
            departures=self.departures / self.node_years if self.node_years else 0.0,
            replicates=count,
            estimate=estimate_loss(self.lost_counts, self.segments),
        )
