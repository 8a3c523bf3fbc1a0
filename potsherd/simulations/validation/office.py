"""Months of sleeping workstations that run the product's node code, beside the Monte Carlo engine.

    python -m potsherd.simulations.validation.office --nodes 50 --weeks 52 --heartbeat-hours 12 \\
        --segments 8 --departures 1 --seed 50 --out year.json

plays such an office in virtual time (`potsherd.simulations.world.office`), says once a week how it stands, and
writes down what it saw; `python -m potsherd.simulations.validation --offices year.json` puts that on the page. In
the engine the same office is nodes, lives, and a time from loss to repair: that of the design notes on liveness.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from potsherd.classes import dataclass
from potsherd.simulations.montecarlo.distributions import Exponential, Never
from potsherd.simulations.montecarlo.replicates import replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario
from potsherd.simulations.quantities import SECONDS_PER_YEAR
from potsherd.simulations.validation.page import Table, number
from potsherd.simulations.world.office import STREAM_BYTES, OfficePlan, OfficeReport, run

__all__ = ["Predicted", "Range", "predicted", "read", "tables", "write"]

DAY = 86_400.0
WEEK = 7 * DAY
PATIENCE_DAYS = 7.5
"""A sleeper is given up after six to nine days (docs/design/liveness.md): the middle, fixed before any run."""
REPLICATES = 400
CELL_BYTES = 32_768
GC_THRESHOLD = 20_000
"""Allocations between two looks for cycles: a long run has few, and much that the looks would go through."""


class Range(NamedTuple):
    """Where 95 of 100 replicates lie, and the middle one."""

    low: float
    middle: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a run could be a replicate."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{number(self.middle)} ({number(self.low)} … {number(self.high)})"


@dataclass(frozen=True)
class Predicted:
    """What the engine says of an office."""

    rebuilt: Range
    """Shards made anew."""
    moved_mb: Range
    """Read and sent for that, in 10^6 bytes."""
    lost: Range
    """Segments."""


def predicted(
    plan: OfficePlan, patience_days: float = PATIENCE_DAYS, replicates: int = REPLICATES
) -> Predicted:
    """The same office in the engine, again and again."""
    rows = -(-STREAM_BYTES // (plan.k * CELL_BYTES))
    life = (plan.nodes - plan.servers) / plan.departures_per_week * WEEK / SECONDS_PER_YEAR
    looked = (0.5 + 3) * plan.heartbeat_s  # half a heartbeat, half a round of repair
    scenario = Scenario(
        (
            NodeClass(plan.servers, Never(), name="servers"),
            NodeClass(plan.nodes - plan.servers, Exponential(life), name="workstations"),
        ),
        k=plan.k,
        n=plan.n,
        r=plan.r,
        segments=plan.segments,
        segment_bytes=float(plan.k * rows * CELL_BYTES),
        repair=Repair("timed", notice_years=(patience_days * DAY + looked) / SECONDS_PER_YEAR),
        years=plan.weeks * WEEK / SECONDS_PER_YEAR,
        seed=1,
    )
    found = [replicate(scenario, which, "numpy") for which in range(replicates)]
    return Predicted(
        _range([float(o.made.sum()) for o in found]),
        _range([float(o.moved.sum()) * scenario.shard_bytes / 1e6 for o in found]),
        _range([float(o.lost) for o in found]),
    )


def _range(values: Sequence[float]) -> Range:
    low, middle, high = np.quantile(np.array(values), (0.025, 0.5, 0.975))
    return Range(float(low), float(middle), float(high))


def tables(played: Sequence[tuple[OfficePlan, OfficeReport]]) -> list[Table]:
    """Section of the page, a column for each office."""
    rows: list[list[str]] = [[] for _ in _ROWS]
    for plan, report in played:
        for row, cell in zip(rows, _cells(plan, report), strict=True):
            row.append(cell)
    says = (
        "Whole nodes in virtual time, all but three of them workstations that sleep at night and at weekends; who is gone "
        "for good is replaced at once.\n"
        "Loss is noticed by the service's own rules; heartbeats, and all else that is done again and again, are scaled by "
        "configuration.\n"
        "Only the time in which a node runs counts for its patience, so those that sleep give up later than the servers.\n"
        f"The engine is given the plan and that a sleeper is given up after {PATIENCE_DAYS:g} days, or what was measured; "
        f"of {REPLICATES} such offices the middle one, and where 95 of 100 lie."
    )
    columns = ("", *(f"{plan.nodes} nodes, {plan.weeks:g} weeks" for plan, _ in played))
    body = [(name, *row) for name, row in zip(_ROWS, rows, strict=True)]
    return [Table("Months of an office beside the engine", "both of ours.", says, columns, body)]


_ROWS = (
    "seed, heartbeats every",
    "segments, code",
    "machines gone for good",
    "given up by a node after, median",
    "until it is repaired, as nodes tell forecasts, median at the end",
    "given up though only asleep (pairs of nodes)",
    "shards rebuilt, in repairs",
    "engine: shards rebuilt",
    "engine, with the measured wait",
    "moved by repairs",
    "engine: moved",
    "segments lost",
    "engine: segments lost",
    "fewest good pieces that a segment ever had",
    "promises broken, at looks of the observer",
    "CPU-seconds",
)


def _cells(plan: OfficePlan, report: OfficeReport) -> list[str]:
    model = predicted(plan)
    return [
        f"{plan.seed}, {plan.heartbeat_s / 3600:g} h",
        f"{plan.segments}, {plan.k}-of-{plan.n}, r = {plan.r}",
        str(report.departures),
        f"{report.given_up_days:.1f} days ({report.given_up} pairs)",
        f"{report.told_days:.1f} days" if report.told_days else "not noted",
        str(report.false),
        f"{report.rebuilt}, {report.passes}",
        str(model.rebuilt),
        str(predicted(plan, report.given_up_days).rebuilt),
        f"{number(report.moved_bytes / 1e6)} MB",
        f"{model.moved_mb} MB",
        str(report.lost),
        str(model.lost),
        str(report.least),
        f"{len(report.broken)}, {report.looks:,}",
        f"{report.cpu_s:,.0f}",
    ]


def write(path: Path, plan: OfficePlan, report: OfficeReport) -> None:
    """Write down what a run has seen."""
    path.write_text(json.dumps({"plan": asdict(plan), "report": asdict(report)}))


def read(path: Path) -> tuple[OfficePlan, OfficeReport]:
    """What a run has written down."""
    found = json.loads(path.read_text())
    report = found["report"]
    return OfficePlan(**found["plan"]), OfficeReport(
        **{**report, "broken": tuple(report["broken"])}
    )


def main() -> None:
    """Play one."""
    parser = argparse.ArgumentParser(prog="python -m potsherd.simulations.validation.office")
    plan = OfficePlan()
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--nodes", type=int, default=plan.nodes)
    parser.add_argument("--weeks", type=float, default=plan.weeks)
    parser.add_argument("--segments", type=int, default=plan.segments)
    parser.add_argument("--departures", type=float, default=plan.departures_per_week, help="a week")
    parser.add_argument("--heartbeat-hours", type=float, default=plan.heartbeat_s / 3600)
    parser.add_argument("--out", type=Path, help="JSON, written anew each virtual week")
    given = parser.parse_args()
    plan = OfficePlan(
        seed=given.seed,
        nodes=given.nodes,
        weeks=given.weeks,
        segments=given.segments,
        departures_per_week=given.departures,
        heartbeat_s=given.heartbeat_hours * 3600,
    )

    def say(report: OfficeReport) -> None:
        print(report, flush=True)  # noqa: T201
        if given.out is not None:
            write(given.out, plan, report)

    gc.set_threshold(GC_THRESHOLD)
    say(run(plan, say))


if __name__ == "__main__":
    main()
