"""Poisson-binomial tails against rational arithmetic and enumeration, also where they are tiny."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from potsherd.durability.binomial import at_least, counts, fewer_than, fewer_than_each
from potsherd.errors import UsageError

UNEQUAL = [0.25, 0.5, 0.9375, 0.125, 1.0, 0.75, 0.0]


def enumerated(k: int, up: list[float]) -> Fraction:
    total = Fraction(0)
    for outcome in product((0, 1), repeat=len(up)):
        if sum(outcome) < k:
            total += math.prod(
                Fraction(p) if o else 1 - Fraction(p) for o, p in zip(outcome, up, strict=True)
            )
    return total


@pytest.mark.parametrize("k", range(9))
def test_equals_the_sum_over_all_outcomes(k: int) -> None:
    assert fewer_than(k, UNEQUAL) == pytest.approx(float(enumerated(k, UNEQUAL)), abs=0, rel=1e-14)
    assert at_least(k, UNEQUAL) == pytest.approx(1 - float(enumerated(k, UNEQUAL)), rel=1e-14)


def test_a_tail_of_1e_71_keeps_its_digits() -> None:
    """The discrete Fourier form gives noise of 1e-16 here."""
    exact = sum(math.comb(60, i) * Fraction(15, 16) ** i / 16 ** (60 - i) for i in range(2))
    assert exact < 1e-69
    assert fewer_than(2, [0.9375] * 60) == pytest.approx(float(exact), rel=1e-13)


def test_both_tails_are_whole() -> None:
    assert math.fsum(counts([0.3] * 200)) == pytest.approx(1.0, rel=1e-14)
    assert fewer_than(0, [0.5]) == 0.0
    assert fewer_than(5, [0.5]) == 1.0
    assert at_least(0, []) == 1.0
    assert at_least(1, []) == 0.0


def test_matrix_form_equals_the_rows() -> None:
    up = np.random.default_rng(1).random((20, 12))
    for k in (0, 1, 5, 12, 13):
        rows = [fewer_than(k, row) for row in up.tolist()]
        assert fewer_than_each(k, up) == pytest.approx(np.array(rows), rel=1e-12)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(UsageError, match="availability"):
        counts([0.5, wrong])
