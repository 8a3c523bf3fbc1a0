"""Workstations that sleep at night and at the weekend, and now and then one is gone for good.

Who is gone is given up and replaced, and what repair moves is printed beside what the Monte Carlo engine says of
the same office. A year of fifty is a command (docs/validation.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from potsherd.simulations.validation.office import predicted, read, tables, write
from potsherd.simulations.world.office import HOUR, OfficePlan, OfficeReport, run


@pytest.mark.slow
def test_a_day_of_an_office_is_the_same_again(tmp_path: Path) -> None:
    """Seven machines, of which one is gone; nothing is rebuilt so soon, and nobody given up who only sleeps."""
    plan = OfficePlan(
        seed=2, nodes=7, weeks=1 / 7, departures_per_week=7, segments=2, k=2, n=5, r=3
    )
    said: list[OfficeReport] = []
    report = run(plan, said.append)
    print(report)
    assert report.departures >= 1
    assert report.least >= 5 - report.departures
    assert (report.lost, report.false, report.broken) == (0, 0, ())
    assert report.looks > 100
    assert run(plan).digest == report.digest
    write(tmp_path / "office.json", plan, report)
    assert read(tmp_path / "office.json") == (plan, report)
    assert tables([(plan, report)])[0].rows


def test_settings_stay_within_what_liveness_needs() -> None:
    """The heartbeat is asked often enough that a day of silence is noticed within a day."""
    hourly = OfficePlan().settings()
    assert hourly.loss.floor_s + hourly.away_after_s < 24 * HOUR


@pytest.mark.nightly
@pytest.mark.timeout(6000)
def test_twelve_weeks_of_thirty_workstations() -> None:
    plan = OfficePlan(seed=5, nodes=30, weeks=12, departures_per_week=1.5)
    report = run(plan, print)
    model = predicted(plan)
    print(report, model)
    assert report.broken == ()
    assert report.least >= plan.k
    assert report.false == 0, "who sleeps is waited for"
    assert report.departures > 5 and report.given_up > 5
    assert model.rebuilt.holds(report.rebuilt), "neither storms nor neglect"
