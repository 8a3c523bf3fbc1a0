"""The report: well-formed, alone, and saying what was computed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from potsherd.simulations.findings import Findings, exact
from potsherd.simulations.report.page import report
from potsherd.simulations.report.svg import Line, Plot, Points, ticks
from potsherd.simulations.study import read_study, with_laws
from potsherd.simulations.sweep import run_tasks, tasks

SCENARIO = """
name = "small & <quick>"
years = 2
replicates = 3
[data]
segments = 40
[code]
k = 2
n = 5
r = 4
[[nodes]]
name = "desktops"
count = 40
turnover = "60%/y"
uptime = "70%"
sites = 4
[[shocks]]
scope = "site"
at = ["1y"]
[[what_if]]
field = "code.r"
values = [3, 5]
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(SCENARIO)
    rows = [f"{int(1e5 * 0.98**i)},{i * 604800}" for i in range(1, 40)]
    (folder / "left.csv").write_text("node_count,timestamp\n" + "\n".join(rows) + "\n")
    study = with_laws(read_study(folder / "small.toml", folder / "left.csv"))
    found = Findings(study, "numpy")
    for done in run_tasks(tasks(found.scenarios, "numpy"), processes=1):
        found.add(done)
    return found


def partly(findings: Findings, count: int) -> Findings:
    """As if stopped after so many replicates."""
    stopped = Findings(findings.study, "numpy", interrupted=True)
    for one in [d for f in findings.found for d in f.outcomes.values()][:count]:
        stopped.add(one)
    return stopped


def test_the_page_stands_alone_and_is_well_formed(findings: Findings) -> None:
    page = report(findings, "1.2.3")
    assert not re.search(r"(?:src|href)=|@import|url\(|<script", page)
    body = page.partition("<body>")[2].partition("</body>")[0]
    root = ElementTree.fromstring(f"<body>{body}</body>")  # noqa: S314 (our own)
    titles = [title.text for title in root.iter("title")]
    for wanted in ("Live pieces", "Repair traffic", "Loss against code.r", "last longer"):
        assert any(wanted in (title or "") for title in titles)
    for number in re.findall(r'(?:x1|x2|y1|y2|cx|cy)="([^"]*)"', body):
        assert -1 <= float(number) <= 641
    assert "small &amp; &lt;quick&gt;" in page
    assert "Interrupted" not in page


def test_a_stopped_run_says_how_much_there_is(findings: Findings) -> None:
    total = sum(f.scenario.replicates for f in findings.found)
    page = report(partly(findings, 4), "1.2.3")
    assert f"Interrupted: 4 of {total}" in page
    assert "Live pieces" in page
    assert "Nothing was computed" in report(partly(findings, 0), "1.2.3")


def test_what_is_found_adds_up(findings: Findings) -> None:
    base = findings.base
    assert base.whole
    assert base.loss_per_year().trials == 40 * 2 * 3
    lost = sum(outcome.lost for _, outcome in base.outcomes.values())
    assert base.series().lost[-1] == pytest.approx(lost / 120)
    chain = exact(findings.study.scenario)
    assert chain is not None
    assert 0 < chain.loss < 1
    assert set(findings.curves()) == {"code.r", "life of left.csv"}


def test_the_order_in_which_results_come_does_not_matter(findings: Findings) -> None:
    turned = Findings(findings.study, "numpy")
    for one in reversed([d for f in findings.found for d in f.outcomes.values()]):
        turned.add(one)
    assert report(turned, "1") == report(findings, "1")


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (3, 3, [3]), (-5, 5, [-4, -2, 0, 2, 4])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_plots_of_nothing_and_of_extremes_are_drawn() -> None:
    empty = Plot("none", "x", "y")
    only_bounds = Plot("bounds", "x", "y", log=True, x_names=["a", "b"])
    only_bounds.points = [Points("p", [0, 1], [None, None], [0, 0], [1e-7, 1e-4])]
    tiny = Plot("tiny", "x", "y", log=True, lines=[Line("l", [0, 1], [1e-30, 0.0])])
    flat = Plot("flat", "x", "y", lines=[Line("l", [2, 2], [0.0, 0.0], step=True)])
    for plot in (empty, only_bounds, tiny, flat):
        ElementTree.fromstring(plot.svg())  # noqa: S314 (our own)
    assert tiny.legend() == ""
