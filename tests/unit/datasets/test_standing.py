"""What proofs amount to: distinct pieces only, and what one domain takes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from potsherd.datasets.health import GONE_S, Health, SegmentHealth, ShardHealth
from potsherd.datasets.standing import spread_of, state_of
from potsherd.ports import Address


def shard(
    index: int,
    *,
    live: bool = True,
    trouble: str = "",
    node: int | None = None,
    ago: int | None = None,
) -> ShardHealth:
    key = bytes([index if node is None else node]) * 32
    return ShardHealth(index, key, None, live, trouble or ("" if live else "no answer: x"), ago)


def segment(
    *shards: ShardHealth, k: int = 2, n: int = 6, r: int = 4, rows: int = 10
) -> SegmentHealth:
    return SegmentHealth(bytes(32), k, n, r, 1000, shards, rows)


def health(*segments: SegmentHealth, deep: bool = False) -> Health:
    return Health(segments, 1, deep)


def test_states_of_a_piece() -> None:
    assert shard(0).state == "live"
    assert shard(0, live=False).state == "away"
    assert shard(0, live=False, ago=int(GONE_S) - 1).state == "away"
    assert shard(0, live=False, ago=int(GONE_S)).state == "gone"
    assert shard(0, live=False, trouble="wrong bytes: y", ago=10**9).state == "wrong"


def test_what_json_says_of_a_piece() -> None:
    piece = replace(shard(3, node=9), address=Address("2001:db8::1", 4800))
    assert piece.facts() == {
        "index": 3,
        "key": "09" * 32,
        "address": "2001:db8::1:4800",
        "live": True,
        "state": "live",
        "seen_ago_s": None,
        "trouble": "",
    }


def test_a_silent_node_whose_piece_another_one_proves_is_replaced() -> None:
    silent, lost, liar = (
        shard(0, live=False, node=9),
        shard(1, live=False, ago=10**8),
        shard(0, live=False, trouble="wrong bytes: y", node=8),
    )
    found = segment(shard(0), silent, lost, liar)
    assert [found.replaced(s) for s in found.shards] == [False, True, False, False]


def test_of_two_copies_the_better_counts_and_once() -> None:
    found = segment(
        shard(0), shard(0, live=False, node=9), shard(1, live=False), shard(1, live=False, node=8, ago=10**8),
        shard(2, live=False, trouble="wrong bytes: y"),
    )  # fmt: skip
    counts = [found.count(state) for state in ("live", "away", "gone", "wrong")]
    assert counts == [1, 1, 0, 1]
    assert found.survives == -1


@pytest.mark.parametrize(("live", "state"), [(6, "complete"), (5, "acknowledged"), (4, "short")])
def test_complete_acknowledged_short(live: int, state: str) -> None:
    """w of 2-of-6 is 5."""
    whole = segment(*(shard(i) for i in range(6)))
    part = segment(*(shard(i, live=i < live) for i in range(6)))
    assert state_of(health(whole, part)) == state
    assert state_of(health(whole, replace(part, r=0))) != "complete"


def test_what_was_sampled() -> None:
    found = segment(*(shard(i, live=i < 4) for i in range(6)))
    assert (health(found).cells, health(found).cells_proven) == (60, 4)
    assert health(found, deep=True).cells_proven == 40


def test_a_domain_takes_what_has_no_copy_elsewhere() -> None:
    domains = {
        bytes([i]) * 32: (("site", "a" if i < 3 else "b"), ("operator", "x")) for i in range(6)
    } | {bytes([9]) * 32: (("site", "c"),)}
    shards = [shard(i) for i in range(4)]
    site, operator = spread_of(health(segment(*shards)), domains)
    assert (site.kind, site.places, site.most, site.label, site.survived) == (
        "site",
        2,
        3,
        "a",
        False,
    )
    assert (operator.most, operator.survived) == (4, False)
    better = [*shards, shard(0, node=9)]
    site, operator = spread_of(health(segment(*better)), domains)
    assert (site.places, site.most, site.label, site.survived) == (3, 2, "a", True)
    assert operator.most == 3  # index 0 is kept by somebody who declares no operator, too


def test_nothing_declared_is_nothing_said() -> None:
    assert spread_of(health(segment(shard(0), shard(1))), {}) == ()


def test_the_segment_that_suffers_most_is_told() -> None:
    domains = {bytes([i]) * 32: (("site", str(i % 2)),) for i in range(6)}
    strong = segment(*(shard(i) for i in range(6)))
    weak = segment(shard(0), shard(2), shard(4))
    [site] = spread_of(health(strong, weak), domains)
    assert (site.most, site.survived) == (3, False)
