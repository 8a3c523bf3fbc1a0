"""The long run: compared with `Chain`, with closed forms, with simulated networks, and with itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from potsherd.durability import Chain, Churn, fewer_than
from potsherd.durability.absorbing import LOST, mean_time
from potsherd.durability.long_run import assumed, dataset_loss
from potsherd.durability.segment import Code, live_shares, loss_rates, timed_loss_rates
from potsherd.durability.spread import Domains, drawn, hit_chances
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.replicates import engines, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario, Shock

CODES = [Code(1, 3, 2), Code(4, 9, 7), Code(10, 30, 20), Code(3, 3, 3), Code(20, 64, 48)]


@pytest.mark.parametrize("code", CODES)
def test_without_domains_it_is_the_chain(code: Code) -> None:
    shard, repair = np.array([0.05, 0.3, 2.0]), np.array([20.0, 25.0, 300.0])
    found = loss_rates(code, shard, repair)
    for i in range(3):
        chain = Chain(code.n, code.k, code.r, float(shard[i]), float(repair[i]))
        assert found[i] == pytest.approx(chain.loss_rate_per_year(), rel=1e-12)


def test_sites_that_hold_a_quarter_each_are_lost_one_after_the_other() -> None:
    """12 shards on 4 sites of 3, 4 suffice, only sites fail: the third one lost before repair takes the data."""
    code, domains, site, repair = Code(4, 12, 12), Domains(4, 40, 3), 0.2, 25.0
    table = {
        0: {1: 4 * site},
        1: {2: 3 * site, 0: repair},
        2: {LOST: 2 * site, 0: repair},
    }
    exact = 1 / mean_time(table, 0, [2, 1, 0])  # type: ignore[arg-type] # states of its own
    found = loss_rates(code, np.zeros(1), np.array([repair]), np.array([site]), drawn(12, domains))
    assert found[0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.slow
@pytest.mark.skipif("compiled" not in engines(), reason="needs the extra [simulate]")
@pytest.mark.parametrize(
    ("code", "sites", "site_rate", "life", "days"),
    [
        (Code(3, 9, 6), 5, 0.3, 1.0, 20.0),
        (Code(4, 12, 9), 4, 0.2, 1.5, 25.0),
        (Code(5, 20, 12), 8, 0.4, 1.0, 20.0),
    ],
)
def test_sites_and_nodes_together_are_as_in_whole_networks(
    code: Code, sites: int, site_rate: float, life: float, days: float
) -> None:
    """Losses per segment-year of simulated networks whose placement is the product's; 4 standard errors, or 15 %."""
    nodes = (NodeClass(300, Exponential(life), sites=sites),)
    shock = Shock("site", "site", per_year=site_rate)
    repair = Repair("exponential", mean_years=days / 365.25)
    scenario = Scenario(
        nodes, k=code.k, n=code.n, r=code.r, segments=400, years=30, seed=code.n, repair=repair,
        shocks=(shock,), replicates=12,
    )  # fmt: skip
    outcomes = [replicate(scenario, i, "compiled") for i in range(scenario.replicates)]
    lost = np.array([o.lost for o in outcomes], dtype=float)
    exposed = np.array([o.lost_at.sum() + (400 - o.lost) * 30 for o in outcomes])
    rate = lost.sum() / exposed.sum()
    error = (lost - rate * exposed).std(ddof=1) * len(lost) ** 0.5 / exposed.sum()
    given = (np.array([1 / life]), np.array([365.25 / days]), np.array([site_rate]))
    found = float(loss_rates(code, *given, drawn(code.n, Domains(sites, 300, code.n - code.r)))[0])
    assert abs(found - rate) < max(4 * error, 0.15 * rate)


def test_only_domains_that_hold_everything_fail_together() -> None:
    strikes = drawn(9, Domains(1, 20, 9))
    found = loss_rates(Code(4, 9, 7), np.zeros(1), np.array([25.0]), np.array([0.02]), strikes)
    assert found[0] == pytest.approx(0.02)


@pytest.mark.parametrize(("n", "domains"), [(30, Domains(5, 200, 10)), (30, Domains(5, 200, 6)),
                                            (9, Domains(3, 12, 2)), (12, Domains(20, 60, 4))])  # fmt: skip
