"""The exact chain against closed forms and against a rational solution of its own equations."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest

from potsherd.durability import Chain
from potsherd.durability.chain import Repair
from potsherd.errors import UsageError


def birth_death_mean(n: int, k: int, loss: Fraction, repair: Fraction) -> Fraction:
    """MTTDL with parallel repair without laziness: a_i = 1/(i l) + (n-i) m/(i l) a_(i+1), summed."""
    term = 1 / (n * loss)
    total = term
    for i in range(n - 1, k - 1, -1):
        term = 1 / (i * loss) + (n - i) * repair / (i * loss) * term
        total += term
    return total


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (10, 3), (30, 10), (80, 29)])
def test_mean_time_is_that_of_the_birth_death_process(n: int, k: int) -> None:
    exact = birth_death_mean(n, k, Fraction(1), Fraction(730))
    mean = Chain(n, k, n, 1.0, 730.0, "parallel").mean_time_to_loss()
    assert mean == pytest.approx(float(exact), rel=1e-12)


def test_without_repair_the_loss_is_binomial_down_to_1e_25() -> None:
    for years in (1e-4, 0.01, 1.0, 30.0):
        alive = math.exp(-0.3 * years)
        gone = -math.expm1(-0.3 * years)
        exact = math.fsum(math.comb(12, i) * alive**i * gone ** (12 - i) for i in range(4))
        assert Chain(12, 4, 0, 0.3, 50.0).loss_probability(years) == pytest.approx(exact, rel=1e-10)
    assert Chain(12, 4, 0, 0.3, 50.0).loss_probability(1e-4) < 1e-37


def test_one_shard_without_spare_is_an_exponential() -> None:
    chain = Chain(1, 1, 1, 0.25, 100.0)
    assert chain.mean_time_to_loss() == pytest.approx(4.0)
    assert chain.loss_probability(2.0) == pytest.approx(-math.expm1(-0.5), rel=1e-12)


def rational_mean(n: int, k: int, trigger: int, loss: int, repair: int, kind: Repair) -> Fraction:
    """Solve the equations of the mean times by elimination in rational numbers."""
    states = [(i, r) for i in range(k, n + 1) for r in (False, True)]
    rows: list[list[Fraction]] = []
    for i, r in states:
        row = [Fraction(0)] * (len(states) + 1)
        at = states.index((i, r))
        row[-1] = Fraction(1)
        row[at] += i * loss
        if i > k:
            row[states.index((i - 1, r or i - 1 < trigger))] -= i * loss
        if r and i < n:
            up = n if kind == "batch" else i + 1
            rate = repair * (n - i if kind == "parallel" else 1)
            row[at] += rate
            row[states.index((up, up < n))] -= rate
        rows.append(row)
    for column in range(len(states)):
        pivot = next(row for row in rows[column:] if row[column])
        rows.remove(pivot)
        rows.insert(column, pivot)
        for other in rows:
            if other is not pivot and other[column]:
                factor = other[column] / pivot[column]
                other[:] = [a - factor * b for a, b in zip(other, pivot, strict=True)]
    at = states.index((n, False))
    return rows[at][-1] / rows[at][at]


KINDS: tuple[Repair, ...] = ("batch", "parallel", "serial")


@pytest.mark.parametrize(("kind", "trigger"), list(product(KINDS, (3, 4, 6, 8))))
def test_mean_time_equals_a_rational_solution(kind: Repair, trigger: int) -> None:
    exact = rational_mean(8, 3, trigger, 2, 365, kind)
    mean = Chain(8, 3, trigger, 2.0, 365.0, kind).mean_time_to_loss()
    assert mean == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_probability_and_mean_time_agree_over_long_times(kind: Repair) -> None:
    """After the start-up the loss is a rare event at the rate 1 / mean time."""
    chain = Chain(9, 4, 7, 0.5, 40.0, kind)
    early, late = chain.loss_probability(50.0), chain.loss_probability(1050.0)
    rate = -math.log((1 - late) / (1 - early)) / 1000
    assert rate == pytest.approx(1 / chain.mean_time_to_loss(), rel=0.01)


def test_long_and_short_steps_compose() -> None:
    """P(t) from one squaring more is the same: the answer does not depend on the step."""
    chain = Chain(30, 10, 20, 1.0, 200.0, "serial")
    value = chain.loss_probability(1.0)
    assert 0 < value < 1e-6
    assert chain.loss_probability(1.0 + 1e-12) == pytest.approx(value, rel=1e-8)


def test_storj_row_is_near_the_published_exact_value() -> None:
    """30 of 60, repair below 36 live, a month of life, 12 h: 3.9e-2 a year in the steady state."""
    assert Chain(60, 30, 36, 12.0, 730.5).loss_probability(1.0) == pytest.approx(3.9e-2, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((3, 4, 3, 1.0, 1.0), "k = 4"),
        ((3, 0, 3, 1.0, 1.0), "k = 0"),
        ((3, 1, 4, 1.0, 1.0), "trigger"),
        ((3, 1, 3, -1.0, 1.0), "loss_rate"),
        ((3, 1, 3, 1.0, math.inf), "repair_rate"),
        ((3, 1, 3, 1.0, 1.0, "magic"), "repair ="),
    ],
)
def test_nonsense_is_refused_by_name(arguments: tuple[float, ...], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        Chain(*arguments)  # type: ignore[arg-type] # nonsense on purpose


def test_nothing_lost_without_loss_or_time() -> None:
    assert Chain(3, 1, 3, 0.0, 1.0).mean_time_to_loss() == math.inf
    assert Chain(3, 1, 3, 1.0, 1.0).loss_probability(0.0) == 0.0
    with pytest.raises(UsageError):
        Chain(3, 1, 3, 1.0, 1.0).loss_probability(-1.0)
