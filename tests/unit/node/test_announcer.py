"""Who announces, what under, how often; with a store and a DHT that behave but reach nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from potsherd.crypto.hashing import head_locator
from potsherd.dht import Announcement, Dht
from potsherd.errors import PeerError
from potsherd.node.announcer import (
    ANNOUNCERS,
    GATHER_S,
    RETRY_MAX_S,
    Announcer,
    locators_of,
    rank_of,
)
from potsherd.node.records import RosterEntry
from potsherd.node.store import Held, ShardStore, Usage
from potsherd.node.testing import HandMade, SmallNetwork
from potsherd.ports import Env
from potsherd.simulations.world import World

NETWORK = SmallNetwork(1)
ME = NETWORK.key(0)


class FakeDht:
    """Takes announcements, unless it is down."""

    def __init__(self) -> None:
        self.batches: list[list[Announcement]] = []
        self.keepers = 5
        self.down = False
        self.tries = 0
        self.refused: set[bytes] = set()
        """Segments that no keeper takes."""

    async def announce_each(self, announcements: Sequence[Announcement]) -> list[int]:
        self.tries += 1
        if self.down:
            raise PeerError("nobody there")
        self.batches.append(list(announcements))
        return [0 if a.segment in self.refused else self.keepers for a in announcements]

    @property
    def segments(self) -> list[bytes]:
        return [a.segment for batch in self.batches for a in batch]


class FakeStore:
    """Held shards with their rosters."""

    def __init__(self) -> None:
        self.held: dict[bytes, Held] = {}
        self.rosters: dict[bytes, list[bytes]] = {}
        self.heads: list[tuple[bytes, bytes]] = []

    def hold(self, made: HandMade, index: int, others: Sequence[int] = ()) -> Held:
        """Shard `index` here; node i holds shard i for the others."""
        held = Held(made.segment_id, index, made.descriptor, 0)
        self.held[made.segment_id] = held
        entries = [made.entry(NETWORK.key(100 + i), i) for i in others]
        self.rosters[made.segment_id] = [*entries, made.entry(ME, index)]
        return held

    async def segments(self, after: bytes = b"", limit: int = 1000) -> list[Held]:
        return [self.held[s] for s in sorted(self.held) if s > after][:limit]

    async def roster(self, segment_id: bytes) -> list[bytes]:
        return self.rosters[segment_id]

    async def datasets(self, after: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]]:
        return sorted(row for row in self.heads if row[0] > after)[:limit]

    def usage(self) -> Usage:
        return Usage(0, 0, 0, 0, len(self.held), 0)


class Fixture:
    def __init__(self, env: Env) -> None:
        self.env, self.dht, self.store = env, FakeDht(), FakeStore()
        self.away: set[bytes] = set()
        self.met: list[RosterEntry] = []
        self.announcer = Announcer(
            env,
            cast(ShardStore, self.store),
            cast(Dht, self.dht),
            node_id=bytes(20),
            node_key=ME.verify_key,
            alive=lambda key: key not in self.away,
            met=lambda entry, near: self.met.append(entry),
            period_s=43_200,
            tick_s=30,
            batch=4,
        )


def run(scenario: Callable[[Fixture], Awaitable[Any]], *, background: bool = True) -> None:
    with World(4) as world:
        fixture = Fixture(world.env("a"))

        async def main() -> None:
            task = asyncio.create_task(fixture.announcer.run()) if background else None
            await scenario(fixture)
            if task is not None:
                task.cancel()

        world.run(main())


def made(number: int, *, n: int = 12, with_entry: bool = False) -> HandMade:
    return HandMade(NETWORK.network_id, b"%d" % number, 2, n, with_entry=with_entry)


def entry(index: int, *, held: bool = True, node: int = 0) -> RosterEntry:
    return RosterEntry(bytes(32), index, NETWORK.key(200 + index + node).verify_key, 1, held)


def test_the_rank_counts_live_holders_of_distinct_lower_indices() -> None:
    held = Held(bytes(32), 9, made(1).descriptor, 0)
    entries = [entry(i) for i in range(12)] + [entry(3, node=50)]
    assert rank_of(held, entries, lambda _: True) == 9
    assert rank_of(held, entries, lambda key: key != entries[5].node) == 8
    assert rank_of(held, entries, lambda key: key != entries[3].node) == 9, "3 has another holder"
    assert rank_of(held, [entry(2, held=False)], lambda _: True) == 0
    assert rank_of(held, [], lambda _: True) == 0


def test_the_locators_of_a_segment() -> None:
    plain, ending = made(1), made(1, with_entry=True)
    assert ending.descriptor.entry is not None
    held = Held(bytes(32), 0, plain.descriptor, 0)
    assert locators_of(held, []) == [plain.descriptor.placement_key]
    held = Held(bytes(32), 0, ending.descriptor, 0)
    assert locators_of(held, [bytes(32)]) == [
        ending.descriptor.placement_key,
        ending.descriptor.entry.locator,
        head_locator(bytes(32)),
    ]


def test_everything_held_is_announced_after_a_start_and_then_twice_a_day() -> None:
    async def scenario(fixture: Fixture) -> None:
        for number in range(10):
            fixture.store.hold(made(number), number % 12, range(number % 12))
        await asyncio.sleep(600)
        expected = sorted(made(n).segment_id for n in range(10) if n < ANNOUNCERS)
        assert sorted(fixture.dht.segments) == expected
        fixture.dht.batches.clear()
        await asyncio.sleep(5 * 86_400)
        counts = {s: fixture.dht.segments.count(s) for s in expected}
        assert all(8 <= count <= 13 for count in counts.values()), counts
        assert set(fixture.dht.segments) == set(expected)

    run(scenario)


def test_no_announcement_lapses_before_the_next() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.store.hold(made(1), 0)
        for _ in range(40):
            await asyncio.sleep(6 * 3600)
            assert fixture.dht.batches[-1][0].expires > fixture.env.utc() + 2 * 3600
            assert fixture.dht.batches[-1][0].expires <= fixture.env.utc() + 86_400

    run(scenario)


def test_a_new_shard_is_announced_within_moments_in_one_go() -> None:
    async def scenario(fixture: Fixture) -> None:
        await asyncio.sleep(100)
        for number in range(3):
            fixture.announcer.committed(fixture.store.hold(made(number), number))
        fixture.announcer.committed(fixture.store.hold(made(3), ANNOUNCERS))
        await asyncio.sleep(2)
        assert [len(batch) for batch in fixture.dht.batches] == [3]

    run(scenario)


def test_what_is_asked_for_soon_after_its_commit_is_announced_once() -> None:
    """As a put does that is soon done: commit, head, announce."""

    async def scenario(fixture: Fixture) -> None:
        for number in range(20):
            await asyncio.sleep(100)
            held = fixture.store.hold(made(number), 0)
            fixture.announcer.committed(held)
            await asyncio.sleep(GATHER_S / 2)
            fixture.announcer.committed(held)
            assert await fixture.announcer.announce_asked([held]) == 5
        await asyncio.sleep(100)
        assert [len(batch) for batch in fixture.dht.batches] == [1] * 20

    run(scenario)


def test_who_follows_takes_over_when_holders_go_away_and_steps_back_when_they_return() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.store.hold(made(1), 9, range(9))
        await asyncio.sleep(1000)
        assert fixture.dht.batches == []
        fixture.away = {NETWORK.key(100 + i).verify_key for i in (2, 5)}
        fixture.announcer.holders_changed()
        await asyncio.sleep(100)
        assert fixture.dht.segments == [made(1).segment_id]
        fixture.away.clear()
        fixture.announcer.holders_changed()
        await asyncio.sleep(2 * 86_400)
        assert len(fixture.dht.segments) == 1

    run(scenario)


def test_a_change_in_the_middle_of_a_pass_reaches_the_segments_behind_it_too() -> None:
    async def scenario(fixture: Fixture) -> None:
        for number in range(12):
            fixture.store.hold(made(number), 8, range(8))
        await fixture.announcer.step()
        await fixture.announcer.step()
        fixture.away = {NETWORK.key(100).verify_key}
        fixture.announcer.holders_changed()
        for _ in range(6):
            await fixture.announcer.step()
        assert sorted(fixture.dht.segments) == sorted(made(n).segment_id for n in range(12))

    run(scenario, background=False)


def test_a_silent_network_is_tried_again() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.dht.down = True
        fixture.store.hold(made(1), 0)
        fixture.announcer.committed(fixture.store.hold(made(2), 1))
        await asyncio.sleep(300)
        fixture.dht.down = False
        fixture.dht.keepers = 0
        await asyncio.sleep(300)
        fixture.dht.keepers = 3
        fixture.dht.batches.clear()
        await asyncio.sleep(300)
        assert set(fixture.dht.segments) == {made(1).segment_id, made(2).segment_id}

    run(scenario)


def test_a_segment_that_nobody_takes_keeps_no_other_one_waiting() -> None:
    async def scenario(fixture: Fixture) -> None:
        segments = sorted(made(n).segment_id for n in range(12))
        for number in range(12):
            fixture.store.hold(made(number), 0)
        fixture.dht.refused = {segments[0]}
        await asyncio.sleep(3600)
        assert set(fixture.dht.segments) == set(segments)
        counts = [fixture.dht.segments.count(s) for s in segments[1:]]
        assert max(counts) == 1, "and they are not announced again because of it"
        assert fixture.announcer.statistics().announced == 11
        fixture.dht.refused.clear()
        fixture.dht.batches.clear()
        await asyncio.sleep(1800)
        assert set(fixture.dht.segments) == {segments[0]}
        fixture.dht.batches.clear()
        await asyncio.sleep(3600)
        assert not fixture.dht.batches, "then it is quiet"

    run(scenario)


def test_a_new_segment_that_nobody_takes_keeps_no_other_one_waiting() -> None:
    async def scenario(fixture: Fixture) -> None:
        await asyncio.sleep(100)
        held = [fixture.store.hold(made(number), 0) for number in range(6)]
        fixture.dht.refused = {held[0].segment_id}
        fixture.announcer.committed(held[0])
        await asyncio.sleep(10)
        for one in held[1:]:
            fixture.announcer.committed(one)
        await asyncio.sleep(10)
        assert {one.segment_id for one in held} == set(fixture.dht.segments)

    run(scenario)


def test_when_nobody_takes_anything_tries_become_rare_until_holders_come_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The evening of an office: normal, so no alarm; half a record's life of it is one."""

    def alarms() -> int:
        return sum(r.levelno >= logging.WARNING for r in caplog.records)

    async def scenario(fixture: Fixture) -> None:
        fixture.dht.keepers = 0
        fixture.announcer.committed(fixture.store.hold(made(1), 0))
        await asyncio.sleep(3 * 3600)
        before = fixture.dht.tries
        await asyncio.sleep(6 * 3600)
        hourly = (fixture.dht.tries - before) / 6
        assert 3 <= hourly <= 3 * 3600 / RETRY_MAX_S, (
            "a step tries twice: what is new, and its page"
        )
        assert alarms() == 0
        await asyncio.sleep(6 * 3600)
        assert alarms() == 1
        fixture.dht.keepers = 3
        fixture.dht.batches.clear()
        fixture.announcer.holders_changed()
        await asyncio.sleep(60)
        assert set(fixture.dht.segments) == {made(1).segment_id}
        await asyncio.sleep(60)
        fixture.dht.keepers = 0
        fixture.announcer.committed(fixture.store.hold(made(2), 0))
        await asyncio.sleep(3600)
        assert alarms() == 1, "a new stretch begins quietly"

    caplog.set_level(logging.INFO)
    run(scenario)


