"""Right after start, in bad weather: a client finds the donors, and a node is soon known to all that should know it."""

from __future__ import annotations

import asyncio

import pytest
from node_town import Town, in_town

from potsherd.node.testing import HandMade

DONORS = 8
LOSS = 0.05
"""Of datagrams, each way."""


async def found(town: Town, made: HandMade) -> int:
    """Donors that a new client finds."""
    async with await town.session() as session:
        return len(await session.donors(made.descriptor.placement_key, 4 * DONORS))


@pytest.mark.parametrize("seed", [*range(1, 11), 11, 28, 29])
def test_a_new_client_finds_all_donors_although_datagrams_are_lost(seed: int) -> None:
    """Its only contact is suspected after one lost datagram, and has to be asked all the same."""
    print("seed", seed)

    async def scenario(town: Town) -> None:
        assert await found(town, town.made(1000)) == DONORS

    in_town(DONORS, scenario, seed=seed, loss=LOSS)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_presence_is_stored_again_until_all_that_should_keep_it(seed: int) -> None:
    """Half of all datagrams are lost while the last one starts."""
    print("seed", seed)

    async def scenario(town: Town) -> None:
        town.world.weather(loss=0.5)
        last = await town.start(DONORS - 1)
        town.world.weather(loss=0.0)
        await asyncio.sleep(240)
        dht_id = last.member.dht_id
        for number, node in town.nodes.items():
            kept = await node.dht.find_presence(dht_id)
            assert kept is not None, number
        keepers = [n for n, node in town.nodes.items() if keeps(node.dht, dht_id)]
        assert keepers == sorted(town.nodes)

    in_town(DONORS, scenario, seed=seed, running=DONORS - 1)


def keeps(dht: object, dht_id: bytes) -> bool:
    """Whether the node itself has a presence."""
    kept = dht._engine.keeper.presences.keys()  # type: ignore[attr-defined]
    return dht_id in kept
