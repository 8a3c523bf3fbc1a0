"""Chances of loss, exact: what the planner, `stat` and the repair trigger all call. Pure.

Start at `Chain` (one segment) and `forecast` (a dataset); `docs/validation.md` says how the numbers were checked.
"""

from potsherd.durability.binomial import at_least, fewer_than
from potsherd.durability.census import Churn, HeldShard, SegmentCensus, repairs_within
from potsherd.durability.chain import Chain
from potsherd.durability.forecast import Forecast, forecast
from potsherd.durability.uncertainty import Rate, Share

__all__ = [
    "Chain",
    "Churn",
    "Forecast",
    "HeldShard",
    "Rate",
    "SegmentCensus",
    "Share",
    "at_least",
    "fewer_than",
    "forecast",
    "repairs_within",
]
