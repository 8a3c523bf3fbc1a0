"""Nodes that are gone cost a look-up little, and a keeper that starts again gets its records back."""

from __future__ import annotations

import asyncio

from town import Town, in_town


def test_a_new_session_and_its_look_ups_wait_little_for_the_dead() -> None:
    """Four of twelve killed, which are in every table still: seconds, not tens of seconds."""

    async def scenario(town: Town) -> None:
        loop = asyncio.get_running_loop()
        for number in (3, 5, 7, 9):
            town.world.kill(f"node{number}")
        start = loop.time()
        session = await town.session(1)
        joined = loop.time() - start
        assert joined < 2.0
        for target in (b"a" * 20, b"b" * 20, b"c" * 20):
            await session.donors(target, 36)
        assert loop.time() - start < joined + 6.0
        await session.close()

    in_town(scenario, donors=12)


def test_a_network_that_mostly_started_again_knows_all_its_donors_at_once() -> None:
    """Records live in memory: who was killed has none left, and the one that stayed has all."""

    async def scenario(town: Town) -> None:
        for number in range(1, 6):
            town.world.kill(f"node{number}")
        await asyncio.sleep(5)
        for number in range(1, 6):
            town.world.restart(f"node{number}")
            await town.start_node(number)
        await asyncio.sleep(90)
        session = await town.session(1)
        for target in (b"a" * 20, b"z" * 20):
            donors = await session.donors(target, 36)
            assert len({donor.key for donor in donors}) == 6
        await session.close()

    in_town(scenario, donors=6)
