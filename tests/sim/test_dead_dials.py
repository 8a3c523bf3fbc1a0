"""A command that looks does not dial a dead node twice; and takes it back when it is there again."""

from __future__ import annotations

import asyncio

import pytest
from node_town import Town, in_town

from potsherd.errors import UnreachableError
from potsherd.node.session import Session


async def dial_seconds(session: Session, town: Town) -> float:
    """Virtual seconds until it was known that donor 1 cannot be reached."""
    before = session.env.monotonic()
    with pytest.raises(UnreachableError):
        await session.peer(town.key(1), town.address(1))
    return session.env.monotonic() - before


def test_the_dead_are_remembered_for_a_while() -> None:
    async def scenario(town: Town) -> None:
        town.world.crash(town.name(1))
        del town.nodes[1]
        async with await town.session() as session:
            assert await dial_seconds(session, town) > 1
            assert await dial_seconds(session, town) > 1
            session.remember_dead(15)
            assert await dial_seconds(session, town) == 0
            await town.restart(1)
            await asyncio.sleep(15)
            assert (await session.peer(town.key(1), town.address(1))).key == town.key(1)

    in_town(3, scenario)


def test_a_node_that_was_reached_is_not_dead() -> None:
    async def scenario(town: Town) -> None:
        async with await town.session() as session:
            session.remember_dead(1000)
            await session.peer(town.key(1))
            session.drop(town.key(1))
            await session.peer(town.key(1))
            town.world.crash(town.name(1))
            del town.nodes[1]
            session.drop(town.key(1))
            assert await dial_seconds(session, town) > 1
            assert await dial_seconds(session, town) == 0

    in_town(3, scenario)
