"""Weibull distributions fitted to what was measured: to samples, to survival curves, to ages of those met.

Shapes below 1 are the rule for people's machines: who has stayed long stays longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from potsherd.durability.uncertainty import gamma_share_below
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Weibull

__all__ = ["fit_ages", "fit_sample", "fit_survival", "golden"]

Floats = NDArray[np.float64]

SHAPE_MIN, SHAPE_MAX = 0.1, 8.0
GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = 60


def golden(cost: Callable[[float], float], low: float, high: float) -> float:
    """The place of the least cost between two ends, for a cost with one valley."""
    a, b = low, high
    for _ in range(STEPS):
        left, right = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
        if cost(left) <= cost(right):
            b = right
        else:
            a = left
    return (a + b) / 2


def fit_sample(values: Floats) -> Weibull:
    """Most likely Weibull of a sample; zeros count as the smallest positive value. Raises UsageError without spread."""
    positive = values[values > 0]
    if len(positive) < 2 or positive.min() == positive.max():
        raise UsageError("too few different values for a fit")
    logs = np.log(np.maximum(values, positive.min()))
    centre = float(logs.mean())

    def slope(shape: float) -> float:
        """Derivative of the log likelihood by the shape; falls."""
        powers = np.exp(shape * (logs - logs.max()))
        return float(1 / shape + centre - (powers * logs).sum() / powers.sum())

    low, high = SHAPE_MIN, SHAPE_MAX
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    shape = math.sqrt(low * high)
    power = np.exp(shape * (logs - logs.max())).mean()
    return Weibull(shape, math.exp(float(logs.max()) + math.log(power) / shape))


def fit_survival(times: Floats, left: Floats) -> tuple[Weibull, float, float]:
    """(Weibull, how many there were at the start, R²) from how many are left at some times.

    ln(left) = ln(start) − (t/scale)^shape: a straight line in t^shape, weighted by how many are left.
    """
    weight = np.sqrt(left)

    def line(shape: float) -> tuple[float, float, float]:
        design = np.stack([np.ones_like(times), -(times**shape)], axis=1) * weight[:, None]
        found, *_ = np.linalg.lstsq(design, np.log(left) * weight, rcond=None)
        start, slope = float(found[0]), float(found[1])
        off = (np.log(left) - start + slope * times**shape) * weight
        return start, slope, float(off @ off)

    shape = golden(lambda s: line(s)[2], SHAPE_MIN, 3.0)
    start, slope, off = line(shape)
    if not slope > 0:
        raise UsageError("the curve does not fall: no life follows from it")
    logs = np.log(left)
    spread = float((weight**2 * (logs - np.average(logs, weights=weight**2)) ** 2).sum())
    return Weibull(shape, slope ** (-1 / shape)), math.exp(start), 1 - off / spread


def fit_ages(bounds: Sequence[float], older: Sequence[float]) -> Weibull:
    """Weibull life whose population, met at random, has these shares of members older than some bounds.

    P(age > x) = Q(1/shape, (x/scale)^shape), the regularised upper incomplete gamma function.
    """
    wanted = [_logit(share) for share in older]

    def cost(shape: float, scale: float) -> float:
        ages = [1 - gamma_share_below(1 / shape, (x / scale) ** shape) for x in bounds]
        return math.fsum((_logit(a) - w) ** 2 for a, w in zip(ages, wanted, strict=True))

    middle = math.exp(math.fsum(math.log(x) for x in bounds) / len(bounds))

    def best_scale(shape: float) -> float:
        return math.exp(
            golden(lambda s: cost(shape, math.exp(s)), math.log(middle) - 25, math.log(middle) + 9)
        )

    shape = golden(lambda s: cost(s, best_scale(s)), SHAPE_MIN, 3.0)
    return Weibull(shape, best_scale(shape))


def _logit(share: float) -> float:
    inside = min(max(share, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))
