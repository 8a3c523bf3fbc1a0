"""Rare losses by importance sampling and splitting: right, and as sure of it as they say."""

from __future__ import annotations

import numpy as np
import pytest

from potsherd.durability import Chain, fewer_than
from potsherd.durability.chain import Repair
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Exponential, Weibull
from potsherd.simulations.montecarlo.rare import loss_rate
from potsherd.simulations.montecarlo.replicates import estimate_loss, normal_reach
from potsherd.simulations.montecarlo.splitting import Model, loss_probability


def covered(chain: Chain, runs: int, cycles: int) -> float:
    """Share of intervals that hold the exact rate."""
    exact = chain.loss_rate_per_year()
    found = [loss_rate(chain, cycles, seed) for seed in range(runs)]
    return sum(e.low <= exact <= e.high for e in found) / runs


@pytest.mark.parametrize(
    "chain",
    [
        Chain(9, 4, 7, 0.5, 26.0),
        Chain(30, 10, 20, 0.3, 50.0),
        Chain(12, 4, 8, 0.5, 400.0, "serial"),
        Chain(12, 4, 8, 1.0, 100.0, "parallel"),
    ],
    ids=["lazy", "deep", "serial", "parallel"],
)
def test_intervals_of_cycles_hold_the_exact_rate(chain: Chain) -> None:
    """Nominal 95 %, 80 runs: fewer than 87 % would have a chance of 1 in 1,000."""
    assert covered(chain, 80, 2000) >= 0.87


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["batch", "parallel", "serial"])
def test_coverage_of_cycles_over_many_runs(kind: Repair) -> None:
    assert 0.92 <= covered(Chain(20, 8, 14, 0.5, 60.0, kind), 1000, 3000) <= 0.98


def test_one_in_a_hundred_trillion_to_a_few_per_cent() -> None:
    chain = Chain(30, 10, 20, 0.25, 100.0)
    exact = chain.loss_rate_per_year()
    assert exact < 1e-14
    found = loss_rate(chain, 40_000, 3)
    assert found.value == pytest.approx(exact, rel=0.08)
    assert found.high / found.low < 1.2


def test_no_cycle_lost_gives_a_bound() -> None:
    chain = Chain(30, 10, 30, 1e-9, 1e-3, "parallel")
    found = loss_rate(chain, 2, 1)
    if not found.seen:
        assert found.value == 0.0
        assert found.high == pytest.approx(3.0 / found.trials)
        assert found.words().startswith("< ")


@pytest.mark.parametrize("cycles", [0, 1, 10**9])
def test_impossible_numbers_of_cycles(cycles: int) -> None:
    with pytest.raises(UsageError, match="cycles"):
        loss_rate(Chain(3, 1, 3, 1.0, 1.0), cycles, 1)


# --- splitting ------------------------------------------------------------------------------------


def hits(chain: Chain, years: float, runs: int, paths: int) -> float:
    exact = chain.loss_probability(years)
    model = Model(
        chain.n, chain.k, chain.trigger,
        Exponential(1 / chain.loss_rate), Exponential(1 / chain.repair_rate), years,
    )  # fmt: skip
    found = [loss_probability(model, seed, paths=paths, replicates=16) for seed in range(runs)]
    return sum(e.low <= exact <= e.high for e in found) / runs


@pytest.mark.slow
def test_splitting_finds_the_chain() -> None:
    assert hits(Chain(6, 2, 5, 1.0, 40.0), 1.0, 12, 400) >= 0.75


@pytest.mark.nightly
def test_coverage_of_splitting_over_many_runs() -> None:
    assert 0.90 <= hits(Chain(6, 2, 5, 1.0, 40.0), 1.0, 200, 1500) <= 0.99


@pytest.mark.nightly
def test_splitting_at_one_in_a_hundred_million() -> None:
    chain = Chain(20, 6, 13, 0.5, 60.0)
    exact = chain.loss_probability(1.0)
    assert exact < 1e-8
    model = Model(20, 6, 13, Exponential(2.0), Exponential(1 / 60), 1.0)
    found = loss_probability(model, 1, paths=20_000)
    assert found.low < exact < found.high or found.value == pytest.approx(exact, rel=0.25)


def test_splitting_without_repair_is_the_binomial_for_lives_of_any_shape() -> None:
    """With a repair far beyond the horizon; new nodes by their survival."""
    life = Weibull.of_mean(1.0, 0.6)
    survival = float(life.survival(np.array([0.05]))[0])
    model = Model(6, 2, 5, life, 1e6, 0.05, placed_on="new")
    found = loss_probability(model, 5, paths=2000)
    exact = fewer_than(2, [survival] * 6)
    assert exact < 1e-2
    assert abs(found.value - exact) < 4 * (found.high - found.low) / 4


def test_shards_on_old_nodes_are_safer_when_the_shape_is_below_one() -> None:
    life = Weibull.of_mean(1.0, 0.5)
    new, met = (
        loss_probability(Model(6, 2, 5, life, 0.05, 1.0, placed_on=on), 2, paths=1000)
        for on in ("new", "met")
    )
    assert new.low > met.high


def test_constant_repair_times_lose_less_than_exponential_ones() -> None:
    constant, random = (
        loss_probability(Model(6, 2, 5, Exponential(1.0), repair, 1.0), 4, paths=1500)
        for repair in (0.03, Exponential(0.03))
    )
    assert constant.high < random.low


def test_one_seed_is_one_estimate() -> None:
    model = Model(5, 2, 4, Exponential(1.0), 0.1, 1.0)
    same = [loss_probability(model, 9, paths=200, replicates=4) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"k": 7}, "k = 7"), ({"years": 0.0}, "years"), ({"repair": 0.0}, "repair")],
)
def test_nonsense_models_are_refused_by_name(change: dict[str, float], field: str) -> None:
    good: dict[str, object] = {
        "n": 6, "k": 2, "r": 5, "life": Exponential(1.0), "repair": 0.1, "years": 1.0,
    }  # fmt: skip
    with pytest.raises(UsageError, match=field):
        Model(**{**good, **change})  # type: ignore[arg-type] # by name


# --- intervals from replicates --------------------------------------------------------------------


def test_nothing_seen_is_a_bound_not_zero() -> None:
    found = estimate_loss([0] * 16, 1000)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(3 / 16_000)


def test_intervals_cover_when_losses_come_in_clusters() -> None:
    """Each network has a loss chance of its own: a plain binomial interval would hold the mean half the time."""
    rng = np.random.default_rng(11)
    held = plain = 0
    for _ in range(300):
        chances = rng.gamma(4.0, 0.01 / 4, size=16)
        lost = rng.binomial(1000, chances)
        found = estimate_loss(lost.tolist(), 1000)
        held += found.low <= 0.01 <= found.high
        mean = lost.sum() / 16_000
        plain += abs(mean - 0.01) < 1.96 * (mean / 16_000) ** 0.5
    assert held / 300 >= 0.91
    assert plain / 300 < 0.75


def test_reach_of_students_t() -> None:
    assert normal_reach(16) == pytest.approx(2.131, abs=0.01)
    assert normal_reach(5) == pytest.approx(2.776, abs=0.06)
    assert normal_reach(10**6) == pytest.approx(1.96, abs=1e-3)


def test_no_replicates_is_refused() -> None:
    with pytest.raises(UsageError, match="replicates"):
        estimate_loss([], 10)
