"""How much of the calendar a node observes; what newcomers' waits and forecasts make of it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import DAY, HOUR, MONDAY, WEEK, Watch, always, key, until, workstation

from potsherd.errors import MalformedError
from potsherd.node.attendance import GAP_MAX_S, SHARE_MIN, Attendance
from potsherd.node.churn import ChurnCounts
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import PeerTable

PRIOR = LossPolicy().prior_s


def on_for(hours: float, days: int, attendance: Attendance, begin: float = 0.0) -> None:
    """So many hours of each day, in steps of ten minutes."""
    for day in range(days):
        for step in range(int(hours * 6)):
            gone_by = 0.0 if step == 0 else 600.0
            attendance.count(gone_by, MONDAY + begin + day * DAY + step * 600.0)


def test_the_share_is_what_it_was_lately() -> None:
    attendance = Attendance()
    on_for(24, 40, attendance)
    assert attendance.share > 0.98
    on_for(8, 100, attendance, 40 * DAY)
    assert attendance.share == pytest.approx(1 / 3, rel=0.25)
    on_for(24, 150, attendance, 140 * DAY)
    assert attendance.share > 0.9


@pytest.mark.parametrize("jump", [-3650 * DAY, 3650 * DAY, 30 * DAY, -2 * HOUR])
def test_a_jump_of_the_calendar_weighs_no_more_than_a_long_weekend(jump: float) -> None:
    plain, jumped = Attendance(), Attendance()
    on_for(24, 20, plain)
    on_for(24, 20, jumped)
    on_for(24, 20, plain, 20 * DAY)
    on_for(24, 20, jumped, 20 * DAY + jump)
    assert jumped.share == pytest.approx(plain.share, abs=GAP_MAX_S / (40 * DAY))


@given(st.lists(st.tuples(st.floats(0, 1800), st.floats(-1e10, 1e10)), max_size=100))
def test_whatever_the_clock_says_the_share_is_one(steps: list[tuple[float, float]]) -> None:
    attendance = Attendance()
    for observed, utc in steps:
        attendance.count(observed, utc)
        assert SHARE_MIN <= attendance.share <= 1
        assert 0 <= attendance.observed_s <= attendance.calendar_s


def test_what_is_off_counts_across_a_restart() -> None:
    table = PeerTable(interval_s=600, away_after_s=1800, peers_max=9)
    for step in range(6 * 24 * 3):
        table.advance(step * 600.0, MONDAY + step * 600.0, step_max_s=1800)
    again = PeerTable(interval_s=600, away_after_s=1800, peers_max=9)
    again.go_on(ChurnCounts.decode(table.churn.encode()))
    again.advance(0.0, MONDAY + 6 * DAY, step_max_s=1800)
    counts = again.churn
    assert counts.observed == table.churn.observed
    assert counts.calendar - table.churn.calendar == pytest.approx(3 * DAY, abs=HOUR)
    with pytest.raises(MalformedError):
        ChurnCounts(0, 0, 0, 2, 1).encode()


def company(rng: random.Random) -> list[Callable[[float], bool]]:
    return [*[always] * 3, *[workstation(rng) for _ in range(6)]]


def test_a_newcomer_is_waited_for_by_the_calendar_also_by_those_that_sleep() -> None:
    """It took five weeks, 14 days of the watcher's own time."""
    rng = random.Random(3)
    end = 5 * WEEK + 2 * DAY
    watch = Watch(1, HOUR, workstation(rng), [until(end, workstation(rng)), *company(rng)])
    watch.until(end - 2 * DAY)
    fresh = PeerTable(interval_s=HOUR, away_after_s=2 * HOUR, peers_max=99)
    fresh.go_on(watch.table.churn)
    watch.table = fresh
    for number in range(len(watch.peers)):
        fresh.watch(key(number), watch.now)
    watch.until(end + 28 * DAY)
    assert set(watch.ever_gone) == {0}
    assert 10 * DAY < watch.ever_gone[0] - end < 18 * DAY


def test_own_sleep_and_jumps_of_the_calendar_give_nobody_up() -> None:
    """Three weeks of holidays, and a calendar ten years off for a day: colleagues came and went meanwhile."""
    rng = random.Random(4)
    me = workstation(rng)
    away = 4 * WEEK, 7 * WEEK

    def clock(now: float) -> float:
        return MONDAY + now + (3650 * DAY if 8 * WEEK < now < 8 * WEEK + 2 * DAY else 0.0)

    watch = Watch(1, HOUR, lambda t: not away[0] < t < away[1] and me(t), company(rng), clock)
    watch.until(12 * WEEK)
    assert not watch.ever_gone


@pytest.mark.parametrize("watcher_sleeps", [False, True])
def test_what_is_told_of_the_wait_is_what_the_calendar_shows(watcher_sleeps: bool) -> None:
    """A sleeper told its own hours: two fifths of the days that it took."""
    rng = random.Random(5)
    end = 8 * WEEK + 2 * DAY
    me = workstation(rng) if watcher_sleeps else always
    mortal = [until(end, workstation(rng)) for _ in range(2)]  # more would be taken for a cut cable
    watch = Watch(1, HOUR, me, [*mortal, *[always] * 3, *[workstation(rng) for _ in range(20)]])
    watch.until(end)
    told = watch.table.report([], watch.clock(watch.now), HOUR)
    years = told.watched / (365.25 * DAY)
    assert years == pytest.approx(25 * end / (365.25 * DAY), rel=0.2)
    watch.until(end + 40 * DAY)
    assert set(watch.ever_gone) == {0, 1}
    waited = watch.ever_gone[0] - end
    assert told.noticed == pytest.approx(waited, rel=0.2)
