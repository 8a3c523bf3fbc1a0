"""A thousand DHT nodes, at one datagram in a hundred lost: joins, look-ups, records, hops."""

from __future__ import annotations

import asyncio

import pytest
from dht_network import Network

from potsherd.dht import DhtConfig
from potsherd.simulations.world import World

NODES = 1000
KEYS = 500
SEED = 11


async def scenario(world: World) -> None:
    # a network without upkeep, whose tables are what joining and asking have made them
    network = Network(world, DhtConfig(join_lookups=2, maintenance=False))
    await network.grow(NODES)
    keys = [world.rng("key", i).randbytes(20) for i in range(KEYS)]
    for start in range(0, KEYS, 50):
        part = list(enumerate(keys))[start : start + 50]
        await asyncio.gather(
            *(network.donors[i].announce([network.announcement(i, key)]) for i, key in part)
        )
    found = 0
    readers = [network.donors[-1 - i] for i in range(50)]
    before = [reader.statistics() for reader in readers]
    for start in range(0, KEYS, 50):
        answers = await asyncio.gather(
            *(
                r.find_announcements(k)
                for r, k in zip(readers, keys[start : start + 50], strict=True)
            )
        )
        found += sum(any(answer) for answer in answers)
    pairs = list(zip((reader.statistics() for reader in readers), before, strict=True))
    hops = sum(a.lookup_hops - b.lookup_hops for a, b in pairs) / KEYS
    print(f"{NODES} nodes: {found} of {KEYS} found, {hops:.2f} hops")
    assert found >= KEYS - 1
    assert hops < 5
    await network.close()


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_a_thousand_nodes() -> None:
    with World(SEED, loss=0.01, log_content=False) as world:
        world.run(scenario(world), time_max_s=500_000)
