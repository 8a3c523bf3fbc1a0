"""Streams of the virtual world: ordered, with bandwidth and back-pressure, keys proven by construction.

What the node sees is that of TLS over TCP: two round trips until the dialler may write, data in order or
not at all, a writer that waits when the reader is slow, a reset when the other process dies, and a long
silence before an error when its machine does.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from potsherd.errors import PeerError, UnreachableError
from potsherd.ports import Address, Buffer, Identity, Stream
from potsherd.simulations.world.life import Life

if TYPE_CHECKING:
    from potsherd.simulations.world.net import Fabric

__all__ = ["Link", "WorldListener", "WorldStream", "dial"]

STREAM_WINDOW_BYTES = 1 << 20
"""Sent but not yet read by the peer; beyond it the writer waits."""

STREAM_CHUNK_BYTES_MAX = 256 << 10
"""One event of the world carries at most this much."""

AHEAD_MAX_S = 0.05
"""What leaves within this time takes the other's downlink at once: an event less for each item of a quick line."""

STREAMS_ACCEPTED_MAX = 1024
"""Open streams of one listener; beyond it new ones are refused."""


class Link:
    """The uplink and the downlink of a machine: until when each is busy, and its own speed if it has one."""

    __slots__ = ("down_bytes_s", "down_free_at", "up_bytes_s", "up_free_at")

    def __init__(self) -> None:
        self.up_bytes_s: float | None = None
        self.down_bytes_s: float | None = None
        self.up_free_at = 0.0
        self.down_free_at = 0.0


class _End(enum.Enum):
    """What follows the last byte."""

    CLOSED = enum.auto()
    BROKEN = enum.auto()


_SILENT = "the peer does not answer any more"
_CLOSED_HERE = "the stream was closed here"


