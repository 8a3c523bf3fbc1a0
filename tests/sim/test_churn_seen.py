"""What holders have seen of coming and going, asked over the network and kept over restarts."""

from __future__ import annotations

import asyncio

from repair_town import HOUR, RepairTown, in_repair_town


def test_holders_tell_what_they_have_seen_and_remember_it() -> None:
    async def scenario(town: RepairTown) -> None:
        _, holders = await town.placed(3 * 3 * 32768)
        await asyncio.sleep(HOUR)
        dead, asked, other = (holders[index] for index in (0, 3, 6))
        town.kill(dead)
        await asyncio.sleep(6 * HOUR)
        nodes = [town.key(dead), town.key(other), bytes(32)]
        async with await town.session() as session:
            seen = await (await session.peer(town.key(asked), town.address(asked))).churn(nodes)
        assert (seen.gone, seen.returned) == (1, 0)
        hours = seen.watched / HOUR
        assert 5 * 6 < hours < 8 * 8, "five live holders and those that came by repair"
        gone, there, unknown = seen.availability
        assert there is not None and there > 950
        assert gone is not None, "how much it was there as long as it lived"
        assert unknown is None
        assert HOUR / 2 < seen.noticed < 4 * HOUR
        town.kill(asked)
        node = await town.restart(asked)
        # written down at a stop and every four hours, so SIGKILL may forget so much
        assert node.peers.churn.watched >= seen.watched - 7 * 4 * HOUR
        await town.nodes.pop(other).stop()
        town.world.kill(town.name(other))
        before = seen.watched
        node = await town.restart(other)
        assert node.peers.churn.gone == 1
        assert node.peers.churn.watched > 0.7 * before

    in_repair_town(8, scenario)
