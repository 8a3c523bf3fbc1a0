"""Frames on virtual streams: what a peer may do to us, and what it may not."""

from __future__ import annotations

import asyncio
import gc
import struct
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pytest

from potsherd import errors
from potsherd.crypto.signing import SigningKey
from potsherd.errors import LimitError, PeerError, PotsherdError, QuotaError
from potsherd.node import records
from potsherd.node.records import PAYLOAD_MAX, READ_MAX, Failure
from potsherd.node.rpc import (
    ABANDONED_MAX,
    HEADER_MAX,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_MAX,
    METHODS,
    Answer,
    Caller,
    Envelope,
    Handle,
    Methods,
    Request,
    Responder,
    Work,
    error_of,
    failure_of,
)
from potsherd.ports import Address, Identity, Stream
from potsherd.simulations.world import World

T = TypeVar("T")
HELLO = records.Hello(1, b"")
QUERY = records.SegmentQuery(bytes(32))


def identity(number: int) -> Identity:
    key = SigningKey(bytes([number]) * 32)
    return Identity(key.seed, key.verify_key, bytes(32))


def run(
    accept: Callable[[Stream], Awaitable[None]],
    scenario: Callable[[Stream], Coroutine[Any, Any, T]],
) -> T:
    """`accept` serves on one machine, `scenario` is given a stream to it on another."""
    with World(11) as world:

        async def main() -> T:
            listener = await world.env("b").net.listen(
                Address("10.0.1.1", 4800), identity(2), accept
            )
            stream = await world.env("a").net.dial(
                listener.address, identity(1), identity(2).key, timeout_s=5
            )
            return await scenario(stream)

        world.env("a", "10.0.0.1")
        world.env("b", "10.0.1.1")
        return world.run(main(), time_max_s=3600)


def serving(handle: Handle) -> Callable[[Stream], Awaitable[None]]:
    async def accept(stream: Stream) -> None:
        await Responder(stream).serve(handle)

    return accept


def handler(answer: Callable[[Request], Awaitable[Answer]]) -> Handle:
    def prepare(request: Request) -> Work:
        return partial(answer, request)

    return prepare


async def echo(request: Request) -> Answer:
    if request.method is Methods.PUSH:
        return records.Done(), ()
    read = records.Read.decode(request.body)
    return records.ReadProofs((b"",)), (bytes([read.index]) * 10, b"tail")


def started(stream: Stream) -> Caller:
    caller = Caller(stream)
    caller.start()
    return caller


def ended(caller: Caller) -> bool:
    return caller.broken is not None


def read_body(index: int) -> records.Read:
    return records.Read(bytes(32), index, ((0, 1),))


def test_answers_reach_the_call_that_asked_in_whatever_order_they_come() -> None:
    async def backwards(request: Request) -> Answer:
        await asyncio.sleep(10 - records.Read.decode(request.body).index)
        return await echo(request)

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        calls = [
            asyncio.ensure_future(caller.call(Methods.READ, read_body(i), payload_max=100))
            for i in range(10)
        ]
        for i, response in enumerate(await asyncio.gather(*calls)):
            assert bytes(response.payload) == bytes([i]) * 10 + b"tail"
        await caller.close()

    run(serving(handler(backwards)), scenario)


def test_a_payload_of_several_buffers_arrives_as_one() -> None:
    got: list[bytes] = []

    async def keep(request: Request) -> Answer:
        got.append(bytes(request.payload))
        return records.Done(), ()

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        whole = bytearray(PAYLOAD_MAX)
        whole[:3] = b"abc"
        await caller.call(Methods.PUSH, records.Push(1, 0), b"one", memoryview(b"two"))
        await caller.call(Methods.PUSH, records.Push(1, 6), whole)
        with pytest.raises(LimitError):
            await caller.call(Methods.PUSH, records.Push(1, 6), whole, b"+")
        assert got == [b"onetwo", bytes(whole)]
        await caller.close()

    run(serving(handler(keep)), scenario)


