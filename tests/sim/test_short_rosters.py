"""A holder that names too few others, by lying or because it was away, keeps nobody from reading."""

from __future__ import annotations

from node_town import Town, in_town, push_one

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
