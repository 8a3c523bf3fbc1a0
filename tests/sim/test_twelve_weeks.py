"""Thirty workstations that sleep at night and at the weekend, and now and then one is gone for good.

Twelve weeks at heartbeats once an hour: who is gone is given up and replaced, and what repair moves is
printed beside what the model of a segment says for that many departures.
"""

from __future__ import annotations

import pytest
from office import Office, in_office, predicted, settle, weeks

from potsherd.node.testing import HandMade


@pytest.mark.nightly
@pytest.mark.timeout(9000)
def test_twelve_weeks_of_thirty_workstations() -> None:
    async def scenario(office: Office) -> None:
        network = office.town.network.network_id
        segments = [HandMade(network, b"%8d" % i * 40_000, 5, 15, number=i, r=10) for i in range(6)]
        await settle(office, segments)
        per_week = 1.5
        await weeks(office, 12, segments, per_week)
        shards, moved = (
            sum(part)
            for part in zip(
                *(predicted(office, made, 12, per_week) for made in segments), strict=True
            )
        )
        print(
            f"{office.departures} departures; rebuilt {office.rebuilt}, model {shards:.1f}; "
            f"moved {office.moved}, model {moved:.0f}"
        )
        least = min(office.observer.least.values())
        print("fewest good indices", least)
        assert least >= 5
        assert office.rebuilt <= 2 * shards + 15, "no storms"

    in_office(scenario, 30)
