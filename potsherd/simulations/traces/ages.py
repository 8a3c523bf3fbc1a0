"""Lives from ages: of the nodes that are met at a moment, how many have been there for so long.

If S is the survival of a life, a share 1 − ∫₀ˣ S / mean of those met is older than x. So the shares at some ages say
what S is on average between them, and how much area is left beyond the last: that much is exact. What the curve does
in between is taken from the Weibull fitted to the same shares.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from potsherd.simulations.montecarlo.distributions import Empirical, Weibull

__all__ = ["life_of_ages"]

Floats = NDArray[np.float64]

POINTS = 400
"""Of the curve between two ages."""
AREA_POINTS = 4000
TAIL_DECADES = 6.0
KNOTS = 4000


def life_of_ages(bounds: Floats, older: Floats, fitted: Weibull) -> Empirical:
    """`bounds` in years, from 0; `older`, falling from 1: shares of those met who are at least so old.

    Nobody leaves before the first age after 0: who stays for less is not looked at.
    """
    means = np.minimum.accumulate(-np.diff(older) / np.diff(bounds))
    # Relative to the fitted curve: at its height on average over an interval, what is it at the ends?
    average = np.array([_average(fitted, a, b) for a, b in pairwise(bounds.tolist())])
    at = fitted.survival(bounds)
    left = means * at[1:] / average
    right = np.append(means[1:] * at[1:-1] / average[1:], left[-1])
    ends = np.sqrt(left * right)
    ends[0] = means[0]
    ends[1:] = np.clip(ends[1:], np.append(means[2:], 0.0), means[1:])
    times, curve = [np.zeros(1), bounds[1:2]], [means[:1], means[:1]]
    for i in range(1, len(means)):
        part = np.linspace(0, 1, POINTS + 1)[1:]
        times.append(bounds[i] + part * (bounds[i + 1] - bounds[i]))
        curve.append(_falling(ends[i - 1], ends[i], means[i], part))
    tail_times, tail = _tail(bounds[-1], ends[-1], older[-1], fitted)
    whole = np.concatenate([*curve, tail]) / means[0]
    rough = Empirical.of_survival(np.concatenate([*times, tail_times]), whole, KNOTS)
    return _of_mean(rough, 1 / float(means[0]))


def _of_mean(rough: Empirical, mean: float) -> Empirical:
    """The longest life stands for all that are rarer than knots can tell: with it the mean is as it must be."""
    knots = list(rough.knots)
    off = (mean - rough.mean) * 2 * (len(knots) - 1)
    knots[-1] = max(knots[-2], knots[-1] + off)
    return Empirical(tuple(knots))


def _average(fitted: Weibull, start: float, end: float) -> float:
    middles = start + (np.arange(AREA_POINTS) + 0.5) / AREA_POINTS * (end - start)
    return float(fitted.survival(middles).mean())


def _falling(start: float, end: float, mean: float, part: Floats) -> Floats:
    """From start to end with this mean, steep at first: end + (start − end)(1 − t)^p."""
    if not start > mean > end:
        return np.full(len(part), mean)
    power = (start - end) / (mean - end) - 1
    return np.asarray(end + (start - end) * (1 - part) ** power)


def _tail(start: float, height: float, area: float, fitted: Weibull) -> tuple[Floats, Floats]:
    """The fitted curve beyond the last age, stretched in time so that its area is that of those who are older."""
    shares = np.logspace(0, -TAIL_DECADES, POINTS)
    at_start = float(fitted.survival(np.array([start]))[0])
    beyond = fitted.inverse(shares * at_start) - start
    under = float(((shares[1:] + shares[:-1]) / 2 * np.diff(beyond)).sum())
    stretched = beyond * (area / (height * under)) if under > 0 and height > 0 else beyond
    shares[-1] = 0.0
    return start + np.maximum(stretched[1:], 0.0), height * shares[1:]
