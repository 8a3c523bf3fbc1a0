"""Liveness of whole nodes in virtual time: restarts, presences, nodes that do not exist."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from node_town import Town, in_town, push_one

from potsherd.crypto.signing import SigningKey
from potsherd.node.habits import LossPolicy
from potsherd.node.testing import HandMade, seed_of

HASTY = LossPolicy(prior_s=4 * 3600, learned_s=86_400, floor_s=3600, missed_s=1800)


async def hold(town: Town, count: int) -> HandMade:
    """A segment with one index on each of the first nodes, roster shared."""
    made = town.made(5000, n=count)
    async with await town.session() as session:
        receipts = [await push_one(session, made, i, town.key(i)) for i in range(count)]
        hints = [(receipts[i], town.address(i)) for i in range(count)]
        for i in range(count):
            await (await session.peer(town.key(i))).merge_roster(made.segment_id, hints)
    return made


def play(count: int, scenario: Callable[[Town], Awaitable[None]], **settings: object) -> None:
    in_town(count, scenario, settings={"loss": HASTY, **settings}, days=5)


def test_what_is_known_of_a_peer_survives_a_restart_and_a_crash() -> None:
    async def scenario(town: Town) -> None:
        await hold(town, 5)
        await asyncio.sleep(3600)
        town.kill(4)
        await asyncio.sleep(6 * 3600)
        lost = town.key(4)
        assert all(node.peers.gone() == {lost} for node in town.nodes.values())
        await town.nodes[1].stop()
        town.kill(1)
        await town.restart(1)
        assert town.nodes[1].peers.gone() == {lost}
        del town.nodes[2]
        town.world.crash(town.name(2))
        await town.restart(2)
        assert town.nodes[2].peers.gone() == {lost}, "written down in time"
        await town.restart(4)
        await asyncio.sleep(2 * 3600)
        assert all(not node.peers.gone() for node in town.nodes.values())
        assert town.nodes[4].peers.gone() == frozenset(), "nobody was watched in between"

    play(5, scenario, peers_save_s=900.0)


def test_a_node_without_network_gives_nobody_up() -> None:
    """A laptop on a plane: its peers have not been silent, it was deaf."""

    async def scenario(town: Town) -> None:
        await hold(town, 4)
        await asyncio.sleep(7200)
        peers = town.nodes[3].peers
        town.world.unplug(town.name(3))
        await asyncio.sleep(86_400)
        assert peers.counts(0).isolated
        assert peers.gone() == frozenset()
        town.world.plug(town.name(3))
        await asyncio.sleep(3600)
        assert peers.counts(0) == (3, 0, 0, 0, False)

    play(4, scenario)


def test_holders_that_do_not_exist_do_not_count() -> None:
    async def scenario(town: Town) -> None:
        made = await hold(town, 4)
        invented = SigningKey(seed_of("nobody"))
        async with await town.session() as session:
            peer = await session.peer(town.key(0))
            await peer.merge_roster(made.segment_id, [(made.entry(invented, 2), None)])
        peers = town.nodes[0].peers
        assert not peers.proven(invented.verify_key)
        await asyncio.sleep(2 * 3600)
        assert peers.lost(invented.verify_key)
        assert peers.proven(town.key(1))
        assert not peers.lost(town.key(1))

    play(4, scenario)


@pytest.mark.slow
def test_sites_are_learned_from_presences() -> None:
    async def scenario(town: Town) -> None:
        await hold(town, 4)
        await asyncio.sleep(3 * 3600)
        for node in town.nodes.values():
            known = [peer for _, peer in node.peers.items()]
            assert len(known) == 3
            assert {peer.domains for peer in known} == {(("site", "cellar"),)}

    play(4, scenario, site="cellar", survey_period_s=3600.0)
