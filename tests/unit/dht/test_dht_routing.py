"""The routing table; the faults of the kademlia package that it was seen to have are named here."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from dht_network import contact

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.routing import SORTED_MAX, Table, capped, number, random_id_in
from potsherd.ports import Address

SMALL = DhtConfig(keepers=4, replacements_max=3, failures_max=2, failure_spacing_s=10.0)
OWN = contact(0)


def table(config: DhtConfig = SMALL) -> Table:
    return Table(OWN.dht_id, config, 0.0)


def with_id(dht_id: int, host: str = "10.0.0.9", key: bytes = b"") -> Contact:
    name = dht_id.to_bytes(20, "big")
    return Contact(name, key or name + bytes(12), Address(host, 4000))


def nearest_of(contacts: list[Contact], target: bytes, count: int) -> list[Contact]:
    return sorted(contacts, key=lambda c: number(c.dht_id) ^ number(target))[:count]


@pytest.mark.parametrize(("count", "nodes"), [(1, 400), (20, 400), (500, 400), (20, 6000)])
def test_the_nearest_are_exactly_the_nearest_of_those_known(count: int, nodes: int) -> None:
    """kademlia's find_neighbors gave half of them at 1,000 nodes."""
    here = Table(OWN.dht_id, DhtConfig(), 0.0)
    for serial in range(1, nodes):
        here.seen(contact(serial), 0.0)
    known = here.contacts()
    assert len(known) == len(here) and (len(here) > SORTED_MAX) == (nodes > 400)
    rng = random.Random(3)
    for _ in range(50):
        target = rng.randbytes(20)
        assert here.nearest(target, count) == nearest_of(known, target, count)


def test_who_asks_is_left_out_of_the_answer() -> None:
    here = table()
    some = [contact(serial) for serial in range(1, 5)]
    for one in some:
        here.seen(one, 0.0)
    target = some[0].dht_id
    others = nearest_of(some, target, 4)[1:]
    assert here.nearest(target, 4, exclude=target) == others


def test_the_own_id_never_enters() -> None:
    here = table()
    assert here.seen(OWN, 0.0) == (False, None)
    assert not here.wants(OWN)
    assert len(here) == 0


def test_everybody_near_the_own_id_is_known_and_buckets_stay_small() -> None:
    here = table()
    everybody = [contact(serial) for serial in range(1, 300)]
    for one in everybody:
        here.seen(one, 0.0)
    assert here.nearest(OWN.dht_id, 4) == nearest_of(everybody, OWN.dht_id, 4)
    assert all(len(bucket) <= 4 for bucket in here.buckets)
    assert all(len(bucket.replacement_nodes) <= 3 for bucket in here.buckets)


def test_buckets_cover_every_id_once() -> None:
    """kademlia's ranges overlap: an id on a border belonged to one bucket and was sought in another."""
    here = table()
    for serial in range(1, 200):
        here.seen(contact(serial), 0.0)
    ranges = [bucket.range for bucket in here.buckets]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 2**160 - 1
    assert all(high + 1 == low for (_, high), (low, _) in pairwise(ranges))
    for low, high in ranges:
        for edge in (low, high):
            bucket = here.buckets[here.get_bucket_for(with_id_node(edge))]
            assert bucket.range == (low, high)


class with_id_node:  # noqa: N801 (stands for a node, with the one attribute that is asked for)
    def __init__(self, long_id: int) -> None:
        self.long_id = long_id


def fill_far_bucket(here: Table, count: int = 4) -> list[Contact]:
    """`count` contacts in the half of the ids that is not ours, too deep to be split any further."""
    far = number(OWN.dht_id) ^ (1 << 159)
    base = far >> 100 << 100
    contacts = [with_id(base + i) for i in range(count)]
    for one in contacts:
        here.seen(one, 0.0)
    return contacts


def test_a_contact_heard_of_again_moves_to_the_tail() -> None:
    """kademlia leaves known contacts where they are, so the busiest are the first to be replaced."""
    here = table()
    contacts = fill_far_bucket(here)
    here.seen(contacts[0], 5.0)
    bucket = here.buckets[here.get_bucket_for(with_id_node(number(contacts[0].dht_id)))]
    assert [n.contact for n in bucket.nodes.values()] == [*contacts[1:], contacts[0]]


def full_table() -> tuple[Table, list[Contact], Contact]:
    """A table that splits no more, its one full bucket's contacts, and one that waits for a place."""
    here = Table(OWN.dht_id, DhtConfig(keepers=4, replacements_max=3, buckets_max=1), 0.0)
    contacts = fill_far_bucket(here)
    waiting = with_id(number(contacts[0].dht_id) + 50)
    here.seen(waiting, 1.0)
    return here, contacts, waiting


def test_a_contact_stays_through_single_failures_and_leaves_after_several() -> None:
    """kademlia drops a contact for one lost packet."""
    here, contacts, waiting = full_table()
    config = DhtConfig()
    for failure in range(config.failures_max - 1):
        assert not here.failed(contacts[0], 100.0 * failure)
        assert here.get(contacts[0].dht_id) is not None
    assert here.failed(contacts[0], 1000.0)
    assert here.get(contacts[0].dht_id) is None
    assert here.get(waiting.dht_id) is not None  # took its place from the replacement cache