def test_the_listener_works_on_a_bounded_number_of_requests() -> None:
    most = now = 0

    async def slow(request: Request) -> Answer:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1
        return records.Done(), ()

    async def scenario(stream: Stream) -> None:
        # without Caller, which would keep to the bound by itself
        frames = b"".join(
            frame(Envelope(0, i, Methods.PUSH.number, records.Push(1, 0).encode()))
            for i in range(3 * IN_FLIGHT_MAX)
        )
        await stream.write(frames)
        for _ in range(3 * IN_FLIGHT_MAX):
            header_size, _ = struct.unpack(">II", await stream.read_exactly(8))
            await stream.read_exactly(header_size)

    run(serving(handler(slow)), scenario)
    assert most == IN_FLIGHT_MAX


def test_the_dialler_keeps_a_bounded_number_of_requests_in_flight() -> None:
    async def slow(request: Request) -> Answer:
        await asyncio.sleep(1)
        return records.Done(), ()

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        calls = [
            asyncio.ensure_future(caller.call(Methods.PUSH, records.Push(1, i)))
            for i in range(2 * IN_FLIGHT_MAX)
        ]
        await asyncio.sleep(0.5)
        assert caller.in_flight == IN_FLIGHT_MAX
        await asyncio.gather(*calls)
        await caller.close()

    run(serving(handler(slow)), scenario)


def test_payloads_that_wait_are_bounded_in_bytes() -> None:
    """A slow disk must not turn a fast peer into memory."""
    held = most = 0

    async def slow(request: Request) -> Answer:
        nonlocal held, most
        held += len(request.payload)
        most = max(most, held)
        await asyncio.sleep(5)
        held -= len(request.payload)
        return records.Done(), ()

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        data = bytes(PAYLOAD_MAX)
        calls = [caller.call(Methods.PUSH, records.Push(1, i), data) for i in range(8)]
        await asyncio.gather(*map(asyncio.ensure_future, calls))
        await caller.close()

    run(serving(handler(slow)), scenario)
    assert 0 < most <= IN_FLIGHT_BYTES_MAX


def test_answers_that_wait_are_bounded_in_bytes_too() -> None:
    ready = 0

    async def large(request: Request) -> Answer:
        nonlocal ready
        await request.reserve(READ_MAX)
        ready += 1
        return records.ReadProofs((b"",)), (bytes(READ_MAX),)

    async def scenario(stream: Stream) -> None:
        for i in range(12):
            await stream.write(frame(Envelope(0, i, Methods.READ.number, read_body(1).encode())))
        await asyncio.sleep(30)  # and read nothing
        assert ready == IN_FLIGHT_BYTES_MAX // READ_MAX == 4
        stream.abort()

    run(serving(handler(large)), scenario)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_travels_as_itself(name: str) -> None:
    error = getattr(errors, name)("why: €", remedy="do this")
    back = error_of(Failure.decode(failure_of(error).encode()))
    assert type(back) is type(error)
    assert (back.message, back.remedy) == ("why: €", "do this")


def test_what_is_told_fits_and_is_valid() -> None:
    failure = failure_of(QuotaError("€" * 400 + "\0\ud800", remedy="x" * 1000))
    assert len(failure.encode()) < Failure.SIZE_MAX


def test_our_own_bugs_are_not_told_to_peers() -> None:
    failure = failure_of(ValueError("secret of the node"))
    assert failure.kind == "PotsherdError"
    assert "secret" not in failure.message


def test_an_unknown_kind_is_a_peer_error() -> None:
    assert type(error_of(Failure("SystemExit", "", ""))) is PeerError


def test_a_refusal_reaches_the_caller_and_the_connection_stays() -> None:
    async def refuse_then_serve(request: Request) -> Answer:
        if records.Read.decode(request.body).index == 0:
            raise QuotaError("full", remedy="elsewhere")
        if records.Read.decode(request.body).index == 1:
            raise ZeroDivisionError
        return await echo(request)

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        with pytest.raises(QuotaError, match="full") as caught:
            await caller.call(Methods.READ, read_body(0), payload_max=100)
        assert caught.value.remedy == "elsewhere"
        with pytest.raises(PotsherdError, match="internal error"):
            await caller.call(Methods.READ, read_body(1), payload_max=100)
        await caller.call(Methods.READ, read_body(2), payload_max=100)
        await caller.close()

    run(serving(handler(refuse_then_serve)), scenario)


