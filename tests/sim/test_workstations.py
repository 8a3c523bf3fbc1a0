"""What four weeks of an office teach its nodes: whom to wait for, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from potsherd.simulations.world import World
from potsherd.simulations.world.office import DAY, HOUR, WEEK, Office, OfficePlan


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_four_weeks_teach_whom_to_wait_for() -> None:
    """Who sleeps at night and over the weekend is waited for; a server is given up within a day."""

    async def scenario(office: Office) -> None:
        # everybody holds a piece, so everybody watches everybody; nothing is repaired
        await office.settle()
        await asyncio.sleep(4 * WEEK + 12 * HOUR)
        watcher = office.town.node("node0")
        known = {office.town.name_of(key): key for key, _ in watcher.peers.items()}
        server = "node1"
        assert not watcher.peers.gone(), "nobody was given up in four weeks of nights and weekends"
        started = office.world.loop.time()
        office.town.stop(server)
        while known[server] not in watcher.peers.gone():
            await asyncio.sleep(HOUR)
            assert office.world.loop.time() - started < 3 * DAY
        print("the server was given up after", (office.world.loop.time() - started) / HOUR, "h")
        assert office.world.loop.time() - started <= 24 * HOUR
        assert watcher.peers.gone() == {known[server]}

    with World(5, log_content=False) as world:
        office = Office(world, OfficePlan(nodes=8, segments=1, k=2, n=8, r=2))
        world.run(scenario(office), time_max_s=6 * WEEK)
        assert office.observer.broken == []
