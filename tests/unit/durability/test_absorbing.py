"""The solver of absorbing chains where naive ones fail: against rational numbers and across time steps."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from potsherd.durability.absorbing import LOST, loss_probabilities, mean_time, stationary
from potsherd.durability.chain import Chain
from potsherd.errors import UsageError

TWO_STATES = {
    (1, False): {(0, False): 2.0, LOST: 0.5},
    (0, False): {(1, False): 3.0, LOST: 1.0},
}


def test_two_states_by_hand() -> None:
    """h1 = 1/2.5 + 2/2.5 h0, h0 = 1/4 + 3/4 h1: h1 = 1.5."""
    assert mean_time(TWO_STATES, (1, False), list(TWO_STATES)) == pytest.approx(1.5, rel=1e-15)


def test_long_run_shares_by_hand() -> None:
    """Begin again at (1): in and out of (0) at 2 and 3 + 1, so the shares are 4 : 2."""
    shares = stationary(TWO_STATES, (1, False), list(TWO_STATES))
    assert shares[1, False] == pytest.approx(2 / 3, rel=1e-15)
    assert math.fsum(shares.values()) == pytest.approx(1.0, rel=1e-15)


def test_long_run_shares_satisfy_the_balance_of_flows() -> None:
    chain = Chain(12, 4, 8, 1.0, 30.0, "serial")
    shares = stationary(chain.rates, (12, False), sorted(chain.rates))
    for state in shares:
        out = shares[state] * math.fsum(chain.rates[state].values())
        into = math.fsum(shares[s] * row.get(state, 0.0) for s, row in chain.rates.items())
        if state == (12, False):
            into += math.fsum(shares[s] * row.get(LOST, 0.0) for s, row in chain.rates.items())
        assert into == pytest.approx(out, rel=1e-12)


def exact_loss(n: int, k: int, loss: Fraction, repair: Fraction, years: Fraction) -> Fraction:
    """Parallel repair without laziness, by scaling and squaring a Taylor series in rational numbers."""
    size = n - k + 2  # live = n … k, then lost
    rate = [[Fraction(0)] * size for _ in range(size)]
    for i in range(size - 1):
        live = n - i
        rate[i][i + 1] = live * loss
        if i:
            rate[i][i - 1] = i * repair
        rate[i][i] = -sum(rate[i], Fraction(0))

    def times(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
        raw = [
            [sum(x * y for x, y in zip(row, col, strict=True)) for col in zip(*b, strict=True)]
            for row in a
        ]
        return [[Fraction(v).limit_denominator(10**80) for v in row] for row in raw]

    unit = [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]
    fastest = max(-rate[i][i] for i in range(size))
    squarings = max(0, math.ceil(math.log2(years * fastest)) + 3)
    small = [[v * years / 2**squarings for v in row] for row in rate]
    total, term = unit, unit
    for number in range(1, 34):
        term = [[v / number for v in row] for row in times(term, small)]
        total = [
            [a + b for a, b in zip(x, y, strict=True)] for x, y in zip(total, term, strict=True)
        ]
    for _ in range(squarings):
        total = times(total, total)
    return total[0][-1]


@pytest.mark.parametrize(
    ("repairs_per_year", "years"), [(365, 1), (8766, 10), (525_960, 100), (31_557_600, 1000)]
)
def test_many_squarings_do_not_wear_the_result_out(repairs_per_year: int, years: int) -> None:
    """Repair within a second, over a millennium: 37 squarings. Without rows brought back to 1 it is 1e-5 off."""
    exact = exact_loss(4, 2, Fraction(1, 2), Fraction(repairs_per_year), Fraction(years))
    chain = Chain(4, 2, 4, 0.5, repairs_per_year, "parallel")
    assert chain.loss_probability(years) == pytest.approx(float(exact), rel=1e-12)


def test_beginning_anywhere_is_consistent_with_the_first_step() -> None:
    """P(t + s | from i) = Σ_j P(i → j in t) P(s | from j): with no repair, j is binomial."""
    chain = Chain(6, 2, 0, 1.0, 0.0)
    late = chain.loss_probability(1.5, live=5)
    stays = math.exp(-0.5)
    step = [math.comb(5, j) * stays**j * (1 - stays) ** (5 - j) for j in range(6)]
    onward = chain.loss_probabilities(1.0)
    expected = math.fsum(p * (onward[j] if j >= 2 else 1.0) for j, p in enumerate(step))
    assert late == pytest.approx(expected, rel=1e-12)


def test_too_many_states_or_squarings_are_refused() -> None:
    with pytest.raises(UsageError, match="too far apart"):
        loss_probabilities({(0, False): {LOST: 1e300}}, 1e300)
    table = {(i, False): {LOST: 1.0} for i in range(5000)}
    with pytest.raises(UsageError, match="states"):
        loss_probabilities(table, 1.0)


def test_never_lost_and_nothing_to_wait_for() -> None:
    assert mean_time({(1, False): {}}, (1, False), [(1, False)]) == math.inf
    assert loss_probabilities({(1, False): {}}, 5.0) == {(1, False): 0.0}
