"""Any k holders within reach are enough, however slow some are and whatever failed a moment ago."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from node_town import Town, in_town, push_one

from potsherd.errors import NotEnoughShards
from potsherd.node.reader import HEDGE_S, READ_TIMEOUT_S, Holder, SegmentReader
from potsherd.node.session import Session
from potsherd.node.testing import HandMade

K, N = 3, 7
SIZE = K * 4 * 32768
SLOW_BYTES_S = 50_000.0
"""A column takes 2.6 s: longer than a reader waits before it asks others as well."""


async def pushed(town: Town) -> HandMade:
    """A segment whose index i is on node i + 1; node 0 only lets clients in."""
    made = town.made(SIZE, k=K, n=N)
    async with await town.session() as session:
        for index in range(N):
            await push_one(session, made, index, town.key(index + 1))
    return made


def reader_of(town: Town, session: Session, made: HandMade) -> SegmentReader:
    holders = [Holder(i, town.key(i + 1), town.address(i + 1)) for i in range(N)]
    return SegmentReader.of(session, made.descriptor, holders)


def crash(town: Town, index: int) -> None:
    del town.nodes[index + 1]
    town.world.crash(town.name(index + 1))


@pytest.mark.parametrize(
    ("slow", "quick"),
    [((0, 2), (3,)), ((1,), (5, 6)), ((0, 1, 3), ()), ((2, 4, 6), ()), ((0, 1, 2), ())],
)
def test_a_late_piece_helps_to_rebuild_a_lost_one(
    slow: tuple[int, ...], quick: tuple[int, ...]
) -> None:
    """Pieces later than the hedge count as soon as they come, together with those asked in their place."""

    async def scenario(town: Town) -> None:
        made = await pushed(town)
        for index in range(N):
            if index in slow:
                town.world.bandwidth(town.name(index + 1), up_bytes_s=SLOW_BYTES_S)
            elif index not in quick:
                crash(town, index)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            assert bytes(await reader.read(0, SIZE)) == made.stream
            assert bytes(await reader.read(40_000, 100_000)) == made.stream[40_000:140_000]

    in_town(N + 1, scenario)


@pytest.mark.parametrize("alive", [(0, 1, 2), (1, 2, 5), (1, 5, 6)])
def test_who_failed_a_moment_ago_is_the_last_resort_for_its_own_piece_too(
    alive: tuple[int, ...],
) -> None:
    async def scenario(town: Town) -> None:
        made = await pushed(town)
        for index in set(range(N)) - set(alive):
            crash(town, index)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            reader.avoid(town.key(2), 60.0)
            assert bytes(await reader.read(0, SIZE)) == made.stream

    in_town(N + 1, scenario)


def test_nobody_is_asked_twice_by_a_read_that_cannot_succeed() -> None:
    """Holders of data pieces are dialled as often as the others; one without a chance comes to an end."""
    dials: Counter[str] = Counter()

    def count(operation: str, machine: str, host: str) -> None:
        if operation == "dial" and machine.startswith("client"):
            dials[host] += 1

    async def scenario(town: Town) -> None:
        made = await pushed(town)
        for index in (0, 1, 3, 4, 6):
            crash(town, index)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            town.world.net_fault = count
            with pytest.raises(NotEnoughShards, match="2 of its 7 pieces"):
                await reader.read(0, SIZE)
            town.world.net_fault = None

    in_town(N + 1, scenario)
    dead = {dials[Town.host(index + 1)] for index in (0, 1, 3, 4, 6)}
    assert len(dead) == 1, f"dials of the dead: {dials}"


@pytest.mark.parametrize("silent", [(0,), (1, 3), (0, 1, 2)])
def test_many_windows_wait_for_a_silent_holder_once(silent: tuple[int, ...]) -> None:
    """Machines that fall silent on a connection that stands: seen by their lateness, before it breaks.

    Those of data pieces are all found late at once, one of a parity piece when it is asked for the first time.
    """

    async def scenario(town: Town) -> None:
        made = await pushed(town)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            for index in range(N):  # connections to all
                await reader.peer(Holder(index, town.key(index + 1), town.address(index + 1)))
            for index in silent:
                town.world.unplug(town.name(index + 1))
            waits = 0
            for row in [0, 1, 2, 3] * 3:
                before = session.env.monotonic()
                start = row * K * 32768
                data = await reader.read(start, K * 32768)
                assert bytes(data) == made.stream[start : start + K * 32768]
                waits += session.env.monotonic() - before >= HEDGE_S
            assert waits == 1
        for index in silent:
            town.world.plug(town.name(index + 1))

    in_town(N + 1, scenario)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_slow_line_is_not_silence(at_once: int) -> None:
    """Pieces that take longer than READ_TIMEOUT_S arrive, and nothing is asked for twice meanwhile."""
    size = at_once * K * 22 * 32768

    async def scenario(town: Town) -> None:
        made = town.made(size, k=K, n=N)
        async with await town.session() as session:
            for index in range(N):
                await push_one(session, made, index, town.key(index + 1))
        for index in range(N):
            town.world.bandwidth(town.name(index + 1), up_bytes_s=25_000.0)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            for holder in (reader.holders[index][0] for index in range(N)):
                await reader.peer(holder)
            start, part = session.env.monotonic(), size // at_once
            found = await asyncio.gather(*(reader.read(i * part, part) for i in range(at_once)))
            assert b"".join(found) == made.stream
            assert session.env.monotonic() - start > READ_TIMEOUT_S
            assert reader.received == size

    in_town(N + 1, scenario)


def test_one_slow_holder_among_quick_ones_delays_nobody() -> None:
    async def scenario(town: Town) -> None:
        made = await pushed(town)
        town.world.bandwidth(town.name(1), up_bytes_s=5_000.0)
        async with await town.session() as session:
            reader = reader_of(town, session, made)
            for holder in (reader.holders[index][0] for index in range(N)):
                await reader.peer(holder)
            start = session.env.monotonic()
            assert bytes(await reader.read(0, SIZE)) == made.stream
            assert session.env.monotonic() - start < 2 * HEDGE_S

    in_town(N + 1, scenario)
