"""One scenario twice: in the virtual world, and on real sockets, TLS and disks. The same happens.

Ten nodes; seven of them hold a segment; three holders die. Their indices are made anew in one pass, on the three nodes
that have none yet, with the same number of bytes moved to the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.node import Node
from potsherd.node.real.env import real_env
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Address, Env
from potsherd.simulations.world import World

DONORS, HOLDERS = 10, 7
DEAD = (1, 3, 6)
"""Donors, and the indices they keep."""
ROWS = 40
SEED = 11
FAST = NodeSettings(
    quota_bytes=2**28,
    heartbeat_s=2.0,
    away_after_s=6.0,
    loss=LossPolicy(prior_s=12.0, learned_s=1e12, missed_s=4.0),
    freeze=FreezePolicy(together_min=10**6, domain_min=10**6),
    repair=RepairSettings(
        round_s=4.0, tick_s=0.5, pool_life_s=10.0, standby_s=30.0, retry_s=20.0, settle_s=3.0
    ),
    reconcile_round_s=10.0,
    reconcile_tick_s=1.0,
)
"""Timers of seconds, on both clocks."""
PATIENCE_S = 150.0


@dataclass(frozen=True)
class Facts:
    """What the scenario comes to."""

    holders: dict[int, list[int]]
    """Donors by index, at the end."""
    moved: int
    """Bytes that repairs have sent and received."""
    made: int
    """Indices made anew."""
    right: bool
    """Whether every byte on every disk is right."""


class Place:
    """Where nodes run: starts them, one by one."""

    def __init__(self, network: SmallNetwork, run: Callable[[int, Node | None], Awaitable[Node]]):
        self.network, self.run = network, run
        self.nodes: dict[int, Node] = {}

    async def start(self) -> None:
        for number in range(DONORS):
            self.nodes[number] = await self.run(number, self.nodes.get(0))


async def scenario(place: Place, session: Session) -> Facts:
    stream = bytes(range(256)) * (ROWS * 3 * 128)
    made = HandMade(place.network.network_id, stream, k=3, n=HOLDERS, r=5)
    assert made.descriptor.rows == ROWS
    await push(place, session, made)
    await asyncio.sleep(8)
    for number in DEAD:
        await place.nodes.pop(number).stop()
    async with asyncio.timeout(PATIENCE_S):
        while len(await holdings(place, made)) < HOLDERS:
            await asyncio.sleep(1)
    await asyncio.sleep(5)
    found = await holdings(place, made)
    statistics = [node.status().upkeep.repairer for node in place.nodes.values()]
    return Facts(
        holders=found,
        moved=sum(s.bytes_in + s.bytes_out for s in statistics),
        made=sum(s.repaired for s in statistics),
        right=await all_right(place, made, found),
    )


async def push(place: Place, session: Session, made: HandMade) -> None:
    """Index i to donor i."""
    receipts = []
    now = session.env.utc()
    for index in range(HOLDERS):
        node = place.nodes[index]
        peer = await session.peer(node.identity.key, node.listening)
        stage = (await peer.push_open(made.ticket(now, index, node.identity.key))).stage
        await peer.push(stage, 0, made.shards[index])
        receipt = await peer.commit(stage, made.descriptor.encode(), made.lease(now))
        receipts.append((receipt, node.listening))
    for index in range(HOLDERS):
        peer = await session.peer(place.nodes[index].identity.key)
        await peer.merge_roster(made.segment_id, receipts)


async def holdings(place: Place, made: HandMade) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, node in place.nodes.items():
        held = await node.store.held(made.segment_id)
        if held is not None:
            found.setdefault(held.index, []).append(number)
    return dict(sorted(found.items()))


async def all_right(place: Place, made: HandMade, found: dict[int, list[int]]) -> bool:
    for index, numbers in found.items():
        for number in numbers:
            store = place.nodes[number].store
            data, _ = await store.read(made.segment_id, index, [(0, ROWS)])
            if data != made.shards[index]:
                return False
    return True


async def client_of(place: Place, env: Env, *known: tuple[bytes, Address]) -> Session:
    identity, chain = place.network.client(1, env.utc())
    return await Session.open(env, place.network.config, chain, identity, bootstrap=known)


def in_the_world() -> Facts:
    network = SmallNetwork(SEED, Address("10.0.0.1", 4800))
    with World(SEED) as world:

        async def run(number: int, first: Node | None) -> Node:
            listen = Address(f"10.0.{number}.1", 4800)
            env = world.env(f"node{number}", listen.host)
            identity, chain = network.donor(number)
            starting = Node.start(
                env, identity, network.config, chain, replace(FAST, listen=listen)
            )
            return await world.spawn(f"node{number}", starting)

        async def main() -> Facts:
            place = Place(network, run)
            await place.start()
            async with await client_of(place, world.env("client", "10.9.0.1")) as session:
                facts = await scenario(place, session)
            for node in place.nodes.values():
                await node.stop()
            return facts

        return world.run(main(), time_max_s=3600)


async def on_loopback(folder: Path) -> Facts:
    network = SmallNetwork(SEED)

    async def run(number: int, first: Node | None) -> Node:
        known = ((first.identity.key, first.listening),) if first else ()
        settings = replace(FAST, listen=Address("127.0.0.1", 0), bootstrap=known)
        identity, chain = network.donor(number)
        env = real_env(folder / f"node{number}")
        return await Node.start(env, identity, network.config, chain, settings)

    place = Place(network, run)
    try:
        await place.start()
        first = place.nodes[0]
        known = (first.identity.key, first.listening)
        async with await client_of(place, real_env(folder / "client"), known) as session:
            return await scenario(place, session)
    finally:
        for node in place.nodes.values():
            await node.stop()


def test_in_the_world_one_pass_makes_three_indices() -> None:
    """The half that needs no real time."""
    print("seed", SEED)
    facts = in_the_world()
    check(facts)


def check(facts: Facts) -> None:
    assert facts.right
    assert sorted(facts.holders) == list(range(HOLDERS))
    assert all(len(numbers) == 1 for numbers in facts.holders.values())
    newcomers = {facts.holders[index][0] for index in DEAD}
    assert newcomers == {7, 8, 9}
    assert facts.made == 3
    shard = ROWS * 32768
    assert facts.moved == (2 + 3) * shard, "k − 1 are read, three are sent"


@pytest.mark.nightly
async def test_real_nodes_do_what_those_in_the_world_do(tmp_path: Path) -> None:
    """The same nodes hold, byte for byte the same traffic.

    Which newcomer gets which index follows from hashes of keys among those that answer: a busy machine may make a real
    node late, and the next one in line takes its place.
    """
    real = await on_loopback(tmp_path)
    check(real)
    virtual = await asyncio.to_thread(in_the_world)
    check(virtual)
    assert (real.moved, real.made) == (virtual.moved, virtual.made)
    survivors = set(range(HOLDERS)) - set(DEAD)
    assert all(real.holders[i] == virtual.holders[i] == [i] for i in survivors)
