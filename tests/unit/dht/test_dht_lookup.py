"""Which contacts a look-up asks, when it ends, and what liars and silence do to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dht_network import contact

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.lookup import CLAIMS_MAX, Candidate, Lookup, State
from potsherd.dht.routing import number
from potsherd.ports import Address

TARGET = b"t" * 20
ALL = sorted(
    (contact(serial) for serial in range(1, 201)),
    key=lambda c: number(c.dht_id) ^ number(TARGET),
)
"""A network, the nearest to the target first."""
CONFIG = DhtConfig(keepers=8)


def knows(who: Contact, count: int = 8) -> list[Contact]:
    """What a node tells: the nearest to the target of those that it knows, a quarter of all."""
    place = ALL.index(who)
    return [c for i, c in enumerate(ALL) if (i * 7 + place) % 4 == 0 or abs(i - place) < 9][:count]


def run(
    lookup: Lookup,
    answer: Callable[[Candidate], list[Contact] | None],
    *,
    rounds_max: int = 300,
) -> int:
    """Answer everything at once; None is a failure. Returns the number of rounds."""
    for turn in range(rounds_max):
        if lookup.done():
            return turn
        asks = lookup.next_asks()
        assert asks or lookup.done(), "a look-up that is not done must ask or wait"
        for candidate in asks:
            told = answer(candidate)
            if told is None:
                lookup.failed(candidate)
            else:
                lookup.told(candidate, told)
                lookup.answered(candidate)
    raise AssertionError("the look-up does not end")


def honest(candidate: Candidate) -> list[Contact]:
    return knows(candidate.contact)


def found(lookup: Lookup) -> list[Contact]:
    return [candidate.contact for candidate in lookup.nearest()]


@pytest.mark.parametrize("seeds", [1, 5, 6, 12])
@pytest.mark.parametrize("paths", [1, 2, 3])
def test_the_nearest_are_found_from_anywhere(seeds: int, paths: int) -> None:
    config = DhtConfig(keepers=8, paths=paths)
    lookup = Lookup(TARGET, ALL[-seeds:], config)
    run(lookup, honest)
    assert found(lookup) == ALL[:8]
    assert lookup.hops() >= 2


def test_without_contacts_it_ends_at_once() -> None:
    """kademlia raised ValueError."""
    lookup = Lookup(TARGET, [], CONFIG)
    assert lookup.done() or not lookup.next_asks()
    assert lookup.done()
    assert lookup.nearest() == []
    assert lookup.hops() == 0


def test_dead_contacts_are_passed_over() -> None:
    dead = set(ALL[:10])
    lookup = Lookup(TARGET, ALL[-6:], CONFIG)
    run(lookup, lambda c: None if c.contact in dead else honest(c))
    assert found(lookup) == ALL[10:18]


def test_no_more_than_alpha_on_each_path_are_asked_at_a_time() -> None:
    lookup = Lookup(TARGET, ALL[-12:], DhtConfig(keepers=8, alpha=2, paths=3))
    asks = lookup.next_asks()
    assert sorted(c.path for c in asks) == [0, 0, 1, 1, 2, 2]
    assert lookup.next_asks() == []
    nearest = min(c for c in asks if c.path == 0)
    other = max(c for c in asks if c.path == 0)
    lookup.answered(other)
    (more,) = lookup.next_asks()
    assert more.path == 0
    lookup.told(nearest, ALL[:3])
    lookup.answered(nearest)
    assert [c.contact for c in lookup.next_asks()] == ALL[:1], "those it has named are nearer"


def test_when_the_nearest_has_answered_all_that_are_left_are_asked_at_once() -> None:
    config = DhtConfig(keepers=8, alpha=2, paths=1)
    lookup = Lookup(TARGET, ALL[:12], config)
    first = lookup.next_asks()
    assert [c.contact for c in first] == ALL[:2]
    lookup.answered(first[1])
    assert [c.contact for c in lookup.next_asks()] == ALL[2:3]
    lookup.answered(first[0])
    assert [c.contact for c in lookup.next_asks()] == ALL[3:8]
    assert lookup.asked == 8


def test_they_hold_nobody_back_who_turns_out_to_be_nearer() -> None:
    config = DhtConfig(keepers=8, alpha=2, paths=1)
    lookup = Lookup(TARGET, ALL[3:12], config)
    first = lookup.next_asks()
    lookup.answered(first[0])
    confirming = lookup.next_asks()
    assert len(confirming) == 6
    lookup.told(confirming[0], ALL[:3])
    lookup.answered(confirming[0])
    assert [c.contact for c in lookup.next_asks()] == ALL[:1], "one is in flight from before"


def test_once_something_is_found_no_more_are_asked_than_before() -> None:
    lookup = Lookup(TARGET, ALL[:12], DhtConfig(keepers=8, alpha=2, paths=1))
    first = lookup.next_asks()
    lookup.hurry()
    lookup.answered(first[0])
    assert len(lookup.next_asks()) == 1


def test_paths_share_no_node_and_what_one_is_told_stays_on_it() -> None:
    lookup = Lookup(TARGET, ALL[-12:], DhtConfig(keepers=8, alpha=1, paths=2))
    first, second = lookup.next_asks()
    assert {first.path, second.path} == {0, 1}
    lookup.told(first, ALL[:3])
    lookup.answered(first)
    lookup.answered(second)
    for _ in range(20):
        asks = lookup.next_asks()
        for candidate in asks:
            lookup.answered(candidate)
        if any(c.contact == ALL[0] and c.path != first.path for c in asks):
            raise AssertionError("the other path asked whom it was not told of")
        if any(c.contact == ALL[0] for c in asks):
            return
    raise AssertionError("the nearest was never asked")


def test_a_liar_on_one_path_does_not_lead_the_other() -> None:
    """It names only its friends, who are (they say) the nearest of all and name each other."""
    friends = [
        Contact((number(TARGET) ^ i).to_bytes(20, "big"), bytes([i]) * 32, Address("10.9.0.1", i))
        for i in range(1, 60)
    ]
    liar = ALL[-1]
    lookup = Lookup(TARGET, [liar, *ALL[-12:-1]], DhtConfig(keepers=8, paths=2))

    def answer(candidate: Candidate) -> list[Contact] | None:
        if candidate.contact in friends:
            return None  # cannot prove the ids they claim
        return friends if candidate.contact == liar else honest(candidate)

    run(lookup, answer)
    assert found(lookup) == ALL[:8]


def test_a_false_claim_does_not_hide_the_true_owner_of_an_id() -> None:
    true = ALL[0]
    claims = [Contact(true.dht_id, bytes([i]) * 32, Address("10.9.0.1", i)) for i in range(1, 3)]
    lookup = Lookup(TARGET, ALL[1:4], DhtConfig(keepers=8, paths=1))
    asks = lookup.next_asks()
    lookup.told(asks[0], [*claims, true])
    lookup.answered(asks[0])
    for candidate in asks[1:]:
        lookup.answered(candidate)
    run(lookup, lambda c: None if c.contact in claims else honest(c))
    assert found(lookup)[0] == true
    assert len(claims) < CLAIMS_MAX


def test_claims_of_one_id_are_bounded() -> None:
    lookup = Lookup(TARGET, ALL[-1:], DhtConfig(keepers=8, paths=1))
    first = lookup.next_asks()[0]
    claims = [Contact(TARGET, bytes([i]) * 32, Address("10.9.0.1", 1)) for i in range(1, 20)]
    lookup.told(first, claims)
    lookup.answered(first)
    asked = run_and_collect(lookup)
    assert sum(c.contact.dht_id == TARGET for c in asked) == CLAIMS_MAX


def run_and_collect(lookup: Lookup) -> list[Candidate]:
    asked: list[Candidate] = []
    run(lookup, lambda c: asked.append(c))  # all fail
    return asked


def test_a_silent_contact_is_passed_over_at_once_and_its_late_answer_counts() -> None:
    lookup = Lookup(TARGET, ALL[:8], DhtConfig(keepers=4, alpha=2, paths=1))
    slow, quick = lookup.next_asks()
    assert slow.contact == ALL[0]
    lookup.silent(slow)
    assert [c.contact for c in lookup.next_asks()] == [ALL[2]]  # its place in flight is free
    for candidate in (quick, *[c for c in lookup._candidates.values() if c.contact == ALL[2]]):
        lookup.answered(candidate)
    while asks := lookup.next_asks():
        for candidate in asks:
            lookup.answered(candidate)
    assert not lookup.done()  # still waiting for the silent one
    lookup.answered(slow)
    assert lookup.done()
    assert found(lookup) == ALL[:4]


def test_in_a_hurry_it_does_not_wait_for_the_silent() -> None:
    lookup = Lookup(TARGET, ALL[:8], DhtConfig(keepers=4, alpha=1, paths=1))
    slow = lookup.next_asks()[0]
    lookup.silent(slow)
    lookup.hurry()
    while asks := lookup.next_asks():
        for candidate in asks:
            lookup.answered(candidate)
    assert lookup.done()
    assert found(lookup) == ALL[1:5]


def test_a_silence_reported_after_the_answer_changes_nothing() -> None:
    lookup = Lookup(TARGET, ALL[:1], DhtConfig(keepers=4, paths=1))
    only = lookup.next_asks()[0]
    lookup.answered(only)
    lookup.silent(only)
    assert only.state is State.ANSWERED


def test_a_look_up_asks_a_bounded_number_and_remembers_a_bounded_number() -> None:
    config = DhtConfig(keepers=8, paths=2, asks_max=30, candidates_max=10)
    lookup = Lookup(TARGET, ALL[-6:], config)
    count = 0

    def endless(candidate: Candidate) -> list[Contact] | None:
        nonlocal count
        count += 1
        base = number(TARGET) ^ (2**100 - 1000 * count)
        return [
            Contact((base ^ i).to_bytes(20, "big"), bytes(32), Address("10.9.0.1", 1 + i))
            for i in range(16)
        ]

    run(lookup, endless)
    assert lookup.asked == count == 30
    assert len(lookup._candidates) <= 2 * config.candidates_max + 30


def test_enough_is_enough() -> None:
    lookup = Lookup(TARGET, ALL[:8], CONFIG)
    lookup.next_asks()
    lookup.stop()
    assert lookup.done()
    assert lookup.next_asks() == []


def test_at_the_end_cut_answers_of_the_nearest_are_completed() -> None:
    lookup = Lookup(TARGET, ALL[:8], DhtConfig(keepers=8, paths=1))

    def cut(candidate: Candidate) -> list[Contact]:
        candidate.rest = 7
        return ALL[:7]

    run(lookup, cut)
    asks = lookup.last_asks()
    assert [c.contact for c in asks] == ALL[:3]
    assert not lookup.done()
    for candidate in asks:
        candidate.rest = None
        lookup.told(candidate, ALL[7:8])
        lookup.answered(candidate)
    assert lookup.last_asks() == []


def test_in_an_open_network_results_are_capped_per_prefix() -> None:
    near = [contact(serial, f"8.8.8.{serial}") for serial in range(1, 9)]
    far = [contact(serial, f"8.8.{serial}.1") for serial in range(9, 13)]
    lookup = Lookup(TARGET, [*near, *far], DhtConfig(keepers=12, paths=1, prefix_nodes_max=2))
    run(lookup, lambda c: [])
    hosts = [c.address.host for c in found(lookup)]
    assert sum(host.startswith("8.8.8.") for host in hosts) == 2
    assert len(hosts) == 6
