"""Ways things may be, given what was counted, and what a dataset risks over all of them.

What is only known by counting (how often nodes leave, how long repair takes, …) is uncertain, and the chance of loss
with it: it is worked out at points that cover the uncertainty evenly. What is said is the mean over these points,
because that is the number with which the share of datasets lost agrees; the interval holds the middle 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from potsherd.classes import dataclass
from potsherd.durability.census import Churn
from potsherd.durability.uncertainty import lattice, quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["LEVEL", "Points", "any_lost", "hazards", "mean_and_interval", "points"]

LEVEL = 0.95


@dataclass(frozen=True)
class Points:
    """Rates per year, and the chance that an away node comes back, by point."""

    loss_rates: Floats
    repair_rates: Floats
    domain_rates: Floats
    returns: Floats


def points(churn: Churn, number: int) -> Points:
    """That many points which cover what the counts leave open; each is as likely as the others."""
    import numpy as np

    scores = lattice(number, 5)
    repairs = churn.repairs.quantiles(scores[1]) if churn.repairs else np.zeros(number)
    return Points(
        loss_rates=churn.departures.quantiles(scores[0]),
        repair_rates=repairs,
        domain_rates=churn.domain_failures.quantiles(scores[2]),
        returns=churn.returns.at(scores[3], scores[4]),
    )


def hazards(chances: Floats) -> Floats:
    """−ln(1 − chance), without cancellation; inf where loss is certain."""
    import numpy as np

    with np.errstate(divide="ignore"):
        return np.asarray(-np.log1p(-chances))


def any_lost(segments: Sequence[tuple[Floats, Floats, int]]) -> Floats:
    """Chance that any is lost, point by point, of segments given as (hazard, common part of it, how many).

    What is common strikes all segments alike and is paid once, where it is worst; the rest each pays for itself.
    """
    import numpy as np

    whole, paid = np.zeros(1), np.zeros(1)
    for hazard, common, times in segments:
        certain = np.isinf(hazard)
        shared = np.where(certain, 0.0, np.minimum(common, hazard))
        whole = whole + times * np.where(certain, np.inf, hazard - shared)
        paid = np.maximum(paid, shared)
    return np.asarray(-np.expm1(-(whole + paid)))


def mean_and_interval(chances: Floats) -> tuple[float, float, float]:
    """(mean, low, high) of equally likely chances."""
    ordered = sorted(chances.tolist())
    mean = math.fsum(ordered) / len(ordered)
    low, high = (quantile(ordered, (1 + sign * LEVEL) / 2) for sign in (-1, 1))
    return mean, min(low, mean), max(high, mean)
