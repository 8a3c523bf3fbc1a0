"""Clients and nodes in virtual time: push, commit, announce, find, read; leaving and coming back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from node_town import PORT, SETTINGS, Town, in_town, push_all, push_one

from potsherd.crypto.hashing import head_locator
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import cell_leaves, verify_range
from potsherd.errors import (
    MembershipError,
    NotFoundError,
    PeerError,
    UnreachableError,
    UsageError,
)
from potsherd.node.node import Node
from potsherd.node.session import Session
from potsherd.node.testing import HandMade
from potsherd.ports import Address


async def read_all(session: Session, made: HandMade) -> dict[int, bytes]:
    """Find the segment by its placement key alone and read every shard that answers, verified."""
    announced = await session.announcements(made.descriptor.placement_key)
    shards: dict[int, bytes] = {}
    for announcement in announced:
        try:
            peer = await session.peer(announcement.node_key)
            roster = await peer.roster(made.segment_id)
            descriptor = Descriptor.decode(await peer.descriptor(made.segment_id))
            break
        except PeerError:
            continue
    else:
        raise NotFoundError("no announcer answers")
    assert descriptor.segment_id == made.segment_id
    for entry, _, address in roster:
        try:
            holder = await session.peer(entry.node, address)
            cells, proofs = await holder.read(made.segment_id, entry.index, [(0, descriptor.rows)])
        except PeerError:
            continue
        leaves = cell_leaves(cells, descriptor.cell_size)
        verify_range(descriptor.roots[entry.index], descriptor.rows, 0, leaves, proofs[0])
        shards[entry.index] = bytes(cells)
    return shards


def test_what_was_pushed_is_found_by_its_placement_key_and_read_with_proofs() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(320_000, k=3, n=6)
        assert made.descriptor.cell_size == CELL_SIZE
        async with await town.session() as session:
            assert await session.network_size() == 6
            holders = await push_all(session, made)
            assert len(set(holders.values())) == 6
            await asyncio.sleep(30)
        async with await town.session() as reader:
            assert await read_all(reader, made) == dict(enumerate(made.shards))

    in_town(6, scenario)


def test_the_same_with_loss_and_a_small_segment() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(1000, k=2, n=5)
        await asyncio.sleep(120)  # with so much loss not every presence is stored at the first try
        async with await town.session() as session:
            await push_all(session, made)
            await asyncio.sleep(60)
            assert await read_all(session, made) == dict(enumerate(made.shards))

    in_town(5, scenario, loss=0.05)


def test_killed_holders_are_read_around_and_a_restarted_one_serves_again() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(100_000, k=2, n=6)
        async with await town.session() as session:
            holders = await push_all(session, made)
            await asyncio.sleep(30)
            numbers = {town.key(i): i for i in town.nodes}
            gone = [index for index in (0, 1, 2) if numbers[holders[index]] != 0]
            for index in gone:
                town.kill(numbers[holders[index]])
            async with await town.session() as reader:
                left = await read_all(reader, made)
            assert left == {i: s for i, s in enumerate(made.shards) if i not in gone}
            await town.restart(numbers[holders[gone[0]]])
            await asyncio.sleep(60)
            async with await town.session() as reader:
                left = await read_all(reader, made)
            assert left[gone[0]] == made.shards[gone[0]]

    in_town(6, scenario)


def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    async def scenario(town: Town) -> None:
        large, small = town.made(200_000, n=4), town.made(500, n=4)
        async with await town.session() as session:
            for made in (large, small):
                await push_one(session, made, 1, town.key(1))
            del town.nodes[1]
            town.world.crash(town.name(1))
            await town.restart(1)
            session.drop(town.key(1))  # the old connection has not noticed yet
            for made in (large, small):
                peer = await session.peer(town.key(1), town.address(1))
                runs = [(0, made.descriptor.rows)]
                cells, _ = await peer.read(made.segment_id, 1, runs)
                assert cells == made.shards[1]

    in_town(2, scenario)


def test_the_next_holders_take_over_the_announcing() -> None:
    """Eight announce; when some of them go away, those behind them notice and announce."""

    async def scenario(town: Town) -> None:
        made = town.made(5000, k=2, n=11)
        async with await town.session() as session:
            holders = await push_all(session, made)
            by_key = {key: index for index, key in holders.items()}
            await asyncio.sleep(120)
            key = made.descriptor.placement_key
            found = await session.announcements(key, want=11)
            assert {by_key[a.node_key] for a in found} == set(range(8))
            numbers = {town.key(i): i for i in town.nodes}
            gone = [i for i in range(8) if numbers[holders[i]] != 0][:2]
            for index in gone:
                town.kill(numbers[holders[index]])
            await asyncio.sleep(2 * 3600)
            found = await session.announcements(key, want=11)
            assert {by_key[a.node_key] for a in found} >= {8, 9}
            assert 10 not in {by_key[a.node_key] for a in found}

    in_town(12, scenario)


@pytest.mark.slow
def test_announcements_outlive_their_records_and_end_with_the_nodes() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(5000, n=4)
        async with await town.session() as session:
            await push_all(session, made)
            await asyncio.sleep(30 * 3600)
        async with await town.session() as session:
            key = made.descriptor.placement_key
            assert len(await session.announcements(key, want=4)) == 4
            for number in (1, 2, 3):
                town.kill(number)
            await asyncio.sleep(86_400)
            assert {a.node_key for a in await session.announcements(key, want=4)} <= {town.key(0)}

    in_town(4, scenario, days=3)


def test_entry_and_head_locators_are_announced_too() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(5000, n=3, with_entry=True)
        entry = made.descriptor.entry
        assert entry is not None
        async with await town.session() as session:
            await push_all(session, made)
            genesis, heads = made.genesis.encode(), made.heads([session.env.utc()] * 2)
            for i in range(3):
                peer = await session.peer(town.key(i))
                for head in heads:
                    await peer.put_head(made.segment_id, genesis, head)
                assert await peer.announce([made.segment_id]) >= 1
            locators = (entry.locator, head_locator(made.genesis.dataset_id))
            for locator in locators:
                found = await session.announcements(locator)
                assert {a.segment for a in found} == {made.segment_id}
            holder = await session.peer(found[0].node_key)
            assert await holder.heads(made.genesis.dataset_id) == (genesis, heads[::-1])

    in_town(3, scenario)


def test_a_node_whose_network_sleeps_joins_when_it_wakes() -> None:
    async def scenario(town: Town) -> None:
        for number in (0, 1, 2):
            town.kill(number)
        late = await town.start(3)
        assert not late.status().joined
        await asyncio.sleep(100)
        await town.restart(0)
        await asyncio.sleep(900)
        assert late.status().joined
        async with await town.session() as session:
            donors = {c.key for c in await session.donors(bytes(20), 10)}
            assert town.key(3) in donors

    in_town(4, scenario, running=3)


def test_a_node_that_moved_is_found_by_its_presence() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(5000)
        async with await town.session() as session:
            await push_one(session, made, 0, town.key(1))
            old = town.address(1)
            town.kill(1)
            town.world.restart(town.name(1))
            await town.start(1, port=PORT + 1)
            await asyncio.sleep(60)
            session.drop(town.key(1))
            peer = await session.peer(town.key(1), old)
            assert peer.address.port == PORT + 1
            assert await peer.descriptor(made.segment_id) == made.descriptor.encode()

    in_town(3, scenario)


def test_a_client_alone_says_that_nobody_answers() -> None:
    async def scenario(town: Town) -> None:
        town.kill(0)
        town.kill(1)
        with pytest.raises(UnreachableError):
            await town.session()

    in_town(2, scenario)


def test_two_keys_on_one_number_cannot_both_be_members() -> None:
    async def scenario(town: Town) -> None:
        identity, _ = town.network.donor(77)
        chain = town.network.invitation.certify_node(identity.key, 2)
        env = town.world.env("rival", "10.5.0.1")
        settings = replace(SETTINGS, listen=Address("10.5.0.1", PORT))
        with pytest.raises(MembershipError, match="already"):
            await Node.start(env, identity, town.network.config, chain, settings)

    in_town(5, scenario)


def test_a_client_or_a_stranger_cannot_run_a_node() -> None:
    async def scenario(town: Town) -> None:
        env = town.world.env("rival", "10.5.0.1")
        settings = replace(SETTINGS, listen=Address("10.5.0.1", PORT))
        identity, chain = town.network.client(5, env.utc())
        with pytest.raises(UsageError):
            await Node.start(env, identity, town.network.config, chain, settings)
        _, other = town.network.donor(5)
        with pytest.raises(MembershipError):
            await Node.start(env, identity, town.network.config, other, settings)

    in_town(1, scenario)


def test_stopping_leaves_no_task_and_frees_the_ports() -> None:
    async def scenario(town: Town) -> None:
        before = len(asyncio.all_tasks())
        for _ in range(3):
            node = await town.start(1)
            async with await town.session() as session:
                await session.peer(town.key(1))
                await node.stop()
                await node.stop()
                await node.wait_failed()
        await asyncio.sleep(120)
        del town.nodes[1]
        assert len(asyncio.all_tasks()) <= before + 2, "what the other node does meanwhile"

    in_town(2, scenario, running=1)


def replayed() -> str:
    """What `test_one_seed_is_one_history` runs in processes of its own."""

    async def scenario(town: Town) -> None:
        made = town.made(150_000, k=2, n=5)
        async with await town.session() as session:
            await push_all(session, made)
            await asyncio.sleep(20)
            town.kill(2)
            await read_all(session, made)
            await asyncio.sleep(3600)

    return in_town(6, scenario, seed=int(os.environ["WORLD_SEED"]), loss=0.02)


@pytest.mark.slow
def test_one_seed_is_one_history() -> None:
    """Every datagram, chunk, disk call and commit, whatever the hash seed of the process."""

    def digest(seed: int, hash_seed: int) -> str:
        code = "import test_node_network as t; print(t.replayed())"
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent / "support"), *filter(None, sys.path)])
        env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)}
        env["WORLD_SEED"] = str(seed)
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert digest(1, 1) == digest(1, 2) != digest(2, 1)
