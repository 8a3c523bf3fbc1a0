"""Forecasts of many virtual datasets beside what became of them in sampled networks.

Each dataset lives in a network of its own, under rates of its own, of different orders of magnitude. Its network is
watched for a while in the Monte Carlo engine: how many nodes left in how many node-years, how long some repairs
took. From these counts alone its loss is forecast. Then the network lives on for the horizon, and it is counted what
was lost. Of all that is forecast at p, a share p should be lost; and 95 intervals in 100 should hold the true chance.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from potsherd.classes import dataclass
from potsherd.durability import Chain, Churn, HeldShard, Rate, SegmentCensus, forecast
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.replicates import replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario
from potsherd.simulations.validation.page import Table, number

__all__ = ["BINS", "Bin", "Forecasted", "binned", "covered", "forecasted", "tables"]

NODES = 40
SEGMENTS = 40
"""Of each network; they share nodes, so a network counts as one dataset when errors are reckoned."""
N, K, R = 6, 2, 5
CLUSTER = 4.0
"""Segments of a network that are lost together, about: they share its nodes."""
DATASETS = 4000
BINS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Bounds of the forecasts that are looked at together."""


@dataclass(frozen=True)
class Forecasted:
    """One virtual dataset."""

    said: float
    """Forecast of its chance of loss within a year."""
    low: float
    high: float
    true: float
    """By the exact chain, which knows the rates."""
    lost: float
    """Share of its network's segments lost in that year."""


def forecasted(number_of_it: int, seed: int) -> Forecasted:
    """Draw a network, watch it, forecast, let it live on."""
    rng = np.random.default_rng([seed, number_of_it])
    # What a count says of a rate is reckoned with Jeffreys' prior: rates are drawn from it, as far as there are ends.
    leaving = float(rng.uniform(0.02**0.5, 6.0**0.5) ** 2)
    mean = float(math.exp(rng.uniform(math.log(1), math.log(100)))) / 365.25
    watched = float(rng.uniform(0.5, 4.0))
    scenario = _network(leaving, mean, watched, segments=1, seed=int(rng.integers(2**31)))
    departures = replicate(scenario, 0, "numpy").departures
    repairs = int(rng.integers(10, 60))
    churn = Churn(
        Rate(departures, NODES * watched),
        # Watching goes on until the last repair is done, so the prior's half event is spent on it.
        Rate(repairs - 0.5, float(rng.gamma(repairs, mean))),
        domain_failures=Rate(0, 1e9),
    )
    whole = SegmentCensus(K, N, R, tuple(HeldShard(i, i, "live") for i in range(N)))
    found = forecast([whole], churn)
    after = _network(leaving, mean, 1.0, segments=SEGMENTS, seed=int(rng.integers(2**31)))
    return Forecasted(
        found.probability,
        found.low,
        found.high,
        Chain(N, K, R, leaving, 1 / mean).loss_probability(1.0),
        replicate(after, 0, "numpy").lost / SEGMENTS,
    )


def _network(leaving: float, mean: float, years: float, *, segments: int, seed: int) -> Scenario:
    return Scenario(
        (NodeClass(NODES, Exponential(1 / leaving)),),
        k=K,
        n=N,
        r=R,
        segments=segments,
        repair=Repair("exponential", mean_years=mean),
        years=years,
        seed=seed,
    )


@dataclass(frozen=True)
class Bin:
    """Datasets whose forecasts lie together."""

    low: float
    high: float
    datasets: int
    said: float
    """Mean forecast."""
    lost: float
    """Share lost."""
    error: float
    """Standard error of the difference, from the networks."""

    @property
    def deviations(self) -> float:
        """Difference in standard errors."""
        return (self.lost - self.said) / self.error if self.error else 0.0


def binned(found: list[Forecasted]) -> list[Bin]:
    """By forecast; bins with fewer than ten datasets are left out."""
    bins = []
    for low, high in itertools.pairwise(BINS):
        here = [f for f in found if low <= f.said < high]
        if len(here) < 10:
            continue
        off = np.array([f.lost - f.said for f in here])
        said, lost = (float(np.mean([getattr(f, x) for f in here])) for x in ("said", "lost"))
        # Where few losses are expected, none may be seen: the sample then knows too little of its own spread.
        least = (CLUSTER * said / (len(here) * SEGMENTS)) ** 0.5
        error = max(float(off.std(ddof=1)) / len(here) ** 0.5, least)
        bins.append(Bin(low, high, len(here), said, lost, error))
    return bins


def covered(found: list[Forecasted]) -> float:
    """Share of the intervals that hold the true chance."""
    return sum(f.low <= f.true <= f.high for f in found) / len(found)


def tables() -> list[Table]:
    """Section of the page; about two minutes."""
    found = [forecasted(i, 2) for i in range(DATASETS)]
    rows = [
        (
            f"{b.low:g} … {b.high:g}",
            str(b.datasets),
            number(b.said),
            number(b.lost),
            f"± {number(1.96 * b.error, 2)}",
            f"{b.deviations:+.1f}",
        )
        for b in binned(found)
    ]
    says = (
        f"{DATASETS:,} datasets of code {K}-of-{N}, r = {R}, each in a network of {NODES} nodes with rates of its "
        "own (lives from 2 months to 50 years, repair from 1 to 100 days).\n"
        "Each network is watched for half a year to four years; the forecast knows only what was counted then.\n"
        "Of what is forecast within the bounds of a row, the share in the fourth column was lost.\n"
        f"{covered(found):.1%} of the 95 % intervals hold the true chance."
    )
    columns = ("forecast", "datasets", "mean forecast", "lost", "95 %", "deviation")
    return [Table("The forecast, calibrated", "our own sampled networks.", says, columns, rows)]
