"""Leaving, shrinking and pausing on a virtual network: nothing acknowledged is ever short of a shard."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from leases import extension_of, give, lease_over, withdrawal_of
from node_town import Town, in_town, push_all, push_one

from potsherd.crypto.signing import SigningKey
from potsherd.errors import RefusedError
from potsherd.node.records import RosterEntry
from potsherd.node.testing import HandMade, seed_of

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "move_retry_s": 30.0,
    "quota_bytes": 2**27,
    "reconcile_round_s": 60.0,
}


def play(nodes: int, scenario: Any, *, seed: int = 3, **more: Any) -> None:
    print("seed", seed)
    in_town(nodes, scenario, seed=seed, settings=SETTINGS, **more)


async def holdings(town: Town, made: HandMade) -> dict[int, int]:
    """Running node → index it holds."""
    found = {}
    for number, node in town.nodes.items():
        held = await node.store.held(made.segment_id)
        if held is not None:
            found[number] = held.index
    return found


async def until_left(town: Town, number: int, timeout_s: float = 3600) -> None:
    leaving = town.nodes[number].leaving
    async with asyncio.timeout(timeout_s):
        while not (await leaving.status()).safe:
            await asyncio.sleep(1)


async def rosters(
    town: Town, made: HandMade, besides: set[int]
) -> list[dict[bytes, tuple[int, bool]]]:
    """What every remaining holder believes."""
    views = []
    for number, node in town.nodes.items():
        if number in besides or await node.store.held(made.segment_id) is None:
            continue
        entries = [RosterEntry.decode(e[64:]) for e in await node.store.roster(made.segment_id)]
        views.append({e.node: (e.index, e.held) for e in entries})
    return views


def test_three_of_twelve_leave_at_once() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        segments = [town.made(size, k=4, n=9, number=i) for i, size in enumerate((9_000, 700_000))]
        for made in segments:
            keys = await push_all(session, made)
            await give(session, list(keys.values()), *lease_over([made]))
        gone = {1, 5, 8}
        lost: Counter[bytes] = Counter()

        async def watch() -> None:
            while True:
                for made in segments:
                    indices = set((await holdings(town, made)).values())
                    lost[made.segment_id] += len(indices) < 9
                await asyncio.sleep(0.05)

        watching = asyncio.ensure_future(watch())
        for number in gone:
            await town.nodes[number].leaving.leave()
        await asyncio.gather(*(until_left(town, number) for number in gone))
        watching.cancel()
        assert not +lost
        await asyncio.sleep(600)  # two that leave at once do not know the other's new holder
        for made in segments:
            left = await holdings(town, made)
            assert set(left) == set(range(12)) - gone
            assert sorted(left.values()) == list(range(9))
            for view in await rosters(town, made, gone):
                for number in gone & {n for n in range(12) if town.key(n) in view}:
                    assert view[town.key(number)][1] is False
                held = {key: index for key, (index, is_held) in view.items() if is_held}
                assert held == {town.key(n): i for n, i in left.items()}
            for number in left:
                assert len(await town.nodes[number].store.leases(made.segment_id)) == 1
        for number in gone:
            lines = await town.nodes[number].store.dropped()
            assert {line.reason for line in lines} <= {"moved"}
            assert town.nodes[number].store.usage().shards == 0

    play(12, scenario)


def test_everything_kept_beside_a_shard_moves_along() -> None:
    keeper = SigningKey(seed_of("keeper"))

    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(90_000, with_entry=True)
        now = session.env.utc()
        await push_one(session, made, 1, town.key(0))
        lease = lease_over([made], now + 10**6, keepers=[keeper.verify_key], grace_s=10**6)
        await give(session, [town.key(0)], *lease)
        peer = await session.peer(town.key(0))
        await peer.extend(extension_of(made, keeper, now + 2 * 10**6))
        await peer.withdraw(withdrawal_of(made, now))
        heads = made.heads([now - 9, now - 5])
        for head in heads:
            await peer.put_head(made.segment_id, made.genesis.encode(), head)
        await town.nodes[0].leaving.leave()
        await until_left(town, 0)
        [(number, index)] = (await holdings(town, made)).items()
        assert index == 1
        store = town.nodes[number].store
        kept = await store.kept(made.segment_id)
        assert kept is not None
        [state] = kept.leases
        assert [e.until for e in state.extensions] == [int(now + 2 * 10**6)]
        assert state.withdrawal is not None
        _, found = await store.heads(made.genesis.dataset_id)
        assert found == heads[::-1]
        data, _ = await store.read(made.segment_id, 1, [(0, made.descriptor.rows)])
        assert data == made.shards[1]

    play(3, scenario)


def test_where_nobody_can_take_a_shard_nothing_is_lost_and_it_is_said() -> None:
    """Four nodes hold the four indices of a segment: no place is left for one that leaves."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(90_000)
        await push_all(session, made)
        await town.nodes[2].leaving.leave()
        await asyncio.sleep(200)
        status = await town.nodes[2].leaving.status()
        assert (status.safe, status.stuck, status.left_shards) == (False, 1, 1)
        assert "no other node" in status.reason
        assert len(await holdings(town, made)) == 4
        await town.start(4)
        await until_left(town, 2)
        left = await holdings(town, made)
        assert set(left) == {0, 1, 3, 4}
        assert sorted(left.values()) == [0, 1, 2, 3]

    play(5, scenario, running=4)


