"""A TLS connection as `potsherd.ports.Stream`: a bounded receive buffer, no copy where it can be helped.

Bytes are decrypted straight into the buffer of a waiting reader if it wants much, else into the receive
buffer. When that is full, reading from the socket pauses, and TCP slows the peer down. Who has read all there
is gives the receive buffer to the next connection: most connections are idle, and a node has dozens.

One trap shaped this: when a TCP connection ends, asyncio's TLS layer calls `get_buffer` once more and then
shuts down; whatever it has not yet decrypted and does not fit there is lost. So the receive buffer is as
large as the most that layer can hold, reading resumes only when it is empty, and after a pause the first
buffer offered is the receive buffer and not the reader's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import deque
from typing import cast

from potsherd.errors import PeerError
from potsherd.ports import Address, Buffer

__all__ = ["CLOSE_TIMEOUT_S", "TlsStream"]

RECEIVE_BUFFER_BYTES = 512 << 10
"""asyncio's TLS layer holds at most 256 KiB, its high-water mark, plus one read of 256 KiB."""

SPARE_BUFFERS_MAX = 4
"""Receive buffers that nobody uses and each thread keeps; they are taken for microseconds when peers are quick."""

DIRECT_BYTES_MIN = 16 << 10
"""From this size on the reader's own buffer is filled; one TLS record."""

WRITE_BYTES_MAX = 256 << 10
"""Handed to TLS at once. Measured on loopback, both sides, CPU-s per GB: 64 KiB 1.9, 256 KiB 1.4, 1 MiB 1.7."""

CLOSE_TIMEOUT_S = 10.0
"""How long `close` waits for the peer to take what is left; then it aborts."""

SILENCE_MAX_S = 30
"""Sent data not acknowledged, or an idle connection's probes not answered, for this long: broken."""

KEEPALIVE_IDLE_S = 60


