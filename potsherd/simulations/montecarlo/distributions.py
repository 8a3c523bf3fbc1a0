"""How long nodes live and stretches last: exponential, Weibull, Pareto, or as measured.

Everything follows from the survival S(x) = P(X > x) and its inverse: a new one is drawn as S⁻¹(u) with u uniform, what
is left at age a as S⁻¹(u S(a)) − a. A node that is *met* at random is drawn differently from a new one: long lives are
met more often, so with shapes below 1 a shard on an old node outlives one on a new node. The compiled engine draws
by the same numbers (`Parameters`). Times in years.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.errors import UsageError

__all__ = [
    "Distribution",
    "Empirical",
    "Exponential",
    "Never",
    "Parameters",
    "Pareto",
    "Weibull",
    "parse_distribution",
]

Floats = NDArray[np.float64]

EXPONENTIAL, WEIBULL, PARETO, EMPIRICAL, NEVER = range(5)
KNOTS_MAX = 100_000
"""Measured values kept; more are thinned to evenly spaced quantiles."""
FOREVER = 1e9
"""Years: longer than any horizon."""


class Parameters(NamedTuple):
    """What the compiled engine needs: kind, scale, shape, and quantiles in falling survival for measured ones."""

    kind: int
    scale: float
    shape: float
    knots: Floats


class Distribution(Protocol):
    """A positive random time."""

    @property
    def mean(self) -> float:
        """In years."""

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine."""

    def survival(self, x: Floats) -> Floats:
        """P(X > x)."""

    def inverse(self, u: Floats) -> Floats:
        """x with S(x) = u, for u in (0, 1]."""

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """(age, time left) of ones met at a random moment of a long-running population."""


def _split(rng: np.random.Generator, whole: Floats) -> tuple[Floats, Floats]:
    """A random moment within each of the whole times."""
    part = rng.random(len(whole))
    return whole * part, whole * (1 - part)


@dataclass(frozen=True)
class Exponential:
    """No memory."""

    mean: float

    def __post_init__(self) -> None:
        _positive("mean", self.mean)

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine."""
        return Parameters(EXPONENTIAL, self.mean, 1.0, np.empty(0))

    def survival(self, x: Floats) -> Floats:
        """exp(−x / mean)."""
        return np.exp(-x / self.mean)

    def inverse(self, u: Floats) -> Floats:
        """−mean · ln u."""
        return -self.mean * np.log(u)

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """Age and time left are independent exponentials."""
        return rng.exponential(self.mean, size), rng.exponential(self.mean, size)


@dataclass(frozen=True)
class Weibull:
    """S(x) = exp(−(x/scale)^shape); shape < 1: who has stayed long stays longer."""

    shape: float
    scale: float

    def __post_init__(self) -> None:
        _positive("shape", self.shape)
        _positive("scale", self.scale)

    @classmethod
    def of_mean(cls, mean: float, shape: float) -> Weibull:
        """With this mean."""
        _positive("shape", shape)
        return cls(shape, mean / math.gamma(1 + 1 / shape))

    @property
    def mean(self) -> float:
        """scale · Γ(1 + 1/shape)."""
        return self.scale * math.gamma(1 + 1 / self.shape)

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine."""
        return Parameters(WEIBULL, self.scale, self.shape, np.empty(0))

    def survival(self, x: Floats) -> Floats:
        """exp(−(x/scale)^shape)."""
        return np.asarray(np.exp(-((x / self.scale) ** self.shape)))

    def inverse(self, u: Floats) -> Floats:
        """scale · (−ln u)^(1/shape)."""
        return np.asarray(self.scale * (-np.log(u)) ** (1 / self.shape))

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """A life met at random is length-biased: (x/scale)^shape is Gamma(1 + 1/shape)."""
        hazard = rng.gamma(1 + 1 / self.shape, size=size)
        return _split(rng, self.scale * hazard ** (1 / self.shape))


