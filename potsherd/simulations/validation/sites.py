"""Forecast, plan and simulated networks on ground that all three can stand on: equal sites, rates that are known.

Codes whose placement limit puts the same number of pieces on each site, so that what a forecast takes from holders
that are known and what a plan takes from donors that are drawn are the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.durability import Churn, HeldShard, Rate, SegmentCensus, Share, forecast
from potsherd.durability.long_run import dataset_loss
from potsherd.durability.segment import Code
from potsherd.durability.spread import Domains
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.replicates import Engine, Estimate, estimate_loss, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario, Shock
from potsherd.simulations.validation.page import Table, number

__all__ = ["GROUNDS", "Ground", "tables"]

KNOWN = 1e9
"""Years of watching that leave no doubt."""
SEGMENTS = 8
NODES = 36
YEARS = 2.0
"""Of the sample, from the moment that all pieces are there."""
NETWORKS = 900
DATASET = 10
"""Segments of the dataset that is planned; what sites do by themselves is paid once."""


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

    def calm(self) -> Ground:
        """With losses so rare that "since it was new" and "since it was lost" do not differ, and repair from the loss of
        the first site on: what a plan's long run needs to be a forecast's year.
        """
        code = replace(self.code, r=self.code.r + 1)
        return replace(self, code=code, site=self.site / 20, shard=self.shard / 3)

    def churn(self) -> Churn:
        """As if it had been watched for ever."""

        def sure(rate: float) -> Rate:
            return Rate(rate * KNOWN, KNOWN)

        return Churn(sure(self.shard), sure(self.repair), Share(KNOWN, KNOWN), sure(self.site))

    def segment(self, name: object = 0) -> SegmentCensus:
        """All there, as many on each site."""
        shards = tuple(
            HeldShard((name, i), i, "live", (("site", i % self.sites),)) for i in range(self.code.n)
        )
        return SegmentCensus(self.code.k, self.code.n, self.code.r, shards)

    def planned(self) -> float:
        """Losses a year of a dataset, by the planner."""
        domains = Domains(self.sites, NODES, math.ceil(self.code.n / self.sites))
        return -math.log1p(-dataset_loss(self.code, DATASET, self.churn(), domains).probability)

    def forecast_late(self) -> float:
        """The same by forecasts: from the sixth year to the seventh."""
        segments = [self.segment(i) for i in range(DATASET)]
        said = (forecast(segments, self.churn(), years=y).probability for y in (6.0, 7.0))
        late, later = (-math.log1p(-p) for p in said)
        return later - late

    def forecast_soon(self) -> float:
        """Chance that a segment is lost within YEARS."""
        return forecast([self.segment()], self.churn(), years=YEARS).probability

    def sampled(self, networks: int, engine: Engine = "auto") -> Estimate:
        """The same in simulated networks."""
        scenario = self.scenario(networks)
        lost = [replicate(scenario, i, engine).lost for i in range(networks)]
        return estimate_loss(lost, SEGMENTS)

    def scenario(self, networks: int) -> Scenario:
        """Of the sampled model."""
        return Scenario(
            (NodeClass(NODES, Exponential(1 / self.shard), sites=self.sites),),
            k=self.code.k,
            n=self.code.n,
            r=self.code.r,
            segments=SEGMENTS,
            years=YEARS,
            seed=self.code.n,
            repair=Repair("exponential", mean_years=1 / self.repair),
            shocks=(Shock("site", "site", per_year=self.site),),
            replicates=networks,
            pool=NODES,
        )


GROUNDS = [
    Ground(Code(3, 9, 6), 3, 1.0, 0.8, 20.0, 1.19),
    Ground(Code(4, 12, 9), 4, 1.5, 0.5, 10.0, 1.29),
    Ground(Code(5, 20, 16), 5, 2.0, 1.0, 10.0, 1.18),
    Ground(Code(10, 30, 20), 3, 0.5, 0.5, 8.0, 1.38),
]


def tables(engine: Engine) -> list[Table]:
    """Section of the page; half a minute."""
    rows = []
    inside = 0
    for ground in GROUNDS:
        said, found, calm = ground.forecast_soon(), ground.sampled(NETWORKS, engine), ground.calm()
        inside += found.low <= said <= found.high
        planned, late = calm.planned(), calm.forecast_late()
        code = ground.code
        rows.append(
            (
                f"{code.k}-of-{code.n}, r = {code.r}, {ground.sites} sites",
                number(said),
                number(found.value),
                f"{number(found.low)} … {number(found.high)}",
                f"÷ {ground.forgetful:.2f}",
                number(planned),
                f"{(late / planned - 1) * 100:+.1f} %",
            )
        )
    says = (
        f"Loss of a segment within {YEARS:g} years from holders that are known, beside {NETWORKS} networks of {NODES} "
        f"nodes with {SEGMENTS} segments, sites that burn 0.5 to 2 times a year, lives of 1 to 2 years; "
        f"{inside} of {len(GROUNDS)} intervals hold the forecast.\n"
        "Fifth column: what a model says that takes live pieces as spread over all sites whenever one burns.\n"
        "The last two: losses a year of a dataset at calmer rates by the planner, from donors that are drawn, and how far "
        "the forecast lies from it."
    )
    columns = ("code", "forecast", "sampled", "95 %", "forgetful", "plan", "forecast beside it")
    return [Table("Sites: forecast, plan, networks", "all three are ours.", says, columns, rows)]
