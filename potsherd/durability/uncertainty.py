"""What a count tells about a rate: gamma and beta distributions, and points that cover several of them evenly.

Events counted over some years of watching say that the rate is distributed as Gamma(events + 1/2, years)
(Jeffreys' prior: intervals of it cover the true rate about as often as they say, also where no event was seen).
Everything is deterministic: instead of drawing at random, `lattice` spreads points evenly over the unit cube, and
quantile functions carry them over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from potsherd.classes import dataclass
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Rate",
    "Share",
    "gamma_quantile",
    "gamma_quantiles",
    "gamma_share_below",
    "lattice",
    "quantile",
]

JEFFREYS = 0.5
TERMS_MAX = 10_000
BISECTIONS = 200
RELATIVE = 1e-12
TABLES_KEPT_MAX = 1024
"""Forecasts of one hour rest on the same few counts."""
TABLE_REACH = 4.0
"""Standard deviations of the normal: 3e-5 of the chance lies beyond on either side."""
TABLE_KNOTS = 81
SHAPE_LARGE = 1e5
"""From here on the cube root is normal to 1e-9."""


def gamma_share_below(shape: float, x: float) -> float:
    """P(Gamma(shape, 1) <= x), the regularised incomplete gamma function; 1e-12 relative, for shapes up to SHAPE_LARGE."""
    if x <= 0:
        return 0.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        for i in range(1, TERMS_MAX):
            term *= x / (shape + i)
            total += term
            if term < total * 1e-16:
                break
        return min(1.0, scale * total)
    return 1 - min(1.0, scale * _continued_fraction(shape, x))


def _continued_fraction(shape: float, x: float) -> float:
    """Γ(shape, x) / (x^shape e^−x), by Lentz's method; for x > shape + 1."""
    b = x + 1 - shape
    c, d = 1e300, 1 / b
    found = d
    for i in range(1, TERMS_MAX):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        found *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return found


def gamma_quantile(shape: float, share: float) -> float:
    """x with P(Gamma(shape, 1) <= x) = share, for shares well inside 0 … 1 (1e-9 from either end)."""
    if not (shape > 0 and 0 < share < 1):
        raise UsageError(f"no quantile {share} of a gamma distribution of shape {shape}")
    if shape > SHAPE_LARGE:
        return math.exp(_wilson_hilferty(shape, share))
    # Of logarithms: shapes below 1 reach far down.
    low, high = -745.0, math.log(shape + 10 * math.sqrt(shape) + 50)
    guess = _wilson_hilferty(shape, share)
    for _ in range(BISECTIONS):
        x = math.exp(guess)
        below = gamma_share_below(shape, x)
        low, high = (guess, high) if below < share else (low, guess)
        slope = math.exp(shape * guess - x - math.lgamma(shape))  # of P against log x
        newton = guess - (below - share) / slope if slope > 0 else math.nan
        following = newton if low < newton < high else (low + high) / 2
        if abs(following - guess) < RELATIVE:
            return math.exp(following)
        guess = following
    return math.exp(guess)


def gamma_quantiles(shape: float, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles at many shares, given as normal scores (the standard normal's quantiles); 1e-2 relative."""
    import numpy as np

    knots, logarithms = _table(shape)
    return np.asarray(np.exp(np.interp(scores, knots, logarithms)))


@lru_cache(maxsize=TABLES_KEPT_MAX)
def _table(shape: float) -> tuple[list[float], list[float]]:
    step = 2 * TABLE_REACH / (TABLE_KNOTS - 1)
    knots = [i * step - TABLE_REACH for i in range(TABLE_KNOTS)]
    normal = NormalDist()
    return knots, [math.log(gamma_quantile(shape, normal.cdf(z))) for z in knots]


def _wilson_hilferty(shape: float, share: float) -> float:
    """Logarithm of a first guess: the cube root is nearly normal; below shape 1 the power law near 0."""
    small = (math.log(share) + math.lgamma(shape + 1)) / shape
    if shape < 1 or small < -3:
        return min(small, math.log(shape + 30))
    z = NormalDist().inv_cdf(share)
    cube = 1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))
    return math.log(shape) + 3 * math.log(cube) if cube > 0.01 else small


@dataclass(frozen=True)
class Rate:
    """A rate per year, as measured: so many events in so many years of watching (e.g. node-years)."""

    events: float
    years: float

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be counted."""
        if not (math.isfinite(self.events) and self.events >= 0):
            raise UsageError(f"events = {self.events}: not 0 or more")
        if not (math.isfinite(self.years) and self.years > 0):
            raise UsageError(f"years = {self.years}: a rate needs time of watching")

    @property
    def mean(self) -> float:
        """Per year; never 0, because not to have seen an event does not say that there is none."""
        return (self.events + JEFFREYS) / self.years

    def quantile(self, share: float) -> float:
        """The rate that the true one is below with this chance."""
        return gamma_quantile(self.events + JEFFREYS, share) / self.years

    def quantiles(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same at many shares, given as normal scores."""
        return gamma_quantiles(self.events + JEFFREYS, scores) / self.years

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal tails."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)


@dataclass(frozen=True)
class Share:
    """A probability, as measured: so many of so many trials."""

    hits: float
    trials: float

    def __post_init__(self) -> None:
        """Raises UsageError unless 0 <= hits <= trials."""
        if not 0 <= self.hits <= self.trials < math.inf:
            raise UsageError(f"{self.hits} of {self.trials} trials: not a share")

    @property
    def mean(self) -> float:
        """Between 0 and 1, neither included."""
        return (self.hits + JEFFREYS) / (self.trials + 2 * JEFFREYS)

    def at(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares at points of a square, as normal scores: a quotient of gamma quantiles is Beta distributed."""
        hit = gamma_quantiles(self.hits + JEFFREYS, first)
        return hit / (hit + gamma_quantiles(self.trials - self.hits + JEFFREYS, second))


@lru_cache(maxsize=8)
def lattice(points: int, dimensions: int) -> NDArray[np.float64]:
    """Points that cover a space evenly, as normal scores, by dimension; all are equally likely. Not to be changed.

    Multiples of the powers of a generalised golden ratio (Martin Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018). The first coordinate is the plain grid of midpoints, so quantiles over one
    uncertain number are exact to 1/points.
    """
    import numpy as np

    ratio = 2.0
    for _ in range(60):  # x^d = x + 1 for d = dimensions, of which one is the grid
        ratio = (1 + ratio) ** (1 / max(1, dimensions))
    number = np.arange(points)
    steps = ratio ** -np.arange(1, dimensions)
    columns = np.empty((dimensions, points))
    columns[0] = (number + 0.5) / points
    columns[1:] = (0.5 + (number + 1) * steps[:, None]) % 1.0
    inverse = np.vectorize(NormalDist().inv_cdf, otypes=[float])
    found = np.asarray(inverse(np.clip(columns, 1e-9, 1 - 1e-9)))
    found.flags.writeable = False
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in order, with linear interpolation between midpoints."""
    place = min(len(ordered) - 1.0, max(0.0, share * len(ordered) - 0.5))
    below = int(place)
    above = min(len(ordered) - 1, below + 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
