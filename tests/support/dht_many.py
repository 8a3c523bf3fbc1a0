"""The DHT alone, with many nodes: what a look-up costs, and whether it finds.

    PYTHONPATH=tests/support python -m dht_many 10000

Nodes join through three that are there already, up to a hundred at a time, and look up their own id alone, where
the service looks up four more; there is no upkeep. So tables are emptier than the service's: what is measured here
is on the safe side. Then records are announced, and each is looked for by another node.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import statistics
import sys
import time
from dataclasses import dataclass, fields

from dht_network import Network

from potsherd.dht import Dht, DhtConfig, DhtStatistics
from potsherd.simulations.world import World

SEED = 11
LOSS = 0.01
GC_THRESHOLD = 20_000
"""Allocations between two looks for cycles: they would go through millions of objects again and again."""
AT_ONCE = 50
"""Nodes that announce or look something up at the same time."""


@dataclass(frozen=True)
class Measured:
    """One network. Look-ups are those that looked for a record."""

    nodes: int
    keys: int
    found: int
    keepers_least: int
    """Of the record that reached the fewest."""
    hops_mean: float
    hops_max: int
    asks_mean: float
    """Nodes asked by one look-up."""
    datagrams_mean: float
    """Sent and received by who looks up, for one look-up."""
    seconds_median: float
    """Virtual time of a look-up; one way takes 5 to 55 ms."""
    table_mean: float
    """Contacts in a routing table."""
    join_datagrams: float
    """Datagrams of all nodes until all had joined, for each node."""
    cpu_s: float
    memory_mb: float

    def __str__(self) -> str:
        return "\n".join(f"{f.name:16} {getattr(self, f.name):.6g}" for f in fields(self))


@dataclass(frozen=True)
class _Look:
    found: bool
    hops: int
    asks: int
    datagrams: int
    seconds: float


def measure(nodes: int, keys: int = 500, seed: int = SEED) -> Measured:
    """Grow a network and ask it. Prints how far it has come."""
    with World(seed, loss=LOSS, log_content=False) as world:
        return world.run(_measure(world, nodes, keys))


async def _measure(world: World, nodes: int, count: int) -> Measured:
    began = time.process_time()
    network = Network(world, DhtConfig(join_lookups=0, maintenance=False))
    for step in range(1, 11):
        await network.grow_fast(nodes * step // 10)
        _say(f"{len(network.donors)} nodes, {time.process_time() - began:.0f} CPU seconds")
    joining = sum(d.statistics().datagrams_out for d in network.donors) / nodes
    keys = [world.rng("key", number).randbytes(20) for number in range(count)]
    keepers = await _announce(network, keys)
    _say(f"{count} records announced, {time.process_time() - began:.0f} CPU seconds")
    looks = []
    for start in range(0, count, AT_ONCE):
        part = keys[start : start + AT_ONCE]
        readers = [network.donors[-1 - start - place] for place in range(len(part))]
        looks += await asyncio.gather(
            *(_look(world, reader, key) for reader, key in zip(readers, part, strict=True))
        )
    table = statistics.mean(d.statistics().table_size for d in network.donors)
    await network.close()
    return Measured(
        nodes=nodes,
        keys=count,
        found=sum(look.found for look in looks),
        keepers_least=min(keepers),
        hops_mean=statistics.mean(look.hops for look in looks),
        hops_max=max(look.hops for look in looks),
        asks_mean=statistics.mean(look.asks for look in looks),
        datagrams_mean=statistics.mean(look.datagrams for look in looks),
        seconds_median=statistics.median(look.seconds for look in looks),
        table_mean=table,
        join_datagrams=joining,
        cpu_s=time.process_time() - began,
        memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


async def _announce(network: Network, keys: list[bytes]) -> list[int]:
    """Each by another donor; how many keepers took it."""
    keepers: list[int] = []
    for start in range(0, len(keys), AT_ONCE):
        part = list(enumerate(keys))[start : start + AT_ONCE]
        keepers += await asyncio.gather(
            *(network.donors[i].announce([network.announcement(i, key)]) for i, key in part)
        )
    return keepers


async def _look(world: World, reader: Dht, key: bytes) -> _Look:
    before, began = reader.statistics(), world.loop.time()
    answers = await reader.find_announcements(key)
    after = reader.statistics()
    return _Look(
        found=[answer.key for answer in answers] == [key],
        hops=after.lookup_hops - before.lookup_hops,
        asks=after.lookup_asks - before.lookup_asks,
        datagrams=_datagrams(after) - _datagrams(before),
        seconds=world.loop.time() - began,
    )


def _datagrams(counted: DhtStatistics) -> int:
    return counted.datagrams_in + counted.datagrams_out


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Nodes, and how many keys, from the command line."""
    gc.set_threshold(GC_THRESHOLD)
    _say(str(measure(*(int(word) for word in sys.argv[1:3]))))


if __name__ == "__main__":
    main()
