"""A DHT at work; prints the digest of all its events. Started by test_dht_network.py."""

from __future__ import annotations

import asyncio
import sys

from dht_network import Network

from potsherd.dht import DhtConfig
from potsherd.simulations.world import World


async def scenario(world: World) -> None:
    """Join, publish, announce, find, lose some, find again."""
    network = Network(world, DhtConfig(keepers=6, presence_period_s=900.0))
    await network.grow(16)
    for place, dht in enumerate(network.donors):
        await dht.publish_presence(
            address=network.addresses[place], operator="lab", site="", free_class=9
        )
    keys = [world.rng("key", i).randbytes(20) for i in range(10)]
    await asyncio.gather(
        *(network.donors[i].announce([network.announcement(i, key)]) for i, key in enumerate(keys))
    )
    world.unplug("donor3", "donor4")
    client = await network.add_client([1, 2])
    found = await asyncio.gather(*(client.find_announcements(key) for key in keys))
    pool = await client.pool(keys[0], 8)
    world.log.add("result", "client1", repr((found, [p.dht_id for p in pool])))
    await asyncio.sleep(3600)
    await client.close()
    await network.close()


def main() -> None:
    """Run the seed given on the command line."""
    with World(int(sys.argv[1]), loss=0.02, duplication=0.01, reordering=0.02) as world:
        world.run(scenario(world))
        print(world.log.digest())


if __name__ == "__main__":
    main()
