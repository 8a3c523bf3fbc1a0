"""The promise: at 1 % loss a record is found though the 10 nearest of its 20 keepers are off.

For each key in turn the keepers are switched off, a fresh client that knows three other nodes looks for
it, and they are switched on again; nothing is published in between.
"""

from __future__ import annotations

import random
import statistics

import pytest
from dht_network import NETWORK, Network

from potsherd.crypto.invitations import InvitationFile, invite
from potsherd.crypto.membership import certify_open_client, create_network, open_config
from potsherd.crypto.signing import SigningKey
from potsherd.dht import DhtConfig
from potsherd.dht.membrane import Membrane
from potsherd.node.membrane import Gate, NodeMembrane
from potsherd.ports import Identity
from potsherd.simulations.world import World

LOSS = 0.01
KEEPERS = 20
QUIET = DhtConfig(restore_period_s=1e9, bucket_refresh_s=1e9)
"""Nothing is stored again while keepers are off and on; buckets are full from joining."""


async def find_without_the_nearest(
    network: Network, key: bytes, membrane: Membrane | None = None
) -> tuple[bool, float]:
    """Whether a fresh client finds the key's one record, and in which time."""
    world = network.world
    keepers = network.keepers(key)
    off = [network.name(place) for place in keepers[: KEEPERS // 2]]
    others = [p for p in range(len(network.donors)) if network.name(p) not in off]
    known = world.rng("known", key).sample(others, 3)
    world.unplug(*off)
    client = await network.add_client(known, membrane)
    begin = world.loop.time()
    found = await client.find_announcements(key)
    took = world.loop.time() - begin
    await client.close()
    world.plug(*off)
    return [record.key for record in found] == [key], took


async def announce_keys(network: Network, count: int) -> list[bytes]:
    rng: random.Random = network.world.rng("keys")
    keys = [rng.randbytes(20) for _ in range(count)]
    for place, key in enumerate(keys):
        place %= len(network.donors)
        announcement = network.announcement(place, key, rng.randbytes(32))
        # one may be missed: at 1 % loss of datagrams and of answers all three tries fail once in 10^5
        assert await network.donors[place].announce([announcement]) >= KEEPERS - 1
        exact = set(network.ranked(key)[:KEEPERS])
        assert len(exact.intersection(network.keepers(key))) >= KEEPERS - 1
    return keys


async def found_of(world: World, nodes: int, keys: int) -> int:
    network = Network(world, QUIET)
    await network.grow(nodes)
    times = []
    count = 0
    for key in await announce_keys(network, keys):
        found, took = await find_without_the_nearest(network, key)
        times.append(took)
        count += found
    assert statistics.median(times) < 2.0
    await network.close()
    return count


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_every_key_is_found_without_its_nearest_keepers(seed: int) -> None:
    with World(seed, loss=LOSS, log_content=False) as world:
        assert world.run(found_of(world, 60, 100)) == 100


@pytest.mark.nightly
def test_999_of_1000_keys_are_found_in_a_larger_network() -> None:
    with World(3, loss=LOSS, log_content=False) as world:
        assert world.run(found_of(world, 300, 1000)) >= 999


class Members:
    """Membranes of a real network by invitation: every node has an invitation of its own."""

    def __init__(self, utc: float) -> None:
        self.key, self.config = create_network("potters", b"n" * 32, ())
        self.utc = utc

    def _invitation(self, serial: int) -> InvitationFile:
        seed = serial.to_bytes(32, "big")
        return invite(self.key, self.config, seed, serial, f"lab {serial}", 1)

    def _membrane(self, seed: bytes, serial: int, *, client: bool) -> NodeMembrane:
        key = SigningKey(seed).verify_key
        invitation = self._invitation(serial)
        if client:
            chain = invitation.certify_client(key, self.utc)
        else:
            chain = invitation.certify_node(key, 0)
        config = open_config(self.config)
        identity = Identity(seed, key, config.network_id)
        return NodeMembrane(identity, chain, Gate(config, lambda: self.utc))

    def donor(self, place: int) -> NodeMembrane:
        return self._membrane(b"donor" + place.to_bytes(27, "big"), place + 1, client=False)

    def client(self, number: int) -> NodeMembrane:
        return self._membrane(b"client" + number.to_bytes(26, "big"), 1, client=True)


@pytest.mark.slow
def test_the_same_with_real_boxes_signatures_and_credentials() -> None:
    async def scenario(world: World) -> None:
        network = Network(world, QUIET)
        members = Members(world.env("clock").utc())
        for place in range(30):
            dht = await network.add_donor(members.donor(place))
            await dht.publish_presence(
                address=network.addresses[place], operator="", site="", free_class=30
            )
        for number, key in enumerate(await announce_keys(network, 12)):
            found, _ = await find_without_the_nearest(network, key, members.client(number))
            assert found
        client = await network.add_client([4], members.client(99))
        pool = await client.pool(NETWORK[:20], 10)
        expected = network.ranked(NETWORK[:20])[:10]
        assert [p.dht_id for p in pool] == [network.membranes[p].my_id for p in expected]
        assert all(
            p.chain == network.membranes[i].my_chain for p, i in zip(pool, expected, strict=True)
        )
        dropped = dict(client.statistics().dropped)
        assert dropped == {}
        await client.close()
        await network.close()

    with World(5, loss=LOSS, log_content=False) as world:
        world.run(scenario(world))


@pytest.mark.slow
def test_an_open_network_needs_no_chains() -> None:
    """Donors show an empty chain there; ids follow from keys."""

    async def scenario(world: World) -> None:
        config = open_config(create_network("agora", b"o" * 32, (), open_=True)[1])
        network = Network(world, DhtConfig(prefix_nodes_max=4, presences_per_prefix=16))

        def membrane(number: int, *, client: bool = False) -> NodeMembrane:
            seed = number.to_bytes(32, "big")
            key = SigningKey(seed)
            utc = world.env("clock").utc()
            chain = certify_open_client(key, config, utc) if client else b""
            identity = Identity(seed, key.verify_key, config.network_id)
            return NodeMembrane(identity, chain, Gate(config, lambda: utc))

        for place in range(12):
            dht = await network.add_donor(membrane(place))
            await dht.publish_presence(
                address=network.addresses[place], operator="", site="", free_class=1
            )
        key = bytes(20)
        assert await network.donors[3].announce([network.announcement(3, key)]) == 12
        client = await network.add_client([7], membrane(99, client=True))
        assert len(await client.find_announcements(key)) == 1
        assert {p.member for p in await client.pool(key, 50)} == {
            m.my_key for m in network.membranes
        }
        await client.close()
        await network.close()

    with World(6, loss=LOSS, log_content=False) as world:
        world.run(scenario(world))
