"""Chance a year, in the long run, that any of a dataset is lost: what the planner searches with.

The model is that of the forecast (`potsherd.durability.segment`). Failure domains come to all segments alike: what they
do by themselves is *common*, and a dataset pays it once; the rest counts for each segment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from potsherd.classes import dataclass
from potsherd.durability.census import Churn
from potsherd.durability.segment import Code, loss_rates, timed_loss_rates
from potsherd.durability.spread import Domains, drawn
from potsherd.durability.uncertainty import Rate
from potsherd.durability.ways import any_lost, mean_and_interval, points
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["LongRun", "assumed", "dataset_loss"]

POINTS = 160
"""Ways things may be, for one code."""
STEADY_POINTS = 60
"""The same for repairs that take exactly their time, which are costlier."""


@dataclass(frozen=True)
class LongRun:
    """Chance a year that any of the data is lost, with the interval that holds it 95 times in 100."""

    probability: float
    low: float
    high: float
    common: float
    """The part that strikes all segments at once: domains that are lost together."""


def assumed(rate: float, events: float) -> Rate:
    """A rate per year as sure as if it had been counted from that many events; its mean is `rate`."""
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"rate = {rate}: not above 0")
    return Rate(events, (events + 0.5) / rate)


def dataset_loss(
    code: Code,
    segments: int,
    churn: Churn,
    domains: Domains | None = None,
    *,
    steady: bool = False,
) -> LongRun:
    """Chance a year that any of `segments` is lost, as likely as the churn's counts leave things.

    Segments count as independent but for what domains do to all of them. `steady`: every repair takes the mean
    time; otherwise its length is exponential, as in forecasts. Raises UsageError without repair.
    """
    import numpy as np

    if churn.repairs is None or segments < 1:
        raise UsageError("a plan needs data and somebody who repairs")
    number = STEADY_POINTS if steady else POINTS
    at = points(churn, number)
    strikes = drawn(code.n, domains) if domains is not None else None

    def rates(shard_rates: Floats) -> Floats:
        if steady:
            times = 1 / at.repair_rates
            return timed_loss_rates(code, shard_rates, times, at.domain_rates, strikes)
        return loss_rates(code, shard_rates, at.repair_rates, at.domain_rates, strikes)

    alone = rates(at.loss_rates)
    common = np.zeros_like(alone)
    if strikes is not None:
        common = np.minimum(rates(np.zeros(number)), alone)
    mean, low, high = mean_and_interval(any_lost([(alone, common, segments)]))
    return LongRun(mean, low, high, abs(float(np.expm1(-common).mean())))
