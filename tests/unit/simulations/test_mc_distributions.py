"""Lives and stretches: draws follow the survival, and those met at random are older than new ones."""

from __future__ import annotations

import numpy as np
import pytest

from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import (
    Distribution,
    Empirical,
    Exponential,
    Never,
    Pareto,
    Weibull,
    parse_distribution,
)

CASES: list[Distribution] = [
    Exponential(0.7),
    Weibull.of_mean(2.0, 0.5),
    Weibull.of_mean(2.0, 3.0),
    Pareto.of_mean(1.5, 2.5),
    Empirical.of([0.1, 0.2, 0.3, 0.9, 4.0]),
]
IDS = ["exponential", "weibull half", "weibull three", "pareto", "empirical"]


def integrate(values: np.ndarray[tuple[int], np.dtype[np.float64]], steps: float) -> float:
    return float((values[1:] + values[:-1]).sum() / 2 * steps)


@pytest.mark.parametrize("life", CASES, ids=IDS)
def test_inverse_and_survival_belong_together(life: Distribution) -> None:
    u = np.linspace(0.001, 0.999, 333)
    assert life.survival(life.inverse(u)) == pytest.approx(u, abs=1e-9)


@pytest.mark.parametrize("life", CASES, ids=IDS)
def test_mean_is_the_mean_of_draws(life: Distribution) -> None:
    """By the midpoints of many equal shares: no chance involved; Pareto's tail takes the widest margin."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    assert life.inverse(u).mean() == pytest.approx(life.mean, rel=5e-3)


@pytest.mark.parametrize("life", CASES, ids=IDS)
def test_met_ones_have_the_residual_life_of_renewal_theory(life: Distribution) -> None:
    """P(left > x) = ∫_x^∞ S / mean; age and time left have one distribution, and add up to a biased life."""
    rng = np.random.default_rng(5)
    ages, left = life.met(rng, 200_000)
    top = float(life.inverse(np.array([1e-7]))[0])
    grid = np.linspace(0, top, 2_000_001)
    area = np.concatenate([[0.0], np.cumsum(life.survival(grid)[1:] * (grid[1] - grid[0]))])
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        x = grid[np.searchsorted(area, share * life.mean)]
        assert (left < x).mean() == pytest.approx(share, abs=0.01)
        assert (ages < x).mean() == pytest.approx(share, abs=0.01)


def test_shape_below_one_met_old_outlives_new() -> None:
    """Which is simulated changes the loss of a Weibull network, so the scenario says it."""
    life = Weibull.of_mean(1.0, 0.5)
    rng = np.random.default_rng(1)
    met = life.met(rng, 100_000)[1]
    new = life.inverse(rng.random(100_000))
    assert np.median(met) > 5 * np.median(new)


def test_residual_at_an_age_by_the_inverse() -> None:
    """S⁻¹(u S(a)) − a: for the exponential the same at any age."""
    life = Exponential(2.0)
    u = np.array([0.2, 0.7])
    for age in (0.0, 5.0):
        left = life.inverse(u * life.survival(np.array([age]))) - age
        assert left == pytest.approx(life.inverse(u), rel=1e-9)


def test_empirical_from_a_survival_curve() -> None:
    times = np.linspace(0, 40, 4001)
    life = Empirical.of_survival(times, np.exp(-times))
    assert life.mean == pytest.approx(1.0, rel=0.02)
    assert life.survival(np.array([1.0, 2.0])) == pytest.approx(np.exp([-1.0, -2.0]), abs=2e-3)


def test_never_ends_beyond_every_horizon() -> None:
    assert Never().inverse(np.array([0.5]))[0] > 1e6
    assert Never().met(np.random.default_rng(0), 3)[1].min() > 1e6


@pytest.mark.parametrize(
    ("kind", "mean", "shape", "field"),
    [
        ("normal", 1.0, None, "kind"),
        ("exponential", 0.0, None, "mean"),
        ("exponential", 1.0, 2.0, "shape"),
        ("weibull", 1.0, 0.0, "shape"),
        ("pareto", 1.0, 1.0, "shape"),
        ("weibull", float("nan"), None, "mean"),
    ],
)
def test_nonsense_is_refused_by_name(
    kind: str, mean: float, shape: float | None, field: str
) -> None:
    with pytest.raises(UsageError, match=field):
        parse_distribution(kind, mean, shape)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-1.0, 2.0], [1.0, float("inf")]])
def test_samples_that_are_none(values: list[float]) -> None:
    with pytest.raises(UsageError, match="measured"):
        Empirical.of(values)
