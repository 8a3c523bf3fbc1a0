"""When a segment may be dropped: every date, every clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.node.lease_records import Extension, Withdrawal
from potsherd.node.records import Lease
from potsherd.node.retention import (
    FOREVER,
    GRACE_MIN_S,
    agreed,
    agreed_seen,
    hasty,
    is_wanted,
    judge,
    lease_end,
    witnesses_needed,
)
from potsherd.node.store import Kept, LeaseState

DAY = 86_400
NOW = 1_800_000_000
OWNER, KEEPER, OFFLINE = b"o" * 32, b"k" * 32, b"w" * 32
GRACE = 30 * DAY


def lease(**changes: Any) -> Lease:
    fields: dict[str, Any] = {
        "owner": OWNER,
        "archive": 0,
        "sequence": 1,
        "root": bytes(32),
        "segments": 1,
        "total_bytes": 1,
        "until": 0,
        "keepers": (),
        "withdraw_key": OFFLINE,
        "grace_s": GRACE,
        "repair_below": 0,
    }
    return Lease(**{**fields, **changes})


def state(*, not_before: int = 0, seen: int = 0, **changes: Any) -> LeaseState:
    extra: dict[str, Any] = {"extensions": (), "withdrawal": None}
    extra |= {key: changes.pop(key) for key in list(changes) if key in extra}
    return LeaseState(lease(**changes), seen=seen, not_before=not_before, **extra)


def kept(*leases: LeaseState, unleased_until: int = NOW) -> Kept:
    return Kept(b"s" * 32, 3, 1000, OWNER, b"p" * 20, unleased_until, leases)


def withdrawn(date: int, *, active: bool = True) -> Withdrawal:
    return Withdrawal(OWNER, 0, 1, date, active, OFFLINE)


def extended(until: int) -> Extension:
    return Extension(OWNER, 0, KEEPER, until)


def test_a_lease_without_end_keeps_for_ever() -> None:
    verdict = judge(kept(state()))
    assert verdict.ends == FOREVER
    assert not hasty(kept(state()), NOW + 10**9)


def test_an_ended_lease_has_its_grace() -> None:
    verdict = judge(kept(state(until=NOW)))
    assert (verdict.ends, verdict.gone) == (NOW, NOW + GRACE)
    assert (verdict.reason, verdict.scope) == ("expired", (OWNER, 0))
    assert judge(kept(state(until=NOW, grace_s=0))).gone == NOW + GRACE_MIN_S


def test_keepers_only_lengthen() -> None:
    assert lease_end(state(until=NOW, extensions=(extended(NOW - 5),))) == NOW
    assert lease_end(state(until=NOW, extensions=(extended(NOW + 5),))) == NOW + 5
    assert lease_end(state(until=NOW, extensions=(extended(0),))) == FOREVER
    assert lease_end(state(until=0, extensions=(extended(NOW),))) == FOREVER


def test_any_lease_keeps() -> None:
    short, long = state(until=NOW), state(until=NOW + 99 * DAY, archive=1)
    for order in ((short, long), (long, short)):
        verdict = judge(kept(*order))
        assert (verdict.ends, verdict.scope) == (NOW + 99 * DAY, (OWNER, 1))


def test_a_withdrawal_ends_what_has_no_end() -> None:
    verdict = judge(kept(state(withdrawal=withdrawn(NOW), seen=NOW)))
    assert (verdict.ends, verdict.gone, verdict.reason) == (NOW, NOW + GRACE, "withdrawn")


def test_a_cancelled_withdrawal_is_none() -> None:
    assert judge(kept(state(withdrawal=withdrawn(NOW, active=False), seen=NOW))).ends == FOREVER


def test_a_withdrawal_dated_back_costs_nobody_the_grace() -> None:
    """Whoever has stolen the key cannot choose the date from which the grace runs."""
    found = kept(state(withdrawal=withdrawn(NOW - 1000 * DAY), seen=NOW))
    assert judge(found).gone == NOW + GRACE
    assert hasty(found, NOW)  # others may have seen it for long: worth asking
    clocks = [NOW + GRACE - 1] * 3
    assert agreed(found, NOW + GRACE - 1, clocks, 3) is None
    assert agreed(found, NOW + GRACE, [NOW + GRACE] * 3, 3) is not None


def test_a_holder_that_was_away_need_not_wait_when_most_others_have_waited() -> None:
    long_ago = NOW - 100 * DAY
    found = kept(state(withdrawal=withdrawn(long_ago), seen=NOW))
    scope = (OWNER, 0)
    most = agreed_seen(NOW, [long_ago, long_ago, None])
    few = agreed_seen(NOW, [long_ago, None, None])
    two = agreed_seen(NOW, [long_ago, long_ago])
    assert (most, few, two) == (long_ago, NOW, NOW)
    assert agreed(found, NOW, [NOW] * 3, 3, seen={scope: most}) is not None
    assert agreed(found, NOW, [NOW] * 3, 3, seen={scope: few}) is None


def test_what_ends_first_counts_within_a_lease() -> None:
    late = withdrawn(NOW + 50 * DAY)
    verdict = judge(kept(state(until=NOW, withdrawal=late, seen=NOW + 50 * DAY)))
    assert (verdict.reason, verdict.ends) == ("expired", NOW)


def test_a_lease_that_was_shortened_runs_its_grace_from_then() -> None:
    verdict = judge(kept(state(until=NOW - 999 * DAY, not_before=NOW)))
    assert verdict.gone == NOW + GRACE


def test_without_a_lease_a_segment_is_abandoned() -> None:
    verdict = judge(kept(unleased_until=NOW))
    assert (verdict.gone, verdict.reason, verdict.scope) == (NOW + GRACE_MIN_S, "abandoned", None)


def test_what_has_ended_is_not_repaired_but_kept_through_its_grace() -> None:
    assert is_wanted(kept(state(until=NOW)), NOW - 1)
    assert not is_wanted(kept(state(until=NOW)), NOW)
    assert not hasty(kept(state(until=NOW)), NOW)


@pytest.mark.parametrize(
    ("clocks", "candidates", "drops"),
    [
        ([], 0, False),  # alone in the world: never
        ([], 5, False),
        ([1], 1, True),
        ([1], 2, False),  # one of two is not heard
        ([1, 1], 2, True),
        ([1, 1], 9, False),
        ([-1, 1, 1], 9, True),
        ([-1, -1, 1], 9, False),
        ([1, -1], 2, False),  # of two, both
        ([-1, -1, 1, 1, 1], 9, True),
    ],
)
def test_most_clocks_must_agree(clocks: list[int], candidates: int, drops: bool) -> None:
    found = kept(state(until=NOW - GRACE))
    times = [NOW + c * DAY for c in clocks]
    assert (agreed(found, NOW + DAY, times, candidates) is not None) == drops


def test_our_own_clock_must_agree_too() -> None:
    found = kept(state(until=NOW - GRACE))
    assert agreed(found, NOW - 1, [NOW + DAY] * 5, 5) is None
    assert agreed(found, NOW, [NOW + DAY] * 5, 5) is not None


def test_witnesses_needed() -> None:
    assert [witnesses_needed(n) for n in (0, 1, 2, 3, 4, 100)] == [1, 1, 2, 3, 3, 3]


dates = st.integers(0, 2**40 - 1)


@given(st.lists(st.tuples(dates, dates, st.booleans()), max_size=4), dates, dates)
def test_a_further_lease_or_extension_never_shortens(
    rows: list[tuple[int, int, bool]], until: int, now: int
) -> None:
    leases = [
        state(until=u, archive=i, withdrawal=withdrawn(w) if ends else None, seen=w)
        for i, (u, w, ends) in enumerate(rows, 1)
    ]
    before = judge(kept(*leases, unleased_until=0))
    after = judge(kept(*leases, state(until=until), unleased_until=0))
    assert after.gone >= before.gone or not leases
    longer = judge(kept(*leases, replace(state(until=until), extensions=(extended(now),))))
    assert longer.gone >= after.gone
    assert before.gone >= before.ends
