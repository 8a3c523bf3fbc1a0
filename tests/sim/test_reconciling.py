"""Holders come to know the whole roster by themselves."""

from __future__ import annotations

import asyncio

from node_town import Town, in_town, push_one

from potsherd.node.records import RosterEntry
from potsherd.node.testing import HandMade

SETTINGS = {"reconcile_round_s": 600.0}


async def nodes_known(town: Town, made: HandMade, number: int) -> dict[int, bytes]:
    """The roster of a holder: node keys by index, released ones left out."""
    data = await town.nodes[number].store.roster(made.segment_id)
    entries = [RosterEntry.decode(entry[64:]) for entry in data]
    return {e.index: e.node for e in entries if e.held}


def test_one_introduction_is_enough() -> None:
    """Nobody shares the roster of four holders, but each knows one neighbour."""

    async def scenario(town: Town) -> None:
        made = town.made(5000)
        async with await town.session() as session:
            receipts = [await push_one(session, made, i, town.key(i)) for i in range(4)]
            for i in range(3):
                peer = await session.peer(town.key(i))
                hint = (receipts[i + 1], town.address(i + 1))
                await peer.merge_roster(made.segment_id, [hint])
        everybody = {i: town.key(i) for i in range(4)}
        await asyncio.sleep(4 * 3600)
        for i in range(4):
            assert await nodes_known(town, made, i) == everybody
        before = sum(n.status().upkeep.reconciler.exchanged for n in town.nodes.values())
        await asyncio.sleep(4 * 3600)
        after = [n.status().upkeep.reconciler for n in town.nodes.values()]
        assert sum(s.exchanged for s in after) == before, "equal digests cost nothing more"
        assert all(s.compared > 20 for s in after)

    in_town(4, scenario, settings=SETTINGS)


def test_a_holder_that_was_down_learns_at_its_return() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(5000)
        async with await town.session() as session:
            receipts = [await push_one(session, made, i, town.key(i)) for i in range(4)]
            for i in range(4):
                if i != 2:
                    peer = await session.peer(town.key(i))
                    hints = [(receipts[j], town.address(j)) for j in (0, 1, 3)]
                    await peer.merge_roster(made.segment_id, hints)
            hint = [(receipts[0], town.address(0))]
            await (await session.peer(town.key(2))).merge_roster(made.segment_id, hint)
        town.kill(2)
        await asyncio.sleep(6 * 3600)
        await town.restart(2)
        await asyncio.sleep(300)
        assert len(await nodes_known(town, made, 2)) == 4
        assert len(await nodes_known(town, made, 0)) == 4

    in_town(4, scenario, settings={"reconcile_round_s": 86_400.0})


def test_a_holder_that_lost_its_disk_says_so() -> None:
    """A node that comes back with an empty store releases what others say it holds."""

    async def scenario(town: Town) -> None:
        made = town.made(5000)
        async with await town.session() as session:
            receipts = [await push_one(session, made, i, town.key(i)) for i in range(4)]
            hints = [(receipts[j], town.address(j)) for j in range(4)]
            for i in range(4):
                await (await session.peer(town.key(i))).merge_roster(made.segment_id, hints)
        await town.nodes[3].store.release(made.segment_id)
        await asyncio.sleep(6 * 3600)
        for i in range(3):
            assert sorted(await nodes_known(town, made, i)) == [0, 1, 2]
        # and may take a shard again: its new entry wins over the release
        async with await town.session() as session:
            again = await push_one(session, made, 3, town.key(3))
            peer = await session.peer(town.key(0))
            await peer.merge_roster(made.segment_id, [(again, town.address(3))])
        assert sorted(await nodes_known(town, made, 0)) == [0, 1, 2, 3]

    in_town(4, scenario, settings=SETTINGS)
