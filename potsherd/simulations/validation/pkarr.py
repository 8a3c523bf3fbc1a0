"""How long records survive in the Mainline DHT, by number of replicas: the table of pkarr-churn."""

from __future__ import annotations

import math
from collections.abc import Callable

from potsherd.durability.formulas import replicas_alive
from potsherd.simulations.validation.page import Table

__all__ = ["PRINTED", "TIMES", "TOLERANCE", "kept_up", "one_alive", "tables"]

SOURCE = "pubky/pkarr-churn, `results-node_decay.md` (10 March 2025)."
TIMES = ("1 h", "1 d", "2 d", "1 w")
PRINTED: dict[int, tuple[float | None, ...]] = {
    1: (85.93, 38.87, 23.90, 3.12),
    2: (98.16, 62.78, 42.16, 6.20),
    4: (99.97, 86.34, 66.70, 12.24),
    10: (100.0, 99.36, 93.77, 28.99),
    20: (100.0, 100.0, 99.64, 51.61),
    50: (None, None, None, 86.40),
    100: (None, None, None, 98.55),
}
"""Per cent alive, worst case of 99 %, by replicas and TIMES."""
TOLERANCE = {1: 0.01, 2: 6.0, 4: 6.0, 10: 6.0, 20: 6.0, 50: 7.0, 100: 7.0}
"""Percentage points, by replicas: the table is not exactly independent replicas."""


HOURS = (1.0, 24.0, 48.0, 168.0)
"""TIMES."""
TARGET = 0.999
PERIODS_MAX = 60


def one_alive(hours: float) -> float:
    """Chance that one replica is alive after so long: a Weibull through the printed points on either side."""
    hazards = [-math.log((share or 0.0) / 100) for share in PRINTED[1]]
    place = next((i for i, at in enumerate(HOURS[1:]) if hours <= at), len(HOURS) - 2)
    (t0, t1), (h0, h1) = HOURS[place : place + 2], hazards[place : place + 2]
    shape = math.log(h1 / h0) / math.log(t1 / t0)
    return math.exp(-h0 * (hours / t0) ** shape)


def kept_up(nodes: int, hours: float) -> float:
    """Chance that a record to which so many nodes are added every so many hours is there just before the next ones."""
    none = 1.0
    for period in range(1, PERIODS_MAX + 1):
        none *= (1 - one_alive(period * hours)) ** nodes
    return 1 - none


def tables() -> list[Table]:
    """Sections of the page."""
    return [_survival(), _renewal()]


def _renewal() -> Table:
    """The write-up's optimum."""
    cases: tuple[tuple[str, int, Callable[[int], float]], ...] = (
        ("all anew every 30 h", 17, lambda m: replicas_alive(one_alive(30.0), m)),
        ("some more every 17.7 h, in the long run", 5, lambda m: kept_up(m, 17.7)),
    )
    rows = []
    for what, printed, alive in cases:
        ours = next(nodes for nodes in range(1, 100) if alive(nodes) >= TARGET)
        reached, fewer = (f"{100 * alive(nodes):.2f} %" for nodes in (ours, ours - 1))
        rows.append((what, str(printed), str(ours), reached, fewer))
    says = (
        "How many nodes must take a record so that at least 99.9 % of the records are there just before the next time.\n"
        "From the printed row of one replica and independence the first number follows.\n"
        "The second comes out one lower: here all earlier replicas count that are alive still."
    )
    columns = ("published", "nodes, printed", "ours", "alive", "with one fewer")
    return Table("pkarr: how many nodes, how often", SOURCE, says, columns, rows)


def _survival() -> Table:
    rows = []
    for replicas, printed in PRINTED.items():
        cells = [str(replicas)]
        for alive, share in zip(PRINTED[1], printed, strict=True):
            ours = 100 * replicas_alive((alive or 0.0) / 100, replicas)
            cells.append("–" if share is None else f"{share:.2f} / {ours:.2f}")
        rows.append(cells)
    says = (
        "Printed / ours, per cent of records alive, ours from the printed row of one replica and independence.\n"
        "Up to 20 replicas within 6 points, beyond within 7, the largest differences after a week.\n"
        "More records survive than the row of one replica and independence allow: that row is the worst case of "
        "99 %, and the worst cases of many replicas are milder."
    )
    columns = ("replicas", *TIMES)
    return Table("pkarr: records of the Mainline DHT", SOURCE, says, columns, rows)
