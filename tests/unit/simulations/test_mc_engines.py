"""Both engines against exact answers, where there are some, and against each other where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from potsherd.durability import Chain, fewer_than
from potsherd.simulations.montecarlo.distributions import Exponential, Pareto, Weibull
from potsherd.simulations.montecarlo.population import BINS, Outcome, populate
from potsherd.simulations.montecarlo.replicates import Engine, engines, estimate_loss, replicate
from potsherd.simulations.montecarlo.scenario import NodeClass, Repair, Scenario, Shock

NEVER = Repair("exponential", mean_years=1e6)
"""No repair within any horizon here."""
EQUAL = (NodeClass(60, Exponential(1.0)),)


@pytest.fixture(
    params=["numpy", pytest.param("compiled", marks=pytest.mark.slow)],
    scope="module",
)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param not in engines():
        pytest.skip("needs the extra [simulate]")
    name: Engine = request.param
    return name


def runs(scenario: Scenario, engine: Engine) -> list[Outcome]:
    return [replicate(scenario, i, engine) for i in range(scenario.replicates)]


def agrees(scenario: Scenario, engine: Engine, exact: float) -> None:
    """Within 4 standard deviations, as measured between replicates."""
    lost = np.array([o.lost for o in runs(scenario, engine)]) / scenario.segments
    error = lost.std(ddof=1) / math.sqrt(len(lost)) + 1e-9
    assert abs(lost.mean() - exact) < 4 * error
    assert error < 0.25 * exact  # else it would say nothing


def test_without_repair_it_is_the_binomial(engine: Engine) -> None:
    scenario = Scenario(EQUAL, k=3, n=6, r=3, segments=400, repair=NEVER, years=0.6)
    agrees(scenario, engine, fewer_than(3, [math.exp(-0.6)] * 6))


def test_new_nodes_live_by_their_survival(engine: Engine) -> None:
    life = Weibull.of_mean(1.0, 0.5)
    nodes = (NodeClass(60, life),)
    scenario = Scenario(nodes, k=3, n=6, r=3, segments=400, repair=NEVER, years=0.5, start="new")
    agrees(scenario, engine, fewer_than(3, [float(life.survival(np.array([0.5]))[0])] * 6))


def test_met_nodes_live_by_what_renewal_theory_leaves_them(engine: Engine) -> None:
    """P(left > t) of a Pareto (Lomax) life: (1 + t/scale)^(1 − shape)."""
    life = Pareto.of_mean(1.0, 2.0)
    nodes = (NodeClass(60, life),)
    scenario = Scenario(nodes, k=3, n=6, r=3, segments=400, repair=NEVER, years=1.0)
    agrees(scenario, engine, fewer_than(3, [(1 + 1.0 / life.scale) ** -1] * 6))


def test_a_bad_release_is_a_draw_for_every_node(engine: Engine) -> None:
    nodes = (NodeClass(60, Exponential(1e6)),)
    release = Shock("bad release", "network", share=0.4, at_years=(0.3,))
    scenario = Scenario(
        nodes, k=3, n=6, r=3, segments=400, repair=NEVER, shocks=(release,), years=0.5
    )
    found = runs(scenario, engine)
    assert all(at == pytest.approx(0.3) for o in found for at in o.lost_at.tolist())
    agrees(scenario, engine, fewer_than(3, [0.6] * 6))


def test_sites_are_spread_over_so_that_one_may_go(engine: Engine) -> None:
    """Limit n − r = 3 a site: with three of nine gone everything is still there, with two sites gone not."""
    nodes = (NodeClass(60, Exponential(1e6), sites=5),)
    base = {"k": 4, "n": 9, "r": 6, "segments": 300, "repair": NEVER, "replicates": 4}
    one = Shock("fire", "site", at_years=(0.2,))
    scenario = Scenario(nodes, shocks=(one,), **base)  # type: ignore[arg-type] # by name
    found = runs(scenario, engine)
    assert [o.lost for o in found] == [0] * 4
    weakest = [int(np.flatnonzero(o.live[-1])[0]) for o in found]
    assert min(weakest) == 6
    three = Shock("fires", "site", at_years=(0.1, 0.2, 0.3, 0.4, 0.5))
    scenario = Scenario(nodes, shocks=(three,), **base)  # type: ignore[arg-type] # by name
    assert sum(o.lost for o in runs(scenario, engine)) > 0


def test_poisson_shocks_come_as_often_as_they_should(engine: Engine) -> None:
    """Each of 10 sites fails at 0.3 a year: losing all shards to them is a Poisson process for the site."""
    nodes = (NodeClass(60, Exponential(1e6), sites=10),)
    shock = Shock("site", "site", per_year=0.3)
    scenario = Scenario(
        nodes, k=1, n=2, r=1, segments=300, repair=NEVER, shocks=(shock,), years=2.0, replicates=32
    )
    gone = -math.expm1(-0.6)
    # Limit n − r = 1 shard a site: the two holders fail independently.
    agrees(scenario, engine, gone**2)


def test_a_power_cut_hides_data_and_loses_none(engine: Engine) -> None:
    """Each of 6 holders is lit with chance 0.6, and then online with 0.8: 3 of them with the binomial's chance."""
    nodes = (NodeClass(60, Exponential(1e6), uptime=0.8),)
    cut = Shock("power", "network", share=0.4, at_years=(0.3,), dark_years=2 / 365.25)
    scenario = Scenario(nodes, k=3, n=6, r=3, segments=400, shocks=(cut,), years=0.5)
    found = runs(scenario, engine)
    assert [o.lost for o in found] == [0] * len(found)
    assert [o.dark_looked for o in found] == [400] * len(found)
    assert all(int(o.live[-1, 6]) == 400 for o in found)
    shares = np.array([o.dark_unreadable / 400 for o in found])
    error = shares.std(ddof=1) / math.sqrt(len(shares))
    assert abs(shares.mean() - fewer_than(3, [0.48] * 6)) < 4 * error < 0.15


