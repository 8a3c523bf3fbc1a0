"""The reliability model of Tahoe-LAFS, with its published figures, the fault behind them, and without it."""

from __future__ import annotations

import math

from potsherd.durability.periodic import PeriodicCheck
from potsherd.simulations.validation.page import Table, factor, number

__all__ = ["MAINTAINED", "STEPS", "UNMAINTAINED", "leaking_loss", "right_loss", "tables"]

SOURCE = (
    "Tahoe-LAFS, `misc/operations_helpers/provisioning/reliability.py` and the figures that its "
    "`test_provisioning.py` pins."
)
DAY = 86400
YEAR = 365 * DAY
STEP = 100_000
"""Seconds."""
CHECK = 31 * DAY
UNMAINTAINED = 0.033591004555395272
MAINTAINED = 3.2983995819177542e-08
STEPS = len(range(0, 5 * YEAR + STEP, STEP))
"""A step at time 0 and one at the end, as the original counts: 1,578."""


def _model(check_every: float) -> PeriodicCheck:
    return PeriodicCheck(10, 3, 7, 8 * YEAR, STEP, check_every)


def right_loss(*, maintained: bool) -> float:
    """Chance of fewer than 3 of 10 shares after 5 years."""
    return _model(CHECK if maintained else math.inf).loss_probability(STEPS)


def leaking_loss(*, maintained: bool) -> float:
    """The same with the fault: who has no share at all drops out of the sum in the next step."""
    model = _model(CHECK)
    rows = [model.decay(shares) for shares in range(11)]
    rows[0] = [0.0]  # the original's first row of the decay matrix
    found = [0.0] * 10 + [1.0]
    last = 0
    for now in range(0, STEPS * STEP, STEP):
        found = [math.fsum(found[i] * rows[i][j] for i in range(j, 11)) for j in range(11)]
        if maintained and now - last > CHECK - 1:
            last = now
            found = [*found[:3], 0.0, 0.0, 0.0, 0.0, *found[7:10], found[10] + sum(found[3:7])]
    return math.fsum(found[:3])


def tables() -> list[Table]:
    """Section of the page."""
    rows = []
    for name, printed, maintained in (
        ("never checked", UNMAINTAINED, False),
        ("checked every 31 d", MAINTAINED, True),
    ):
        leaking, right = leaking_loss(maintained=maintained), right_loss(maintained=maintained)
        rows.append(
            (
                name,
                number(printed, 10),
                number(leaking, 10),
                number(right, 10),
                factor(printed, right),
            )
        )
    says = (
        "3-of-10, repaired below 7, disk life 8 years, steps of 100,000 s, over 5 years.\n"
        "The decay matrix of the original has a first row of zeros, so the probability of having no share at all "
        "leaks away with every step.\n"
        "With that fault our matrices give its figures; without it the loss is what the fourth column says."
    )
    columns = ("", "printed", "with the fault", "right", "printed is off by")
    return [Table("Tahoe-LAFS: periodic checks", SOURCE, says, columns, rows)]
