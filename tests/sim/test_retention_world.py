"""Leases that act, on a virtual network: skewed clocks, tombstones, renewals that reach late holders."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leases import DAY, extension_of, give, lease_over, withdrawal_of
from node_town import Town, in_town, push_all, push_one

from potsherd.crypto.signing import SigningKey
from potsherd.errors import NotFoundError, RefusedError
from potsherd.node.testing import HandMade, seed_of

pytestmark = pytest.mark.slow

YEAR = 365 * DAY
DAY_S = 1800
"""A short day, by which the timers of these nodes are scaled: a run costs what nodes do by the minute."""
SETTINGS: dict[str, Any] = {
    "retention_round_s": DAY_S / 4,
    "retention_tick_s": DAY_S / 8,
    "grace_min_s": DAY_S,
    "heartbeat_s": DAY_S / 4,
    "away_after_s": DAY_S * 3 / 4,
    "roster_period_s": DAY_S / 4,
    "reconcile_round_s": DAY_S,
}
NODES = 5


def play(scenario: Any, *, seed: int = 3, days: float = 10, nodes: int = NODES) -> None:
    print("seed", seed)
    in_town(nodes, scenario, seed=seed, settings=SETTINGS, days=days)


def holders(town: Town, keys: dict[int, bytes]) -> dict[int, int]:
    """Index → number of the node."""
    numbers = {town.key(number): number for number in range(NODES)}
    return {index: numbers[key] for index, key in keys.items()}


async def who_holds(town: Town, made: HandMade) -> set[int]:
    """Numbers of running nodes that hold the segment."""
    found = set()
    for number, node in town.nodes.items():
        if await node.store.held(made.segment_id) is not None:
            found.add(number)
    return found


async def reasons(town: Town, number: int) -> list[str]:
    return [line.reason for line in await town.nodes[number].store.dropped()]


def test_an_expired_segment_goes_after_its_grace_from_all_holders() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made, other = town.made(100_000), town.made(50_000, number=1)
        keys, others = await push_all(session, made), await push_all(session, other)
        await give(
            session, list(keys.values()), *lease_over([made], now + 2 * DAY_S, grace_s=2 * DAY_S)
        )
        await give(session, list(others.values()), *lease_over([other]))
        await session.close()
        await asyncio.sleep(3.9 * DAY_S)
        assert len(await who_holds(town, made)) == 4
        status = town.nodes[holders(town, keys)[0]].status().retention
        assert (status.ending, status.waiting) == (1, 0)
        await asyncio.sleep(0.6 * DAY_S)
        assert await who_holds(town, made) == set()
        assert len(await who_holds(town, other)) == 4
        for number in holders(town, keys).values():
            [line] = await town.nodes[number].store.dropped()
            assert (line.segment_id, line.reason) == (made.segment_id, "expired")
            assert "clocks of" in line.detail

    play(scenario)


def test_a_clock_ten_years_ahead_drops_nothing_and_one_behind_drops_late() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made = town.made(100_000)
        keys = await push_all(session, made)
        await give(session, list(keys.values()), *lease_over([made], now + 3 * DAY_S))
        fast, slow = holders(town, keys)[0], holders(town, keys)[1]
        town.world.skew(town.name(fast), 10 * YEAR)
        town.world.skew(town.name(slow), -1 * YEAR)
        await asyncio.sleep(1.5 * DAY_S)
        assert len(await who_holds(town, made)) == 4
        status = town.nodes[fast].status().retention
        assert status.waiting == 1
        assert status.clock_ahead_s is not None
        assert abs(status.clock_ahead_s - 10 * YEAR) < 10
        await asyncio.sleep(3 * DAY_S)
        assert await who_holds(town, made) == {slow}
        town.world.skew(town.name(slow), 0)
        await asyncio.sleep(DAY_S)
        assert await who_holds(town, made) == set()

    play(scenario)


def test_a_node_alone_drops_nothing() -> None:
    """Its clock may be wrong, and nobody is there to say so."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made = town.made(100_000)
        keys = await push_all(session, made)
        await give(
            session, list(keys.values()), *lease_over([made], now + DAY_S / 4, grace_s=DAY_S)
        )
        await session.close()
        last = holders(town, keys)[3]
        for number in set(town.nodes) - {last}:
            town.kill(number)
        await asyncio.sleep(6 * DAY_S)
        assert await who_holds(town, made) == {last}
        assert town.nodes[last].status().retention.waiting == 1
        await town.restart(0 if last else 1)
        await town.restart(2 if last != 2 else 3)
        await asyncio.sleep(2 * DAY_S)
        assert last not in await who_holds(town, made)

    play(scenario)