def test_a_power_cut_that_lasts_too_long_is_a_loss(engine: Engine) -> None:
    nodes = (NodeClass(60, Exponential(1e6), sites=6),)
    cut = Shock("power", "site", at_years=(0.3,), dark_years=20 / 365.25)
    scenario = Scenario(nodes, k=2, n=6, r=4, segments=100, shocks=(cut,), years=0.32, replicates=2)
    for outcome in runs(scenario, engine):
        assert outcome.dark_looked == 0
        assert outcome.departures == 10
        assert outcome.live[-1, :6].sum() > 50


@pytest.mark.parametrize(("dark_days", "repaired"), [(0.0, True), (1.0, True), (11.9, False)])
def test_repair_waits_while_too_few_are_lit(
    engine: Engine, dark_days: float, repaired: bool
) -> None:
    """A fire, noticed after 12 days; meanwhile, on day 6, the power goes for everybody, or it does not."""
    nodes = (NodeClass(60, Exponential(1e6)),)
    shocks = [Shock("fire", "network", share=0.3, at_years=(0.1,))]
    if dark_days:
        day = 0.1 + 6 / 365.25
        dark = dark_days / 365.25
        shocks.append(Shock("power", "network", at_years=(day,), dark_years=dark))
    scenario = Scenario(
        nodes, k=2, n=6, r=6, segments=100, segment_bytes=1e6, shocks=tuple(shocks), replicates=2,
        repair=Repair(notice_years=12 / 365.25, bandwidth=1.0), years=0.1 + 13 / 365.25,
    )  # fmt: skip
    made = [int(o.made.sum()) for o in runs(scenario, engine)]
    assert all((count > 100) == repaired for count in made)
    if not repaired:
        assert sum(made) == 0


