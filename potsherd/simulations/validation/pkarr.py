"""How long records survive in the Mainline DHT, by number of replicas: the table of pkarr-churn."""

from __future__ import annotations

from potsherd.durability.formulas import replicas_alive
from potsherd.simulations.validation.page import Table

__all__ = ["PRINTED", "TIMES", "TOLERANCE", "tables"]

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


def tables() -> list[Table]:
    """Section of the page."""
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
    return [
        Table(
            "pkarr: records of the Mainline DHT",
            "pubky/pkarr-churn, `results-node_decay.md` (10 March 2025).",
            says,
            ("replicas", *TIMES),
            rows,
        )
    ]