class WorldStream:
    """One end of a stream (`potsherd.ports.Stream`)."""

    def __init__(self, fabric: Fabric, life: Life, peer_key: bytes, peer_address: Address) -> None:
        self._fabric = fabric
        self._life = life
        self._peer_key = peer_key
        self._peer_address = peer_address
        self._other: WorldStream = self  # set by `_pair`
        self._inbox: deque[memoryview] = deque()
        self._outgoing: deque[memoryview | _End] = deque()
        self._received = 0
        self._leaving = 0  # items that a slow line of ours still sends
        self._late = 0  # arrivals that found no way through and wait for `retry`
        self._last_arrival = 0.0
        self._in_flight = 0
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._broken: str | None = None
        self._ended = False
        self._closing = False
        life.at_end[self._life_ended] = None

    @property
    def peer_key(self) -> bytes:
        return self._peer_key

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def received(self) -> int:
        return self._received

    async def read_exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        await self.read_into(memoryview(buffer))
        return bytes(buffer)

    async def read_into(self, buffer: memoryview) -> None:
        self._begin("read")
        buffer = buffer.cast("B")
        filled, size = 0, buffer.nbytes
        while filled < size:
            if not self._inbox:
                await self._wait_readable()
                continue
            chunk = self._inbox.popleft()
            take = min(len(chunk), size - filled)
            buffer[filled : filled + take] = chunk[:take]
            if take < len(chunk):
                self._inbox.appendleft(chunk[take:])
            filled += take
            self._other._credit(take)

    async def write(self, *buffers: Buffer) -> None:
        self._begin("write")
        self._check_writable()
        data = b"".join(buffers)  # the caller may change its buffers once we return
        rest = memoryview(data)
        while rest:
            while self._in_flight >= STREAM_WINDOW_BYTES:
                await self._wait_writable()
            chunk, rest = rest[:STREAM_CHUNK_BYTES_MAX], rest[STREAM_CHUNK_BYTES_MAX:]
            self._transmit(chunk)

    def abort(self) -> None:
        if self._broken is None:
            self._reset("the stream was aborted here")

    async def close(self) -> None:
        if self._broken is not None or self._closing:
            return
        self._closing = True
        self._schedule(_End.CLOSED, 0)
        self._wake()
        await asyncio.sleep(0)

    def retry(self) -> None:
        """The network has changed: what waits may get through now."""
        late, self._late = self._late, 0
        self._fabric.stalled.pop(self, None)
        for _ in range(late):
            self._fabric.loop.call_later(self._latency(), self._arrive)

    def _begin(self, operation: str) -> None:
        if self._fabric.fault is None:
            return  # the usual case, met for each read and write
        try:
            self._fabric.begin(operation, self._life, self._peer_address.host)
        except Exception:
            self.abort()
            raise

    def _check_writable(self) -> None:
        if self._broken is not None:
            raise PeerError(self._broken)
        if self._closing:
            raise PeerError(_CLOSED_HERE)
        if self._ended:
            raise PeerError("the peer has closed the stream")

    async def _wait_readable(self) -> None:
        if self._broken is not None:
            raise PeerError(self._broken)
        if self._closing:
            raise PeerError(_CLOSED_HERE)
        if self._ended:
            raise PeerError("the stream ended early")
        if self._reader is not None:
            raise RuntimeError("two tasks read from one stream")
        self._reader = self._fabric.loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def _wait_writable(self) -> None:
        waiter = self._fabric.loop.create_future()
        self._writers.append(waiter)
        await waiter
        self._check_writable()

    def _transmit(self, chunk: memoryview) -> None:
        fabric = self._fabric
        fabric.log.add("chunk", self._life.name, f">{self._peer_address.host}", chunk)
        self._in_flight += len(chunk)
        self._schedule(chunk, len(chunk))

    def _schedule(self, item: memoryview | _End, size: int) -> None:
        """Queue an item for the wire; bytes arrive in order because arrivals pop the queue's head.

        The other's downlink is taken when the item has left here: who sends slowly does not hold it meanwhile.
        """
        fabric = self._fabric
        now = fabric.loop.time()
        up = fabric.link(self._life.host)
        sending = size / (up.up_bytes_s or fabric.weather.bandwidth_bytes_s)
        up.up_free_at = max(now, up.up_free_at) + sending
        self._outgoing.append(item)
        if self._leaving or up.up_free_at - now > AHEAD_MAX_S:
            self._leaving += 1
            fabric.loop.call_at(up.up_free_at, self._leave, size, sending)
        else:
            self._cross(up.up_free_at, size, sending)

    def _leave(self, size: int, sending: float) -> None:
        self._leaving -= 1
        if self._outgoing:  # else dropped by a power cut or a reset
            self._cross(self._fabric.loop.time(), size, sending)

    def _cross(self, left_at: float, size: int, sending: float) -> None:
        """The item has left here, or will in a moment: take the other's downlink and arrive."""
        fabric = self._fabric
        down = fabric.link(self._peer_address.host)
        taking = size / (down.down_bytes_s or fabric.weather.bandwidth_bytes_s)
        last = left_at + self._latency()
        arrival = max(last, max(last - sending, down.down_free_at) + taking)
        down.down_free_at = max(down.down_free_at, arrival if size else 0.0)
        self._last_arrival = max(self._last_arrival, arrival)
        fabric.loop.call_at(self._last_arrival, self._arrive)

    def _latency(self) -> float:
        return self._fabric.latency(self._life.host, self._peer_address.host)

    def _arrive(self) -> None:
        if not self._outgoing:
            return  # dropped by a power cut or a reset
        other = self._other
        # the kernel of a killed process still sends; `_life_ended` empties the queue at a power cut
        if not self._path_is_open():
            self._stall()
            return
        item = self._outgoing.popleft()
        if item is _End.CLOSED:
            other._ended = True
            self._break(_CLOSED_HERE)
        elif item is _End.BROKEN:
            other._break("the peer broke off the stream")
        elif other._broken is None:
            other._inbox.append(item)
            other._received += len(item)
        other._wake()

    def _path_is_open(self) -> bool:
        return self._life.has_path_to(self._other._life)

    def _stall(self) -> None:
        self._late += 1
        if self not in self._fabric.stalled:
            self._fabric.stalled[self] = None
            self._fabric.loop.call_later(self._patience(), self._give_up)

    def _give_up(self) -> None:
        if self in self._fabric.stalled:
            self._fabric.stalled.pop(self)
            self._break(_SILENT)
            self._other._break(_SILENT)

    def _credit(self, size: int) -> None:
        self._in_flight -= size
        if self._in_flight < STREAM_WINDOW_BYTES and self._writers:
            self._wake_writers()

    def _reset(self, why: str) -> None:
        """Break this end now, and the other one when the reset arrives or its patience ends."""
        other = self._other
        if self._path_is_open():
            self._fabric.loop.call_later(
                self._latency(), other._break, "the peer broke off the stream"
            )
        else:
            self._fabric.loop.call_later(self._patience(), other._break, _SILENT)
        self._break(why)

    def _break(self, why: str) -> None:
        if self._broken is not None:
            return
        self._broken = why
        self._outgoing.clear()
        self._fabric.stalled.pop(self, None)
        self._life.at_end.pop(self._life_ended, None)
        self._wake()

    def _patience(self) -> float:
        return self._fabric.rng.uniform(*self._fabric.weather.break_s)

    def _life_ended(self, power_cut: bool) -> None:
        if power_cut:
            self._fabric.loop.call_later(self._patience(), self._other._break, _SILENT)
            self._break("the machine lost power")
            return
        if not self._closing:  # the kernel sends what it has, then ends the connection
            self._schedule(_End.BROKEN, 0)
        self._broken = "the process was killed"
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._wake_writers()

    def _wake_writers(self) -> None:
        while self._writers:
            waiter = self._writers.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _pair(one: WorldStream, other: WorldStream) -> None:
    one._other, other._other = other, one


