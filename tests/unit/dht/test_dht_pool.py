"""How a pool query proceeds, against a network whose keepers are known."""

from __future__ import annotations

import dataclasses

import pytest
from dht_network import UTC, contact

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.pool import PoolScan
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
            nearest = ranked(live, scan.point())[: self.config.keepers]
            scan.found_nodes(nearest, len(nearest))
            for who in nearest[: self.config.pool_cover]:
                for donor in [] if who in mute else self.kept[who]:
                    scan.add(presence_of(donor))
            scan.block_covered()
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
    asked = scan.request_to(teller.dht_id, None)
    assert asked.after == bytes(20)
    nearest = ranked(donors, teller.dht_id)[: Presences.KNOWN_MAX]
    assert asked.known == b"".join(d.dht_id[-6:] for d in nearest)
    last = ranked(donors, TARGET)[250].dht_id
    asked = scan.request_to(teller.dht_id, last)
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
