"""Whole networks against the exact chain: the sets of docs/validation.md."""

from __future__ import annotations

import numpy as np
import pytest

from potsherd.simulations.montecarlo.replicates import Engine, engines
from potsherd.simulations.validation.contents import sampled_tables
from potsherd.simulations.validation.sampled import SETS, Compared, compare


def test_there_are_twenty_sets_or_more_and_they_differ() -> None:
    assert len(set(SETS)) == len(SETS) >= 20
    assert len({given.seed for given in SETS}) == len(SETS)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 4, 12])
def test_a_few_sets(place: int) -> None:
    """Four standard errors: 1 in 16,000 by chance, were it not that the seed is fixed anyway."""
    assert abs(compare(SETS[place], "numpy", replicates=16).deviations) < 4


def judge(found: list[Compared]) -> None:
    assert sum(c.inside for c in found) >= 0.87 * len(found)
    deviations = np.array([c.deviations for c in found])
    assert np.abs(deviations).max() < 4
    assert abs(deviations.mean()) < 3.5 / len(found) ** 0.5
    assert 0.5 < np.sqrt((deviations**2).mean()) < 1.4


@pytest.mark.nightly
@pytest.mark.parametrize("engine", ["numpy", "compiled"])
def test_all_sets(engine: Engine) -> None:
    if engine not in engines():
        pytest.skip("needs the extra [simulate]")
    replicates = 32 if engine == "compiled" else 12
    judge([compare(given, engine, replicates=replicates) for given in SETS])


@pytest.mark.nightly
def test_tables_of_the_page_hold_what_they_say() -> None:
    for table in sampled_tables():
        if "inside" not in table.columns:  # calibration: test_calibration.py
            continue
        inside = [row[table.columns.index("inside")] for row in table.rows]
        assert inside.count("yes") >= 0.85 * len(inside)
