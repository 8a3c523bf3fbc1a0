"""A site of a quarter of the nodes goes dark and comes back: nothing is repaired, nothing is moved."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_town import Town, in_town
from repair_town import HOUR, RepairTown, in_repair_town

SITES = 4


class SiteTown(RepairTown):
    """Nodes declare one of four sites in turn."""

    async def start(self, number: int, **more: Any) -> Any:
        self.settings = {**self.settings, "site": f"site{number % SITES}"}
        return await super().start(number, **more)


async def dark_for(town: RepairTown, seconds: float, after: float) -> None:
    """A segment keeps more than k + 2 indices within reach: below that, silence is believed sooner."""
    made = [
        (await town.placed(size, k=3, n=9, r=6, number=i))[0]
        for i, size in enumerate((5_000, 700_000))
    ]
    await asyncio.sleep(HOUR / 2)
    before = [await town.holdings(m) for m in made]
    dark = [town.name(i) for i in town.nodes if i % SITES == 1]
    for name in dark:
        town.world.unplug(name)
    await asyncio.sleep(seconds)
    assert town.repair_bytes() == 0, "nothing while they are dark"
    for name in dark:
        town.world.plug(name)
    await asyncio.sleep(after)
    print(town.journal())
    assert town.repair_bytes() == 0
    assert [await town.holdings(m) for m in made] == before
    assert all(len(numbers) == 1 for held in before for numbers in held.values())
    for node in town.nodes.values():
        assert node.peers.gone() == frozenset()
    for m in made:
        await town.check(m)


@pytest.mark.slow
def test_four_hours_with_timers_twelve_times_as_fast() -> None:
    """Two days, seventy-two hours of frozen timers and the rest, all divided by twelve."""

    async def scenario(town: RepairTown) -> None:
        await dark_for(town, 4 * HOUR, HOUR / 2)

    in_repair_town(12, scenario, kind=SiteTown)


@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_two_days_with_the_timers_of_the_service() -> None:
    async def scenario(town: Town) -> None:
        assert isinstance(town, RepairTown)
        await dark_for(town, 48 * HOUR, 6 * HOUR)

    in_town(12, scenario, kind=SiteTown, days=5)
