"""Scenario files: what they mean, and what they refuse, by field."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Empirical, Exponential, Weibull
from potsherd.simulations.study import read_study, with_laws

GOOD = """
years = 3
replicates = 4
seed = 9

[data]
size = "100GB"

[code]
k = 4
n = 9
r = 7

[repair]
gone_after = "10d"
bandwidth = "25%"

[[nodes]]
name = "desktops"
count = 60
uptime = "60%"
turnover = "25%/y"
habit = "office"
disk = "1TB"
up = "10Mbit"
sites = 4

[[nodes]]
name = "servers"
count = 10
life = { kind = "weibull", mean = "4y", shape = 0.7 }

[[shocks]]
name = "fire"
scope = "site"
rate = "1%/y"
at = ["1y", "18month"]

[[what_if]]
field = "nodes.uptime"
values = ["30%", "90%"]

[[what_if]]
field = "code.r"
values = [5, 9]
"""


def read(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "desktops.toml"
    path.write_text(text)
    return path


def test_a_scenario_is_what_the_file_says(tmp_path: Path) -> None:
    study = read_study(read(tmp_path, GOOD))
    found = study.scenario
    assert (found.name, found.years, found.replicates, found.seed) == ("desktops", 3.0, 4, 9)
    assert (found.k, found.n, found.r, found.segments) == (4, 9, 7, 94)
    assert found.segments * found.segment_bytes == pytest.approx(1e11)
    assert found.repair.notice_years == pytest.approx(10 / 365.25)
    assert found.repair.bandwidth == 0.25
    desktops, servers = found.nodes
    assert (desktops.uptime, desktops.habit, desktops.sites) == (0.6, "office", 4)
    assert desktops.life == Exponential(1 / -math.log(0.75))
    assert (desktops.up, desktops.down) == (1.25e6, 6.25e6)
    assert isinstance(servers.life, Weibull)
    assert servers.life.mean == pytest.approx(4.0)
    assert found.shocks[0].at_years == pytest.approx((1.0, 1.5))


def test_what_if_changes_one_field_in_every_place_it_names(tmp_path: Path) -> None:
    study = read_study(read(tmp_path, GOOD))
    assert [(v.field, v.value) for v in study.variants] == [
        ("nodes.uptime", "30%"), ("nodes.uptime", "90%"), ("code.r", "5"), ("code.r", "9")
    ]  # fmt: skip
    assert [c.uptime for c in study.variants[0].scenario.nodes] == [0.3, 0.3]
    assert [v.scenario.r for v in study.variants] == [7, 7, 5, 9]
    assert [v.number for v in study.variants] == [None, None, 5.0, 9.0]


def test_a_trace_stands_beside_the_file_or_on_the_command_line(tmp_path: Path) -> None:
    rows = [f"{int(1e6 * 0.97**i)},{i * 604800}" for i in range(1, 60)]
    (tmp_path / "left.csv").write_text("node_count,timestamp\n" + "\n".join(rows) + "\n")
    named = GOOD.replace('{ kind = "weibull", mean = "4y", shape = 0.7 }', '{ trace = "left.csv" }')
    study = read_study(read(tmp_path, named))
    assert isinstance(study.scenario.nodes[1].life, Empirical)
    assert isinstance(study.scenario.nodes[0].life, Exponential)
    study = read_study(read(tmp_path, GOOD), tmp_path / "left.csv")
    assert all(isinstance(c.life, Empirical) for c in study.scenario.nodes)
    uptimes, rs = study.variants[:2], study.variants[2:]
    assert all(isinstance(v.scenario.nodes[1].life, Weibull) for v in uptimes)
    assert all(isinstance(v.scenario.nodes[1].life, Empirical) for v in rs)
    beside = with_laws(study).variants[4:]
    assert [(v.field, v.value) for v in beside] == [
        ("life of left.csv", "weibull, fitted"), ("life of left.csv", "exponential")
    ]  # fmt: skip
    means = [v.scenario.nodes[0].life.mean for v in beside]
    assert means[1] == pytest.approx(study.scenario.nodes[0].life.mean)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("years = 3", "yeers = 3"), "yeers: unknown"),
        (("k = 4", "k = 12"), "k, n = 12, 9"),
        (("r = 7", "r = 3"), "r = 3"),
        (("n = 9", 'n = "9"'), "code.n = '9': not a whole number"),
        (("k = 4\n", ""), "code.k: missing"),
        (('size = "100GB"', 'size = "-1GB"'), "data.size"),
        (('size = "100GB"', 'size = "100PB"'), "segments"),
        (('size = "100GB"', 'size = "1GB"\ncolour = 3'), "data.colour: unknown"),
        (('uptime = "60%"', 'uptime = "160%"'), "nodes[0].uptime"),
        (('turnover = "25%/y"', 'turnover = "-5%/y"'), "nodes[0].turnover"),
        (('turnover = "25%/y"', 'turnover = "0%/y"'), "nodes[0].turnover"),
        (('turnover = "25%/y"', 'turnover = "1%/y"\nlife = {mean = "3y"}'), "nodes[0].life"),
        (('shape = 0.7', 'shape = -1'), "nodes[1].life: shape"),
        (('kind = "weibull"', 'kind = "gamma"'), "nodes[1].life: kind"),
        (('kind = "weibull"', 'knd = "weibull"'), "nodes[1].life"),
        (('mean = "4y"', 'mean = "soon"'), "nodes[1].life.mean"),
        (("count = 10", "count = -10"), "nodes[1].count = -10"),
        (('habit = "office"', 'habit = "nightly"'), "nodes[0].habit"),
        (('rate = "1%/y"', 'rate = "-1/y"'), "shocks[0].rate"),
        (('scope = "site"', 'scope = "planet"'), "shocks[0].scope"),
        (('at = ["1y", "18month"]', 'at = "1y"'), "shocks[0].at"),
        (('bandwidth = "25%"', 'bandwidth = "0%"'), "repair.bandwidth"),
        (("values = [5, 9]", "values = [5, 99]"), "what_if[1]: code.r = 99"),
        (("values = [5, 9]", "values = []"), "what_if[1].values"),
        (('field = "code.r"', 'field = "code.q"'), "what_if[1]: code.q = 5: code.q: unknown"),
        (("seed = 9", "seed = [9"), "TOML"),
        (('{ kind = "weibull", mean = "4y", shape = 0.7 }', '{ trace = "no.csv" }'), "no.csv"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_field(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    assert change[0] in GOOD
    with pytest.raises(UsageError) as raised:
        read_study(read(tmp_path, GOOD.replace(*change, 1)))
    assert says in raised.value.message


def test_a_missing_file_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.toml"):
        read_study(tmp_path / "no.toml")


def test_the_example_in_the_documentation_is_a_scenario(checkout: Path, tmp_path: Path) -> None:
    page = (checkout / "docs" / "planning.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", page, flags=re.S)
    study = read_study(read(tmp_path, example))
    assert study.scenario.node_count == 200
    assert len(study.variants) == 3