def test_hit_chances_add_up_and_keep_the_mean(n: int, domains: Domains) -> None:
    rows = hit_chances(n, domains)
    for live, row in enumerate(rows.tolist()):
        assert math.fsum(row) == pytest.approx(1.0, rel=1e-9)
        mean = math.fsum(h * p for h, p in enumerate(row))
        assert mean == pytest.approx(live / domains.count, rel=1e-6)
    assert rows.shape == (n + 1, domains.most(n) + 1)


def test_a_limit_that_does_not_bind_leaves_random_draws() -> None:
    """Of 30 holders among 200 donors, a site with 40: hypergeometric, by its own formula."""
    row = hit_chances(30, Domains(5, 200, 30))[30]
    for h in (0, 3, 6, 12):
        exact = math.comb(40, h) * math.comb(160, 30 - h) / math.comb(200, 30)
        assert row[h] == pytest.approx(exact, rel=1e-6)


def test_time_shares_are_those_of_the_chain() -> None:
    code = Code(4, 12, 9)
    chain = Chain(12, 4, 9, 0.3, 20.0)
    found = live_shares(code, 0.3, 20.0)
    for live, share in chain.live_shares().items():
        assert found[live] == pytest.approx(share, rel=1e-4)  # the chain begins anew when lost


def timed(code: Code, rate: float, years: float) -> float:
    return float(timed_loss_rates(code, np.array([rate]), np.array([years]))[0])


@pytest.mark.parametrize("code", CODES)
def test_steady_repair_is_binomial_over_the_repair(code: Code) -> None:
    """Without domains by renewal: P(fewer than k of r − 1 stay) over the mean time from whole to whole."""
    stay = math.exp(-0.3 * 0.04)
    cycle = sum(1 / (0.3 * i) for i in range(code.r, code.n + 1)) + 0.04
    exact = fewer_than(code.k, [stay] * (code.r - 1)) / cycle
    assert timed(code, 0.3, 0.04) == pytest.approx(exact, rel=1e-9)


def test_steady_repair_of_sites_only() -> None:
    """2 of 4 on two sites of 2, repaired from the first loss: lost when the other site goes within the repair."""
    code, strikes = Code(2, 4, 4), drawn(4, Domains(2, 40, 2))
    zero, site, years = np.zeros(1), np.array([0.1]), np.array([0.05])
    by_hand = -math.expm1(-0.1 * 0.05) / (1 / 0.2 + 0.05)
    found = timed_loss_rates(code, zero, years, site, strikes)
    assert found[0] == pytest.approx(by_hand, rel=1e-9)


def test_repairs_that_never_take_longer_lose_less() -> None:
    exponential = Chain(30, 10, 20, 0.3, 24.0).loss_rate_per_year()
    assert timed(Code(10, 30, 20), 0.3, 1 / 24) < 1e-4 * exponential
    churn = Churn(assumed(0.3, 60), assumed(25.0, 100), domain_failures=assumed(0.05, 0.5))
    for domains in (None, Domains(5, 200, 10)):
        code = Code(10, 30, 20)
        lost = [dataset_loss(code, 9, churn, domains, steady=s).probability for s in (True, False)]
        assert 0 < lost[0] < lost[1]


def test_common_losses_are_paid_once_others_by_segment() -> None:
    churn = Churn(assumed(0.3, 60), assumed(25.0, 100), domain_failures=assumed(0.05, 0.5))
    code, domains = Code(4, 12, 9), Domains(3, 60, 4)
    one, many = (dataset_loss(code, s, churn, domains) for s in (1, 1000))
    assert one.common == many.common > 0
    assert one.probability < many.probability < 1000 * one.probability
    assert many.low <= many.probability <= many.high
    plain = [dataset_loss(code, s, churn).probability for s in (1, 1000)]
    assert plain[1] == pytest.approx(1000 * plain[0], rel=1e-2)


def test_more_sure_is_a_narrower_interval() -> None:
    code = Code(4, 9, 7)
    found = [
        dataset_loss(code, 10, Churn(assumed(0.3, events), assumed(25.0, events)))
        for events in (4, 400)
    ]
    widths = [f.high / f.low for f in found]
    assert widths[0] > 3 * widths[1] > 1


def test_refuses_by_name() -> None:
    with pytest.raises(UsageError, match="k = 5"):
        Code(5, 4, 4)
    with pytest.raises(UsageError, match="r = 2"):
        Code(3, 5, 2)
    with pytest.raises(UsageError, match="rate"):
        assumed(0.0, 5)
    with pytest.raises(UsageError, match="repairs"):
        dataset_loss(Code(4, 9, 7), 1, Churn())
