"""What holders say they have seen becomes the churn of a forecast."""

from __future__ import annotations

import pytest

from potsherd.datasets.health import Health, SegmentHealth, ShardHealth
from potsherd.datasets.outlook import HOLDERS_REPAIR_S, UNSEEN, _forecast, churn_of, seen_by
from potsherd.durability import Chain
from potsherd.errors import MalformedError
from potsherd.node.churn import ChurnSeen, typical

YEAR = 365.25 * 86400
DAY = 86400.0
NODES = [bytes([i]) * 32 for i in range(9)]


def told(years: float, gone: int, returned: int = 0, noticed: float = DAY) -> ChurnSeen:
    return ChurnSeen(int(years * YEAR), gone, returned, int(noticed), (900,) * 9)


def health(*states: str) -> Health:
    """4-of-9, r = 7; one word a shard: live, away, gone or wrong, or the seconds since it was seen."""
    shards = []
    for index, state in enumerate(states):
        trouble = {"live": "", "wrong": "wrong bytes: x"}.get(state, "no answer: x")
        ago = 15 * 86400 if state == "gone" else int(state) if state.isdigit() else None
        shards.append(ShardHealth(index, NODES[index], None, not trouble, trouble, ago))
    segment = SegmentHealth(b"s" * 32, 4, 9, 7, 10**6, tuple(shards), 30)
    return Health((segment,), 0, deep=False)


def test_a_minority_of_liars_moves_nothing() -> None:
    honest = [told(20.0, 4), told(21.0, 5), told(22.0, 6)]
    liars = [told(1e6, 0, noticed=1), told(1e6, 0, noticed=1)]
    found = seen_by(honest + liars, NODES)
    assert (found.observers, found.gone) == (5, 4)
    assert found.years == pytest.approx(22.0)
    assert found.noticed_s == DAY
    worse = seen_by([*honest, told(1e-3, 10**6), told(1e-3, 10**6)], NODES)
    assert worse.gone == 6
    assert worse.years == pytest.approx(20.0)


def test_medians() -> None:
    several: list[list[int]] = [[], [3], [5, 1], [9, 1, 4], [1, 2, 3, 4]]
    assert [typical(values) for values in several] == [0, 3, 1, 4, 2]
    assert [typical(values, high=True) for values in several] == [0, 3, 5, 4, 3]
    halves = seen_by([told(9.0, 1, 5, DAY), told(8.0, 7, 2, 2 * DAY)], NODES)
    assert (halves.gone, halves.returned, halves.noticed_s) == (7, 2, 2 * DAY)
    assert halves.years == pytest.approx(8.0), "of two the worse"


def test_what_was_seen_is_added_to_what_is_assumed() -> None:
    churn = churn_of(seen_by([told(99.0, 24, 76, 2 * DAY)], NODES), DAY)
    assert churn.departures.mean == pytest.approx(0.25)
    assert churn.returns.mean == pytest.approx(0.76, abs=0.01)
    assert churn.repairs is not None
    assert churn.repairs.mean == pytest.approx(YEAR / (3 * DAY))
    unseen = churn_of(UNSEEN, DAY)
    assert unseen.repairs is not None
    assert unseen.repairs.mean == pytest.approx(YEAR / HOLDERS_REPAIR_S)


def test_much_watching_narrows_the_forecast_to_the_chain() -> None:
    whole = health(*["live"] * 9)
    seen = seen_by([told(4000.0, 1000, 10, 13 * DAY)], NODES)
    found = _forecast(whole, {}, seen)
    exact = Chain(9, 4, 7, 0.25, YEAR / (13 * DAY)).loss_probability(1.0)
    guessed = _forecast(whole, {}, UNSEEN)
    assert found.low < exact < found.high
    assert found.high / found.low < 0.01 * guessed.high / guessed.low
    assert found.readable == pytest.approx(1.0, abs=1e-3)
    assert "1000 gone in 4,000 machine-years" in found.words()
    assert "a guess" in guessed.words()
    young = seen_by([told(0.5, 0)], NODES)
    assert "watched for 0.5 machine-years only" in young.words()


def test_wrong_and_long_silent_pieces_do_not_count() -> None:
    seen = seen_by([told(4000.0, 1000)], NODES)
    away = _forecast(health(*["live"] * 7, "60", "60"), {}, seen)
    silent = _forecast(health(*["live"] * 7, "90000", "90000"), {}, seen)
    wrong = _forecast(health(*["live"] * 7, "wrong", "wrong"), {}, seen)
    gone = _forecast(health(*["live"] * 7, "gone", "gone"), {}, seen)
    assert silent.probability == wrong.probability == gone.probability > away.probability


def test_nobody_notices_at_once() -> None:
    with pytest.raises(MalformedError, match="noticed"):
        ChurnSeen.decode(ChurnSeen(0, 0, 0, 0, ()).encode())
