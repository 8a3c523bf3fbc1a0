"""The planner: its answers meet what was asked, move the right way, and refuse what makes no sense."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from potsherd.durability import Chain
from potsherd.durability.binomial import at_least, at_least_of_equal
from potsherd.durability.segment import Code
from potsherd.errors import UsageError
from potsherd.simulations.planner.evaluation import UTILISATION_MAX, evaluate, load
from potsherd.simulations.planner.levers import levers
from potsherd.simulations.planner.prices import load_prices
from potsherd.simulations.planner.question import Question
from potsherd.simulations.planner.search import best, codes, n_max, plans, reaches, reaches_any
from potsherd.simulations.planner.traced import changes, with_trace
from potsherd.simulations.traces.trace import read_trace

ASKED = Question(
    donors=200,
    uptime=0.6,
    turnover=-math.log(0.75),
    disk=5e11,
    up=10e6 / 8,
    down=50e6 / 8,
    data=20e12,
    target=1e-11,
)
PRICES = load_prices()


def test_plans_meet_what_was_asked() -> None:
    found = plans(ASKED, PRICES, 4)
    assert len(found) == 4
    costs = [PRICES.donated_per_year(p.stored_bytes, p.load.moved_bytes) for p in found]
    assert costs == sorted(costs)
    for plan in found:
        assert plan.loss.low <= plan.loss.probability <= ASKED.target
        assert plan.loss.probability <= plan.loss.high
        assert plan.readable >= ASKED.readable
        assert plan.load.utilisation <= UTILISATION_MAX
        assert plan.stored_bytes <= 0.9 * ASKED.donors * ASKED.disk
        assert plan.steady_loss.probability < plan.loss.probability


def test_the_cheapest_has_no_slack() -> None:
    """One shard less, or repair one later, and something that was asked is missed."""
    plan = plans(ASKED, PRICES, 1)[0]
    code = plan.code
    for less in (
        Code(code.k, code.n, code.r - 1),
        Code(code.k, code.n - 1, min(code.r, code.n - 1)),
    ):
        assert not reaches(ASKED, less, load(ASKED, less))


def test_traffic_is_the_chain_s() -> None:
    code = Code(10, 36, 30)
    found = load(ASKED, code)
    chain = Chain(36, 10, 30, ASKED.shard_loss, 1 / found.repair_years)
    passes, shards, moved = chain.traffic()
    assert found.moved_bytes == pytest.approx(moved * ASKED.data, rel=1e-3)
    seconds = ASKED.segment_bytes / 10 * (9 / ASKED.down + shards / passes / ASKED.up) / 0.3
    transfer = found.repair_years - 14 / 365.25
    assert transfer * 365.25 * 86400 == pytest.approx(seconds / (1 - found.utilisation), rel=0.02)


def test_lines_that_are_too_thin_are_refused_however_large_the_disks() -> None:
    thin = replace(ASKED, up=1e3, down=5e3, disk=1e15)
    assert plans(thin, PRICES) == []
    assert load(thin, Code(10, 20, 15)).utilisation > UTILISATION_MAX
    nearest = best(thin)
    assert nearest is None or nearest.readable < thin.readable or nearest.loss > thin.target


def test_what_is_not_online_cannot_be_read() -> None:
    plan = evaluate(replace(ASKED, uptime=0.6), Code(10, 20, 15))
    rare = evaluate(replace(ASKED, uptime=0.3), Code(10, 20, 15))
    office = evaluate(replace(ASKED, habit="office"), Code(10, 20, 15))
    assert rare.readable < plan.readable
    assert office.readable_worst < office.readable
    assert plan.readable_worst == pytest.approx(plan.readable)


@pytest.mark.parametrize(("k", "nodes", "up"), [(10, 30, 0.6), (1, 3, 0.1), (3, 3, 0.9), (64, 150, 0.5),
                                                (0, 4, 0.2), (5, 4, 0.2), (2, 9, 1.0), (2, 9, 0.0)])  # fmt: skip
def test_equal_nodes_are_the_general_case(k: int, nodes: int, up: float) -> None:
    assert at_least_of_equal(k, nodes, up) == pytest.approx(at_least(k, [up] * nodes), rel=1e-10)


def test_sites_cost_disk_and_say_what_they_survive() -> None:
    asked = replace(ASKED, donors=60, data=2e12, target=1e-4, sites=5)
    alone, spread = plans(replace(asked, sites=0), PRICES, 1)[0], plans(asked, PRICES, 1)[0]
    assert spread.expansion > alone.expansion
    assert spread.sites is not None
    assert spread.sites.may_go >= 1
    assert spread.sites.most * spread.sites.may_go <= spread.code.n - spread.code.k
    assert 0 < spread.loss.common < spread.loss.probability
    assert spread.sites.dark_readable <= 1


def test_what_cannot_be_reached_says_which_lever_is_enough() -> None:
    asked = replace(ASKED, donors=60, data=4e12, sites=5)
    assert not reaches_any(asked)
    nearest = best(asked)
    assert nearest is not None
    assert nearest.loss > asked.target
    found = {lever.field: lever for lever in levers(asked)}
    assert set(found) >= {"disk", "data", "donors", "turnover", "uptime", "gone_after", "sites", "target"}  # fmt: skip
    enough = [lever for lever in found.values() if lever.needed is not None]
    assert enough
    for lever in enough:
        value = round(lever.needed or 0) if lever.field in ("donors", "sites") else lever.needed
        if lever.field not in ("up", "sites"):
            assert reaches_any(replace(asked, **{lever.field: value}))  # type: ignore[arg-type] # by name
    assert found["target"].needed == pytest.approx(nearest.loss, rel=0.5)


def test_more_is_asked_for_less_comes_back() -> None:
    """For one k the expansion rises with the target and with turnover, and falls with uptime."""

    def expansion(asked: Question) -> float:
        return next(code.n for code in codes(asked, 6)) / 6

    roomy = replace(ASKED, disk=5e12)
    base = expansion(roomy)
    assert expansion(replace(roomy, turnover=0.5)) > base
    lax = replace(roomy, target=1e-5)
    assert expansion(lax) < base
    assert expansion(replace(lax, uptime=0.9)) < expansion(lax)
    assert n_max(ASKED, 10) == 45


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("donors", 1),
        ("uptime", 0.0),
        ("uptime", 1.5),
        ("turnover", 0.0),
        ("turnover", -0.1),
        ("disk", 0.0),
        ("up", -1.0),
        ("data", math.nan),
        ("target", 1.0),
        ("sites", 1),
        ("sites", 500),
        ("site_loss", -0.1),
        ("habit", "nightly"),
        ("spare", 1.0),
        ("readable", 1.0),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        replace(ASKED, **{field: value})  # type: ignore[arg-type] # by name


def test_prices_can_be_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'currency = "EUR"\n[donors]\ndisk_per_tb_year = 2\ntraffic_per_tb = 0\n'
        '[[stores]]\nname = "ours"\nstorage_per_tb_month = 5\nread_per_tb = 1\n'
    )
    prices = load_prices(mine)
    assert prices.currency == "EUR"
    assert prices.donated_per_year(3e12, 1e15) == 6.0
    assert prices.stores[0].per_year(2e12) == 120.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("disk_per_tb_year = 2", "disk_per_tb_year = -2"), "donors.disk_per_tb_year"),
        (("traffic_per_tb = 0", "trafic = 0"), "donors.trafic"),
        (('currency = "E"', "currency = 3"), "currency"),
        (("read_per_tb = 1", "read_per_tb = true"), r"stores\[0\].read_per_tb"),
        (("[donors]", "[donors"), "TOML"),
    ],
)
def test_prices_are_read_strictly(change: tuple[str, str], field: str, tmp_path: Path) -> None:
    good = (
        'currency = "E"\n[donors]\ndisk_per_tb_year = 2\ntraffic_per_tb = 0\n'
        '[[stores]]\nname = "ours"\nstorage_per_tb_month = 5\nread_per_tb = 1\n'
    )
    path = tmp_path / "prices.toml"
    path.write_text(good.replace(*change))
    with pytest.raises(UsageError, match=field):
        load_prices(path)


def test_a_trace_replaces_what_was_given_and_says_what_its_shape_changes(tmp_path: Path) -> None:
    """Lives of shape 0.5 and mean 3 years: who has stayed stays, so measured lives lose less than memoryless ones."""
    path = tmp_path / "left.csv"
    days = [30 * i for i in range(1, 40)]
    scale = 1.5 * 365.25
    rows = [f"{1e6 * math.exp(-((d / scale) ** 0.5)):.0f},{d * 86400}" for d in days]
    path.write_text("node_count,timestamp\n" + "\n".join(rows) + "\n")
    trace = read_trace(path)
    assert trace.life is not None
    assert trace.life.fitted.shape == pytest.approx(0.5, abs=0.01)
    asked, changed = with_trace(replace(ASKED, data=1e12), trace)
    [turnover] = changed
    assert asked.turnover == turnover.measured == pytest.approx(turnover.fitted, rel=0.1)
    assert asked.turnover < 1 / trace.life.values.mean
    plan = evaluate(asked, Code(2, 6, 5))
    found = {life.law: life for life in changes(asked, plan, trace)}
    assert set(found) == {"measured", "weibull", "exponential"}
    assert found["exponential"].leaving == pytest.approx(1 / found["exponential"].mean_years)
    assert found["measured"].leaving < found["exponential"].leaving
    assert found["measured"].loss.probability < found["exponential"].loss.probability
    ratio = found["weibull"].loss.probability / found["measured"].loss.probability
    assert 0.5 < ratio < 2
