"""The same nodes as in virtual time, on real sockets, TLS and disks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from potsherd.dht import Announcement
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import cell_leaves, verify_range
from potsherd.errors import MembershipError, PeerError, QuotaError, UnreachableError
from potsherd.node.client import Peer
from potsherd.node.membrane import Gate
from potsherd.node.node import Node
from potsherd.node.real.env import real_env
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Address

HERE = Address("127.0.0.1", 0)
NETWORK = SmallNetwork(5)


async def start(
    folder: Path, number: int, first: Node | None = None, *, quota: int = 2**30
) -> Node:
    identity, chain = NETWORK.donor(number)
    known = ((first.identity.key, first.listening),) if first else ()
    settings = NodeSettings(quota_bytes=quota, listen=HERE, bootstrap=known)
    env = real_env(folder / f"node{number}")
    return await Node.start(env, identity, NETWORK.config, chain, settings)


@asynccontextmanager
async def network(
    folder: Path, donors: int, *, quota: int = 2**30
) -> AsyncIterator[tuple[list[Node], Session]]:
    nodes: list[Node] = []
    try:
        for number in range(donors):
            nodes.append(await start(folder, number, nodes[0] if nodes else None, quota=quota))
        env = real_env(folder / "client")
        identity, chain = NETWORK.client(1, env.utc())
        known = [(nodes[0].identity.key, nodes[0].listening)]
        session = await Session.open(env, NETWORK.config, chain, identity, bootstrap=known)
        async with session:
            yield nodes, session
    finally:
        for node in nodes:
            await node.stop()


@pytest.mark.slow
async def test_a_segment_is_pushed_found_and_read_on_real_nodes(tmp_path: Path) -> None:
    made = HandMade(NETWORK.network_id, b"potsherd" * 60_000, k=3, n=5)
    now = real_env(tmp_path).utc()
    async with network(tmp_path, 5) as (nodes, session):
        donors = await session.donors(made.descriptor.placement_key, 20)
        assert {d.key for d in donors} == {n.identity.key for n in nodes}
        receipts = []
        for index, donor in enumerate(donors):
            peer = await session.peer(donor.key, donor.address)
            stage = (await peer.push_open(made.ticket(now, index, donor.key))).stage
            half = len(made.shards[index]) // 2
            await peer.push(stage, 0, memoryview(made.shards[index])[:half])
            await peer.push(stage, half, made.shards[index][half:-7], made.shards[index][-7:])
            receipt = await peer.commit(stage, made.descriptor.encode(), made.lease(now))
            receipts.append((receipt, donor.address))
        for donor in donors:
            await (await session.peer(donor.key)).merge_roster(made.segment_id, receipts)
        announced = await _announcements(session, made.descriptor.placement_key)
        peer = await session.peer(announced[0].node_key)
        descriptor = Descriptor.decode(await peer.descriptor(made.segment_id))
        assert descriptor.segment_id == made.segment_id
        for entry, _, address in await peer.roster(made.segment_id):
            holder = await session.peer(entry.node, address)
            cells, proofs = await holder.read(made.segment_id, entry.index, [(1, 2)])
            size = descriptor.cell_size
            assert cells == made.shards[entry.index][size : 3 * size]
            leaves = cell_leaves(cells, size)
            verify_range(descriptor.roots[entry.index], descriptor.rows, 1, leaves, proofs[0])


async def _announcements(session: Session, key: bytes) -> list[Announcement]:
    for _ in range(40):
        found = await session.announcements(key)
        if found:
            return found
        await asyncio.sleep(0.25)
    raise AssertionError("nobody announces")


@pytest.mark.slow
async def test_a_restarted_node_serves_what_it_acknowledged(tmp_path: Path) -> None:
    made = HandMade(NETWORK.network_id, b"x" * 200_000, k=2, n=4)
    async with network(tmp_path, 2) as (nodes, session):
        now = session.env.utc()
        key = nodes[1].identity.key
        peer = await session.peer(key, nodes[1].listening)
        stage = (await peer.push_open(made.ticket(now, 2, key))).stage
        await peer.push(stage, 0, made.shards[2])
        receipt = await peer.commit(stage, made.descriptor.encode(), made.lease(now))
        await nodes[1].stop()
        with pytest.raises(PeerError):
            await peer.read(made.segment_id, 2, [(0, 1)])
        nodes[1] = await start(tmp_path, 1, nodes[0])
        again = await session.peer(key, nodes[1].listening)
        assert (await again.read(made.segment_id, 2, [(0, 1)]))[0] == made.shards[2][:32768]
        assert await again.commit(0, made.descriptor.encode(), made.lease(now)) == receipt


@pytest.mark.slow
async def test_strangers_and_full_nodes_refuse(tmp_path: Path) -> None:
    async with network(tmp_path, 1, quota=24 * 2**20) as (nodes, session):
        node, env = nodes[0], session.env
        foreign = SmallNetwork(6)
        stranger, chain = foreign.client(1, env.utc())
        gate = Gate(NETWORK.config, env.utc)
        with pytest.raises((PeerError, MembershipError)):
            await Peer.connect(
                env, stranger, node.identity.key, node.listening, chain=chain, admit=gate.admit
            )
        # the right network on the wire, but a chain of another
        mine, _ = NETWORK.client(2, env.utc())
        with pytest.raises(MembershipError):
            await Peer.connect(
                env, mine, node.identity.key, node.listening, chain=chain, admit=gate.admit
            )
        with pytest.raises(PeerError):
            await session.peer(NETWORK.donor(9)[0].key, node.listening)
        made = HandMade(NETWORK.network_id, bytes(60 * 2**20), k=2, n=3)
        peer = await session.peer(node.identity.key, node.listening)
        with pytest.raises(QuotaError):
            await peer.push_open(made.ticket(env.utc(), 0, peer.key))
        assert (await peer.status()).quota == 24 * 2**20
        await node.stop()
        with pytest.raises(UnreachableError):
            await session.peer(node.identity.key, node.listening)
