"""Liveness: who is asked when, and who counts as away."""

from __future__ import annotations

import asyncio
from typing import cast

from potsherd.errors import PeerError
from potsherd.node.habits import HOURS_PER_WEEK
from potsherd.node.liveness import PeerTable
from potsherd.node.peers import Heartbeats, PeerBook
from potsherd.node.store.care import Care
from potsherd.ports import Address
from potsherd.simulations.world import World

A, B, C = (bytes([i]) * 32 for i in range(3))
HERE, THERE = Address("10.0.0.1", 1), Address("10.0.0.2", 2)


def table(peers_max: int = 10) -> PeerTable:
    return PeerTable(interval_s=600, away_after_s=1800, peers_max=peers_max)


def test_a_new_peer_is_asked_at_once_and_nobody_starts_as_away() -> None:
    peers = table()
    peers.watch(A, 1000)
    assert peers.due(1000, 9) == [A]
    peers.failed(A, 1000 + 600, 0)
    peers.advance(1000 + 1799, 0, step_max_s=600)
    assert peers.alive(A, 1000 + 1799)
    peers.advance(1000 + 1800, 0, step_max_s=600)
    assert not peers.alive(A, 1000 + 1800)
    assert peers.alive(B, 10**9), "whoever is not watched gets the benefit of the doubt"


def test_traffic_saves_the_heartbeat() -> None:
    peers = table()
    peers.watch(A, 0)
    peers.seen(A, 500, 0)
    assert peers.due(1099, 9) == []
    assert peers.due(1100, 9) == [A]


def test_the_longest_silent_are_asked_first_and_only_so_many() -> None:
    peers = table()
    for at, key in ((30, A), (10, B), (20, C)):
        peers.watch(key, at)
        peers.seen(key, at, 0)
    assert peers.due(1000, 2) == [B, C]


def test_a_failed_heartbeat_is_not_repeated_before_the_interval() -> None:
    peers = table()
    peers.watch(A, 0, address=HERE)
    peers.failed(A, 5, 0)
    assert peers.due(100, 9) == []
    assert peers.address_of(A) is None


def test_coming_back_is_noticed() -> None:
    peers = table()
    peers.watch(A, 0)
    peers.failed(A, 1700, 0)
    peers.advance(1800, 0, step_max_s=600)
    assert peers.away(1800) == {A}
    assert peers.seen(A, 2000, 0, THERE) is True
    assert peers.proven(A)
    assert peers.seen(A, 2001, 0) is False
    peers.watch(B, 2001)
    assert not peers.proven(B)
    assert peers.seen(B, 2002, 0) is True, "the first sign of life is news too"
    assert peers.address_of(A) == THERE
    peers.advance(2002, 0, step_max_s=600)
    assert peers.counts(2002) == (2, 0, 0, 0, False)


def test_the_table_is_bounded_and_can_forget() -> None:
    peers = table(peers_max=2)
    assert peers.watch(A, 0)
    assert peers.watch(B, 0)
    assert not peers.watch(C, 0)
    assert peers.watch(A, 0, near=b"n" * 20)
    peers.keep_only([A])
    assert peers.watch(C, 0)
    assert peers.counts(0).watched == 2
    assert peers.near(A) == b"n" * 20


def test_names_that_never_answered_make_room() -> None:
    """Else anybody could fill the table with keys that nobody has."""
    peers = table(peers_max=2)
    peers.watch(A, 0)
    peers.watch(B, 0)
    peers.seen(B, 10, 0)
    peers.failed(A, 1000, 0)
    peers.advance(1000, 0, step_max_s=600)
    assert not peers.watch(C, 1000)
    peers.advance(3000, 0, step_max_s=600)
    assert peers.watch(C, 3000)
    assert not peers.watch(A, 3000)
    assert sorted(peers.due(10_000, 9)) == [B, C]


def test_a_hint_does_not_replace_where_a_node_was_met() -> None:
    peers = table()
    peers.watch(A, 0, address=HERE)
    peers.watch(A, 0, address=THERE)
    assert peers.address_of(A) == HERE


