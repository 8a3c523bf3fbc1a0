"""Reads, writes and closes of a stream that are broken off, by either side; and any sizes of both."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raw_peer import RECORD_MAX, RawPeer
from stream_pairs import LONG, both, facing, left_over, pattern, refused

from potsherd.errors import PeerError
from potsherd.node.real import streams
from potsherd.node.real.streams import SealedStream

# reading and writing, broken off


async def test_cancelled_read_touches_its_memory_no_more() -> None:
    async with facing() as (stream, raw):
        memory = bytearray(4)
        reading = asyncio.create_task(stream.read_into(memoryview(memory)))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await raw.send(raw.greeting() + raw.ours.seal(b"data"))
        assert await stream.read_exactly(4) == b"data"
        assert memory == bytes(4)


async def test_two_readers_are_a_mistake() -> None:
    async with facing() as (stream, raw):
        reading = asyncio.create_task(stream.read_exactly(2))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await stream.read_exactly(1)
        await raw.send(raw.greeting() + raw.ours.seal(b"ok"))
        assert await reading == b"ok"


async def test_two_writers_are_a_mistake_that_harms_neither_stream_nor_writer() -> None:
    async with facing() as (stream, raw):
        said = pattern(LONG)
        writing = asyncio.create_task(stream.write(said))
        await asyncio.sleep(0.05)
        assert not writing.done()
        with pytest.raises(RuntimeError):
            await stream.write(b"me too")
        assert await raw.read(LONG) == said
        await writing
        await stream.write(b"now")
        assert await raw.read(3) == b"now"


async def test_no_orderly_end_follows_a_write_that_was_broken_off() -> None:
    """Else half a message, with an end that is sealed, would pass for all there was."""
    for cancels in (True, False):
        async with facing() as (stream, raw):
            writing = asyncio.create_task(stream.write(pattern(LONG)))
            await asyncio.sleep(0.05)
            if cancels:
                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
                with pytest.raises(PeerError):
                    await stream.write(b"more")
            closing = asyncio.create_task(stream.close())
            await assert_torn(raw, pattern(LONG))
            raw.close()
            await closing
            if not cancels:
                with pytest.raises(PeerError, match="closed here"):
                    await writing


async def assert_torn(raw: RawPeer, said: bytes) -> None:
    """What comes is the beginning of this, and no end record."""
    await raw.greeted()
    assert raw.theirs is not None
    at = 0
    while True:
        expected = raw.theirs.seal(said[at : at + RECORD_MAX])
        found = b""
        while len(found) < len(expected):
            part = await asyncio.get_running_loop().sock_recv(raw.sock, len(expected) - len(found))
            if not part:
                assert expected.startswith(found)
                assert at < len(said)
                return
            found += part
        assert found == expected
        at += RECORD_MAX


async def test_write_that_waits_is_ended_by_abort() -> None:
    for _ in range(2):
        async with facing() as (stream, raw):
            writing = asyncio.create_task(stream.write(bytes(LONG)))
            await asyncio.sleep(0.05)
            before = left_over()
            stream.abort()
            assert left_over()[0] == before[0] - 1
            with pytest.raises(PeerError, match="aborted here"):
                await writing
            await refused(stream, match="aborted here")
            assert not await raw.ended() or raw.theirs is None


async def test_write_that_waits_is_ended_by_the_peers_end() -> None:
    async with facing() as (stream, raw):
        writing = asyncio.create_task(stream.write(bytes(LONG)))
        await asyncio.sleep(0.05)
        raw.close()
        with pytest.raises(PeerError):
            await writing


async def test_buffers_of_broken_writes_serve_others_unharmed() -> None:
    async with both() as (stream, other), facing() as (blocked, _):
        writing = asyncio.create_task(blocked.write(bytes(LONG)))
        await asyncio.sleep(0.05)
        blocked.abort()
        said = pattern(LONG)
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.write(said))
            reading = group.create_task(other.read_exactly(LONG))
        assert reading.result() == said
        with pytest.raises(PeerError):
            await writing


# closing


async def test_close_says_so_in_a_record_and_waits_for_the_other_side() -> None:
    async with facing() as (stream, raw):
        await stream.write(b"last")
        closing = asyncio.create_task(stream.close())
        assert [await raw.read_record(), await raw.read_record()] == [b"last", b""]
        assert await raw.ended()
        assert not closing.done()
        before = stream.received
        await raw.send(raw.greeting() + raw.ours.seal(bytes(RECORD_MAX)))  # discarded
        while stream.received - before < RECORD_MAX:
            await asyncio.sleep(0.001)
        assert stream._buffer is None
        raw.close()
        await closing
        await refused(stream, match="closed here")


async def test_close_of_a_stream_that_never_said_anything_greets_and_ends() -> None:
    async with facing() as (stream, raw):
        closing = asyncio.create_task(stream.close())
        assert await raw.read_record() == b""
        raw.close()
        await closing


async def test_close_gives_up_on_a_peer_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "CLOSE_TIMEOUT_S", 0.1)
    async with facing() as (stream, raw):
        await stream.write(b"x")
        await asyncio.gather(stream.close(), stream.close())  # it never ends its side
        assert stream._shut
        await stream.close()
        raw.close()
    async with facing() as (stream, raw):
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.05):
                    await stream.write(bytes(1000))
        stream._torn = False  # as though the kernel had been full right after a write
        await stream.close()
        assert stream._shut


async def test_cancelled_close_aborts() -> None:
    async with facing() as (stream, _):
        closing = asyncio.create_task(stream.close())
        await asyncio.sleep(0.02)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert stream._shut


async def test_abort_ends_a_close_that_waits() -> None:
    async with facing() as (stream, _):
        closing = asyncio.create_task(stream.close())
        await asyncio.sleep(0.02)
        stream.abort()
        await closing


async def test_close_ends_a_read_that_waits() -> None:
    async with facing() as (stream, raw):
        reading = asyncio.create_task(stream.read_exactly(1))
        await asyncio.sleep(0)
        closing = asyncio.create_task(stream.close())
        with pytest.raises(PeerError, match="closed here"):
            await reading
        raw.close()
        await closing


async def test_both_sides_may_close_at_once_with_much_unread() -> None:
    async with both() as (stream, other):
        await asyncio.gather(stream.write(bytes(100_000)), other.write(bytes(100_000)))
        await asyncio.gather(stream.close(), other.close())


# any sizes, in any order


def loops() -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    yield asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        yield importlib.import_module("uvloop").new_event_loop


@functools.cache
def some_book() -> bytes:
    return pattern(701_009)


SIZES = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.integers(16_380, 16_390),
        st.integers(RECORD_MAX - 2, RECORD_MAX + 2),
        st.integers(0, 700_000),
    ),
    max_size=5,
)


@pytest.mark.parametrize("new_loop", list(loops()), ids=lambda new: new.__module__)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(writes=[[0, 262_142]], reads=[], pauses=0)
@given(writes=st.lists(SIZES, max_size=5), reads=SIZES, pauses=st.integers(0, 7))
def test_any_writes_are_read_by_any_reads(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    writes: list[list[int]],
    reads: list[int],
    pauses: int,
) -> None:
    book = some_book()
    said = [[book[size % 1009 :][:size] for size in sizes] for sizes in writes]
    whole = b"".join(part for parts in said for part in parts)

    async def scenario() -> None:
        async with both() as (stream, other):
            await asyncio.gather(
                write_and_close(stream, said), read_all(other, whole, reads, pauses)
            )

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(scenario())


async def write_and_close(stream: SealedStream, said: list[list[bytes]]) -> None:
    for parts in said:
        await stream.write(*parts)
    await stream.close()


async def read_all(stream: SealedStream, whole: bytes, reads: list[int], pauses: int) -> None:
    at = turn = 0
    while at < len(whole):
        step = reads[turn % len(reads)] if reads else 333_333
        step = min(step if turn % 97 else 50_000, len(whole) - at)  # also when all are 0
        if turn % 8 < pauses:
            await asyncio.sleep(0)
        if turn % 2:
            assert await stream.read_exactly(step) == whole[at : at + step]
        else:
            part = bytearray(step)
            await stream.read_into(memoryview(part))
            assert part == whole[at : at + step]
        at += step
        turn += 1
    await refused(stream, match="ended early")
    await stream.close()
