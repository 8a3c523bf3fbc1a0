"""Closed forms of the literature, and the periodic checker."""

from __future__ import annotations

import math

import pytest

from potsherd.durability import Chain, fewer_than
from potsherd.durability.formulas import (
    copies_for,
    lazy_repair_traffic,
    maintenance_bytes_per_second,
    nomdl,
    parallel_mean_time,
    parallel_mean_time_leading,
    replicas_alive,
    shards_for,
    static_loss,
)
from potsherd.durability.periodic import PeriodicCheck
from potsherd.errors import UsageError


def test_unequal_holders_are_no_safer_than_their_mean() -> None:
    """Hoeffding 1956: below the mean the binomial with the mean chance has the heavier tail."""
    unequal = static_loss(3, [0.5, 0.6, 0.9, 0.99, 0.8, 0.7])
    assert unequal <= static_loss(3, [sum([0.5, 0.6, 0.9, 0.99, 0.8, 0.7]) / 6] * 6)


def test_copies_and_shards_for_a_target() -> None:
    assert copies_for(1e-6, 0.9) == 6
    assert copies_for(1e-4, 0.5) == 14
    n = shards_for(10, 0.6, 1e-4)
    assert fewer_than(10, [0.6] * n) <= 1e-4 < fewer_than(10, [0.6] * (n - 1))
    assert n / 10 < copies_for(1e-4, 0.6) / 2  # the point of erasure coding
    with pytest.raises(UsageError):
        shards_for(1, 0.0, 0.1)
    with pytest.raises(UsageError):
        copies_for(0.1, 1.0)


@pytest.mark.parametrize(("days", "kilobytes"), [(30, 386), (180, 64), (365, 32)])
def test_maintenance_of_a_terabyte(days: float, kilobytes: float) -> None:
    """In and out together are twice the one-way figures of the notes."""
    rate = maintenance_bytes_per_second(1e12, days * 86400)
    assert rate / 2 / 1000 == pytest.approx(kilobytes, rel=0.02)


def test_leading_term_is_low_by_less_than_a_tenth() -> None:
    for args in ((3, 1, 0.5, 365.0), (10, 4, 1.0, 2000.0)):
        exact, leading = parallel_mean_time(*args), parallel_mean_time_leading(*args)
        assert 0.9 < leading / exact < 1.0
        n, k, loss, repair = args
        chain = Chain(n, k, n, loss, repair, "parallel")
        assert exact == pytest.approx(chain.mean_time_to_loss(), rel=1e-12)


def test_lazy_traffic_needs_a_threshold_between() -> None:
    assert lazy_repair_traffic(40, 20, 35, 1.0) == pytest.approx(9.3611, abs=5e-5)
    with pytest.raises(UsageError, match="m = 40"):
        lazy_repair_traffic(40, 20, 40, 1.0)


def test_replicas_and_expected_loss() -> None:
    assert replicas_alive(0.3887, 2) == pytest.approx(0.6263, abs=1e-4)
    assert nomdl([(10, 0.1), (30, 0.0)]) == pytest.approx(0.025)
    assert nomdl([]) == 0.0


def test_periodic_checks_without_checker_are_binomial() -> None:
    model = PeriodicCheck(10, 3, 7, 8.0, 0.01, math.inf)
    assert model.loss_probability(500) == pytest.approx(
        fewer_than(3, [math.exp(-5 / 8)] * 10), rel=1e-10
    )
    assert math.fsum(model.shares_after(500)) == pytest.approx(1.0, rel=1e-12)


def test_periodic_checks_help_the_more_often_they_come() -> None:
    losses = [
        PeriodicCheck(10, 3, 7, 1.0, 0.01, e).loss_probability(500) for e in (0.01, 0.1, 0.5, 2)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > 1e3 * losses[0]


def test_a_check_in_every_step_is_near_the_chain() -> None:
    """Checks every 0.001 of a life: like repair after 0.0005 on average, but never late."""
    model = PeriodicCheck(5, 3, 5, 1.0, 0.005, 0.005)
    chain = Chain(5, 3, 5, 1.0, 400.0)
    assert model.loss_probability(400) == pytest.approx(chain.loss_probability(2.0), rel=0.7)


@pytest.mark.parametrize(
    "change", [{"k": 8}, {"trigger": 11}, {"life": 0.0}, {"step": -1.0}, {"check_every": math.nan}]
)
def test_nonsense_is_refused_by_name(change: dict[str, float]) -> None:
    good: dict[str, float] = {
        "n": 10, "k": 3, "trigger": 7, "life": 1.0, "step": 0.1, "check_every": 1.0,
    }  # fmt: skip
    with pytest.raises(UsageError, match=next(iter(change))):
        PeriodicCheck(**{**good, **change})  # type: ignore[arg-type] # numbers of both kinds