def test_availability_counts_once_an_interval_and_fades() -> None:
    peers = table()
    peers.watch(A, 0)
    assert peers.availability(A) == peers.availability(B) == 1.0
    for i in range(1000):
        peers.seen(A, i, 0)
    peers.failed(A, 1000, 0)
    assert peers.availability(A) == 1.0, "an absence counts when it is over"
    peers.seen(A, 1600, 0)
    assert 0.7 < peers.availability(A) < 0.9
    for i in range(10_000):
        peers.failed(A, 2000 + i, i % HOURS_PER_WEEK * 3600)
    peers.seen(A, 20_000, 0)
    assert peers.availability(A) < 0.01


def test_heartbeats_ask_find_and_tell() -> None:
    """A node that moved is found through its presence; one that is gone is told of once."""
    at = {A: HERE, B: HERE}
    changes: list[float] = []
    met: list[bytes] = []
    asked: list[tuple[bytes, Address]] = []

    async def ping(key: bytes, address: Address) -> float:
        asked.append((key, address))
        if at.get(key) != address:
            await asyncio.sleep(3)
            raise PeerError("silent")
        return 0.1

    async def find(key: bytes, near: bytes) -> Address | None:
        return at.get(key)

    with World(1) as world:
        env = world.env("a")
        peers = table()
        peers.watch(A, 0, address=HERE)
        peers.watch(B, 0, address=HERE)
        beats = Heartbeats(
            env,
            peers,
            ping=ping,
            find=find,
            changed=lambda: changes.append(env.monotonic()),
            met=met.append,
            contacts=list,
            tick_s=60,
            timeout_s=5,
            parallel=4,
        )

        async def scenario() -> None:
            task = asyncio.create_task(beats.run())
            await asyncio.sleep(1000)
            at[A] = THERE
            del at[B]
            await asyncio.sleep(4000)
            task.cancel()
            assert peers.address_of(A) == THERE
            assert peers.alive(A, env.monotonic())
            assert not peers.alive(B, env.monotonic())

        world.run(scenario())
    assert len(changes) == 1
    assert met == [A, B], "each told once: nobody was away and came back"
    assert 1800 < changes[0] < 1000 + 1800 + 700
    assert len(asked) < 5000 / 600 * 2 + 8


def test_a_hanging_ping_does_not_hold_up_the_others() -> None:
    async def ping(key: bytes, address: Address) -> float:
        if key == A:
            await asyncio.sleep(10**6)
        return 0.1

    async def find(key: bytes, near: bytes) -> Address | None:
        raise PeerError("nobody answers")

    with World(2) as world:
        env = world.env("a")
        peers = table()
        peers.watch(A, 0, address=HERE)
        peers.watch(B, 0, address=HERE)
        beats = Heartbeats(
            env,
            peers,
            ping=ping,
            find=find,
            changed=lambda: None,
            met=lambda _: None,
            contacts=list,
            tick_s=60,
            timeout_s=5,
            parallel=4,
        )

        async def scenario() -> None:
            await asyncio.sleep(1)
            await beats.step()
            assert env.monotonic() < 10
            assert peers.address_of(B) == HERE
            assert peers.due(env.monotonic(), 9) == []

        world.run(scenario())


class Shelf:
    """A store's care that keeps what it is given, and nothing else."""

    def __init__(self, counts: bytes) -> None:
        self.counts = counts

    async def watched(self) -> list[tuple[bytes, bytes]]:
        return []

    async def churn(self) -> bytes:
        return self.counts

    async def keep_churn(self, counts: bytes) -> None:
        self.counts = counts

    async def keep_watched(self, states: list[tuple[bytes, bytes]]) -> None:
        assert not states

    async def forget_watched(self, keys: list[bytes]) -> None:
        assert not keys


def test_counts_of_another_version_are_counted_anew_and_ours_go_on() -> None:
    with World(1) as world:
        env, care = world.env("a"), Shelf(bytes.fromhex("950101070809"))

        async def restarted() -> PeerTable:
            peers = table()
            book = PeerBook(env, peers, cast(Care, care), interval_s=600)
            await book.load()
            peers.advance(env.monotonic(), env.utc(), step_max_s=600)
            await asyncio.sleep(300)
            peers.advance(env.monotonic(), env.utc(), step_max_s=600)
            await book.save()
            return peers

        async def main() -> None:
            first = (await restarted()).churn
            assert (first.watched, first.gone) == (0, 0)
            assert (await restarted()).churn.observed == first.observed + 300

        world.run(main())
