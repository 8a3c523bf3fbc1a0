"""The sampled models beside the exact chain: whole networks, importance sampling, splitting."""

from __future__ import annotations

import numpy as np

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.rare import loss_rate
from potsherd.simulations.montecarlo.replicates import Engine, Estimate, estimate_loss, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario
from potsherd.simulations.montecarlo.splitting import Model, loss_probability
from potsherd.simulations.validation.page import Table, number

__all__ = ["RARE", "SETS", "Compared", "Set", "compare", "tables"]

NODES = 400
SEGMENTS = 600
REPLICATES = 32
CYCLES = 40_000


@dataclass(frozen=True)
class Set:
    """Parameters that chain and network have in common; lives and repairs exponential."""

    n: int
    k: int
    r: int
    life: float
    """Mean, years."""
    repair_days: float
    years: float

    @property
    def name(self) -> str:
        """As a row's head."""
        return f"{self.k}-of-{self.n}, r = {self.r}, {self.life:g} y, {self.repair_days:g} d, {self.years:g} y"

    def chain(self) -> Chain:
        """The exact model."""
        return Chain(self.n, self.k, self.r, 1 / self.life, 365.25 / self.repair_days)

    @property
    def seed(self) -> int:
        """Another one for each set: with one for all, the same nodes would leave at the same times in all."""
        return (
            hash((self.n, self.k, self.r, round(1000 * self.life), round(self.repair_days)))
            & 0xFFFFFFFF
        )

    def scenario(self, *, replicates: int = REPLICATES, segments: int = SEGMENTS) -> Scenario:
        """The sampled one."""
        return Scenario(
            (NodeClass(NODES, Exponential(self.life)),),
            k=self.k,
            n=self.n,
            r=self.r,
            segments=segments,
            repair=Repair("exponential", mean_years=self.repair_days / 365.25),
            years=self.years,
            replicates=replicates,
            seed=self.seed,
        )


SETS = tuple(
    Set(*row)
    for row in (
        (2, 1, 2, 1.0, 10, 1.0),
        (3, 1, 2, 1.0, 20, 1.0),
        (3, 1, 3, 0.5, 20, 1.0),
        (3, 2, 3, 2.0, 10, 2.0),
        (4, 2, 4, 1.0, 20, 1.0),
        (4, 2, 4, 0.5, 10, 2.0),
        (4, 2, 3, 1.0, 30, 1.0),
        (4, 3, 4, 2.0, 15, 1.0),
        (6, 2, 5, 1.0, 60, 1.0),
        (6, 2, 4, 1.0, 30, 2.0),
        (6, 3, 5, 1.0, 30, 1.0),
        (6, 4, 6, 1.0, 15, 1.0),
        (9, 4, 7, 1.0, 30, 1.0),
        (9, 4, 7, 0.5, 10, 1.0),
        (9, 4, 8, 1.0, 60, 1.0),
        (9, 4, 6, 1.0, 20, 2.0),
        (12, 4, 8, 1.0, 60, 1.5),
        (12, 6, 9, 1.0, 20, 1.0),
        (12, 8, 11, 1.0, 20, 1.0),
        (20, 10, 15, 1.0, 40, 1.0),
        (20, 5, 10, 0.5, 30, 1.0),
        (30, 10, 20, 0.5, 60, 1.0),
        (30, 20, 25, 1.0, 30, 1.0),
        (40, 20, 30, 0.5, 30, 1.0),
    )
)
"""Two dozen, losses of a segment from 1 in 1,000 to 1 in 2."""

RARE = (
    Chain(9, 4, 7, 0.3, 24.0),
    Chain(30, 10, 20, 0.3, 24.0),
    Chain(30, 10, 20, 0.25, 100.0),
    Chain(40, 20, 31, 0.3, 50.0, "parallel"),
    Chain(12, 4, 8, 0.5, 400.0, "serial"),
)


