"""A segment with failure domains: against a chain that knows what lies in each domain, and against `Chain`."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from potsherd.durability import Chain
from potsherd.durability.absorbing import LOST, loss_probabilities, mean_time
from potsherd.durability.segment import Code, loss_chances, loss_rates
from potsherd.durability.spread import Spread, standing

Domains = tuple[int, ...]


def one(rate: float) -> np.ndarray:
    return np.array([rate])


def chances(
    code: Code, shard: float, repair: float, years: float, site: float = 0.0, apart: Domains = ()
) -> list[float]:
    strikes = standing(code.n, code.k, Spread(apart))
    found = loss_chances(code, one(shard), one(repair), years, one(site), strikes)
    return [float(p) for p in found[0]]


def rate(code: Code, shard: float, repair: float, site: float = 0.0, apart: Domains = ()) -> float:
    strikes = standing(code.n, code.k, Spread(apart))
    return float(loss_rates(code, one(shard), one(repair), one(site), strikes)[0])


def every_domain(
    code: Code, shard: float, repair: float, site: float, apart: Domains
) -> dict[tuple[int, ...], dict[tuple[int, ...], float]]:
    """The chain whose state is the live shards of each domain, and of those in none: nothing is left out."""
    whole = (*apart, code.n - sum(apart))
    table: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    for state in product(*(range(size + 1) for size in whole)):
        if sum(state) < code.k:
            continue
        row: dict[tuple[int, ...], float] = {}

        def go(to: tuple[int, ...], pace: float, row: dict[tuple[int, ...], float] = row) -> None:
            target = to if sum(to) >= code.k else LOST
            row[target] = row.get(target, 0.0) + pace

        for domain, live in enumerate(state):
            if live:
                go((*state[:domain], live - 1, *state[domain + 1 :]), live * shard)
                if domain < len(apart):
                    go((*state[:domain], 0, *state[domain + 1 :]), site)
        if sum(state) < code.r:
            go(whole, repair)
        table[state] = row
    return table


@pytest.mark.parametrize(
    ("code", "apart", "shard", "site"),
    [
        (Code(3, 9, 6), (3, 3, 3), 0.5, 0.3),
        (Code(4, 9, 7), (4, 2, 2), 0.3, 0.5),
        (Code(2, 8, 5), (3, 3, 2), 1.0, 0.1),
        (Code(4, 12, 12), (3, 3, 3, 3), 0.0, 0.4),
        (Code(5, 10, 8), (5, 3), 0.2, 0.2),
    ],
)
def test_it_is_the_chain_that_knows_every_domain(
    code: Code, apart: Domains, shard: float, site: float
) -> None:
    """Within 1 %: of domains of 4, 2, 2 it is not told apart whether the first or both others were struck, and a
    domain that is struck after it lost its shards one by one is not remembered.
    """
    table = every_domain(code, shard, 20.0, site, apart)
    whole = max(table, key=sum)
    exact = 1 / mean_time(table, whole, sorted(table, key=sum))
    assert rate(code, shard, 20.0, site, apart) == pytest.approx(exact, rel=1e-2)
    within = loss_probabilities(table, 1.5)[whole]
    assert chances(code, shard, 20.0, 1.5, site, apart)[-1] == pytest.approx(within, rel=1e-2)


@pytest.mark.parametrize(
    ("code", "shard", "repair", "years"),
    [
        (Code(4, 9, 7), 0.5, 26.0, 1.0),
        (Code(10, 30, 20), 0.05, 24.0, 1.0),
        (Code(10, 30, 20), 0.25, 24.0, 600.0),
        (Code(4, 12, 8), 0.3, 900.0, 1.0),
        (Code(4, 12, 4), 0.3, 0.0, 1.0),
        (Code(1, 3, 3), 5.0, 26.0, 100.0),
    ],
)
def test_without_domains_it_is_the_chain(
    code: Code, shard: float, repair: float, years: float
) -> None:
    """From any number of live shards, also for centuries; down to 1e-24."""
    found = chances(code, shard, repair, years)
    chain = Chain(code.n, code.k, code.r, shard, repair)
    exact = chain.loss_probabilities(years)
    assert found[: code.k] == [1.0] * code.k
    for live in range(code.k, code.n + 1):
        assert found[live] == pytest.approx(exact[live], rel=1e-8)


def test_repairs_within_seconds() -> None:
    """Half a million repairs a year cannot be walked through step by step."""
    code = Code(2, 8, 6)
    chain = Chain(code.n, code.k, code.r, 20.0, 500_000.0)
    found = chances(code, 20.0, 500_000.0, 1.0)[-1]
    assert found == pytest.approx(chain.loss_probability(1.0), rel=1e-3)


def test_a_site_that_holds_everything() -> None:
    assert rate(Code(2, 5, 5), 0.0, 100.0, 0.2, (5,)) == pytest.approx(0.2, rel=1e-12)
    found = chances(Code(2, 5, 5), 0.0, 100.0, 3.0, 0.2, (5,))[-1]
    assert found == pytest.approx(-math.expm1(-0.6), rel=1e-12)


def test_two_sites_without_repair() -> None:
    """2 of 4 on two sites of 2, only sites fail: lost when both have failed."""
    found = chances(Code(3, 4, 3), 0.0, 0.0, 1.0, 0.3, (2, 2))[-1]
    assert found == pytest.approx(-math.expm1(-0.6), rel=1e-12), "3 of 4: the first site"
    both = chances(Code(1, 4, 1), 0.0, 0.0, 1.0, 0.3, (2, 2))[-1]
    assert both == pytest.approx(math.expm1(-0.3) ** 2, rel=1e-12)


def test_single_shards_as_domains_equal_independent_losses() -> None:
    """n domains of one shard each at rate s are the same as n independent shards lost at s."""
    code = Code(3, 8, 6)
    assert rate(code, 0.4, 50.0, 0.2, (1,) * 8) == pytest.approx(rate(code, 0.6, 50.0), rel=2e-3)


def test_larger_domains_are_worse_at_the_same_rate_of_lost_shards() -> None:
    code = Code(4, 12, 8)
    losses = [chances(code, 0.1, 26.0, 1.0, 0.05, (s,) * (12 // s))[-1] for s in (1, 2, 3, 4, 6)]
    assert losses == sorted(losses)
    assert losses[-1] > 10 * losses[0]


def test_many_sizes_are_told_apart_as_far_as_it_pays() -> None:
    """30 shards on sites of 9 to 2: more levels than are kept; between even spreads of fewer and of more sites."""
    code = Code(10, 30, 20)
    few, many = (chances(code, 0.2, 24.0, 1.0, 0.05, a)[-1] for a in ((8,) * 3 + (6,), (5,) * 6))
    uneven = chances(code, 0.2, 24.0, 1.0, 0.05, (9, 7, 5, 4, 3, 2))[-1]
    assert many < uneven < few
