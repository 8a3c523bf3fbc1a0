"""Health, ranks, places: the same for all who see the same."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.node.placement import Candidate
from potsherd.node.records import RosterEntry
from potsherd.node.repair.plan import (
    PLACE_SLACK,
    Health,
    PlaceView,
    Standing,
    assess,
    outlook_of,
    place_score,
    repair_ranks,
)
from potsherd.ports import Address

SEGMENT = bytes(range(32))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def entry(index: int, node: int, held: bool = True) -> RosterEntry:
    return RosterEntry(SEGMENT, index, key(node), 1, held)


def health(standings: dict[tuple[int, int], Standing], **more: int):  # type: ignore[no-untyped-def] # Health
    entries = [entry(index, node) for index, node in standings]
    by_node = {key(node): s for (_, node), s in standings.items()}
    facts: dict[str, Any] = {"k": 3, "n": 7, "r": 5, **more}
    return assess(entries, **facts, standing=lambda e, _: by_node[e.node])


L, A, U, X = Standing.LIVE, Standing.AWAY, Standing.UNKNOWN, Standing.LOST


def test_only_loss_counts_as_loss() -> None:
    seen = health({(0, 0): L, (1, 1): A, (2, 2): U, (3, 3): A, (4, 4): L, (5, 5): X})
    assert (seen.live, seen.distinct, seen.missing) == (2, 5, (5, 6))
    assert not seen.needs_repair, "away is not lost"
    assert not seen.is_readable
    worse = health({(0, 0): L, (1, 1): A, (2, 2): U, (3, 3): X, (4, 4): L, (5, 5): X})
    assert worse.needs_repair
    assert worse.missing == (3, 5, 6)


def test_two_holders_of_one_index_are_one() -> None:
    seen = health({(0, 0): L, (0, 1): L, (0, 2): A, (1, 3): X, (1, 4): L})
    assert seen.distinct == 2
    assert seen.holders[0] == (key(0), key(1), key(2))
    assert seen.holders[1] == (key(4),)


def test_released_and_impossible_entries_hold_nothing() -> None:
    entries = [entry(0, 0), entry(1, 1, held=False), entry(7, 2), entry(254, 3)]
    seen = assess(entries, k=1, n=7, r=1, standing=lambda e, u: L)
    assert seen.distinct == 1


def test_a_lease_may_raise_the_threshold_but_not_beyond_n() -> None:
    standings = dict.fromkeys([(i, i) for i in range(6)], L)
    assert not health(standings).needs_repair
    assert health(standings, raised=7).needs_repair
    assert health(standings, raised=255).wanted == 7
    assert not health(standings, raised=2).needs_repair, "never lowered"


def test_few_live_indices_are_looked_at_once_more_without_patience() -> None:
    """Frozen nodes count as lost only for segments that have at most k + 2 live."""

    def standing(e: RosterEntry, urgent: bool) -> Standing:
        if e.index >= 5:
            return X if urgent else A
        return L

    entries = [entry(i, i) for i in range(7)]
    assert assess(entries, k=3, n=7, r=7, standing=standing).distinct == 5
    assert assess(entries, k=2, n=7, r=7, standing=standing).distinct == 7


def test_ranks_are_the_same_for_all_and_spread_over_segments() -> None:
    nodes = [key(i) for i in range(9)]
    order = repair_ranks(SEGMENT, nodes)
    assert sorted(order) == sorted(nodes)
    assert repair_ranks(SEGMENT, reversed(order)) == order
    firsts = Counter(repair_ranks(bytes([i]) * 32, nodes)[0] for i in range(200))
    assert len(firsts) == 9
    rest = [n for n in order if n != order[0]]
    assert repair_ranks(SEGMENT, rest) == rest, "who leaves does not reorder the others"


# --- places ---------------------------------------------------------------------------------------


def candidate(number: int, **more: object) -> Candidate:
    facts: dict[str, object] = {
        "key": key(number),
        "dht_id": number.to_bytes(20, "big"),
        "address": Address("10.0.0.1", 1),
        "operator": "o",
        "site": "",
        "free_class": 30,
        **more,
    }
    return Candidate(**facts)  # type: ignore[arg-type] # built from a dict


def view(pool: list[Candidate], taken: set[int] | None = None, **more: object) -> PlaceView:
    facts: dict[str, object] = {
        "segment_id": SEGMENT,
        "n": 7,
        "r": 5,
        "shard_bytes": 2**20,
        "pool": tuple(pool),
        "taken": frozenset(key(i) for i in taken or ()),
        "domains": {},
        **more,
    }
    return PlaceView(**facts)  # type: ignore[arg-type] # built from a dict


POOL = [candidate(i) for i in range(28)]


@given(st.integers(0, 10**6), st.sets(st.integers(0, 6), min_size=1))
def test_two_repairers_choose_the_same_places(seed: int, missing: set[int]) -> None:
    shuffled = random.Random(seed).sample(POOL, len(POOL))
    one = view(POOL, {0, 1, 2}).choose(sorted(missing))
    other = view(shuffled, {0, 1, 2}).choose(sorted(missing, reverse=True))
    assert one == other
    chosen = [c.key for c in one.values()]
    assert len(set(chosen)) == len(missing)
    assert not set(chosen) & {key(0), key(1), key(2)}
    for index, c in one.items():
        assert view(shuffled, {0, 1, 2}).agrees(index, c.key), "and every holder agrees"


def test_a_place_is_the_highest_score_among_those_that_can() -> None:
    order = [c.key for c in view(POOL).order(3)]
    scores = [place_score(SEGMENT, 3, k) for k in order]
    assert scores == sorted(scores, reverse=True)
    assert view(POOL).order(4)[0].key != view(POOL).order(3)[0].key
    first = next(i for i in range(28) if key(i) == order[0])
    full = [replace(c, free_class=19) if c.key == order[0] else c for c in POOL]
    assert view(full).order(3)[0].key == order[1]
    assert view(POOL, {first}).order(3)[0].key == order[1]
    assert view(POOL).order(3, besides={order[0], order[1]})[0].key == order[2]


def test_friends_far_down_the_order_are_not_agreed_with() -> None:
    order = [c.key for c in view(POOL).order(3)]
    assert all(view(POOL).agrees(3, k) for k in order[: PLACE_SLACK + 1])
    assert not any(view(POOL).agrees(3, k) for k in order[PLACE_SLACK + 1 :])
    assert not view(POOL).agrees(3, key(99)), "not in the pool at all"


def test_a_judged_holder_may_be_full_by_now() -> None:
    order = [c.key for c in view(POOL).order(3)]
    full = [replace(c, free_class=3) if c.key == order[0] else c for c in POOL]
    assert not view(full).agrees(3, order[0])
    assert view(full, judged=order[0]).agrees(3, order[0])


def test_a_failure_domain_with_its_share_comes_last() -> None:
    pool = [candidate(i, site="cellar" if i < 20 else f"site{i}") for i in range(28)]
    domains = {key(100 + i): (("site", "cellar"),) for i in range(2)}
    chosen = view(pool, domains=domains).choose([0, 1, 2, 3])
    assert all(c.site != "cellar" for c in chosen.values())
    only = view(pool[:20], domains=domains).choose([0])
    assert only[0].site == "cellar", "better there than nowhere"
    few = view(pool).choose([0, 1, 2, 3, 4])
    assert sum(c.site == "cellar" for c in few.values()) <= 2, "n − r in one pass"


def test_a_pool_that_is_too_small_gives_what_it_has() -> None:
    assert len(view(POOL[:2]).choose([0, 1, 2, 3])) == 2
    assert view([]).choose([0]) == {}


# --- the chance to be readable ----------------------------------------------------------------------


def judged(lost: int, up: float, target: float, r: int = 3) -> Health:
    """3-of-7 on holders that are there so often, some of them lost."""
    seen: Health = health({(i, i): X if i < lost else L for i in range(7)}, r=r)
    return replace(seen, outlook=outlook_of(seen, lambda _: up, target))


def test_the_outlook_is_the_binomial_tail() -> None:
    outlook = judged(2, 0.5, 0.9).outlook
    assert outlook is not None
    assert outlook.present == pytest.approx(16 / 32)  # 3, 4 or 5 of 5: 10 + 5 + 1
    assert outlook.whole == pytest.approx(99 / 128)  # 3 to 7 of 7: 35 + 35 + 21 + 7 + 1


def test_too_seldom_readable_is_repaired_although_enough_are_left() -> None:
    assert not judged(2, 0.8, 0.0).needs_repair, "off"
    assert not judged(2, 0.8, 0.94).needs_repair, "0.942 is enough"
    assert judged(2, 0.8, 0.95).needs_repair
    assert judged(1, 0.8, 0.99).needs_repair == (0.98304 < 0.99 <= 0.995328)


def test_what_repair_cannot_reach_is_left_to_the_count() -> None:
    assert not judged(2, 0.8, 0.999).needs_repair
    assert judged(2, 0.8, 0.999, r=6).needs_repair
    assert not judged(0, 0.3, 0.9).needs_repair, "nothing is lost"
    assert judged(7, 0.8, 0.9).outlook is None


def test_an_index_with_two_holders_is_there_when_either_is() -> None:
    seen = health({(0, 0): L, (0, 1): A, (1, 2): X}, k=1, n=2, r=1)
    outlook = outlook_of(seen, lambda _: 0.5, 0.8)
    assert outlook is not None
    assert (outlook.present, outlook.whole) == (0.75, 0.9375)
    assert outlook.falls_short
