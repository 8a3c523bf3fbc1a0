"""A client and some nodes in virtual time: push, commit, announce, find, read with proofs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import cell_leaves, verify_range
from potsherd.node.node import Node
from potsherd.node.placement import place
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Address
from potsherd.simulations.world import World

PORT = 4800


class Town:
    """Donors `node0` … on machines of their own, and one client machine."""

    def __init__(self, world: World, donors: int) -> None:
        self.world = world
        self.network = SmallNetwork(world.seed, Address("10.0.0.1", PORT))
        self.nodes: dict[int, Node] = {}
        for i in range(donors):
            world.env(self.name(i), self.host(i))
        world.env("client", "10.0.200.1")

    @staticmethod
    def name(number: int) -> str:
        return f"node{number}"

    @staticmethod
    def host(number: int) -> str:
        return f"10.0.{number}.1"

    async def start(self, number: int) -> Node:
        identity, chain = self.network.donor(number)
        settings = NodeSettings(quota_bytes=2**30, listen=Address(self.host(number), PORT))
        env = self.world.env(self.name(number))
        task = self.world.spawn(
            self.name(number), Node.start(env, identity, self.network.config, chain, settings)
        )
        node = self.nodes[number] = await task
        return node

    async def session(self) -> Session:
        env = self.world.env("client")
        identity, chain = self.network.client(1, env.utc())
        return await Session.open(env, self.network.config, chain, identity)


def in_town(
    donors: int, scenario: Callable[[Town], Awaitable[None]], *, seed: int = 3, loss: float = 0.0
) -> str:
    with World(seed, loss=loss) as world:
        town = Town(world, donors)

        async def main() -> None:
            for i in range(donors):
                await town.start(i)
            await scenario(town)
            for node in town.nodes.values():
                await node.stop()

        world.run(main(), time_max_s=86_400)
        return str(world.log.digest())


async def push_all(session: Session, made: HandMade) -> dict[int, bytes]:
    """Place and store all shards as a client would; holders' keys by index."""
    now = session.env.utc()
    donors = await session.donors(made.descriptor.placement_key, 4 * made.n)
    holders = place(donors, made.n, made.k, made.descriptor.r, rng=session.env.rng).holders
    receipts = []
    for index, holder in enumerate(holders):
        peer = await session.peer(holder.key, holder.address)
        staged = await peer.push_open(made.ticket(now), index)
        await peer.push(staged.stage, 0, made.shards[index])
        receipt = await peer.commit(staged.stage, made.descriptor.encode(), made.lease(now))
        receipts.append((receipt, holder.address))
    for holder in holders:
        peer = await session.peer(holder.key, holder.address)
        await peer.merge_roster(made.segment_id, receipts)
    return {index: holder.key for index, holder in enumerate(holders)}


async def read_all(session: Session, made: HandMade) -> dict[int, bytes]:
    """Find the segment by its placement key alone and read every shard, verified."""
    key = made.descriptor.placement_key
    announced = await session.announcements(key)
    first = next(a for a in announced if a.segment == made.segment_id)
    peer = await session.peer(first.node_key)
    descriptor = Descriptor.decode(await peer.descriptor(made.segment_id))
    assert descriptor.segment_id == made.segment_id
    shards: dict[int, bytes] = {}
    for entry, _, address in await peer.roster(made.segment_id):
        holder = await session.peer(entry.node, address)
        runs = [(0, descriptor.rows)]
        cells, proofs = await holder.read(made.segment_id, entry.index, runs)
        leaves = cell_leaves(cells, descriptor.cell_size)
        verify_range(descriptor.roots[entry.index], descriptor.rows, 0, leaves, proofs[0])
        shards[entry.index] = bytes(cells)
    return shards


def test_what_was_pushed_is_found_by_its_placement_key_and_read_with_proofs() -> None:
    async def scenario(town: Town) -> None:
        made = HandMade(town.network.network_id, b"potsherd" * 40_000, k=3, n=6)
        assert made.descriptor.cell_size == CELL_SIZE
        async with await town.session() as session:
            assert await session.network_size() == 6
            holders = await push_all(session, made)
            assert len(set(holders.values())) == 6
            await asyncio.sleep(30)
            shards = await read_all(session, made)
        assert shards == dict(enumerate(made.shards))

    in_town(6, scenario)
