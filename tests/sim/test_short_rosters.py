"""A holder that names too few others, by lying or because it was away, keeps nobody from reading."""

from __future__ import annotations

import pytest
from node_town import Town, in_town, push_one

from potsherd.datasets.health import examine
from potsherd.datasets.manifest import SegmentRef
from potsherd.node.reader import SegmentReader
from potsherd.node.testing import HandMade


async def held_by(town: Town, made: HandMade, numbers: list[int], tells: set[int]) -> None:
    """Index i on numbers[i]; only the nodes of `tells` know of the others."""
    async with await town.session() as session:
        receipts = [
            (await push_one(session, made, i, town.key(number)), town.address(number))
            for i, number in enumerate(numbers)
        ]
        for number in tells:
            peer = await session.peer(town.key(number), town.address(number))
            await peer.merge_roster(made.segment_id, receipts)


def test_one_complete_roster_among_short_ones_is_enough() -> None:
    async def scenario(town: Town) -> None:
        made = town.made(300_000, k=2, n=4)
        await held_by(town, made, [1, 2, 3, 4], tells={4})
        for number in (1, 2, 3, 4):
            await town.nodes[number].announce_asked(await town.nodes[number].store.segments())
        for _ in range(6):  # whoever answers first
            async with await town.session() as session:
                reader = SegmentReader(session, made.segment_id, made.descriptor.placement_key)
                assert bytes(await reader.read(0, len(made.stream))) == made.stream

    in_town(6, scenario)


def test_short_rosters_put_together_name_everybody() -> None:
    """Each names itself alone: they are found by their announcements."""

    async def scenario(town: Town) -> None:
        made = town.made(300_000, k=2, n=4)
        await held_by(town, made, [1, 2, 3, 4], tells=set())
        for number in (1, 2, 3, 4):
            await town.nodes[number].announce_asked(await town.nodes[number].store.segments())
        async with await town.session() as session:
            reader = SegmentReader(session, made.segment_id, made.descriptor.placement_key)
            assert bytes(await reader.read(0, len(made.stream))) == made.stream
            assert await reader.ask_others() is False
            assert sorted(reader.holders) == [0, 1, 2, 3]

    in_town(6, scenario)


@pytest.mark.parametrize("deep", [False, True])
def test_verify_asks_on_when_a_holder_has_let_go(deep: bool) -> None:
    """A node died between handing its piece over and telling everybody; the first roster is of who was not told."""

    async def scenario(town: Town) -> None:
        made = town.made(300_000, k=2, n=4)
        await held_by(town, made, [1, 2, 3, 4], tells={1, 2, 3, 4})
        leaver = town.nodes[4]
        async with await town.session() as session:
            receipt = await push_one(session, made, 3, town.key(5))
            released = await leaver._rosters.sign(made.segment_id, 3, held=False)
            await leaver.store.drop(made.segment_id, "moved", "")
            told = await session.peer(town.key(1), town.address(1))
            hints = [(receipt, town.address(5)), (released, None)]
            await told.merge_roster(made.segment_id, hints)
        await town.nodes[2].announce_asked(await town.nodes[2].store.segments())
        name = SegmentRef(made.segment_id, made.descriptor.placement_key, 2, 4)
        async with await town.session() as session:
            [health] = (await examine(session, [name], deep=deep)).segments
            assert [(shard.index, shard.live) for shard in health.shards] == [
                (index, True) for index in range(4)
            ]
            assert health.shards[3].key == town.key(5)

    in_town(6, scenario)