def test_what_is_lost_while_a_loss_is_noticed_is_made_anew_later(engine: Engine) -> None:
    """Two fires six days apart, each noticed after twelve: nobody knows of the second when the first is repaired."""
    day = 1 / 365.25
    nodes = (NodeClass(60, Exponential(1e6)),)
    fires = Shock("fire", "network", share=0.1, at_years=(0.1, 0.1 + 6 * day))

    def run(days: float) -> Outcome:
        scenario = Scenario(
            nodes, k=1, n=6, r=6, segments=200, segment_bytes=1e3, shocks=(fires,),
            repair=Repair(notice_years=12 * day), years=0.1 + days * day,
        )  # fmt: skip
        return replicate(scenario, 0, engine)

    def missing(outcome: Outcome, at: int) -> int:
        return int(outcome.live[at] @ (6 - np.arange(7)))

    short, long = run(13), run(19)
    assert short.lost == 0
    between, after = (int(np.searchsorted(short.times, 0.1 + days * day)) for days in (3, 9))
    first, both = missing(short, between), missing(short, after)
    assert min(first, both - first) > 50
    assert int(short.made.sum()) == first
    assert missing(short, -1) == both - first
    assert int(long.made.sum()) == both
    assert missing(long, -1) == 0


def test_what_was_left_begins_a_repair_of_its_own(engine: Engine) -> None:
    """Repaired below 3 of 4, noticed after ten days, fires on days 0, 2 and 4: repairs on days 10, 12 and 14 only.

    Of a segment that loses two shards on day 0 and two on day 2, two are made on day 10, the others on day 12.
    """
    day = 1 / 365.25
    nodes = (NodeClass(40, Exponential(1e6)),)
    at = tuple(0.1 + days * day for days in (0, 2, 4))
    fires = Shock("fire", "network", share=0.4, at_years=at)
    scenario = Scenario(
        nodes, k=1, n=4, r=3, segments=400, segment_bytes=1e3, shocks=(fires,),
        repair=Repair(notice_years=10 * day), years=0.1 + 15 * day,
    )  # fmt: skip
    outcome = replicate(scenario, 0, engine)
    ends = (outcome.times[1:] - 0.1) / day
    width = ends[1] - ends[0]
    begun = ends[outcome.passes > 0]
    assert [round(end - width / 2) for end in begun] == [10, 12, 14]
    assert outcome.passes.sum() > 200
    assert outcome.live[-1, :3].sum() == 0  # all losses are known by now


def test_an_institute_leaves_and_is_not_replaced(engine: Engine) -> None:
    nodes = (NodeClass(40, Exponential(1e6), sites=4),)
    leaving = Shock("leaving", "site", leaves=True, at_years=(0.5,))
    scenario = Scenario(
        nodes, k=2, n=6, r=5, segments=100, repair=Repair("exponential", mean_years=0.01),
        shocks=(leaving,), years=1.0, replicates=2,
    )  # fmt: skip
    for outcome in runs(scenario, engine):
        assert outcome.lost == 0
        assert outcome.departures == 10
        assert outcome.live[-1, 5:].sum() == 100  # repaired on the other three


@pytest.mark.parametrize(
    ("n", "k", "r", "days"), [(9, 4, 7, 40), (6, 2, 5, 60), (12, 4, 8, 60), (4, 2, 4, 20)]
)
def test_lazy_repair_is_the_chain(engine: Engine, n: int, k: int, r: int, days: float) -> None:
    repair = Repair("exponential", mean_years=days / 365.25)
    nodes = (NodeClass(200, Exponential(1.0)),)
    scenario = Scenario(nodes, k=k, n=n, r=r, segments=400, repair=repair, years=1.2)
    agrees(scenario, engine, Chain(n, k, r, 1.0, 365.25 / days).loss_probability(1.2))


