"""Who audits what, and when: everybody names the same auditor, nobody can tell the moment."""

from __future__ import annotations

from collections import Counter

from potsherd.node.audit.plan import DAY_S, Budget, auditor_of, due, moment, period_of
from potsherd.node.records import RosterEntry

SEGMENT = b"s" * 32
WEEK = 7 * DAY_S
NODES = [bytes([i]) * 32 for i in range(1, 10)]
ENTRIES = [RosterEntry(SEGMENT, i, node, 1, True) for i, node in enumerate(NODES)]


def all_due(utc: float, proven: dict[bytes, int] | None = None) -> list[tuple[bytes, int]]:
    """(auditor, index) over all nodes."""
    return [
        (me, entry.index)
        for me in NODES
        for entry in due(ENTRIES, me=me, utc=utc, period_s=WEEK, proven=proven or {}, salt=me)
    ]


def test_each_shard_has_one_auditor_in_a_week_and_never_its_holder() -> None:
    found = all_due(1000 * WEEK - 1)
    assert sorted(index for _, index in found) == list(range(9))
    assert all(NODES[index] != auditor for auditor, index in found)


def test_the_auditor_changes_from_week_to_week() -> None:
    others = set(NODES[1:])
    drawn = Counter(auditor_of(SEGMENT, 0, period, others) for period in range(800))
    assert set(drawn) == others
    assert min(drawn.values()) > 60


def test_audits_are_spread_over_the_week_and_end_before_it_does() -> None:
    begin = 1000 * WEEK
    assert period_of(begin, WEEK) == 1000
    counts = [len(all_due(begin + day * DAY_S)) for day in range(6)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[5] == 9
    moments = [moment(b"k" * 32, SEGMENT, node, 1000) for node in NODES]
    assert len(set(moments)) == 9
    assert moments != [moment(b"j" * 32, SEGMENT, node, 1000) for node in NODES]


def test_what_was_proven_in_the_week_is_not_audited_again() -> None:
    begin = 1000 * WEEK
    assert all_due(begin + 6 * DAY_S, {NODES[3]: int(begin)}) == [
        found for found in all_due(begin + 6 * DAY_S) if found[1] != 3
    ]
    assert len(all_due(begin + 6 * DAY_S, {NODES[3]: int(begin) - 1})) == 9


def test_a_single_holder_audits_nobody() -> None:
    assert due(ENTRIES[:1], me=NODES[0], utc=WEEK, period_s=WEEK, proven={}, salt=b"") == []


def test_a_budget_is_spent_and_comes_back_within_a_day() -> None:
    budget = Budget(1000, 0.0)
    assert budget.take(600, 0.0)
    assert not budget.take(600, 0.0)
    assert not budget.take(600, DAY_S / 10)
    assert budget.take(600, DAY_S / 4)
    assert budget.left(100 * DAY_S) == 1000
    assert budget.take(5000, 100 * DAY_S), "a whole day's budget pays for one large thing"
    assert not budget.take(1, 100 * DAY_S)