def test_a_renewal_reaches_holders_that_were_away() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made = town.made(100_000)
        keys = await push_all(session, made)
        nodes = holders(town, keys)
        await give(session, list(keys.values()), *lease_over([made], now + 2 * DAY_S))
        town.kill(nodes[3])
        await asyncio.sleep(DAY_S)
        renewed = lease_over([made], now + 200 * DAY_S, sequence=2)
        await give(session, [keys[0], keys[1]], *renewed)
        await asyncio.sleep(9 * DAY_S)
        assert len(await who_holds(town, made)) == 3
        await town.restart(nodes[3])
        await asyncio.sleep(2 * DAY_S)
        assert len(await who_holds(town, made)) == 4
        leases = [lease for lease, _ in await town.nodes[nodes[3]].store.leases(made.segment_id)]
        assert leases == [renewed[0]]

    play(scenario)


def test_a_keeper_extends_and_a_stranger_does_not() -> None:
    keeper, stranger = SigningKey(seed_of("keeper")), SigningKey(seed_of("stranger"))

    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made = town.made(100_000)
        keys = await push_all(session, made)
        lease = lease_over([made], now + 2 * DAY_S, keepers=[keeper.verify_key])
        await give(session, list(keys.values()), *lease)
        peer = await session.peer(keys[1])
        with pytest.raises(RefusedError):
            await peer.extend(extension_of(made, stranger, now + 99 * DAY_S))
        with pytest.raises(NotFoundError):
            await peer.extend(extension_of(made, keeper, now + 99 * DAY_S, archive=5))
        await peer.extend(extension_of(made, keeper, now + 99 * DAY_S))  # to one holder only
        await asyncio.sleep(8 * DAY_S)
        assert len(await who_holds(town, made)) == 4

    play(scenario)


def test_a_withdrawn_segment_goes_and_a_holder_back_after_months_does_not_bring_it_back() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(100_000)
        keys = await push_all(session, made)
        nodes = holders(town, keys)
        await give(session, list(keys.values()), *lease_over([made], grace_s=2 * DAY_S))
        town.kill(nodes[3])
        await asyncio.sleep(DAY_S)
        date = session.env.utc()
        await (await session.peer(keys[0])).withdraw(withdrawal_of(made, date))  # one is told
        await asyncio.sleep(1.5 * DAY_S)
        assert len(await who_holds(town, made)) == 3  # the grace
        await asyncio.sleep(2 * DAY_S)
        assert await who_holds(town, made) == set()
        assert await reasons(town, nodes[1]) == ["withdrawn"]
        for number in list(town.nodes):
            town.kill(number)
        await asyncio.sleep(200 * DAY)
        for number in range(NODES):
            await town.restart(number)
        assert await who_holds(town, made) == {nodes[3]}
        await asyncio.sleep(DAY_S)
        assert await who_holds(town, made) == set()  # most have waited long enough
        again = await town.session()
        with pytest.raises(RefusedError, match="withdrawn"):
            await push_one(again, made, 0, keys[0])

    play(scenario, days=250)


def test_a_withdrawal_is_cancelled_within_its_grace() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(100_000)
        keys = await push_all(session, made)
        await give(session, list(keys.values()), *lease_over([made], grace_s=3 * DAY_S))
        date = session.env.utc()
        for key in keys.values():
            await (await session.peer(key)).withdraw(withdrawal_of(made, date))
        await asyncio.sleep(DAY_S)
        now = session.env.utc()
        cancelled = withdrawal_of(made, now, number=2, active=False)
        await (await session.peer(keys[2])).withdraw(cancelled)
        await asyncio.sleep(6 * DAY_S)
        assert len(await who_holds(town, made)) == 4

    play(scenario)


def test_one_who_stole_the_owners_key_cannot_delete() -> None:
    """Neither another withdraw key, nor an end in the past, nor an empty list acts before the grace."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        now = session.env.utc()
        made, other = town.made(100_000), town.made(30_000)
        keys = await push_all(session, made)
        await push_one(session, other, 0, keys[0])
        await give(session, list(keys.values()), *lease_over([made], grace_s=3 * DAY_S))
        thief = SigningKey(seed_of("thief")).verify_key
        with pytest.raises(RefusedError, match="withdraw key"):
            lease = lease_over([made], sequence=2, withdraw=thief)
            await give(session, [keys[0]], *lease)
        await asyncio.sleep(2 * DAY_S)
        past = lease_over([made], now - 99 * DAY_S, sequence=3, grace_s=3 * DAY_S)
        for key in keys.values():
            await give(session, [key], *past)
        await asyncio.sleep(2.5 * DAY_S)
        assert len(await who_holds(town, made)) == 4
        await asyncio.sleep(1.5 * DAY_S)
        assert await who_holds(town, made) == set()

    play(scenario)


def test_what_no_lease_ever_covered_is_abandoned() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(100_000)
        keys = await push_all(session, made)
        for number in town.nodes:
            town.world.skew(town.name(number), 30 * DAY)
        await asyncio.sleep(0.5 * DAY_S)
        assert len(await who_holds(town, made)) == 4
        await asyncio.sleep(1.5 * DAY_S)
        assert await who_holds(town, made) == set()
        assert await reasons(town, holders(town, keys)[2]) == ["abandoned"]

    play(scenario)