class WorldListener:
    """A listening stream socket (`potsherd.ports.Listener`)."""

    def __init__(
        self,
        fabric: Fabric,
        life: Life,
        address: Address,
        identity: Identity,
        accept: Callable[[Stream], Awaitable[None]],
        context: contextvars.Context,
    ) -> None:
        self.life = life
        self.identity = identity
        self._fabric = fabric
        self._address = address
        self._accept = accept
        self._context = context
        self._tasks: dict[asyncio.Task[None], WorldStream] = {}
        life.at_end[self._end] = None

    @property
    def address(self) -> Address:
        return self._address

    @property
    def full(self) -> bool:
        """Whether another stream would be one too many."""
        return len(self._tasks) >= STREAMS_ACCEPTED_MAX

    def take(self, stream: WorldStream) -> None:
        """Start the accept task of a new stream."""
        if not self.life.alive or self._fabric.listeners.get(self._place) is not self or self.full:
            stream.abort()
            return
        task = self._fabric.loop.create_task(self._serve(stream), context=self._context.copy())
        self._tasks[task] = stream
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def close(self) -> None:
        self._end(False)
        tasks = list(self._tasks)
        for task in tasks:
            self._tasks[task].abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, stream: WorldStream) -> None:
        try:
            await self._accept(stream)
            await stream.close()
        except PeerError:
            stream.abort()  # the peer broke off: nobody here to tell
        except BaseException:
            stream.abort()
            raise

    @property
    def _place(self) -> tuple[str, int]:
        return self.life.host, self._address.port

    def _end(self, power_cut: bool) -> None:
        self._fabric.listeners.pop(self._place, None)
        self.life.at_end.pop(self._end, None)


async def dial(
    fabric: Fabric,
    life: Life,
    to: Address,
    identity: Identity,
    peer_key: bytes,
    timeout_s: float,
) -> WorldStream:
    """Two round trips (TCP, then TLS 1.3), then the dialler may write; the listener is half a trip later."""
    fabric.log.add("dial", life.name, f">{to.host}:{to.port}", peer_key)
    trip_s = 2 * fabric.latency(life.host, to.host)
    left_s = timeout_s
    for _ in range(2):
        await asyncio.sleep(min(trip_s, left_s))
        left_s -= trip_s
        if left_s <= 0 or not fabric.answers(life, to.host):
            await asyncio.sleep(max(0.0, left_s))
            raise UnreachableError(f"{to.host} port {to.port} did not answer in {timeout_s:g} s")
        listener = fabric.listeners.get((to.host, to.port))
        if listener is None:
            raise UnreachableError(f"{to.host} port {to.port} refuses connections")
    life.check_network()
    return _connect(fabric, life, fabric.listeners[to.host, to.port], identity, peer_key)


def _connect(
    fabric: Fabric, life: Life, listener: WorldListener, identity: Identity, peer_key: bytes
) -> WorldStream:
    if listener.identity.network_id != identity.network_id:
        raise PeerError("the peer belongs to another network")
    if listener.identity.key != peer_key:
        raise PeerError("the peer has another key than expected")
    if listener.full:
        raise UnreachableError("the peer has too many connections")
    port = fabric.next_port()
    near = WorldStream(fabric, life, peer_key, Address(listener.life.host, listener.address.port))
    far = WorldStream(fabric, listener.life, identity.key, Address(life.host, port))
    _pair(near, far)
    fabric.loop.call_later(fabric.latency(life.host, listener.life.host), listener.take, far)
    return near
