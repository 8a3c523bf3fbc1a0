"""How a pool query proceeds, against a network whose keepers are known."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from dht_network import UTC, contact

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.pool import Block, PoolScan
from potsherd.dht.records import Presence
from potsherd.dht.routing import number
from potsherd.dht.wire import Presences

TARGET = b"p" * 20


def presence_of(who: Contact, issued: int = int(UTC)) -> Presence:
    return Presence(
        who.dht_id, who.key, who.address, "lab", "cellar", 40, issued, issued + 9000, 1, b"chain"
    )


def ranked(contacts: list[Contact], target: bytes) -> list[Contact]:
    return sorted(contacts, key=lambda c: number(c.dht_id) ^ number(target))


class Country:
    """Donors, each of whose presence is kept by the `keepers` nearest to it."""

    def __init__(self, size: int, config: DhtConfig) -> None:
        self.config = config
        self.rounds = 0
        self.donors = ranked([contact(serial) for serial in range(1, size + 1)], TARGET)
        self.kept: dict[Contact, list[Contact]] = {donor: [] for donor in self.donors}
        for donor in self.donors:
            for keeper in ranked(self.donors, donor.dht_id)[: config.keepers]:
                self.kept[keeper].append(donor)

    def query(
        self, count: int, *, mute: frozenset[Contact] = frozenset(), hiding: bool = False
    ) -> tuple[PoolScan, list[Presence]]:
        """`mute` nodes do not answer, or with `hiding` answer that they keep nothing."""
        scan = PoolScan(TARGET, count, self.config)
        live = [d for d in self.donors if hiding or d not in mute]
        while not scan.done():
            self.rounds += 1
            for point in scan.points():
                nearest = ranked(live, point)[: self.config.keepers]
                block = scan.block(point, nearest, len(nearest))
                for who in nearest[: self.config.pool_cover]:
                    for donor in [] if who in mute else self.kept[who]:
                        distance = number(donor.dht_id) ^ number(TARGET)
                        if block.start <= distance < block.end:
                            scan.add(presence_of(donor))
                scan.cover(block)
        return scan, scan.result()


CONFIG = DhtConfig()


@pytest.mark.parametrize(("size", "count"), [(1, 5), (12, 36), (60, 36), (300, 36), (300, 120)])
def test_the_pool_is_the_nearest_donors_or_everybody(size: int, count: int) -> None:
    country = Country(size, CONFIG)
    _, pool = country.query(count)
    assert [p.dht_id for p in pool] == [d.dht_id for d in country.donors[:count]]


def test_the_cost_grows_with_the_pool_not_with_the_network() -> None:
    blocks = {n: Country(n, CONFIG).query(36)[0].blocks for n in (100, 800)}
    assert blocks[800] <= 2 * blocks[100]
    assert blocks[800] <= 8


def test_the_time_hardly_grows_with_the_pool() -> None:
    rounds = {}
    for size in (40, 160):
        country = Country(size, CONFIG)
        _, pool = country.query(size)
        assert [p.dht_id for p in pool] == [d.dht_id for d in country.donors]
        rounds[size] = country.rounds
    assert rounds[40] <= 4
    assert rounds[160] <= 8


@pytest.mark.parametrize("serial", range(40))
def test_blocks_leave_no_gap_however_they_come(serial: int) -> None:
    """Blocks of one round differ in width, and are covered in any order."""
    config = dataclasses.replace(CONFIG, keepers=5)
    country = Country(60, config)
    scan = PoolScan(TARGET, 60, config)
    rng = random.Random(serial)
    covered: list[Block] = []
    while not scan.done():
        found = []
        for point in scan.points():
            nearest = ranked(country.donors, point)[: config.keepers]
            found.append(scan.block(point, nearest, len(nearest)))
        rng.shuffle(found)
        for block in found:
            for donor in country.donors:
                if block.start <= number(donor.dht_id) ^ number(TARGET) < block.end:
                    scan.add(presence_of(donor))
            scan.cover(block)
        covered += found
    assert [p.dht_id for p in scan.result()] == [d.dht_id for d in country.donors]
    end = 0
    for block in sorted(covered):
        assert block.start <= end, "nobody was asked for what is between"
        end = max(end, block.end)
    assert end == 2**160


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_of_a_block_are_all_of_it(count: int) -> None:
    shares = Block(10, 2**160).shares(count)
    assert (shares[0].start, shares[-1].end) == (10, 2**160)
    assert all(one.end == other.start for one, other in itertools.pairwise(shares))
    assert Block(10, 20).shares(0) == []


def test_dead_nodes_do_not_hide_donors() -> None:
    country = Country(200, CONFIG)
    dead = frozenset(country.donors[0:60:2])
    _, pool = country.query(40, mute=dead)
    assert [p.dht_id for p in pool] == [d.dht_id for d in country.donors[:40]]


def test_a_node_that_hides_what_it_keeps_hides_nobody() -> None:
    country = Country(200, CONFIG)
    liars = frozenset(country.donors[0:60:6])
    _, pool = country.query(40, mute=liars, hiding=True)
    assert [p.dht_id for p in pool] == [d.dht_id for d in country.donors[:40]]


def test_the_number_of_blocks_is_bounded() -> None:
    config = dataclasses.replace(CONFIG, pool_blocks_max=4)
    scan, pool = Country(300, config).query(200)
    assert scan.blocks == 4
    assert 20 <= len(pool) < 200


def test_of_two_presences_of_one_node_the_later_counts() -> None:
    scan = PoolScan(TARGET, 5, CONFIG)
    for issued in (10, 30, 20):
        scan.add(presence_of(contact(1), issued))
    assert [p.issued for p in scan.result()] == [30]


def test_known_tags_are_those_near_the_one_asked_and_bounded() -> None:
    scan = PoolScan(TARGET, 500, CONFIG)
    donors = [contact(serial) for serial in range(1, 301)]
    for donor in donors:
        scan.add(presence_of(donor))
    teller = contact(999)
    everything = Block(0, 2**160)
    asked = scan.request_to(teller.dht_id, everything, None)
    assert asked.after == bytes(20)
    assert scan.request_to(teller.dht_id, Block(77, 99), None).after == (77).to_bytes(20, "big")
    nearest = ranked(donors, teller.dht_id)[: Presences.KNOWN_MAX]
    assert asked.known == b"".join(d.dht_id[-6:] for d in nearest)
    last = ranked(donors, TARGET)[250].dht_id
    asked = scan.request_to(teller.dht_id, everything, last)
    assert int.from_bytes(asked.after, "big") == number(last) ^ number(TARGET)
    assert len(asked.known) == 6 * 50


def test_in_an_open_network_a_pool_is_capped_per_prefix() -> None:
    scan = PoolScan(TARGET, 50, DhtConfig(prefix_nodes_max=2))
    for serial in range(1, 11):
        scan.add(presence_of(contact(serial, f"8.8.8.{serial}")))
    for serial in range(11, 14):
        scan.add(presence_of(contact(serial, f"8.8.{serial}.1")))
    homeless = dataclasses.replace(presence_of(contact(20)), address=None)
    scan.add(homeless)
    hosts = [p.address.host for p in scan.result() if p.address is not None]
    assert sum(host.startswith("8.8.8.") for host in hosts) == 2
    assert len(hosts) == 5
    assert homeless in scan.result()
