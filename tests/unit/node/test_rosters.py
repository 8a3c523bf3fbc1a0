"""Rosters: digests, counters, and what a node answers about itself."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError
from potsherd.node.records import RosterEntry
from potsherd.node.rosters import COUNTER_MAX, Rosters, next_counter, roster_digest
from potsherd.node.store import Held, ShardStore
from potsherd.node.store.types import ROSTER_MAX
from potsherd.node.testing import HandMade, seed_of
from potsherd.ports import Address, Env, Identity
from potsherd.simulations.world import World

NET = bytes(range(32))
ME = SigningKey(seed_of("me"))
OTHERS = [SigningKey(seed_of("other", i)) for i in range(4)]


def entry(node: int, index: int = 0, counter: int = 1, held: bool = True) -> RosterEntry:
    return RosterEntry(bytes(32), index, OTHERS[node].verify_key, counter, held)


def test_a_digest_is_of_the_set() -> None:
    entries = [entry(i, i) for i in range(4)]
    digest = roster_digest(entries)
    for seed in range(5):
        shuffled = random.Random(seed).sample(entries, 4)
        assert roster_digest(shuffled) == digest
    changed = [entries[:3], [*entries[:3], entry(3, 2)], [*entries[:3], entry(3, 3, held=False)]]
    changed.append([*entries[:3], entry(3, 3, 2)])
    assert len({digest, *map(roster_digest, changed)}) == 5


@given(st.none() | st.integers(0, COUNTER_MAX - 1), st.floats(-1e12, 1e12))
def test_a_counter_grows_whatever_the_clock_says(before: int | None, utc: float) -> None:
    counter = next_counter(before, utc)
    assert 0 <= counter <= COUNTER_MAX
    assert before is None or counter > before


def test_the_newer_entry_wins_after_the_index_was_lost() -> None:
    first = next_counter(None, 1_800_000_000)
    assert next_counter(None, 1_800_000_001) > first
    assert next_counter(first + 5, 1_700_000_000) == first + 6
    assert next_counter(7, 5e9) == 8, "a clock that has gone mad does not use the counters up"


class Book:
    """A store with one shard, in a world, and its rosters."""

    def __init__(self, env: Env, store: ShardStore) -> None:
        self.told: list[bytes] = []
        self.members: set[bytes] = set()
        self.gone: set[bytes] = set()
        identity = Identity(ME.seed, ME.verify_key, NET)

        def told(key: bytes, near: bytes, address: Address | None) -> None:
            self.told.append(key)

        async def came_up(held: Held, entries: Sequence[RosterEntry]) -> None:
            self.news += entries

        self.news: list[RosterEntry] = []
        self.store = store
        self.rosters = Rosters(
            env,
            store,
            identity,
            told=told,
            proven=lambda key: key in self.members,
            lost=lambda key: key in self.gone,
            came_up=came_up,
        )
        self.made = HandMade(NET, b"a segment of some bytes" * 20, 2, 4)

    async def take(self, index: int, now: float) -> bytes:
        """Commit a shard; our entry."""
        made = self.made
        ticket = made.ticket_for(now, index, ME.verify_key)
        stage = (await self.store.stage(ticket, index, b"member")).stage
        await self.store.append(stage, 0, made.shards[index])
        signed = await self.rosters.sign(made.segment_id, index)
        await self.store.commit(stage, made.descriptor.encode(), made.lease(now), signed)
        return signed


def with_book(scenario: object) -> None:
    with World(1) as world:
        env = world.env("a")

        async def play() -> None:
            store = await ShardStore.open(env, 2**28)
            await scenario(Book(env, store), env.utc())  # type: ignore[operator] # a coroutine function
            await store.close()

        world.run(play())


def test_what_others_say_about_us_is_answered_by_something_newer() -> None:
    async def scenario(book: Book, now: float) -> None:
        mine = RosterEntry.decode((await book.take(1, now))[64:])
        held = await book.store.held(book.made.segment_id)
        assert held is not None
        stale = book.made.entry(ME, 1, counter=mine.counter - 5)
        assert await book.rosters.merge(held, [(stale, None)]) == 0
        assert await book.rosters.own(held.segment_id) == (mine, mine_signed(book, mine))
        later = book.made.entry(ME, 3, counter=mine.counter + 9, held=False)
        await book.rosters.merge(held, [(later, None)])
        own = await book.rosters.own(held.segment_id)
        assert own is not None
        assert (own[0].index, own[0].held, own[0].counter) == (1, True, mine.counter + 10)
        assert await book.rosters.confirm(later) == own[1]
        assert book.told == []

    with_book(scenario)


def mine_signed(book: Book, entry: RosterEntry) -> bytes:
    return entry.signed(ME.sign, NET)


def test_a_shard_that_is_not_here_is_released_on_question() -> None:
    async def scenario(book: Book, now: float) -> None:
        said = book.made.entry(ME, 2, counter=2**31)
        newest = RosterEntry.decode((await book.rosters.confirm(said))[64:])
        assert (newest.index, newest.held, newest.counter) == (2, False, 2**31 + 1)
        released = book.made.entry(ME, 2, counter=5, held=False)
        assert await book.rosters.confirm(released) == released, "nothing new to say"
        with pytest.raises(IntegrityError):
            await book.rosters.confirm(book.made.entry(OTHERS[0], 2))
        forged = said[:-1] + bytes([said[-1] ^ 1])
        with pytest.raises(IntegrityError):
            await book.rosters.confirm(forged)

    with_book(scenario)


def test_invented_holders_do_not_fill_a_roster() -> None:
    async def scenario(book: Book, now: float) -> None:
        await book.take(1, now)
        held = await book.store.held(book.made.segment_id)
        assert held is not None
        book.members = {OTHERS[0].verify_key}
        await book.rosters.merge(held, [(book.made.entry(OTHERS[0], 0), None)])
        invented = [SigningKey(seed_of("invented", i)) for i in range(ROSTER_MAX)]
        hints = [(book.made.entry(key, 2), None) for key in invented]
        await book.rosters.merge(held, hints[: ROSTER_MAX - 2])
        assert len(await book.rosters.entries(held.segment_id)) == ROSTER_MAX
        await book.rosters.merge(held, [(book.made.entry(OTHERS[1], 3), None)])
        nodes = {e.node for e in await book.rosters.entries(held.segment_id)}
        assert nodes == {ME.verify_key, OTHERS[0].verify_key, OTHERS[1].verify_key}

    with_book(scenario)


def test_holders_of_long_ago_make_room_for_those_of_today() -> None:
    """A segment that outlives hundreds of its holders: all were members, most are long gone."""

    async def scenario(book: Book, now: float) -> None:
        await book.take(0, now)
        held = await book.store.held(book.made.segment_id)
        assert held is not None
        former = [SigningKey(seed_of("former", i)) for i in range(ROSTER_MAX - 1)]
        today = [SigningKey(seed_of("today", i)) for i in range(3)]
        book.members = {key.verify_key for key in (*former, *today)}
        book.gone = {key.verify_key for key in former[5:]}
        hints = [(book.made.entry(k, i % 4, counter=i + 1), None) for i, k in enumerate(former)]
        await book.rosters.merge(held, hints)
        assert len(await book.rosters.entries(held.segment_id)) == ROSTER_MAX
        fresh = [(book.made.entry(k, i, counter=10**6), None) for i, k in enumerate(today)]
        assert await book.rosters.merge(held, fresh) == 3
        kept = {entry.node for entry in await book.rosters.entries(held.segment_id)}
        assert kept >= {ME.verify_key, *(k.verify_key for k in (*former[:5], *today))}
        # those that were heard of longest ago have gone, and no more than had to
        assert kept.isdisjoint(k.verify_key for k in former[5:8])
        assert len(kept) == ROSTER_MAX

    with_book(scenario)


def test_only_what_is_new_comes_up() -> None:
    async def scenario(book: Book, now: float) -> None:
        await book.take(1, now)
        held = await book.store.held(book.made.segment_id)
        assert held is not None
        other = OTHERS[0]

        async def news(*args: int, held_there: bool = True) -> int:
            before = len(book.news)
            index, counter = args
            said = book.made.entry(other, index, counter=counter, held=held_there)
            await book.rosters.merge(held, [(said, None)])
            return len(book.news) - before

        assert await news(2, 5) == 1
        assert await news(2, 5) == 0, "known"
        assert await news(2, 9) == 0, "says the same again"
        assert await news(3, 8) == 0, "an older one"
        assert await news(3, 10) == 1, "another index"
        assert await news(3, 11, held_there=False) == 0, "a release"
        assert await news(3, 12) == 1, "again after a release"

    with_book(scenario)


def test_a_merge_looks_once_into_the_roster_and_writes_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after every put: all holders' entries, our own among them as it is kept here."""
    looks: list[bytes] = []
    before = ShardStore.roster

    async def roster(store: ShardStore, segment_id: bytes) -> list[bytes]:
        looks.append(segment_id)
        return await before(store, segment_id)

    async def scenario(book: Book, now: float) -> None:
        mine = await book.take(1, now)
        held = await book.store.held(book.made.segment_id)
        assert held is not None
        hints = [(book.made.entry(key, i), None) for i, key in zip((0, 2, 3), OTHERS, strict=False)]
        looks.clear()
        assert await book.rosters.merge(held, [*hints, (mine, None)]) == 3
        assert looks == [held.segment_id]
        assert sorted(await book.store.roster(held.segment_id)) == sorted(
            [mine, *(data for data, _ in hints)]
        )

    monkeypatch.setattr(ShardStore, "roster", roster)
    with_book(scenario)
