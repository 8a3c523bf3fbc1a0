"""Real traces through the reader of `plan --trace`: what they say, and what changes against fitted distributions.

The files are not part of this project: see `SOURCES` for where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.simulations.montecarlo.distributions import Distribution, Exponential
from potsherd.simulations.montecarlo.replicates import Estimate, estimate_loss, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario
from potsherd.simulations.quantities import HOURS_PER_YEAR
from potsherd.simulations.traces.trace import Measured, Trace, read_trace
from potsherd.simulations.validation.page import Table, number

__all__ = ["BITCOIN", "LANL", "MAINLINE", "half_life", "lost_with", "tables"]

MAINLINE = tuple(
    f"mainline_dht/run_{name}.csv" for name in ("128_1", "256_1", "512", "512_2", "512_late")
)
BITCOIN = "bitcoin_dsn_kit/connected_for.csv.gz"
LANL = "lanl_failures.csv.gz"
SOURCES = (
    "BitTorrent Mainline DHT: pubky/pkarr-churn, `data/` (2025). "
    "Bitcoin: DSN group, KIT, as kept by bitcoin-data/bitcoin-stats-archive, CC BY 4.0, doi 10.5281/zenodo.14627525. "
    "LANL: operational data of Los Alamos National Laboratory, 1996–2005 (Schroeder, Gibson, DSN 2006)"
)
DAY = 24.0
REPLICATES = 16


@dataclass(frozen=True)
class _Case:
    """A trace of lives, and a scenario in which they matter; hours."""

    name: str
    file: str
    noticed: float
    horizon: float


CASES = (
    _Case("Mainline DHT, 6 h until repair, 5 days", MAINLINE[2], 6.0, 5 * DAY),
    _Case("Bitcoin peers, 2 days until repair, 60 days", BITCOIN, 2 * DAY, 60 * DAY),
)


def half_life(life: Distribution) -> float:
    """Hours until half of those that have just come are gone."""
    return float(life.inverse(np.array([0.5]))[0]) * HOURS_PER_YEAR


def _scenario(life: Distribution, case: _Case) -> Scenario:
    """4-of-12 among 200 nodes; shards are put on nodes of all ages, as they are met."""
    return Scenario(
        (NodeClass(200, life),),
        k=4,
        n=12,
        r=8,
        segments=200,
        segment_bytes=1e6,
        repair=Repair("timed", notice_years=case.noticed / HOURS_PER_YEAR),
        years=case.horizon / HOURS_PER_YEAR,
        replicates=REPLICATES,
        seed=5,
    )


def lost_with(life: Distribution, case: _Case) -> Estimate:
    """Share of the segments lost within the horizon."""
    scenario = _scenario(life, case)
    lost = [replicate(scenario, i, "numpy").lost for i in range(REPLICATES)]
    return estimate_loss(lost, scenario.segments)


def tables(folder: Path) -> list[Table]:
    """Sections of the page; half a minute."""
    return [_said(folder), _lives(folder), _absences(read_trace(folder / LANL))]


def _hours(years: float) -> str:
    return f"{number(years * HOURS_PER_YEAR)} h"


def _said(folder: Path) -> Table:
    rows: list[Sequence[str]] = []
    for file in MAINLINE:
        life = _known(read_trace(folder / file).life)
        rows.append(
            (
                file.rpartition("/")[2],
                "Weibull shape; scale; half-life",
                "0.49–0.60; 19.5–24.7 h; 9.5–12.7 h",
                f"{life.fitted.shape:.2f}; {_hours(life.fitted.scale)}; {half_life(life.fitted):.1f} h",
            )
        )
    ages = read_trace(folder / BITCOIN)
    life = _known(ages.life)
    older = [life_older(life, hours) for hours in (1.0, DAY, 7 * DAY, 30 * DAY)]
    rows.append(
        (
            BITCOIN.rpartition("/")[2],
            "share connected for 1 h; 1 d; 1 w; 30 d or more",
            "0.963; 0.650; 0.264; 0.121",
            "; ".join(f"{share:.3f}" for share in older),
        )
    )
    failures = read_trace(folder / LANL)
    up, down = _known(failures.session), _known(failures.absence)
    median, p90 = (float(down.values.inverse(np.array([left]))[0]) for left in (0.5, 0.1))
    minutes = 60 * HOURS_PER_YEAR
    rows.append(
        (
            LANL,
            "up: Weibull shape; scale; mean",
            "0.495; 734 h; 1,553 h",
            f"{up.fitted.shape:.3f}; {_hours(up.fitted.scale)}; {_hours(up.values.mean)}",
        )
    )
    rows.append(
        (
            LANL,
            "down: median; mean; 90 %",
            "59; 354; 329 min",
            "; ".join(f"{x * minutes:.0f}" for x in (median, down.values.mean, p90)) + " min",
        )
    )
    says = (
        "Known is an analysis of the same files by other means; ours is what `potsherd plan --trace` reads.\n"
        "For the DHT known is a least-squares fit to the counts (done again it gives 0.49–0.60, 20–25 h, 9.7–13.0 h); "
        "the reader fits their logarithms, in which the tail weighs more.\n"
        "The shares of the Bitcoin peers are those of the life that the reader rebuilds from these four ages.\n"
        "At LANL the mean from failure to failure over all nodes is 1,769 h; which failures the known 1,553 h leave out "
        "is not said.\n"
        "The Bitcoin set's counters of connections opened and closed (`churn0`) have no names in the source and tell no "
        "node from another; `--trace` refuses them.\n"
        "Shapes lie around a half throughout: who has stayed for long stays longer."
    )
    return Table(
        "Traces: what they say", f"{SOURCES}.", says, ("trace", "what", "known", "ours"), rows
    )


def life_older(life: Measured, hours: float, steps: int = 20_000) -> float:
    """Share of the nodes met at a moment that have been there for at least so long."""
    at = (np.arange(steps) + 0.5) / steps * hours / HOURS_PER_YEAR
    young = float(life.values.survival(at).mean()) * hours / HOURS_PER_YEAR
    return 1 - young / life.values.mean


def _known(measured: Measured | None) -> Measured:
    if measured is None:
        raise ValueError("this kind of trace says so")
    return measured


def _lives(folder: Path) -> Table:
    rows = []
    for case in CASES:
        life = _known(read_trace(folder / case.file).life)
        rate = 1 / life.values.mean
        chain = Chain(12, 4, 8, rate, HOURS_PER_YEAR / case.noticed)
        cells = [lost_with(d, case) for d in (life.values, life.fitted, Exponential(1 / rate))]
        exact = chain.loss_probability(case.horizon / HOURS_PER_YEAR)
        rows.append((case.name, *(cell.words() for cell in cells), number(exact, 2)))
    says = (
        "Share of the segments lost (4-of-12, r = 8, 200 nodes, shards on nodes as they are met; Monte Carlo with "
        f"{REPLICATES} networks, 95 % intervals), with lives as measured, with the Weibull fitted to them, and with an "
        "exponential of the same mean.\n"
        "The last column is the exact chain with that mean, whose repair times are exponential, too.\n"
        "Lives of shape below 1 lose far less than exponential ones of the same mean when shards lie on nodes that are "
        "met at random, because most of these are old; the fitted Weibull is near to what was measured (for Bitcoin a "
        "third less), the exponential is not."
    )
    columns = ("lives", "as measured", "Weibull", "exponential", "chain")
    return Table("Traces: lives, measured against fitted", f"{SOURCES}.", says, columns, rows)


def _absences(trace: Trace) -> Table:
    up, down = _known(trace.session), _known(trace.absence)
    cycle = up.values.mean + down.values.mean
    rows = []
    for hours in (6.0, 18.0, 3 * DAY, 14 * DAY):
        at = np.array([hours / HOURS_PER_YEAR])
        shares = [
            float(d.survival(at)[0]) / cycle
            for d in (down.values, down.fitted, Exponential(down.values.mean))
        ]
        rows.append((f"{hours:g} h", *(number(share, 2) for share in shares)))
    says = (
        "How often a year a node that comes back would have been given up before, by how long it is waited for: as "
        "measured, with the fitted Weibull, with an exponential of the same mean.\n"
        "The measured tail is longer than either: from three days on the fits promise far too few, so patience is to be "
        "planned with what was measured."
    )
    columns = ("given up after", "as measured", "Weibull", "exponential")
    return Table("Traces: absences, measured against fitted", f"{SOURCES}.", says, columns, rows)
