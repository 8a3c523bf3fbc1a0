"""What four weeks of an office teach its nodes: whom to wait for, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from office import DAY, HOUR, SETTINGS, WEEK, Office, in_office, settle

from potsherd.node.testing import HandMade


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_four_weeks_teach_whom_to_wait_for() -> None:
    """Who sleeps at night and over the weekend is waited for; a server is given up within a day."""

    async def scenario(office: Office) -> None:
        # everybody holds a piece, so everybody watches everybody; nothing is repaired
        made = HandMade(office.town.network.network_id, b"potsherd" * 700, 2, 8, r=2)
        await settle(office, [made])
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

    in_office(scenario, 8)


def test_settings_stay_within_what_liveness_needs() -> None:
    """The heartbeat is asked often enough that a day of silence is noticed within a day."""
    assert SETTINGS.loss.floor_s + SETTINGS.away_after_s < 24 * HOUR
