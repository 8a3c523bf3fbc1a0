"""Forecast, planner and simulated networks agree where sites are lost, and a forgetful model does not."""

from __future__ import annotations

import pytest

from potsherd.durability import forecast
from potsherd.simulations.validation.sites import GROUNDS, Ground


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_forecast_is_what_the_planner_says(ground: Ground) -> None:
    calm = ground.calm()
    assert calm.forecast_late() == pytest.approx(calm.planned(), rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ground", [GROUNDS[1], GROUNDS[3]])
def test_both_are_what_happens_in_simulated_networks(ground: Ground) -> None:
    """220 networks tell a model apart that forgets which sites were struck."""
    found, said = ground.sampled(220, "numpy"), ground.forecast_soon()
    assert found.low <= said <= found.high
    assert found.low > said / ground.forgetful


def test_the_known_rates_are_known() -> None:
    said = forecast([GROUNDS[0].segment()], GROUNDS[0].churn())
    assert said.high < said.low * 1.01
