"""One contract for every network: inherited by the sockets of this machine and by the virtual world."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potsherd.errors import PeerError, UnreachableError, UsageError
from potsherd.node.real import real_env
from potsherd.ports import Address, Env, Identity, Listener, Stream
from potsherd.simulations.world import World

NETWORK = b"n" * 32
QUEUE_MAX = 1024


def identity(number: int, network: bytes = NETWORK) -> Identity:
    seed = bytes([number]) * 32
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(seed, key, network)


ANNA, BERT = identity(1), identity(2)


@dataclass
class Two:
    """Two machines that reach each other, and a way to run a scenario on their clock."""

    a: Env
    b: Env
    at_a: Address
    at_b: Address
    run: Callable[[Coroutine[Any, Any, None]], None]

    async def listen(
        self, accept: Callable[[Stream], Awaitable[None]], who: Identity = BERT
    ) -> Listener:
        return await self.b.net.listen(self.at_b, who, accept)

    async def dial(self, listener: Listener, timeout_s: float = 5) -> Stream:
        return await self.a.net.dial(self.of(listener), ANNA, BERT.key, timeout_s=timeout_s)

    def of(self, listener: Listener) -> Address:
        return Address(self.at_b.host, listener.address.port)


async def echo(stream: Stream) -> None:
    while True:
        size = int.from_bytes(await stream.read_exactly(4), "big")
        await stream.write(await stream.read_exactly(size))


async def idle(stream: Stream) -> None:
    await asyncio.sleep(3600)


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes in which no piece can stand for another."""
    words = ((i * 0x9E3779B1 + seed) & 0xFFFFFFFF for i in range(size // 4 + 1))
    return b"".join(word.to_bytes(4, "big") for word in words)[:size]


class NetContract:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Iterator[Two]:
        raise NotImplementedError

    # datagrams

    def test_datagram_arrives_with_an_address_that_can_be_answered(self, two: Two) -> None:
        async def scenario() -> None:
            a, b = await two.a.net.bind(two.at_a), await two.b.net.bind(two.at_b)
            assert a.address.host == two.at_a.host
            assert a.address.port > 0
            a.send(b"question", b.address)
            data, source = await b.receive()
            assert (data, source) == (b"question", a.address)
            b.send(b"answer", source)
            assert await a.receive() == (b"answer", b.address)
            a.close()
            b.close()

        two.run(scenario())

    def test_datagrams_to_nobody_vanish_and_harm_nobody(self, two: Two) -> None:
        """The kernel reports them as errors of the socket; they must not reach the receiver."""

        async def scenario() -> None:
            a, b = await two.a.net.bind(two.at_a), await two.b.net.bind(two.at_b)
            gone = b.address
            b.close()
            for _ in range(3):
                a.send(b"hello?", gone)
                await asyncio.sleep(0.05)
            a.send(b"not an address", Address("256.1.1.1", 70000))
            a.send(bytes(100_000), gone)
            b = await two.b.net.bind(two.at_b)
            b.send(b"still there", a.address)
            assert (await a.receive())[0] == b"still there"
            a.close()
            b.close()

        two.run(scenario())

    def test_receiver_that_is_behind_loses_the_newest_datagrams(self, two: Two) -> None:
        async def scenario() -> None:
            a, b = await two.a.net.bind(two.at_a), await two.b.net.bind(two.at_b)
            for i in range(3 * QUEUE_MAX):
                a.send(i.to_bytes(4, "big"), b.address)
                if i % 64 == 0:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.3)
            b.send(b"end", b.address)
            await asyncio.sleep(0.3)
            kept = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    data, _ = await asyncio.wait_for(b.receive(), 0.2)
                    assert data != b"end"
                    kept += 1
            assert kept == QUEUE_MAX
            a.close()
            b.close()

        two.run(scenario())

    def test_closing_ends_waiting_receivers(self, two: Two) -> None:
        async def scenario() -> None:
            socket = await two.a.net.bind(two.at_a)
            waiting = [asyncio.create_task(socket.receive()) for _ in range(2)]
            await asyncio.sleep(0.01)
            socket.close()
            socket.close()
            for task in waiting:
                with pytest.raises(UnreachableError):
                    await task
            with pytest.raises(UnreachableError):
                await socket.receive()
            socket.send(b"into the void", two.at_b)

        two.run(scenario())

    def test_cancelled_receiver_leaves_the_datagram_to_the_next(self, two: Two) -> None:
        async def scenario() -> None:
            a, b = await two.a.net.bind(two.at_a), await two.b.net.bind(two.at_b)
            first, second = (asyncio.create_task(b.receive()) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            a.send(b"one", b.address)
            assert (await second)[0] == b"one"
            a.close()
            b.close()

        two.run(scenario())

    def test_taken_port_and_foreign_address_are_refused(self, two: Two) -> None:
        async def scenario() -> None:
            socket = await two.a.net.bind(two.at_a)
            with pytest.raises(PeerError):
                await two.a.net.bind(socket.address)
            with pytest.raises(PeerError):
                await two.a.net.bind(Address("192.0.2.1", 0))
            socket.close()
            listener = await two.listen(idle)
            with pytest.raises(PeerError):
                await two.b.net.listen(listener.address, BERT, idle)
            await listener.close()

        two.run(scenario())

    # streams

    def test_both_sides_know_each_others_key(self, two: Two) -> None:
        async def scenario() -> None:
            seen: list[tuple[bytes, str]] = []

            async def accept(stream: Stream) -> None:
                seen.append((stream.peer_key, stream.peer_address.host))
                await stream.write(b"!")

            listener = await two.listen(accept)
            stream = await two.dial(listener)
            assert await stream.read_exactly(1) == b"!"
            assert seen == [(ANNA.key, two.at_a.host)]
            assert (stream.peer_key, stream.peer_address) == (BERT.key, two.of(listener))
            await stream.close()
            await listener.close()

        two.run(scenario())

    @pytest.mark.parametrize("size", [0, 1, 16_383, 65_537, 1_500_001, 5 << 20])
    def test_bytes_come_back_as_they_were_sent(self, two: Two, size: int) -> None:
        data = pattern(size)

        async def scenario() -> None:
            listener = await two.listen(echo)
            stream = await two.dial(listener)
            back = bytearray(size)
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.write(size.to_bytes(4, "big"), data))
                group.create_task(stream.read_into(memoryview(back)))
            assert back == data
            await stream.close()
            await listener.close()

        two.run(scenario())

    def test_reads_of_any_size_fit_writes_of_any_size(self, two: Two) -> None:
        data = pattern(1_000_000)

        async def accept(stream: Stream) -> None:
            view = memoryview(bytearray(data))
            at = 0
            for i in range(10_000):
                step = (1, 7, 100_000, 333)[i % 4]
                await stream.write(view[at : at + step], b"", view[at + step : at + step + 5])
                at += step + 5
                if at >= len(data):
                    return

        async def scenario() -> None:
            listener = await two.listen(accept)
            stream = await two.dial(listener)
            at = 0
            for i in range(10_000):
                step = min((3, 70_001, 19, 16_384)[i % 4], len(data) - at)
                assert await stream.read_exactly(step) == data[at : at + step]
                at += step
                if at == len(data):
                    break
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
            stream.abort()
            await listener.close()

        two.run(scenario())

    def test_empty_buffers_among_others_are_nothing(self, two: Two) -> None:
        """Not even an end, which is how a stream might say that it has nothing more."""
        large, small = pattern(70_000), b"small"

        async def scenario() -> None:
            listener = await two.listen(echo)
            stream = await two.dial(listener)
            size = (2 * len(large) + len(small)).to_bytes(4, "big")
            await stream.write()
            await stream.write(b"")
            await stream.write(b"", size, b"")
            await stream.write(b"", large, b"", b"", large, b"", small, b"")
            assert await stream.read_exactly(2 * len(large) + len(small)) == large * 2 + small
            await stream.close()
            await listener.close()

        two.run(scenario())

    def test_buffer_may_change_once_write_has_returned(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(echo)
            stream = await two.dial(listener)
            buffer = bytearray(b"before!!")
            await stream.write((8).to_bytes(4, "big"), buffer)
            buffer[:] = b"after!!!"
            assert await stream.read_exactly(8) == b"before!!"
            await stream.close()
            await listener.close()

        two.run(scenario())

    def test_writer_waits_for_a_reader_that_does_not_read(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(idle)
            stream = await two.dial(listener)
            chunk = bytes(1 << 20)

            async def flood() -> None:
                for _ in range(200):
                    await stream.write(chunk)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flood(), 1)
            stream.abort()
            await listener.close()

        two.run(scenario())

    def test_close_sends_what_is_waiting_even_to_a_slow_reader(self, two: Two) -> None:
        data = pattern(3_000_000)

        async def accept(stream: Stream) -> None:
            await stream.write(data)
            await stream.close()
            await stream.close()

        async def scenario() -> None:
            listener = await two.listen(accept)
            stream = await two.dial(listener)
            back = b""
            while len(back) < len(data):
                await asyncio.sleep(0.02)
                back += await stream.read_exactly(min(200_000, len(data) - len(back)))
            assert back == data
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
            await stream.close()
            await listener.close()

        two.run(scenario())

    def test_close_with_unread_input_still_sends(self, two: Two) -> None:
        """TLS fails to shut down over unread input unless it is discarded."""
        data = pattern(300_000)

        async def accept(stream: Stream) -> None:
            await stream.read_exactly(4)
            await asyncio.sleep(0.2)
            await stream.write(data)
            await stream.close()

        async def scenario() -> None:
            listener = await two.listen(accept)
            stream = await two.dial(listener)
            await stream.write(b"head", bytes(200_000))
            assert await stream.read_exactly(len(data)) == data
            await stream.close()
            await listener.close()

        two.run(scenario())

    def test_abort_ends_both_sides(self, two: Two) -> None:
        async def scenario() -> None:
            ends: list[str] = []

            async def accept(stream: Stream) -> None:
                try:
                    await stream.read_exactly(1)
                except PeerError:
                    ends.append("peer")
                    raise

            listener = await two.listen(accept)
            stream = await two.dial(listener)
            waiting = asyncio.create_task(stream.read_exactly(1))
            await asyncio.sleep(0.2)
            stream.abort()
            stream.abort()
            with pytest.raises(PeerError):
                await waiting
            with pytest.raises(PeerError):
                await stream.write(b"x")
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
            await stream.close()
            with pytest.raises(PeerError):
                await stream.read_into(memoryview(bytearray(5)))
            await asyncio.sleep(0.3)
            assert ends == ["peer"]
            await listener.close()

        two.run(scenario())

    def test_writing_to_a_peer_that_has_closed_fails_in_the_end(self, two: Two) -> None:
        async def accept(stream: Stream) -> None:
            pass  # returning closes the stream

        async def scenario() -> None:
            listener = await two.listen(accept)
            stream = await two.dial(listener)
            with pytest.raises(PeerError):
                for _ in range(100):
                    await stream.write(b"anybody?")
                    await asyncio.sleep(0.02)
            stream.abort()
            await listener.close()

        two.run(scenario())

    def test_wrong_key_is_no_connection_and_not_called_unreachable(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(echo, identity(3))
            with pytest.raises(PeerError, match="another key") as caught:
                await two.dial(listener)
            assert not isinstance(caught.value, UnreachableError)
            await listener.close()

        two.run(scenario())

    def test_nobody_can_show_a_key_whose_seed_is_not_theirs(self, two: Two) -> None:
        async def scenario() -> None:
            liar = Identity(ANNA.seed, BERT.key, NETWORK)
            with pytest.raises(UsageError):
                await two.listen(echo, liar)
            listener = await two.listen(echo)
            with pytest.raises(UsageError):
                await two.a.net.dial(two.of(listener), liar, BERT.key, timeout_s=5)
            await listener.close()

        two.run(scenario())

    def test_other_network_is_refused(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(echo, identity(2, b"other" + bytes(27)))
            with pytest.raises(PeerError, match="another network"):
                await two.dial(listener)
            await listener.close()

        two.run(scenario())

    def test_dialling_nobody_is_unreachable(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(echo)
            await listener.close()
            with pytest.raises(UnreachableError):
                await two.dial(listener)

        two.run(scenario())

    def test_closing_a_listener_ends_its_streams_and_their_handlers(self, two: Two) -> None:
        async def scenario() -> None:
            ended: list[bool] = []

            async def accept(stream: Stream) -> None:
                try:
                    await stream.write(b"!")
                    await asyncio.sleep(3600)
                finally:
                    ended.append(True)

            listener = await two.listen(accept)
            stream = await two.dial(listener)
            assert await stream.read_exactly(1) == b"!"
            await listener.close()
            assert ended == [True]
            with pytest.raises(PeerError):
                await stream.read_exactly(1)
            stream.abort()

        two.run(scenario())

    def test_many_streams_at_once(self, two: Two) -> None:
        async def scenario() -> None:
            listener = await two.listen(echo)

            async def one(number: int) -> None:
                stream = await two.dial(listener)
                data = pattern(10_000, number)
                await stream.write(len(data).to_bytes(4, "big"), data)
                assert await stream.read_exactly(len(data)) == data
                await stream.close()

            await asyncio.gather(*(one(i) for i in range(30)))
            await listener.close()

        two.run(scenario())


class TestRealNet(NetContract):
    @pytest.fixture
    def two(self, tmp_path: Path) -> Iterator[Two]:
        def run(coro: Coroutine[Any, Any, None]) -> None:
            failures: list[dict[str, Any]] = []
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda _, what: failures.append(what))
            try:
                loop.run_until_complete(coro)
            finally:
                loop.run_until_complete(asyncio.sleep(0))  # transports close in the next turn
                loop.close()
            assert failures == []

        a, b = real_env(tmp_path / "a"), real_env(tmp_path / "b")
        yield Two(a, b, Address("127.0.0.1", 0), Address("127.0.0.1", 0), run)


class TestWorldNet(NetContract):
    @pytest.fixture
    def two(self, tmp_path: Path) -> Iterator[Two]:
        with World(1) as world:
            a, b = world.env("a", "10.9.0.1"), world.env("b", "10.9.0.2")
            yield Two(a, b, Address("10.9.0.1", 0), Address("10.9.0.2", 0), world.run)
