"""A stream against the other side at its worst: one that has a key of its own and then keeps to nothing.

`RawPeer` is written from the protocol's page alone, so what passes here is also a check of that page.
Every test ends with a look at what is left: no descriptor, nothing watched by the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_peer import RECORD_MAX, Direction, RawPeer
from stream_pairs import LONG, both, facing, identity, pattern, refused

from potsherd.errors import PeerError
from potsherd.node.real import sealing, streams, tls
from potsherd.node.real.sealing import OVERHEAD

# the greeting


@pytest.mark.parametrize("size", [0, 1, 32, 34, 16_384])
async def test_greeting_of_another_length_is_refused(size: int) -> None:
    async with facing() as (stream, raw):
        said = raw.in_tls((b"\x01" + bytes(20_000))[:size]) if size else raw_close_notify(raw)
        await raw.send(said + raw.ours.seal(b"x"))
        await refused(stream)


def raw_close_notify(raw: RawPeer) -> bytes:
    with contextlib.suppress(ssl.SSLWantReadError):
        raw.tls.unwrap()
    return raw.outgoing.read()


async def test_greeting_with_another_suite_is_refused() -> None:
    for suite in (0, 2, 255):
        async with facing() as (stream, raw):
            said = raw.in_tls(bytes([suite]) + raw.ours.key)
            await raw.send(said + raw.ours.seal(b"x"))
            await refused(stream, match="unknown way")


async def test_greeting_in_two_tls_records_is_refused() -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.in_tls(b"\x01" + raw.ours.key[:10]) + raw.in_tls(raw.ours.key[10:]))
        await raw.send(raw.ours.seal(b"x"))
        await refused(stream, match="unknown way")


async def test_records_without_a_greeting_are_refused() -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.ours.seal(b"hello"))
        await refused(stream, match="TLS")


async def test_second_greeting_is_refused() -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.greeting() + raw.greeting() + raw.ours.seal(b"x"))
        await refused(stream, match="too long")


async def test_greeting_changed_on_its_way_is_refused() -> None:
    async with facing() as (stream, raw):
        said = bytearray(raw.greeting())
        said[20] ^= 1
        await raw.send(bytes(said) + raw.ours.seal(b"x"))
        await refused(stream, match="broke off")


async def test_only_four_tls_records_may_come_before_the_greeting() -> None:
    """Tickets are such records: what a server of TLS says after the handshake."""
    for tickets, good in ((4, True), (5, False)):
        server = tls._context(identity(1), ssl.PROTOCOL_TLS_SERVER)
        server.num_tickets = tickets
        async with facing(server) as (stream, raw):
            await raw.send(raw.greeting() + raw.ours.seal(b"x"))
            if good:
                assert await stream.read_exactly(1) == b"x"
            else:
                await refused(stream, match="does not say")


async def test_who_never_greets_is_only_waited_for() -> None:
    async with facing() as (stream, raw):
        await stream.write(b"hello")
        assert await raw.read(5) == b"hello"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.read_exactly(1)
        raw.close()
        await refused(stream, match="ended early")


async def test_each_side_greets_with_its_first_bytes_and_once() -> None:
    async with facing() as (stream, raw):
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await loop.sock_recv(raw.sock, 1)
        for said in (b"one", b"two"):
            await stream.write(said)
        await raw.greeted()
        assert raw.theirs is not None
        assert [await raw.read_record(), await raw.read_record()] == [b"one", b"two"]
        assert raw.theirs.key != raw.ours.key


async def test_copied_machine_that_draws_the_same_numbers_has_other_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A virtual machine that was put back to an earlier state, say."""
    monkeypatch.setattr(os, "urandom", lambda size: b"4" * size)
    keys = set()
    for _ in range(2):
        async with facing() as (stream, raw):
            await stream.write(b"x")
            await raw.greeted()
            assert raw.theirs is not None
            keys.add(raw.theirs.key)
    assert len(keys) == 2


async def test_what_tls_was_needed_for_is_let_go_after_the_greeting() -> None:
    """23 KB a connection, and what session keys there are."""
    async with both() as (stream, other):
        await stream.write(b"a")
        await other.write(b"b")
        assert await stream.read_exactly(1) == b"b"
        assert await other.read_exactly(1) == b"a"
        assert stream._handshake is None
        assert other._handshake is None


# records


async def test_record_changed_anywhere_is_refused() -> None:
    for at in (0, 3, 4, 7, 8, 8 + 15):
        async with facing() as (stream, raw):
            record = bytearray(raw.ours.seal(b"good"))
            await raw.send(raw.greeting() + bytes(record))
            assert await stream.read_exactly(4) == b"good"
            record = bytearray(raw.ours.seal(b"evil"))
            record[at] ^= 4
            await raw.send(bytes(record) + bytes(RECORD_MAX))
            await refused(stream, 4, "changed on its way|too long")


async def test_records_dropped_repeated_or_exchanged_are_refused() -> None:
    for order in ((1,), (0, 0), (1, 0), (0, 2, 1)):
        async with facing() as (stream, raw):
            records = [raw.ours.seal(bytes([i])) for i in range(3)]
            await raw.send(raw.greeting() + b"".join(records[i] for i in order))
            good = [i for place, i in enumerate(order) if i == place]
            for i in good:
                assert await stream.read_exactly(1) == bytes([i])
            await refused(stream, match="changed on its way")