@dataclass(frozen=True)
class Compared:
    """One set: exact and sampled."""

    exact: float
    estimate: Estimate

    @property
    def inside(self) -> bool:
        """Whether the interval holds the exact value."""
        return self.estimate.low <= self.exact <= self.estimate.high

    @property
    def deviations(self) -> float:
        """Difference in standard errors."""
        error = (self.estimate.high - self.estimate.low) / 2 / 1.96
        return (self.estimate.value - self.exact) / error


def compare(given: Set, engine: Engine = "auto", *, replicates: int = REPLICATES) -> Compared:
    """Run the networks of a set."""
    scenario = given.scenario(replicates=replicates)
    lost = [replicate(scenario, i, engine).lost for i in range(replicates)]
    exact = given.chain().loss_probability(given.years)
    return Compared(exact, estimate_loss(lost, scenario.segments))


def tables(engine: Engine) -> list[Table]:
    """Sections of the page; half a minute with the compiled engine."""
    return [_networks(engine), _cycles(), _splitting()]


def _networks(engine: Engine) -> Table:
    found = [compare(given, engine) for given in SETS]
    rows = [
        (
            given.name,
            number(c.exact),
            number(c.estimate.value),
            f"{number(c.estimate.low)} … {number(c.estimate.high)}",
            f"{c.deviations:+.1f}",
            f"{c.estimate.clustering:.1f}",
            "yes" if c.inside else "no",
        )
        for given, c in zip(SETS, found, strict=True)
    ]
    square = float(np.mean([c.deviations**2 for c in found])) ** 0.5
    inside = sum(c.inside for c in found)
    says = (
        f"Networks of {NODES} nodes with {SEGMENTS} segments, {REPLICATES} replicates a row.\n"
        f"{inside} of {len(SETS)} intervals hold the exact value; the deviations have a root mean square of "
        f"{square:.2f} (1 is expected).\n"
        "Clustering is the variance between networks over that of independent segments: segments share nodes."
    )
    columns = (
        "code, life, repair, horizon", "chain", "sampled", "95 %", "deviation", "clustering", "inside",
    )  # fmt: skip
    return Table(
        "Whole networks beside the chain", "`potsherd.durability.Chain`.", says, columns, rows
    )


def _cycles() -> Table:
    rows = []
    for seed, chain in enumerate(RARE):
        exact, found = chain.loss_rate_per_year(), loss_rate(chain, CYCLES, seed)
        rows.append(
            (
                f"{chain.k}-of-{chain.n}, r = {chain.trigger}, {chain.repair}",
                number(exact),
                number(found.value),
                f"{number(found.low)} … {number(found.high)}",
                "yes" if found.low <= exact <= found.high else "no",
            )
        )
    return Table(
        "Importance sampling beside the chain",
        "`potsherd.durability.Chain`.",
        f"Losses a year in the long run, {CYCLES:,} cycles of each kind; less than a CPU second together.",
        ("chain", "exact", "sampled", "95 %", "inside"),
        rows,
    )


def _splitting() -> Table:
    rows = []
    for n, k, r, loss, repair, years in ((6, 2, 5, 1.0, 40.0, 1.0), (10, 3, 7, 1.0, 60.0, 1.0)):
        exact = Chain(n, k, r, loss, repair).loss_probability(years)
        model = Model(n, k, r, Exponential(1 / loss), Exponential(1 / repair), years)
        found = loss_probability(model, 1, paths=4000)
        constant = loss_probability(
            Model(n, k, r, Exponential(1 / loss), 1 / repair, years), 2, paths=4000
        )
        rows.append(
            (
                f"{k}-of-{n}, r = {r}",
                number(exact),
                number(found.value),
                f"{number(found.low)} … {number(found.high)}",
                "yes" if found.low <= exact <= found.high else "no",
                f"÷ {number(exact / constant.value, 2)}" if constant.value else "–",
            )
        )
    return Table(
        "Splitting beside the chain",
        "`potsherd.durability.Chain`.",
        "Loss within a year.\n"
        "The last column: what a constant repair time of the same mean does to the loss, which the chain cannot "
        "say: its exponential times are on the safe side.",
        ("code", "chain", "splitting", "95 %", "inside", "constant repair time"),
        rows,
    )