class _Spare(threading.local):
    """Receive buffers that no connection of this thread's event loop uses."""

    def __init__(self) -> None:
        self._buffers: list[memoryview] = []

    def take(self) -> memoryview:
        return self._buffers.pop() if self._buffers else memoryview(bytearray(RECEIVE_BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        if len(self._buffers) < SPARE_BUFFERS_MAX:
            self._buffers.append(buffer)


_SPARE = _Spare()
_NOTHING = memoryview(b"")


class TlsStream(asyncio.BufferedProtocol):
    """Protocol of one TLS connection; a `Stream` once `prove` has been called."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._peer_key = b""
        self._peer_address = Address("", 0)
        self._buffer: memoryview | None = (
            None  # while there is something in it, or while it is being filled
        )
        self._received = 0
        self._start = 0
        self._end = 0
        self._offered = 0
        self._drained = True
        self._reading_paused = False
        self._discarding = False
        self._target: memoryview | None = None  # the reader's buffer, what is still to be filled
        self._direct = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._writing_paused = False
        self._broken: str | None = None
        self._gone = asyncio.get_running_loop().create_future()

    @property
    def peer_key(self) -> bytes:
        return self._peer_key

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def received(self) -> int:
        return self._received

    @property
    def connection(self) -> ssl.SSLObject:
        """The TLS connection, for `tls.proven_key`. Raises PeerError when it is gone already."""
        if self._transport is None:
            raise PeerError("the connection broke right after the handshake")
        return cast(ssl.SSLObject, self._transport.get_extra_info("ssl_object"))

    def prove(self, peer_key: bytes) -> None:
        """Note the key that the handshake has proven."""
        self._peer_key = peer_key

    # Stream

    async def read_exactly(self, size: int) -> bytes:
        if self._end - self._start >= size:
            found = self._take(size).tobytes()
            self._let_go()
            return found
        buffer = bytearray(size)
        await self.read_into(memoryview(buffer))
        return bytes(buffer)

    async def read_into(self, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        if self._reader is not None:
            raise RuntimeError("two tasks read from one stream")
        ready = self._take(buffer.nbytes)
        buffer[: ready.nbytes] = ready
        self._let_go()
        if ready.nbytes < buffer.nbytes:
            await self._fill(buffer[ready.nbytes :])

    async def write(self, *buffers: Buffer) -> None:
        batch: list[Buffer] = []
        room = WRITE_BYTES_MAX
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest.nbytes:
                part, rest = rest[:room], rest[room:]
                batch.append(part)
                room -= part.nbytes
                if not room:
                    await self._send(batch)
                    batch, room = [], WRITE_BYTES_MAX
                    await asyncio.sleep(
                        0
                    )  # ten streams of 4 MiB each would keep the loop for 80 ms
        if batch or not buffers:
            await self._send(batch)

    def abort(self) -> None:
        self._break("the stream was aborted here")
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        self._break("the stream was closed here")
        if self._transport is None or self._gone.done():
            return
        self._discard_input()
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if name:
            self._peer_address = Address(name[0], name[1])
        _watch_silence(transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        target = self._target
        if self._discarding:
            self._start = self._end = 0
        empty = self._start == self._end
        self._direct = (
            target is not None and empty and self._drained and target.nbytes >= DIRECT_BYTES_MIN
        )
        if self._direct and target is not None:
            offered = target
        else:
            if self._buffer is None:
                self._buffer = _SPARE.take()
            if empty:
                self._start = self._end = 0
            offered = self._buffer[self._end :]
        self._offered = offered.nbytes
        return offered

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        if self._discarding:
            return
        self._drained = nbytes < self._offered
        if self._direct and self._target is not None:
            self._target = self._target[nbytes:]
        else:
            self._end += nbytes
            if self._target is not None:
                ready = self._take(self._target.nbytes)
                self._target[: ready.nbytes] = ready
                self._target = self._target[ready.nbytes :]
        if self._end == RECEIVE_BUFFER_BYTES and self._start < self._end:
            self._pause_reading()
        self._let_go()
        if self._target is not None and not self._target.nbytes:
            self._target = None
            self._wake_reader()

    def eof_received(self) -> None:
        self._break("the stream ended early")

    def connection_lost(self, exc: Exception | None) -> None:
        self._break("the connection broke" if exc is not None else "the stream ended early")
        self._wake_writers()
        self._let_go()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    # details

    def _take(self, size: int) -> memoryview:
        """Up to `size` bytes of the receive buffer, valid until the loop runs again."""
        buffer = _NOTHING if self._buffer is None else self._buffer
        ready = buffer[self._start : min(self._end, self._start + size)]
        self._start += ready.nbytes
        if self._start == self._end and self._reading_paused:
            self._reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return ready

    def _let_go(self) -> None:
        """Of the receive buffer, once what was taken of it is copied: the next connection fills it."""
        if self._buffer is not None and self._start == self._end:
            _SPARE.give(self._buffer)
            self._buffer = None
            self._start = self._end = 0

    async def _fill(self, target: memoryview) -> None:
        if self._broken is not None:
            raise PeerError(self._broken)
        self._target = target
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = self._target = None

    async def _send(self, batch: list[Buffer]) -> None:
        while self._writing_paused and self._broken is None:
            waiter = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            await waiter
        if self._broken is not None or self._transport is None:
            raise PeerError(self._broken or "the stream is not connected")
        self._transport.writelines(batch)  # encrypted before this returns

    def _discard_input(self) -> None:
        """With unread input the TLS layer fails to shut down, and drops what we have still to send."""
        self._discarding = True
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _break(self, why: str) -> None:
        if self._broken is None:
            self._broken = why
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(PeerError(self._broken))
        self._wake_writers()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        while self._writers:
            waiter = self._writers.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _watch_silence(sock: socket.socket | None) -> None:
    """Break connections whose other side has vanished; by default TCP tries for a quarter of an hour."""
    if sock is None:
        return
    options = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", SILENCE_MAX_S // 3),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", SILENCE_MAX_S * 1000),
    ]
    for level, name, value in options:
        number = getattr(socket, name, None)
        if number is not None:
            try:
                sock.setsockopt(level, number, value)
            except OSError:
                return  # the connection is gone already