def test_what_was_announced_before_joining_is_announced_again() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.store.hold(made(1), 0)
        await asyncio.sleep(100)
        fixture.announcer.start_over()
        await asyncio.sleep(100)
        assert len(fixture.dht.batches) == 2

    run(scenario)


def test_peers_cannot_make_a_node_announce_without_pause() -> None:
    async def scenario(fixture: Fixture) -> None:
        held = [fixture.store.hold(made(number), 10) for number in range(2)]
        for _ in range(5):
            assert await fixture.announcer.announce_asked(held) == 5
        assert len(fixture.dht.batches) == 1
        await asyncio.sleep(61)
        await fixture.announcer.announce_asked(held)
        assert len(fixture.dht.batches) == 2
        fixture.dht.down = True
        await asyncio.sleep(61)
        with pytest.raises(PeerError):
            await fixture.announcer.announce_asked(held)
        assert await fixture.announcer.announce_asked([]) == 0

    run(scenario, background=False)


def test_a_new_head_is_announced_although_its_segment_was_lately() -> None:
    async def scenario(fixture: Fixture) -> None:
        one = made(1, with_entry=True)
        held = fixture.store.hold(one, 0)
        await fixture.announcer.announce_asked([held])
        fixture.store.heads.append((one.genesis.dataset_id, one.segment_id))
        fixture.announcer.committed(held)
        await fixture.announcer.announce_asked([held])
        keys = {a.key for a in fixture.dht.batches[-1]}
        assert head_locator(one.genesis.dataset_id) in keys
        assert len(keys) == 3

    run(scenario, background=False)


def test_other_holders_are_made_known() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.store.hold(made(1), 5, range(3))
        await fixture.announcer.step()
        assert {entry.index for entry in fixture.met} == {0, 1, 2}

    run(scenario, background=False)
