"""The chain: beginning with fewer shards, and what repair moves."""

from __future__ import annotations

import math

import pytest

from potsherd.durability import Chain
from potsherd.durability.absorbing import mean_time, stationary
from potsherd.durability.formulas import lazy_repair_traffic


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


@pytest.mark.parametrize("trigger", [0, 4, 8, 12])
def test_short_cuts_of_batch_repair_are_the_general_way(trigger: int) -> None:
    """Mean time and traffic without a table of states, against the elimination of states."""
    chain = Chain(12, 4, trigger, 0.7, 11.0)
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