@dataclass(frozen=True)
class Pareto:
    """S(x) = (1 + x/scale)^−shape (Lomax); shape > 1, so that there is a mean."""

    shape: float
    scale: float

    def __post_init__(self) -> None:
        if not self.shape > 1:
            raise UsageError(
                f"shape = {self.shape}: a Pareto life needs more than 1 to have a mean"
            )
        _positive("scale", self.scale)

    @classmethod
    def of_mean(cls, mean: float, shape: float) -> Pareto:
        """With this mean."""
        return cls(shape, mean * (shape - 1))

    @property
    def mean(self) -> float:
        """scale / (shape − 1)."""
        return self.scale / (self.shape - 1)

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine."""
        return Parameters(PARETO, self.scale, self.shape, np.empty(0))

    def survival(self, x: Floats) -> Floats:
        """(1 + x/scale)^−shape."""
        return np.asarray((1 + x / self.scale) ** -self.shape)

    def inverse(self, u: Floats) -> Floats:
        """scale · (u^(−1/shape) − 1)."""
        return np.asarray(self.scale * (u ** (-1 / self.shape) - 1))

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """A life met at random over scale is beta prime (2, shape − 1): a quotient of gammas."""
        whole = self.scale * rng.gamma(2.0, size=size) / rng.gamma(self.shape - 1, size=size)
        return _split(rng, whole)


@dataclass(frozen=True)
class Empirical:
    """As measured: quantiles joined by straight lines, evenly spaced in probability."""

    knots: tuple[float, ...] = field(repr=False)
    """Rising; the first is the smallest time, the last the largest."""

    def __post_init__(self) -> None:
        values = np.array(self.knots)
        if len(values) < 2:
            raise UsageError("a measured distribution needs two values or more")
        if not (np.isfinite(values).all() and values[0] >= 0 and (np.diff(values) >= 0).all()):
            raise UsageError("values of a measured distribution: not rising from 0 or more")
        if values[-1] <= 0:
            raise UsageError("values of a measured distribution: all are 0")

    @classmethod
    def of(cls, values: Sequence[float]) -> Empirical:
        """From a sample in any order."""
        ordered = np.sort(np.asarray(values, dtype=float))
        if len(ordered) > KNOTS_MAX:
            ordered = np.quantile(ordered, np.linspace(0, 1, KNOTS_MAX))
        return cls(tuple(ordered.tolist()))

    @classmethod
    def of_survival(cls, times: Floats, survival: Floats, knots: int = 2000) -> Empirical:
        """From points of a survival curve, falling from 1 to 0 (the caller says how its tail ends)."""
        shares = np.linspace(1, 0, knots)
        return cls(tuple(np.interp(-shares, -survival, times).tolist()))

    @property
    def mean(self) -> float:
        """Area under the survival."""
        values = np.array(self.knots)
        return float((values[1:] + values[:-1]).mean() / 2)

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine; knots by falling survival."""
        return Parameters(EMPIRICAL, self.mean, 1.0, np.array(self.knots))

    def _grid(self) -> tuple[Floats, Floats]:
        values = np.array(self.knots)
        return values, np.linspace(1, 0, len(values))

    def survival(self, x: Floats) -> Floats:
        """By interpolation; 1 below the first knot, 0 beyond the last."""
        values, shares = self._grid()
        return np.asarray(np.interp(x, values, shares, left=1.0, right=0.0))

    def inverse(self, u: Floats) -> Floats:
        """By interpolation."""
        values, shares = self._grid()
        return np.asarray(np.interp(-u, -shares, values))

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """A line between knots is chosen by its length times its middle, then a point on it by its length."""
        values = np.array(self.knots)
        low, high = values[:-1], values[1:]
        weight = low + high
        place = rng.choice(len(low), size, p=weight / weight.sum())
        # Density proportional to x on [low, high]: x² is uniform.
        a, b = low[place] ** 2, high[place] ** 2
        return _split(rng, np.sqrt(a + (b - a) * rng.random(size)))


@dataclass(frozen=True)
class Never:
    """It does not end within any horizon."""

    mean: float = FOREVER

    @property
    def parameters(self) -> Parameters:
        """For the compiled engine."""
        return Parameters(NEVER, FOREVER, 1.0, np.empty(0))

    def survival(self, x: Floats) -> Floats:
        """1."""
        return np.ones_like(x)

    def inverse(self, u: Floats) -> Floats:
        """FOREVER."""
        return np.full_like(u, FOREVER)

    def met(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """Old already."""
        return np.zeros(size), np.full(size, FOREVER)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} = {value}: not a number above 0")


_SHAPES = {"exponential": 1.0, "weibull": 0.6, "pareto": 2.0}


def parse_distribution(kind: str, mean: float, shape: float | None = None) -> Distribution:
    """By name: `exponential`, `weibull`, `pareto`, with a mean in years. Raises UsageError."""
    if kind not in _SHAPES:
        raise UsageError(f"kind = {kind!r}: not one of {', '.join(_SHAPES)}")
    _positive("mean", mean)
    if kind == "exponential":
        if shape is not None:
            raise UsageError("shape: an exponential distribution has none")
        return Exponential(mean)
    made = Weibull if kind == "weibull" else Pareto
    return made.of_mean(mean, _SHAPES[kind] if shape is None else shape)