async def test_own_records_sent_back_are_refused() -> None:
    async with facing() as (stream, raw):
        await stream.write(b"said by us")
        await raw.greeted()
        record = await raw.receive(10 + OVERHEAD)
        await raw.send(raw.greeting() + record)
        await refused(stream, 10, "changed on its way")


async def test_record_longer_than_any_is_refused_by_its_first_bytes() -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.greeting() + (RECORD_MAX + 1).to_bytes(4, "big"))
        await refused(stream, match="too long")


async def test_longest_records_and_shortest_are_read() -> None:
    async with facing() as (stream, raw):
        data = pattern(RECORD_MAX)
        sending = asyncio.create_task(
            raw.send(raw.greeting() + b"".join(map(raw.ours.seal, (data, b"!", data, b"?"))))
        )
        assert await stream.read_exactly(2 * RECORD_MAX + 2) == data + b"!" + data + b"?"
        await sending


async def test_stream_goes_on_over_a_change_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "RECORDS_A_KEY", 3)
    async with facing() as (stream, raw):
        raw.ours = Direction(raw.ours.key, records_a_key=3)
        said = [bytes([i]) for i in range(11)]
        await raw.send(raw.greeting() + b"".join(map(raw.ours.seal, said)))
        assert await stream.read_exactly(11) == b"".join(said)
        for one in said:
            await stream.write(one)
        await raw.greeted()
        assert raw.theirs is not None
        raw.theirs.records_a_key = 3
        assert await raw.read(11) == b"".join(said)


# how bytes arrive


