"""What is forecast at p is lost with p: forecasts of virtual datasets, and what sampled networks did to them."""

from __future__ import annotations

import pytest

from potsherd.simulations.validation.calibration import (
    DATASETS,
    Forecasted,
    binned,
    covered,
    forecasted,
)


@pytest.fixture(scope="module")
def networks() -> list[Forecasted]:
    return [forecasted(number, 7) for number in range(100)]


@pytest.mark.slow
def test_forecasts_agree_with_what_is_lost(networks: list[Forecasted]) -> None:
    """100 networks: an interval misses 5 % of the time, so fewer than 87 % would be 1 in 1,000."""
    found = networks
    assert 0.87 <= covered(found) < 1.0
    assert all(abs(b.deviations) < 4 for b in binned(found))
    assert len(binned(found)) >= 3


@pytest.mark.nightly
def test_calibration_over_thousands_of_networks() -> None:
    found = [forecasted(number, 8) for number in range(DATASETS)]
    assert 0.935 <= covered(found) <= 0.965
    bins = binned(found)
    assert len(bins) == 6
    assert all(abs(b.deviations) < 3.5 for b in bins)
    assert sum(b.deviations**2 for b in bins) < 20, "chi squared of six: 1 in 350"


def test_a_forecast_ten_times_too_low_would_be_found(networks: list[Forecasted]) -> None:
    wrong = [Forecasted(f.said / 10, f.low / 10, f.high / 10, f.true, f.lost) for f in networks]
    assert covered(wrong) < 0.6
