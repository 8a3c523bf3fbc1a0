"""Shocks to failure domains, beginning with fewer shards, and what repair moves."""

from __future__ import annotations

import math

import pytest

from potsherd.durability import Chain
from potsherd.durability.absorbing import mean_time, stationary
from potsherd.durability.formulas import lazy_repair_traffic
from potsherd.errors import UsageError


def test_a_shock_to_all_shards_is_a_second_exponential() -> None:
    chain = Chain(5, 2, 5, 0.0, 100.0, shocks=[(5, 0.2)])
    assert chain.mean_time_to_loss() == pytest.approx(5.0, rel=1e-14)
    assert chain.loss_probability(3.0) == pytest.approx(-math.expm1(-0.6), rel=1e-12)


def test_two_sites_without_repair_by_inclusion_and_exclusion() -> None:
    """2 of 4 on two sites of 2, only sites fail: lost when both have failed, at once or one after the other.

    The chain does not remember which site has failed, so the second shock hits one of the two left at random:
    it takes both, one or none with chances 1/6, 4/6, 1/6.
    """
    rate, years = 0.3, 1.0
    chain = Chain(4, 2, 0, 0.0, 0.0, shocks=[(2, rate), (2, rate)])
    first = 2 * rate
    onward = first * (1 / 6 + 4 / 6)
    expected = 1 - math.exp(-onward * years) * first / (first - onward)
    expected += math.exp(-first * years) * onward / (first - onward)
    assert chain.loss_probability(years) == pytest.approx(expected, rel=1e-10)


def test_single_shards_as_domains_equal_independent_losses() -> None:
    """n domains of one shard each at rate s are the same as n independent shards lost at s."""
    shocked = Chain(8, 3, 6, 0.4, 50.0, "parallel", shocks=[(1, 0.2)] * 8)
    # A domain of one holds a given live shard with chance live/n: rate n s live/n = live s.
    plain = Chain(8, 3, 6, 0.6, 50.0, "parallel")
    assert shocked.mean_time_to_loss() == pytest.approx(plain.mean_time_to_loss(), rel=1e-12)
    assert shocked.loss_probability(2.0) == pytest.approx(plain.loss_probability(2.0), rel=1e-10)


def test_larger_domains_are_worse_at_the_same_rate_of_lost_shards() -> None:
    losses = [
        Chain(12, 4, 8, 0.1, 26.0, shocks=[(size, 0.05)] * (12 // size)).loss_probability(1.0)
        for size in (1, 2, 3, 4, 6)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > 10 * losses[0]


def test_fewer_live_shards_are_riskier_and_too_few_are_lost() -> None:
    chain = Chain(9, 4, 7, 0.5, 26.0)
    chances = [chain.loss_probability(1.0, live=live) for live in range(3, 10)]
    assert chances[0] == 1.0
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] == chain.loss_probability(1.0)
    assert chain.loss_probability(1.0, live=12) == chances[-1]


def batch_mean(n: int, k: int, trigger: int, loss: float, repair: float) -> float:
    """Batch repair in closed form: T_i = A_i + (1 − C_i) T_n with C a product, so nothing cancels."""
    a, c = 0.0, 1.0
    for i in range(k, n + 1):
        up = repair if i < trigger else 0.0
        total = i * loss + up
        a, c = (1 + i * loss * a) / total, i * loss * c / total
    return a / c


@pytest.mark.parametrize(
    "args", [(30, 10, 20, 0.3, 24.0), (80, 29, 50, 1.3, 700.0), (9, 4, 7, 2, 3)]
)
def test_batch_repair_equals_its_recursion(args: tuple[int, int, int, float, float]) -> None:
    assert Chain(*args).mean_time_to_loss() == pytest.approx(batch_mean(*args), rel=1e-12)


def test_mean_time_of_astronomic_length_keeps_its_digits() -> None:
    args = (80, 20, 60, 0.1, 8766.0)
    assert batch_mean(*args) > 1e80
    assert Chain(*args).mean_time_to_loss() == pytest.approx(batch_mean(*args), rel=1e-12)


def test_traffic_of_a_single_spare_by_hand() -> None:
    """1 of 2, repair at 1/2: up for 1/(2l), then repaired at m or lost at l. A pass sends one shard."""
    passes, shards, moved = Chain(2, 1, 2, 1.0, 9.0).traffic()
    # Cycle: 1/2 in state 2, 1/10 in state 1; one pass in nine tenths of the cycles.
    assert passes == pytest.approx(0.9 / 0.6, rel=1e-12)
    assert shards == pytest.approx(passes)
    assert moved == pytest.approx(passes)


def test_lazy_traffic_agrees_with_the_formula_when_repair_is_fast() -> None:
    """F9 neglects what is lost during a repair and counts k reads where the repairer has one of its own."""
    n, k, trigger, life = 40, 20, 31, 0.5
    passes, shards, moved = Chain(n, k, trigger, 1 / life, 1e9).traffic()
    assert shards == pytest.approx(passes * (n - trigger + 1))
    formula = lazy_repair_traffic(n, k, trigger - 1, life)
    cycle = life * math.fsum(1 / i for i in range(trigger, n + 1))
    assert passes == pytest.approx(1 / cycle, rel=1e-6)
    assert moved == pytest.approx(formula, rel=0.06)
    assert moved * k + passes == pytest.approx(passes * (k + n - trigger + 1), rel=1e-7)


def test_live_shards_are_mostly_between_trigger_and_all() -> None:
    shares = Chain(30, 10, 20, 0.3, 24.0).live_shares()
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    assert math.fsum(p for live, p in shares.items() if live >= 19) > 0.95


@pytest.mark.parametrize("shocks", [[(6, 0.1)], [(-1, 0.1)], [(2, -0.1)], [(2, math.nan)]])
def test_impossible_shocks_are_refused(shocks: list[tuple[int, float]]) -> None:
    with pytest.raises(UsageError, match="shock"):
        Chain(5, 2, 4, 0.1, 10.0, shocks=shocks)


@pytest.mark.parametrize("trigger", [0, 4, 8, 12])
@pytest.mark.parametrize("shocks", [(), ((3, 0.2), (3, 0.2), (5, 0.05))])
def test_short_cuts_of_batch_repair_are_the_general_way(
    trigger: int, shocks: tuple[tuple[int, float], ...]
) -> None:
    """Mean time and traffic without a table of states, against the elimination of states."""
    chain = Chain(12, 4, trigger, 0.7, 11.0, shocks=shocks)
    order = sorted(chain.rates)
    general = mean_time(chain.rates, (12, False), order)
    assert chain.mean_time_to_loss() == pytest.approx(general, rel=1e-12)
    shares = stationary(chain.rates, (12, False), order)
    passes = math.fsum(share * 11.0 for (_, repairing), share in shares.items() if repairing)
    shards = math.fsum(
        share * 11.0 * (12 - i) for (i, repairing), share in shares.items() if repairing
    )
    found = chain.traffic()
    assert found[0] == pytest.approx(passes, rel=1e-9)
    assert found[1] == pytest.approx(shards, rel=1e-9)