def test_failures_of_one_moment_count_once() -> None:
    here = table()
    one = contact(1)
    here.seen(one, 0.0)
    for _ in range(10):
        assert not here.failed(one, 5.0)
    assert here.failed(one, 16.0)


def test_an_answer_makes_up_for_failures() -> None:
    here = table()
    one, other = contact(1), contact(2)
    here.seen(one, 0.0)
    here.seen(other, 0.0)
    here.failed(one, 1.0)
    assert here.contacts() == [other]
    assert here.nearest(one.dht_id, 1) == [other]  # who fails is not recommended
    assert here.nearest(one.dht_id, 2) == [other, one]  # unless there are too few
    here.seen(one, 2.0)
    assert here.nearest(one.dht_id, 1) == [one]
    assert not here.failed(one, 20.0)


def test_a_full_bucket_keeps_the_old_and_asks_for_a_sign_of_life_of_the_silent() -> None:
    here, contacts, _ = full_table()
    late = with_id(number(contacts[0].dht_id) + 60)
    assert here.seen(late, 10.0) == (False, None)
    asked = here.seen(late, 10_000.0)
    assert asked == (False, contacts[0])
    assert here.get(late.dht_id) is None


def test_the_replacement_cache_is_bounded() -> None:
    """In kademlia it was not asked by is_new_node, and traffic grew a hundredfold."""
    here, contacts, waiting = full_table()
    assert here.wants(with_id(number(contacts[0].dht_id) + 70))
    for i in range(70, 100):
        here.seen(with_id(number(contacts[0].dht_id) + i), 2.0)
    assert len(here.buckets[0].replacement_nodes) == 3
    assert waiting.dht_id not in here.buckets[0].replacement_nodes
    assert not here.wants(with_id(number(contacts[0].dht_id) + 200))


def test_a_second_key_for_one_id_waits_until_the_first_is_silent() -> None:
    here = table()
    first, second = with_id(77, key=b"a" * 32), with_id(77, key=b"b" * 32)
    here.seen(first, 0.0)
    here.seen(second, 1.0)
    assert here.contacts() == [first]
    here.failed(second, 2.0)  # says nothing of the first
    assert here.contacts() == [first]
    here.failed(first, 3.0)
    here.seen(second, 4.0)
    assert here.contacts() == [second]


def test_a_node_that_has_moved_is_found_at_its_new_address() -> None:
    here = table()
    old, new = contact(1), contact(1, "10.9.9.9")
    here.seen(old, 0.0)
    assert not here.wants(old)
    assert here.wants(new)
    here.seen(new, 1.0)
    assert here.contacts() == [new]
    here.failed(old, 2.0)  # a late failure at the old address
    assert here.contacts() == [new]


def test_the_number_of_buckets_is_bounded() -> None:
    here = Table(OWN.dht_id, DhtConfig(keepers=1, buckets_max=5), 0.0)
    for serial in range(1, 200):
        here.seen(contact(serial), 0.0)
    assert len(here.buckets) == 5
    assert len(here) <= 5


def test_in_an_open_network_one_prefix_gets_few_places() -> None:
    here = Table(OWN.dht_id, DhtConfig(prefix_nodes_max=2, buckets_max=1), 0.0)
    for serial in range(1, 10):
        here.seen(contact(serial, f"8.8.8.{serial}"), 0.0)
    for serial in range(10, 13):
        here.seen(contact(serial, f"8.8.{serial}.1"), 0.0)
    hosts = sorted(c.address.host for c in here.contacts())
    assert hosts == ["8.8.10.1", "8.8.11.1", "8.8.12.1", "8.8.8.1", "8.8.8.2"]


def test_results_are_capped_per_public_prefix_only() -> None:
    public = [contact(s, f"8.8.8.{s}") for s in range(1, 5)]
    private = [contact(s, f"10.0.0.{s}") for s in range(5, 9)]
    assert capped([*public, *private], 2) == [*public[:2], *private]
    assert capped(public, None) == public


def test_the_stalest_bucket_is_refreshed_within_its_range() -> None:
    here = table()
    for serial in range(1, 100):
        here.seen(contact(serial), 0.0)
    assert here.stalest(3599.0) is None
    for serial in range(1, 100):
        here.touch(contact(serial).dht_id, 3000.0)
    stale = here.stalest(4000.0)
    rng = random.Random(1)
    if stale is not None:  # a bucket in which no contact lies
        assert not stale.nodes
    here.touch(OWN.dht_id, 1.0)
    stale = here.stalest(4000.0)
    assert stale is not None
    for _ in range(20):
        assert stale.range[0] <= number(random_id_in(stale, rng)) <= stale.range[1]


def test_the_failing_are_pinged_first_then_those_not_heard_of_for_long() -> None:
    here = table()
    for serial in range(1, 5):
        here.seen(contact(serial), float(serial))
    here.failed(contact(4), 10.0)
    assert here.silent(12.0, 10.0, 3) == [contact(4), contact(1), contact(2)]
    assert here.silent(12.0, 10.0, 1) == [contact(4)]


def test_the_peer_cache_names_the_longest_known_first() -> None:
    here = table()
    for serial in (3, 1, 2):
        here.seen(contact(serial), 10.0 - serial)
    assert [n.contact for n in here.elders()] == [contact(3), contact(2), contact(1)]
