"""Waiting for who may be slow: what comes counts, not the time it takes."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from potsherd.errors import PeerError
from potsherd.node.patience import SLOWEST_BYTES_S, one_succeeds, time_for, while_it_comes
from potsherd.simulations.world.loop import VirtualLoop

SILENCE_S = 20.0


def waited(rates: list[float]) -> tuple[float, bool]:
    """Seconds until the wait ended, with so many bytes a second in each of the seconds; whether all came."""

    async def scenario() -> tuple[float, bool]:
        loop, came = asyncio.get_running_loop(), 0.0
        start = loop.time()
        try:
            async with while_it_comes(lambda: int(came), SILENCE_S):
                for rate in rates:
                    await asyncio.sleep(1)
                    came += rate
        except TimeoutError:
            return loop.time() - start, False
        return loop.time() - start, True

    return VirtualLoop().run_until_complete(scenario())


def test_who_says_nothing_is_given_up_in_time() -> None:
    assert waited([0.0] * 100) == (SILENCE_S, False)


def test_who_is_slow_is_waited_for() -> None:
    assert waited([1.01 * SLOWEST_BYTES_S] * 1000) == (1000.0, True)


def test_who_sends_a_trickle_is_given_up() -> None:
    seconds, done = waited([0.7 * SLOWEST_BYTES_S] * 1000)
    assert not done
    assert seconds <= 2.5 * SILENCE_S


@pytest.mark.parametrize("begin", [1, 7, 30])
def test_who_falls_silent_later_is_given_up_as_soon(begin: int) -> None:
    quick = 100.0 * SLOWEST_BYTES_S
    seconds, done = waited([quick] * begin + [0.0] * 100)
    assert not done
    assert begin + SILENCE_S <= seconds <= begin + 1.25 * SILENCE_S + 1


def test_a_new_connection_begins_at_nothing() -> None:
    """Fewer bytes than before: those of another connection, which count from there."""
    assert waited(
        [
            50 * SLOWEST_BYTES_S,
            *([0.0] * 8),
            -50 * SLOWEST_BYTES_S,
            *([2.0 * SLOWEST_BYTES_S] * 100),
        ]
    )[1]


def test_an_error_inside_ends_it() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="mine"):
            async with while_it_comes(lambda: 0, SILENCE_S):
                raise ValueError("mine")
        await asyncio.sleep(3 * SILENCE_S)  # no timer is left that would end somebody else's wait

    VirtualLoop().run_until_complete(scenario())


def test_a_payload_gets_time_of_its_own() -> None:
    assert time_for(0, 60.0) == 60.0
    assert time_for(4 * 2**20, 60.0) == 60.0 + 512


class _Answer:
    """Can be referred to weakly."""


async def test_what_was_waited_for_is_freed_without_a_collection_of_garbage() -> None:
    """A verify of 1 GiB took 1.1 GB of memory: each window's columns stayed in a cycle with its waiting."""

    async def ask() -> _Answer:
        async with while_it_comes(lambda: 0, SILENCE_S):
            await asyncio.sleep(0)
            return _Answer()

    gc.collect()
    gc.disable()
    try:
        found = await asyncio.gather(ask(), ask())
        alive = [weakref.ref(answer) for answer in found]
        del found
        await asyncio.sleep(0)
        assert [answer() for answer in alive] == [None, None]
    finally:
        gc.enable()


def tried(outcomes: list[tuple[float, bool]]) -> tuple[bool, float, list[int], list[int]]:
    """Three at once, 1 s of patience, attempts that end after (seconds, well): outcome, time, begun, broken off."""
    begun: list[int] = []
    broken: list[int] = []

    async def attempt(number: int) -> None:
        begun.append(number)
        seconds, well = outcomes[number]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            broken.append(number)
            raise
        if not well:
            raise PeerError("no")

    async def scenario() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        attempts = [lambda number=number: attempt(number) for number in range(len(outcomes))]
        found = await one_succeeds(attempts, at_once=3, pause_s=1.0)
        return found, loop.time()

    return *VirtualLoop().run_until_complete(scenario()), begun, broken


def test_while_one_of_the_first_answers_nobody_else_is_asked() -> None:
    assert tried([(0.5, True), (0.6, True), (0.7, True), (0.1, True)]) == (
        True,
        0.5,
        [0, 1, 2],
        [1, 2],
    )


def test_for_each_that_fails_one_more_is_asked() -> None:
    found, when, begun, broken = tried(
        [(0.1, False), (0.9, True), (0.2, False), *[(0.5, True)] * 5]
    )
    assert (found, begun, broken) == (True, [0, 1, 2, 3, 4], [1, 4])
    assert when == pytest.approx(0.6)


def test_when_nobody_answers_in_time_all_are_asked() -> None:
    found, when, begun, _ = tried([*[(60.0, True)] * 6, (0.5, True)])
    assert (found, when, begun) == (True, 1.5, list(range(7)))


def test_when_all_fail_it_has_failed() -> None:
    assert tried([(2.0, False)] * 7)[:2] == (False, 3.0)
    assert tried([])[:2] == (False, 0.0)