def test_repair_moves_what_the_chain_says(engine: Engine) -> None:
    """After a start-up of two years, per segment and year."""
    repair = Repair("exponential", mean_years=20 / 365.25)
    nodes = (NodeClass(200, Exponential(1.0)),)
    scenario = Scenario(nodes, k=4, n=12, r=9, segments=200, repair=repair, years=6, replicates=3)
    passes, shards, moved = Chain(12, 4, 9, 1.0, 365.25 / 20).traffic()
    late = slice(BINS // 3, None)
    per = 3 * 200 * 4.0
    found = runs(scenario, engine)
    done, made, sent = (
        sum(int(counts[late].sum()) for counts in kind)
        for kind in zip(*((o.passes, o.made, o.moved) for o in found), strict=True)
    )
    assert done / per == pytest.approx(passes, rel=0.08)  # 2,400 departures: 2 % by chance
    assert made / done == pytest.approx(shards / passes, rel=0.02)
    assert sent / 4 / done == pytest.approx(moved / passes, rel=0.02)


def timed(up: float, *, segments: int = 300, replicates: int = 6) -> Scenario:
    """Desktops with thin lines that repair 100 MB segments."""
    nodes = (NodeClass(100, Exponential(1.0), uptime=0.8, up=up, down=4 * up, disk_bytes=1e12),)
    return Scenario(
        nodes, k=4, n=9, r=7, segments=segments, segment_bytes=1e8, years=2.0,
        repair=Repair(notice_years=10 / 365.25), replicates=replicates,
    )  # fmt: skip


def test_lines_are_as_busy_as_their_bytes_say(engine: Engine) -> None:
    scenario = timed(2e3)
    found = runs(scenario, engine)
    made = sum(o.made.sum() for o in found)
    reads = sum(o.passes.sum() for o in found) * 3
    seconds = 2.5e7 * (made / 2e3 + reads / 8e3) / (0.8 * 0.5)
    years = seconds / (365.25 * 86400)
    busy = sum(o.busy_years for o in found)
    # More than was finished: some repairers left before the end, some shards went while it was under way.
    assert busy == pytest.approx(years, rel=0.12)
    assert 0.02 < busy / sum(o.node_years for o in found) < 0.5


def test_too_little_bandwidth_is_a_cliff(engine: Engine) -> None:
    """Utilisation below one half, about one, and well beyond: loss rises by orders of magnitude."""
    lost = []
    for up in (8e3, 4e2, 1e2):
        outcomes = runs(timed(up, replicates=3), engine)
        lost.append(estimate_loss([o.lost for o in outcomes], 300).value)
    assert lost[0] < 0.02
    assert lost[2] > 20 * max(lost[0], 1e-3)
    assert lost[0] <= lost[1] <= lost[2]


def test_sleepers_that_are_given_up_cost_shards(engine: Engine) -> None:
    """A stretch offline beyond the notice looks like leaving: more repairs than departures alone would need."""
    sleepy = NodeClass(80, Exponential(2.0), uptime=0.5, session_years=4 / 365.25, up=1e6)
    steady = NodeClass(80, Exponential(2.0), uptime=1.0, up=1e6)
    made = []
    for c in (steady, sleepy):
        scenario = Scenario(
            (c,), k=2, n=9, r=8, segments=100, segment_bytes=1e6, years=1.0, replicates=3,
            repair=Repair(notice_years=14 / 365.25),
        )  # fmt: skip
        made.append(sum(o.made.sum() for o in runs(scenario, engine)))
        expected = scenario.loss_rate() * 9 * 100 * 3
        assert made[-1] == pytest.approx(expected, rel=0.35)
    assert made[1] > 2 * made[0]


def test_one_seed_is_one_run(engine: Engine) -> None:
    scenario = timed(2e3, segments=60, replicates=1)
    one, same = (replicate(scenario, 3, engine) for _ in range(2))
    other = replicate(scenario, 4, engine)
    assert (one.live == same.live).all()
    assert (one.lost_at == same.lost_at).all()
    assert one.busy_years == same.busy_years
    assert (one.live != other.live).any()


def test_every_segment_is_somewhere(engine: Engine) -> None:
    scenario = timed(4e2, segments=80, replicates=2)
    for outcome in runs(scenario, engine):
        lost = np.searchsorted(outcome.lost_at, outcome.times, side="right")
        assert (outcome.live.sum(axis=1) + lost == 80).all()
        assert (outcome.live[:, : scenario.k] == 0).all()
        assert outcome.live[0, scenario.n] == 80
        assert (np.diff(outcome.lost_at) >= 0).all()


def test_a_full_network_leaves_shards_unplaced(engine: Engine) -> None:
    """Room for just what is put; when half the nodes leave for good there is no more."""
    nodes = (
        NodeClass(10, Exponential(1e6), disk_bytes=60.0),
        NodeClass(10, Exponential(0.2), disk_bytes=60.0, replaced=False),
    )
    scenario = Scenario(
        nodes, k=2, n=6, r=5, segments=150, segment_bytes=2.0, years=1.0, replicates=1,
        repair=Repair("exponential", mean_years=0.02),
    )  # fmt: skip
    (outcome,) = runs(scenario, engine)
    assert outcome.unplaced > 0
    assert outcome.live[-1].sum() + outcome.lost == 150


@pytest.mark.slow
def test_whole_numbers_and_fractions_are_one_compiled_engine() -> None:
    """To compile it takes ten seconds: once, not again for each mixture of integers and floats."""
    if "compiled" not in engines():
        pytest.skip("needs the extra [simulate]")
    from potsherd.simulations.montecarlo._kernels import run_stretch

    nodes = (NodeClass(20, Exponential(1)), NodeClass(20, Exponential(1.0), up=1000, disk_bytes=9))
    for years, kind in ((1, nodes[:1]), (0.5, nodes)):
        repair = Repair(notice_years=years, mean_years=years)
        scenario = Scenario(
            kind, k=2, n=4, r=3, segments=20, segment_bytes=2, repair=repair, years=years
        )
        runs(scenario, "compiled")
    assert len(run_stretch.signatures) == 1  # type: ignore[attr-defined] # numba's dispatcher


@pytest.mark.slow
def test_engines_agree_where_nothing_is_exact() -> None:
    """Thin lines, sleepers, sites and shocks together."""
    if "compiled" not in engines():
        pytest.skip("needs the extra [simulate]")
    nodes = (
        NodeClass(60, Weibull.of_mean(0.7, 0.6), uptime=0.6, up=3e3, down=1e4, sites=4),
        NodeClass(30, Pareto.of_mean(2.0, 2.0), uptime=0.95, up=2e4, down=2e4, habit="server"),
    )
    scenario = Scenario(
        nodes, k=4, n=9, r=7, segments=150, segment_bytes=1e8, years=1.5, replicates=24,
        repair=Repair(notice_years=7 / 365.25), shocks=(Shock("site", "site", per_year=0.1),),
    )  # fmt: skip
    both = [runs(scenario, name) for name in ("numpy", "compiled")]

    def same(*values: list[float]) -> None:
        a, b = (np.array(v) for v in values)
        error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        assert abs(a.mean() - b.mean()) < 4 * error

    same(*([float(o.lost) for o in runs_] for runs_ in both))
    same(*([float(o.made.sum()) for o in runs_] for runs_ in both))
    same(*([o.busy_years for o in runs_] for runs_ in both))
    same(*([float(o.departures) for o in runs_] for runs_ in both))
    numbers = np.arange(10)
    same(*([float(o.live[-1] @ numbers) for o in runs_] for runs_ in both))


def test_population_is_what_the_scenario_says() -> None:
    nodes = (
        NodeClass(30, Exponential(1.0), sites=3, operators=2),
        NodeClass(20, Exponential(1.0), sites=5),
        NodeClass(10, Exponential(1.0)),
    )
    found = populate(Scenario(nodes, k=1, n=2, r=1, segments=7), 0)
    assert np.bincount(found.class_of).tolist() == [30, 20, 10]
    assert np.bincount(found.site[found.site >= 0]).tolist() == [14, 14, 14, 4, 4]
    assert (found.site[found.class_of == 2] == -1).all()
    assert np.bincount(found.operator[found.operator >= 0]).tolist() == [15, 15]
    assert found.home.tolist() == [60 * i // 7 for i in range(7)]