def test_a_body_that_does_not_parse_is_answered() -> None:
    async def scenario(stream: Stream) -> None:
        await stream.write(frame(Envelope(0, 7, Methods.READ.number, b"\xff")))
        header_size, _ = struct.unpack(">II", await stream.read_exactly(8))
        answer = Envelope.decode(await stream.read_exactly(header_size))
        assert (answer.kind, answer.request) == (2, 7)
        assert Failure.decode(answer.body).kind == "MalformedError"
        stream.abort()

    run(serving(handler(echo)), scenario)


# --- a peer that breaks the protocol --------------------------------------------------------------


def frame(envelope: Envelope, payload: bytes = b"", *, claim: int | None = None) -> bytes:
    header = envelope.encode()
    size = len(payload) if claim is None else claim
    return struct.pack(">II", len(header), size) + header + payload


def answer_to(request: int, **changes: Any) -> Envelope:
    fields = {"kind": 1, "method": Methods.READ.number, "body": records.ReadProofs((b"",)).encode()}
    return Envelope(request=request, **{**fields, **changes})


BAD_ANSWERS = {
    "noise": b"GET / HTTP/1.1\r\n\r\n",
    "zero header": struct.pack(">II", 0, 0),
    "header too long": struct.pack(">II", HEADER_MAX + 1, 0),
    "payload too long": struct.pack(">II", 10, PAYLOAD_MAX + 1),
    "header is not msgpack": struct.pack(">II", 3, 0) + b"\xc1\xc1\xc1",
    "a request instead of an answer": frame(answer_to(1, kind=0)),
    "answer to nothing": frame(answer_to(99)),
    "answer with another method": frame(answer_to(1, method=Methods.PUSH.number)),
    "more payload than asked": frame(answer_to(1), bytes(101)),
    "payload with a failure": frame(
        answer_to(1, kind=2, body=Failure("PeerError", "", "").encode()), b"x"
    ),
    "body that does not parse": frame(answer_to(1, body=b"\x93\x01\x01")),
    "failure that does not parse": frame(answer_to(1, kind=2, body=b"\x01")),
    "cut in the middle": frame(answer_to(1), b"1234567890")[:-3],
    "nothing": b"",
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_a_bad_answer_ends_the_connection_with_a_peer_error(what: str) -> None:
    async def accept(stream: Stream) -> None:
        header_size, _ = struct.unpack(">II", await stream.read_exactly(8))
        await stream.read_exactly(header_size)
        await stream.write(BAD_ANSWERS[what])
        await stream.close()

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        with pytest.raises(PeerError):
            await caller.call(Methods.READ, read_body(0), payload_max=100)
        await asyncio.sleep(1)
        assert ended(caller)
        with pytest.raises(PeerError):
            await caller.call(Methods.READ, read_body(0), payload_max=100)
        await caller.close()

    run(accept, scenario)


def test_a_silent_peer_costs_one_timeout_and_a_late_answer_harms_nobody() -> None:
    async def late(request: Request) -> Answer:
        if records.Read.decode(request.body).index == 0:
            await asyncio.sleep(20)
        return await echo(request)

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        with pytest.raises(PeerError, match="read within 5 s"):
            await caller.call(Methods.READ, read_body(0), payload_max=100, timeout_s=5)
        await caller.call(Methods.READ, read_body(1), payload_max=100)
        await asyncio.sleep(30)
        assert not ended(caller)
        assert caller.in_flight == 0
        await caller.call(Methods.READ, read_body(2), payload_max=100)
        await caller.close()

    run(serving(handler(late)), scenario)


def test_a_peer_that_never_answers_is_broken_off_in_the_end() -> None:
    async def accept(stream: Stream) -> None:
        with suppress(PeerError):
            while True:
                await stream.read_exactly(1)

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        for _ in range(ABANDONED_MAX + 1):
            assert not ended(caller)
            with pytest.raises(PeerError):
                await caller.call(Methods.READ, read_body(0), timeout_s=0.5)
        assert ended(caller)
        await caller.close()

    run(accept, scenario)


def test_a_cancelled_call_leaves_the_connection_whole() -> None:
    async def slow(request: Request) -> Answer:
        await asyncio.sleep(2)
        return await echo(request)

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        for i in range(40):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(i * 0.02):
                    await caller.call(Methods.PUSH, records.Push(1, 0), bytes(2**20))
        response = await caller.call(Methods.READ, read_body(5), payload_max=100)
        assert bytes(response.payload) == b"\5" * 10 + b"tail"
        await caller.close()

    run(serving(handler(slow)), scenario)


BAD_REQUESTS = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01" + b"\xfc" * 500,
    "header too long": struct.pack(">II", HEADER_MAX + 1, 0),
    "payload too long": struct.pack(">II", 10, PAYLOAD_MAX + 1),
    "an answer": frame(answer_to(1)),
    "unknown method": frame(Envelope(0, 1, 200, b"")),
    "a second hello": frame(Envelope(0, 1, Methods.HELLO.number, HELLO.encode())),
    "payload where none belongs": frame(Envelope(0, 1, Methods.READ.number, b""), b"1234"),
    "cut in the middle": frame(Envelope(0, 1, Methods.READ.number, b""))[:-1],
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_bad_request_ends_its_connection_and_nothing_else(what: str) -> None:
    served: list[bool] = []

    async def accept(stream: Stream) -> None:
        await Responder(stream).serve(handler(echo))
        served.append(True)

    async def scenario(stream: Stream) -> None:
        await stream.write(BAD_REQUESTS[what])
        if what == "cut in the middle":
            await stream.close()
        else:
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
        await asyncio.sleep(1)
        assert served == [True]

    run(accept, scenario)


def test_a_listener_closes_idle_connections() -> None:
    async def accept(stream: Stream) -> None:
        await Responder(stream, idle_timeout_s=60).serve(handler(echo))

    async def scenario(stream: Stream) -> None:
        caller = started(stream)
        await asyncio.sleep(50)
        await caller.call(Methods.READ, read_body(0), payload_max=100)
        await asyncio.sleep(50)
        assert not ended(caller)
        await asyncio.sleep(15)
        assert ended(caller)
        await caller.close()

    run(accept, scenario)


@pytest.mark.parametrize(
    "first",
    [
        frame(Envelope(0, 1, Methods.READ.number, read_body(0).encode())),
        frame(Envelope(0, 1, Methods.HELLO.number, HELLO.encode()), b"payload"),
        struct.pack(">II", 5000, 0),
        frame(Envelope(1, 1, Methods.HELLO.number, HELLO.encode())),
        b"",
    ],
    ids=["not a hello", "hello with payload", "long hello", "answer", "nothing"],
)
def test_nothing_is_served_before_a_hello(first: bytes) -> None:
    outcome: list[BaseException] = []

    async def accept(stream: Stream) -> None:
        try:
            await Responder(stream).greet(lambda hello: hello)
        except (PotsherdError, TimeoutError) as error:
            outcome.append(error)
            stream.abort()

    async def scenario(stream: Stream) -> None:
        await stream.write(first)
        with pytest.raises(PeerError):
            await stream.read_exactly(1)

    run(accept, scenario)
    assert len(outcome) == 1


def test_methods_have_numbers_of_their_own() -> None:
    declared = [name for name in vars(Methods) if name.isupper()]
    assert len(METHODS) == len(declared)


def test_a_connection_that_breaks_before_it_began_to_read_leaves_nothing_behind() -> None:
    """Its tasks are cancelled before their first step: a coroutine that nobody awaits would warn."""

    async def scenario(stream: Stream) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            caller = started(stream)
            await caller.close()
            gc.collect()
        assert [str(warning.message) for warning in seen] == []

    run(serving(handler(echo)), scenario)
