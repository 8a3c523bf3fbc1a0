"""A failing or full disk, a clock that jumps, a copied home: noticed and said, on a virtual network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leases import give, lease_over
from node_town import PORT, SETTINGS, Town, in_town, push_all, push_one

from potsherd.errors import PotsherdError, StorageError
from potsherd.node.node import Node
from potsherd.node.troubles import Trouble
from potsherd.ports import Address

pytestmark = pytest.mark.slow

FAST: dict[str, Any] = {"presence_period_s": 120.0, "watch_period_s": 30.0}


def troubles(node: Node) -> dict[str, Trouble]:
    return {trouble.kind: trouble for trouble in node.status().troubles}


def test_a_disk_that_turns_read_only_is_said_and_serves_on() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made, other = town.made(300_000, k=1, n=1), town.made(301_000, k=1, n=1, number=1)
        await push_one(session, made, 0, town.key(1))
        node = town.nodes[1]
        assert troubles(node) == {}
        reading = ("read", "walk", "free")

        def read_only(operation: str, path: str) -> Exception | None:
            return None if operation in reading else StorageError("read-only file system")

        town.world.disk(town.name(1)).fault = read_only
        with pytest.raises(PotsherdError):
            await push_one(session, other, 0, town.key(1))
        trouble = troubles(node)["disk"]
        assert trouble.now
        assert "read-only" in trouble.text
        peer = await session.peer(town.key(1))
        data, _ = await peer.read(made.segment_id, 0, [(0, 1)])
        assert len(data) == made.descriptor.cell_size
        await asyncio.sleep(200)
        donors = await session.donors(made.descriptor.placement_key, 10)
        assert {d.key: d.free_class for d in donors}[town.key(1)] == 0
        town.world.disk(town.name(1)).fault = None
        await asyncio.sleep(1200)
        assert not troubles(node)["disk"].now
        await push_one(session, other, 0, town.key(1))
        donors = await session.donors(made.descriptor.placement_key, 10)
        assert {d.key: d.free_class for d in donors}[town.key(1)] > 0

    in_town(3, scenario, settings=FAST)


def test_a_disk_that_fails_to_read_is_said() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(300_000, k=1, n=1)
        await push_one(session, made, 0, town.key(1))

        def broken(operation: str, path: str) -> Exception | None:
            return StorageError("input/output error") if operation == "read" else None

        town.world.disk(town.name(1)).fault = broken
        peer = await session.peer(town.key(1))
        with pytest.raises(StorageError):
            await peer.read(made.segment_id, 0, [(0, 1)])
        assert "input/output" in troubles(town.nodes[1])["disk"].text

    in_town(2, scenario, settings=FAST)


def test_a_disk_fuller_than_the_quota_promises_is_said() -> None:
    async def scenario(town: Town) -> None:
        await asyncio.sleep(60)
        node = town.nodes[1]
        assert "room" not in troubles(node)
        platter = town.world.disk(town.name(1))
        before = platter.capacity_bytes
        platter.capacity_bytes = 2**20
        await asyncio.sleep(60)
        assert troubles(node)["room"].now
        assert "promises" in troubles(node)["room"].text
        platter.capacity_bytes = before
        await asyncio.sleep(60)
        assert not troubles(node)["room"].now

    in_town(2, scenario, settings=FAST)


def test_a_disk_fuller_than_the_quota_promises_offers_what_it_has() -> None:
    """Else others go on choosing it for pieces that it cannot take."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        node, platter = town.nodes[1], town.world.disk(town.name(1))

        async def offered() -> int:
            donors = await session.donors(bytes(20), 10)
            return {d.key: d.free_class for d in donors}[town.key(1)]

        before, capacity = await offered(), platter.capacity_bytes
        assert 1 << before > 2**20
        platter.capacity_bytes = 2**20
        await asyncio.sleep(200)
        assert "room" in troubles(node)
        assert 1 << await offered() <= 2**20
        platter.capacity_bytes = capacity
        await asyncio.sleep(200)
        assert await offered() == before

    in_town(3, scenario, settings=FAST)


def test_a_clock_that_jumps_is_said_and_nothing_is_dropped() -> None:
    years = 10 * 365 * 86_400

    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made = town.made(100_000)
        keys = await push_all(session, made)
        await give(session, list(keys.values()), *lease_over([made], now + 86_400))
        holder = next(n for n in range(5) if town.key(n) in keys.values())
        node = town.nodes[holder]
        await asyncio.sleep(120)
        assert troubles(node) == {}
        town.world.skew(town.name(holder), years)
        await asyncio.sleep(200)
        found = troubles(node)
        assert "10 years" in found["clock-jump"].text
        assert found["clock"].now
        assert "10 years ahead" in found["clock"].text
        assert await node.store.held(made.segment_id) is not None
        town.world.skew(town.name(holder), 0)
        await asyncio.sleep(200)
        assert not troubles(node)["clock"].now
        assert "back" in troubles(node)["clock-jump"].text

    in_town(5, scenario, settings=FAST)


def test_two_nodes_with_one_key_notice_each_other() -> None:
    async def scenario(town: Town) -> None:
        await asyncio.sleep(60)
        assert troubles(town.nodes[1]) == {}
        identity, chain = town.network.donor(1)
        env = town.world.env("copy", "10.0.77.1")
        settings = {**SETTINGS.__dict__, **FAST, "listen": Address("10.0.77.1", PORT)}
        started = Node.start(env, identity, town.network.config, chain, type(SETTINGS)(**settings))
        copy = await town.world.spawn("copy", started)
        async with asyncio.timeout(86_400):
            while not all("copy" in troubles(node) for node in (town.nodes[1], copy)):
                await asyncio.sleep(60)
        assert "10.0.77.1" in troubles(town.nodes[1])["copy"].text
        assert town.host(1) in troubles(copy)["copy"].text
        await copy.stop()
        assert troubles(town.nodes[0]) == {}

    in_town(4, scenario, settings=FAST)


def test_a_node_that_moved_to_another_address_is_no_copy() -> None:
    async def scenario(town: Town) -> None:
        await asyncio.sleep(60)
        town.kill(2)
        town.world.restart(town.name(2))
        node = await town.start(2, port=PORT + 1)
        await asyncio.sleep(3600)
        assert troubles(node) == {}

    in_town(4, scenario, settings=FAST)


def test_an_older_copy_of_a_home_is_noticed() -> None:
    """Another holder remembers a newer statement of this node than it does itself."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(90_000, k=1, n=2)
        await push_one(session, made, 0, town.key(0))
        await push_one(session, made, 1, town.key(1))
        counter = int(session.env.utc()) - 50 + 10
        newer = made.entry(town.network.key(0), 1, counter=counter + 100)
        peer = await session.peer(town.key(0))
        await peer.merge_roster(made.segment_id, [(newer, None)])
        trouble = troubles(town.nodes[0])["copy"]
        assert "key" in trouble.text or "older copy" in trouble.text
        # what this node signs itself is no contradiction
        own = await town.nodes[1].store.roster(made.segment_id)
        await (await session.peer(town.key(1))).merge_roster(made.segment_id, [(own[0], None)])
        assert troubles(town.nodes[1]) == {}

    in_town(3, scenario, settings=FAST)