@pytest.mark.parametrize("victim", [1, 5])
@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.3, 0.6])
def test_a_power_cut_at_either_end_of_a_move_loses_and_doubles_nothing(
    after_s: float, victim: int
) -> None:
    """Node 1 leaves; the power goes there, or at a node that may be taking its shards."""

    async def scenario(town: Town) -> None:
        session = await town.session()
        segments = [town.made(300_000 + i, number=i) for i in range(3)]
        for made in segments:
            await push_all(session, made)
        await town.nodes[1].leaving.leave()
        await asyncio.sleep(after_s)
        town.world.crash(town.name(victim))
        del town.nodes[victim]
        await asyncio.sleep(5)
        node = await town.restart(victim)
        assert node.store.recovery.lost == ()
        await until_left(town, 1)
        for made in segments:
            left = await holdings(town, made)
            assert sorted(left.values()) == [0, 1, 2, 3]
            assert 1 not in left
            for number, index in left.items():
                rows = made.descriptor.rows
                data, _ = await town.nodes[number].store.read(made.segment_id, index, [(0, rows)])
                assert data == made.shards[index]

    play(7, scenario)


def test_a_shard_that_has_rotted_is_not_offered_around() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(300_000, k=1, n=1)
        await push_one(session, made, 0, town.key(1))
        town.world.rot(town.name(1), "shards")
        await town.nodes[1].leaving.leave()
        await asyncio.sleep(20)
        status = await town.nodes[1].leaving.status()
        assert (status.stuck, status.safe) == (1, False)
        assert status.moved_bytes <= 2 * 300_000 + 40_000  # not once for each of the others

    play(6, scenario)


def test_a_leaving_node_that_is_restarted_goes_on() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        segments = [town.made(400_000 + i, number=i) for i in range(6)]
        for made in segments:
            await push_all(session, made)
        await town.nodes[1].leaving.leave()
        await asyncio.sleep(0.2)
        town.world.crash(town.name(1))
        del town.nodes[1]
        node = await town.restart(1)
        assert node.leaving.intent.mode == "leaving"
        await until_left(town, 1)
        for made in segments:
            left = await holdings(town, made)
            assert sorted(left.values()) == [0, 1, 2, 3]
            assert 1 not in left
        await session.close()
        again = await town.session()
        with pytest.raises(RefusedError, match="left"):
            await push_one(again, town.made(1000, number=99), 0, town.key(1))
        await node.leaving.resume()
        await push_one(again, town.made(1000, number=99), 0, town.key(1))

    play(7, scenario)


def test_shrinking_moves_until_what_is_left_fits() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        segments = [town.made(600_000 + i, k=1, n=1, number=i) for i in range(8)]
        for made in segments:
            await push_one(session, made, 0, town.key(1))
        store, leaving = town.nodes[1].store, town.nodes[1].leaving
        used = store.usage().used
        target = used - 2_000_000
        await leaving.set_quota(target)
        assert store.usage().quota == 2**27  # not yet
        with pytest.raises(RefusedError, match="shrinking"):
            await push_one(session, town.made(1000, number=99), 0, town.key(1))
        async with asyncio.timeout(600):
            while (await leaving.status()).mode:
                await asyncio.sleep(0.1)
                assert store.usage().used <= store.usage().quota
        assert store.usage().quota == target
        assert store.usage().used <= target
        assert 2 <= store.usage().shards <= 5
        status = await leaving.status()
        assert status.moved == 8 - store.usage().shards
        for made in segments:
            assert len(await holdings(town, made)) == 1
        await leaving.set_quota(2**28)
        assert store.usage().quota == 2**28

    play(4, scenario)


def test_a_paused_node_keeps_what_it_has_and_takes_nothing() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(90_000, k=2, n=3)
        await push_all(session, made)
        await town.nodes[2].leaving.pause()
        await asyncio.sleep(30)
        donors = await session.donors(made.descriptor.placement_key, 10)
        classes = {donor.key: donor.free_class for donor in donors}
        assert classes[town.key(2)] == 0
        assert classes[town.key(1)] > 20
        other = town.made(20_000, number=7)
        with pytest.raises(RefusedError, match="paused"):
            await push_one(session, other, 0, town.key(2))
        assert await holdings(town, made)
        node = await restarted(town, 2)
        assert node.leaving.intent.mode == "paused"
        await node.leaving.resume()
        await asyncio.sleep(30)
        later = await session.donors(made.descriptor.placement_key, 10)
        assert {d.key: d.free_class for d in later}[town.key(2)] > 20
        await push_one(session, other, 0, town.key(2))

    play(3, scenario)


async def restarted(town: Town, number: int) -> Any:
    town.kill(number)
    return await town.restart(number)


def test_a_move_that_broke_off_after_the_new_holder_had_it_is_finished_not_doubled() -> None:
    async def scenario(town: Town) -> None:
        session = await town.session()
        made = town.made(90_000, k=1, n=1)
        mine = await push_one(session, made, 0, town.key(0))
        theirs = await push_one(session, made, 0, town.key(1))  # as if a move had got so far
        peer = await session.peer(town.key(0))
        await peer.merge_roster(made.segment_id, [(theirs, town.address(1))])
        assert mine != theirs
        await town.nodes[0].leaving.leave()
        await until_left(town, 0)
        assert await holdings(town, made) == {1: 0}

    play(4, scenario)
