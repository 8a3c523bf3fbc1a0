"""Forecast, planner and simulated networks on ground that all three can stand on: equal sites, rates that are known.

Codes whose placement limit puts the same number of pieces on each site, so that what a forecast takes from holders
that are known and what a plan takes from donors that are drawn are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from potsherd.durability import Churn, HeldShard, Rate, SegmentCensus, Share, forecast
from potsherd.durability.long_run import dataset_loss
from potsherd.durability.segment import Code
from potsherd.durability.spread import Domains
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.replicates import estimate_loss, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario, Shock

KNOWN = 1e9
"""Years of watching that leave no doubt."""
SEGMENTS = 8
NODES = 60


@dataclass(frozen=True)
class Ground:
    """What all three are given; rates per year."""

    code: Code
    sites: int
    site: float
    """Each is lost so often."""
    shard: float
    repair: float
    forgetful: float
    """How far below the truth a model is here that forgets which sites have been struck."""

    def churn(self) -> Churn:
        def sure(rate: float) -> Rate:
            return Rate(rate * KNOWN, KNOWN)

        return Churn(sure(self.shard), sure(self.repair), Share(KNOWN, KNOWN), sure(self.site))

    def segment(self, name: object = 0) -> SegmentCensus:
        shards = tuple(
            HeldShard((name, i), i, "live", (("site", i % self.sites),)) for i in range(self.code.n)
        )
        return SegmentCensus(self.code.k, self.code.n, self.code.r, shards)

    def domains(self) -> Domains:
        return Domains(self.sites, NODES, math.ceil(self.code.n / self.sites))

    def scenario(self, years: float, replicates: int) -> Scenario:
        return Scenario(
            (NodeClass(NODES, Exponential(1 / self.shard), sites=self.sites),),
            k=self.code.k,
            n=self.code.n,
            r=self.code.r,
            segments=SEGMENTS,
            years=years,
            seed=self.code.n,
            repair=Repair("exponential", mean_years=1 / self.repair),
            shocks=(Shock("site", "site", per_year=self.site),),
            replicates=replicates,
            pool=NODES,
        )


GROUNDS = [
    Ground(Code(3, 9, 6), 3, 1.0, 0.8, 20.0, 1.19),
    Ground(Code(4, 12, 9), 4, 1.5, 0.5, 10.0, 1.29),
    Ground(Code(5, 20, 16), 5, 2.0, 1.0, 10.0, 1.18),
    Ground(Code(10, 30, 20), 3, 0.5, 0.5, 8.0, 1.38),
]


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_forecast_is_what_the_planner_says(ground: Ground) -> None:
    """The long run of a plan is what a forecast gains from one year to the next, once it is long ago that all was new.

    Ten segments: what sites do by themselves is paid once by both. Rates at which losses are rare, so that "since the
    segment was new" and "since it was lost" do not differ, and repair from the loss of the first site on.
    """
    code = replace(ground.code, r=ground.code.r + 1)
    calm = replace(ground, code=code, site=ground.site / 20, shard=ground.shard / 3)
    segments = [calm.segment(i) for i in range(10)]
    late, later = (
        -math.log1p(-forecast(segments, calm.churn(), years=years).probability)
        for years in (6.0, 7.0)
    )
    plan = dataset_loss(calm.code, 10, calm.churn(), calm.domains())
    assert later - late == pytest.approx(-math.log1p(-plan.probability), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("ground", [GROUNDS[0], GROUNDS[1], GROUNDS[3]])
def test_both_are_what_happens_in_simulated_networks(ground: Ground) -> None:
    """Share of the segments lost in two years, from the moment that all pieces are there."""
    years, networks = 2.0, 250
    scenario = ground.scenario(years, networks)
    lost = [replicate(scenario, i, "numpy").lost for i in range(networks)]
    found = estimate_loss(lost, SEGMENTS)
    said = forecast([ground.segment()], ground.churn(), years=years).probability
    assert found.low <= said <= found.high
    assert found.low > said / ground.forgetful, "so many networks tell a forgetful model apart"


def test_the_known_rates_are_known() -> None:
    said = forecast([GROUNDS[0].segment()], GROUNDS[0].churn())
    assert said.high < said.low * 1.01
    assert np.isclose(said.probability, said.low, rtol=0.01)