async def test_bytes_that_dribble_in_one_by_one_are_read() -> None:
    async with facing() as (stream, raw):
        said = raw.greeting() + b"".join(map(raw.ours.seal, (b"", b"a", b"bcd")[1:]))
        reading = asyncio.create_task(stream.read_exactly(4))
        for at in range(len(said)):
            await raw.send(said[at : at + 1])
            await asyncio.sleep(0)
        assert await reading == b"abcd"


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("more", [False, True])
async def test_many_records_of_one_byte_do_not_keep_the_loop(noticed: bool, more: bool) -> None:
    """A full buffer holds 25,000 of them; the loop gets its turn in between."""
    async with facing() as (stream, raw):
        count = 20_000
        opened = 0
        most = 0

        async def watch() -> None:
            nonlocal opened, most
            while True:
                there = stream._opener._records if stream._opener is not None else 0
                most, opened = max(most, there - opened), there
                await asyncio.sleep(0)

        said = raw.greeting() + b"".join(raw.ours.seal(b"x") for _ in range(count))
        await raw.send(said[: len(said) // 2])
        sending = asyncio.create_task(raw.send(said[len(said) // 2 :]))
        while stream._end < len(said):
            await asyncio.sleep(0.001)
        await sending
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        raw.close()  # the end must not overtake what is still to be opened
        while noticed and not stream._finished:
            await asyncio.sleep(0.001)
        if more:  # than there is
            with pytest.raises(PeerError, match="ended early"):
                await stream.read_exactly(count + 1)
        else:
            assert await stream.read_exactly(count) == b"x" * count
        watching.cancel()
        assert most <= 2 * streams.RECORDS_A_TURN < count
        await refused(stream, match="ended early")


async def test_stream_cut_anywhere_gives_what_is_whole_and_then_fails() -> None:
    cut = size = 0
    while cut <= size:
        async with facing() as (stream, raw):
            said = [raw.greeting(), raw.ours.seal(b"whole"), raw.ours.seal(b"torn")]
            size = sum(map(len, said))
            await raw.send(b"".join(said)[:cut])
            raw.close()
            if cut >= size - len(said[2]):
                assert await stream.read_exactly(5) == b"whole"
            if cut == size:
                assert await stream.read_exactly(4) == b"torn"
            await refused(stream, 4, "ended early")
        cut += 1


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "end"]),
        st.integers(0, 2000),
        st.binary(min_size=1, max_size=30),
    ),
    max_size=2,
)


def damaged(said: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, other in damage:
        at = place % (len(said) or 1)
        head, part, tail = said[:at], said[at : at + len(other)], said[at + len(other) :]
        if kind == "flip":
            part = bytes(a ^ b for a, b in zip(part, other, strict=False))
        elif kind == "cut":
            part = b""
        elif kind == "insert":
            part = other + part
        elif kind == "repeat":
            part += part
        else:
            part = tail = b""
        said = head + part + tail
    return said


@settings(max_examples=60, deadline=None)
@given(
    plains=st.lists(st.binary(min_size=1, max_size=60), max_size=8),
    damage=DAMAGE,
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    reads=st.lists(st.integers(1, 70), min_size=1, max_size=4),
)
def test_whatever_comes_a_reader_gets_what_was_said_or_an_error(
    plains: list[bytes], damage: list[tuple[str, int, bytes]], steps: list[int], reads: list[int]
) -> None:
    """Never other bytes, never another exception, never one in the loop."""

    async def send(raw: RawPeer) -> None:
        whole = raw.greeting() + b"".join(map(raw.ours.seal, plains))
        said = damaged(whole, damage)
        at = turn = 0
        while at < len(said):
            step = steps[turn % len(steps)]
            with contextlib.suppress(ConnectionError):
                await raw.send(said[at : at + step])
            at, turn = at + step, turn + 1
            await asyncio.sleep(0)
        raw.close()

    async def scenario() -> bytes:
        async with facing() as (stream, raw):
            sending = asyncio.create_task(send(raw))
            found = b""
            with pytest.raises(PeerError):
                for turn in range(1000):
                    found += await stream.read_exactly(reads[turn % len(reads)])
            await refused(stream)
            await sending
            return found

    with asyncio.Runner() as runner:
        found = runner.run(scenario())
    expected = b"".join(plains)
    assert expected.startswith(found)
    if not damage:
        assert len(expected) - len(found) < max(reads)


async def test_what_came_before_the_end_is_read_after_it() -> None:
    async with facing() as (stream, raw):
        said = pattern(200_000)
        await raw.send(raw.greeting() + raw.ours.seal(said) + raw.ours.seal(b""))
        raw.close()
        while not stream._finished:
            await asyncio.sleep(0.001)
        with pytest.raises(PeerError, match="ended early"):
            await stream.write(b"anybody?")
        assert await stream.read_exactly(100_000) + await stream.read_exactly(100_000) == said
        await refused(stream, match="ended early")


async def test_nothing_counts_after_the_end_record() -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.greeting() + b"".join(map(raw.ours.seal, (b"a", b"", b"b"))))
        assert await stream.read_exactly(1) == b"a"
        await refused(stream, match="ended early")
        await stream.close()


async def test_reading_goes_on_after_the_buffer_was_full() -> None:
    async with facing() as (stream, raw):
        said = pattern(LONG)
        whole = raw.greeting() + b"".join(
            raw.ours.seal(said[at : at + 70_001]) for at in range(0, LONG, 70_001)
        )
        sending = asyncio.create_task(raw.send(whole))
        while stream._watching:
            await asyncio.sleep(0.001)
        assert stream._end == streams.BUFFER_BYTES
        await asyncio.sleep(0.05)
        assert not sending.done()  # TCP slows the peer down
        found = bytearray(LONG)
        at = 0
        for step in (1, 3, 300_000, 17, 262_144, 70_001, LONG):
            part = memoryview(found)[at : at + step]
            await stream.read_into(part)
            at += part.nbytes
        assert found == said
        await sending


@pytest.mark.parametrize("there", [0, 1, 2, 3, 4, 5, 19])
async def test_record_that_begins_at_the_very_end_of_the_buffer_is_read(there: int) -> None:
    """So many bytes of it fit when everything before it waits for a reader."""
    async with facing() as (stream, raw):
        greeting = raw.greeting()
        plains = [bytes(200_000), bytes(200_000)]
        before = len(greeting) + 400_000 + 3 * OVERHEAD
        plains.append(bytes(streams.BUFFER_BYTES - there - before))
        plains.append(b"last")
        said = pattern(sum(map(len, plains[:3]))) + b"last"
        at, whole = 0, greeting
        for plain in plains:
            whole += raw.ours.seal(said[at : at + len(plain)])
            at += len(plain)
        sending = asyncio.create_task(raw.send(whole))
        while stream._end < streams.BUFFER_BYTES:
            await asyncio.sleep(0.001)
        assert await stream.read_exactly(len(said) - 4) == said[:-4]
        assert await stream.read_exactly(4) == b"last"
        await sending


@pytest.mark.parametrize("into", [False, True])
async def test_streams_that_have_read_everything_hold_nothing(into: bool) -> None:
    async with facing() as (stream, raw):
        await raw.send(raw.greeting() + raw.ours.seal(bytes(RECORD_MAX)))
        for _ in range(4):  # less than a record at a time, so that it is not opened in place
            if into:
                await stream.read_into(memoryview(bytearray(RECORD_MAX // 4)))
            else:
                await stream.read_exactly(RECORD_MAX // 4)
        assert stream._buffer is None
        assert stream._plain is streams._NOTHING
        raw.close()
        while not stream._finished:
            await asyncio.sleep(0.001)
        assert stream._buffer is None


async def test_memory_is_bounded_whatever_comes_and_goes() -> None:
    async with facing() as (stream, raw):
        record = RECORD_MAX * b"x"
        await raw.send(raw.greeting())
        tracemalloc.start()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        await raw.send(raw.ours.seal(record))
            await stream.read_exactly(1)
            stuck = asyncio.create_task(stream.write(bytes(1 << 20), bytes(1 << 20)))
            await asyncio.sleep(0.1)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(20):
                await stream.read_exactly(1)
            assert tracemalloc.get_traced_memory()[1] - before < RECORD_MAX
            stuck.cancel()
        finally:
            tracemalloc.stop()
        held = (stream._end - stream._start) + stream._plain.nbytes
        assert held <= streams.BUFFER_BYTES + RECORD_MAX
