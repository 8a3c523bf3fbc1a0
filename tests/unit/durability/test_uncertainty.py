"""Gamma and beta quantiles against closed forms, and points that cover a cube evenly."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from potsherd.durability.uncertainty import (
    Rate,
    Share,
    gamma_quantile,
    gamma_quantiles,
    gamma_share_below,
    lattice,
    quantile,
)
from potsherd.errors import UsageError

SHARES = (1e-6, 0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9999)


@pytest.mark.parametrize("share", SHARES)
def test_shape_one_is_the_exponential(share: float) -> None:
    assert gamma_quantile(1.0, share) == pytest.approx(-math.log1p(-share), rel=1e-9)


@pytest.mark.parametrize("share", SHARES)
def test_shape_half_is_a_squared_normal(share: float) -> None:
    assert math.erf(math.sqrt(gamma_quantile(0.5, share))) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("shape", [2, 5, 40, 300])
@pytest.mark.parametrize("share", SHARES)
def test_whole_shapes_are_poisson_sums(shape: int, share: float) -> None:
    """P(Gamma(a) <= x) = P(Poisson(x) >= a)."""
    x = gamma_quantile(float(shape), share)
    terms = [math.exp(i * math.log(x) - x - math.lgamma(i + 1)) for i in range(shape)]
    assert 1 - math.fsum(terms) == pytest.approx(share, rel=1e-7)
    assert gamma_share_below(float(shape), x) == pytest.approx(share, rel=1e-9)


def test_nothing_is_below_zero() -> None:
    assert gamma_share_below(3.0, 0.0) == 0.0
    with pytest.raises(UsageError):
        gamma_quantile(1.0, 1.0)


@pytest.mark.parametrize("true_rate", [0.02, 0.1, 1.0])
def test_intervals_of_a_rate_cover_the_truth_as_often_as_they_say(true_rate: float) -> None:
    """Exact coverage: summed over the Poisson counts, not sampled; with 100 node-years."""
    years = 100.0
    mean = true_rate * years
    covered = 0.0
    for events in range(int(mean + 12 * math.sqrt(mean) + 20)):
        low, high = Rate(events, years).interval()
        if low <= true_rate <= high:
            covered += math.exp(events * math.log(mean) - mean - math.lgamma(events + 1))
    assert 0.90 <= covered <= 0.985


def test_a_share_is_a_beta_distribution() -> None:
    """Its first two moments, by the points of a lattice."""
    share = Share(8, 10)
    values = share.at(*lattice(2000, 2))
    a, b = 8.5, 2.5
    assert values.mean() == pytest.approx(a / (a + b), abs=2e-3)
    assert values.var() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=0.03)
    assert share.mean == pytest.approx(a / (a + b))


def test_lattice_points_fill_every_corner() -> None:
    scores = lattice(256, 5)
    found = np.vectorize(NormalDist().cdf)(scores)
    assert found.shape == (5, 256)
    for row in found:
        assert np.histogram(row, 8, (0, 1))[0].min() >= 20  # of 32 expected
    corners = (1 << np.arange(5)) @ (found > 0.5)
    assert np.bincount(corners, minlength=32).min() >= 3  # of 8 expected


@pytest.mark.parametrize("shape", [0.5, 1.5, 30.0, 5e8])
def test_tables_of_quantiles_are_near_the_quantiles(shape: float) -> None:
    scores = np.linspace(-3.3, 3.3, 57)
    exact = [gamma_quantile(shape, NormalDist().cdf(z)) for z in scores]
    assert gamma_quantiles(shape, scores) == pytest.approx(np.array(exact), rel=0.01)


def test_quantiles_of_values_in_order() -> None:
    values = [float(i) for i in range(100)]
    assert quantile(values, 0.5) == pytest.approx(49.5)
    assert quantile(values, 0.0) == 0.0
    assert quantile(values, 1.0) == 99.0
    assert quantile([7.0], 0.3) == 7.0


@pytest.mark.parametrize(("events", "years"), [(-1, 1), (1, 0), (math.nan, 1), (1, -2)])
def test_rates_need_counts_and_time(events: float, years: float) -> None:
    with pytest.raises(UsageError, match=r"events|years"):
        Rate(events, years)


def test_shares_need_trials() -> None:
    with pytest.raises(UsageError, match="trials"):
        Share(3, 2)
