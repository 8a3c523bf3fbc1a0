"""A connection as `potsherd.ports.Stream`: sealed records on a socket, bounded buffers, no needless copy.

What comes in waits sealed, in one receive buffer, until somebody reads; then each record is opened straight
into the reader's own memory if it fits there. When the buffer is full, reading from the socket pauses, and TCP
slows the peer down. Who has read all there is gives the receive buffer to the next connection: most
connections are idle, and a node has dozens. What goes out is sealed into a buffer of the same kind, which is
given back when the kernel has taken it all.

The socket is watched by the event loop and read and written here: a transport between them would keep copies.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

from potsherd.errors import PeerError
from potsherd.node.real.opening import TLS_PREFIX_BYTES, Handshake, tls_record_size
from potsherd.node.real.sealing import (
    OVERHEAD,
    PREFIX_BYTES,
    RECORD_MAX,
    Opener,
    Sealer,
    record_size,
)
from potsherd.ports import Address, Buffer

__all__ = ["CLOSE_TIMEOUT_S", "SealedStream"]

BUFFER_BYTES = 2 * (RECORD_MAX + OVERHEAD) + 4096
"""Of a receive or a send buffer: two of the largest records, and a frame's header before them."""

SPARE_BUFFERS_MAX = 4
"""Buffers that nobody uses and each thread keeps; they are taken for microseconds when peers are quick."""

JOINED_BYTES_MAX = 16 << 10
"""What is smaller travels with its neighbours in one record: copying it is cheaper than a record of its own."""

RECORDS_A_TURN = 4096
"""Opened before the event loop goes on: a buffer full of records of one byte would keep it for 40 ms."""

CLOSE_TIMEOUT_S = 10.0
"""How long `close` waits for the peer to take what is left; then it aborts."""

SILENCE_MAX_S = 30
"""Sent data not acknowledged, or an idle connection's probes not answered, for this long: broken."""

KEEPALIVE_IDLE_S = 60


class _Spare(threading.local):
    """Buffers that no connection of this thread's event loop uses."""

    def __init__(self) -> None:
        self._buffers: list[memoryview] = []

    def take(self) -> memoryview:
        return self._buffers.pop() if self._buffers else memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        if len(self._buffers) < SPARE_BUFFERS_MAX:
            self._buffers.append(buffer)


_SPARE = _Spare()
_NOTHING = memoryview(b"")


class SealedStream:
    """A `Stream` on a connected socket on which TLS has proven both keys."""

    def __init__(self, sock: socket.socket, handshake: Handshake, peer_key: bytes) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._peer_key = peer_key
        name = sock.getpeername()
        self._peer_address = Address(name[0], name[1])
        self._handshake: Handshake | None = handshake  # until the peer's greeting is here
        key, self._greeting = handshake.greet()
        self._sealer = Sealer(key)
        self._opener: Opener | None = None  # from then on
        self._received = 0
        self._buffer: memoryview | None = None  # while there is something in it
        self._start = 0
        self._end = 0
        self._plain = _NOTHING  # of an opened record, what nobody has read yet
        self._target: memoryview | None = None  # the reader's memory, what is still to be filled
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._writing = False
        self._torn = False  # a write has begun, and has not ended well
        self._watching = False
        self._closing = False  # `close` waits for the peer
        self._finished = False  # nothing more comes in
        self._shut = False  # the socket is closed
        self._broken: str | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        _watch_silence(sock)
        self._watch()

    @property
    def peer_key(self) -> bytes:
        return self._peer_key

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def received(self) -> int:
        return self._received

    # Stream

    async def read_exactly(self, size: int) -> bytes:
        if size <= self._plain.nbytes:
            found, self._plain = self._plain[:size], self._plain[size:] or _NOTHING
            return found.tobytes()
        buffer = bytearray(size)
        await self.read_into(memoryview(buffer))
        return bytes(buffer)

    async def read_into(self, buffer: memoryview) -> None:
        if self._target is not None:
            raise RuntimeError("two tasks read from one stream")
        self._target = buffer.cast("B")
        try:
            more = self._open_records()
            if self._target.nbytes:
                if self._broken is not None and not more:
                    raise PeerError(self._broken)
                self._reader = self._loop.create_future()
                await self._reader
        finally:
            self._target = self._reader = None

    async def write(self, *buffers: Buffer) -> None:
        if self._writing:
            raise RuntimeError("two tasks write to one stream")
        if self._torn or self._broken is not None:
            raise PeerError(self._broken or "an earlier write was broken off")
        out = _SPARE.take()
        self._writing = self._torn = True
        try:
            await self._write(buffers, out)
            self._torn = False
        finally:
            self._writing = False
            _SPARE.give(out)

    def abort(self) -> None:
        self._break("the stream was aborted here")
        if not self._shut:
            self._shut = True
            self._unwatch()
            if self._writer is not None:
                self._loop.remove_writer(self._socket.fileno())
            self._drop_input()
            self._socket.close()
            self._note_end()

    async def close(self) -> None:
        self._break("the stream was closed here")
        if not (self._closing or self._shut):
            self._closing = True
            self._drop_input()
            self._watch()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    if not self._torn:  # after half a message no orderly end may follow
                        await self._send_end()
                    self._socket.shutdown(socket.SHUT_WR)
                    await asyncio.shield(self._ended)
            except (TimeoutError, OSError, PeerError):
                pass  # the peer is gone, or does not take what is left
            finally:
                self.abort()
        await asyncio.shield(self._ended)

    # what comes in

    def _watch(self) -> None:
        if not (self._watching or self._finished or self._shut):
            self._watching = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._socket.fileno())

    def _readable(self) -> None:
        room = self._room()
        if not room.nbytes:
            self._unwatch()
            return
        try:
            size = self._socket.recv_into(room)
        except (BlockingIOError, InterruptedError):
            self._let_go()
        except OSError:
            self._finish("the connection broke")
        else:
            self._received += size
            if not size:
                self._finish("the stream ended early")
            elif self._closing:
                self._let_go()
            else:
                self._end += size
                self._advance()

    def _room(self) -> memoryview:
        """Where to put what comes in; nothing when a reader has to come first."""
        if self._buffer is None:
            self._buffer = _SPARE.take()
        ahead = self._size_ahead()
        if self._start and self._start + max(ahead, PREFIX_BYTES) > BUFFER_BYTES:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        stop = self._start + ahead
        if self._end < stop and BUFFER_BYTES - stop < RECORD_MAX + OVERHEAD:
            return self._buffer[self._end : stop]  # the next record begins at the front again
        return self._buffer[self._end :]

    def _size_ahead(self) -> int:
        """Bytes of the record that comes in; 0 when that is not known, or is the opener's to refuse."""
        if self._buffer is None or self._end - self._start < PREFIX_BYTES:
            return 0
        prefix = self._buffer[self._start : self._start + PREFIX_BYTES]
        size = int.from_bytes(prefix, "big")
        return size + OVERHEAD if size <= RECORD_MAX else 0

    def _advance(self) -> None:
        """Give the reader what has come."""
        try:
            more = self._open_records()
        except PeerError:
            return  # the reader knows
        if self._reader is not None and self._target is not None and not self._target.nbytes:
            _wake(self._reader)
        elif self._broken is not None and not more:
            self._break(self._broken)

    def _open_records(self) -> bool:
        """Open what is complete, as long as a reader wants it; whether another turn will go on with it.

        Raises PeerError, once and for all.
        """
        self._take_plain()
        try:
            for _ in range(RECORDS_A_TURN):
                if self._target is None or not self._target.nbytes:
                    break
                if (record := self._next_record()) is None:
                    break
                self._open(record)
                self._take_plain()
            else:  # until then nothing comes in, so that no end overtakes what is here already
                self._unwatch()
                self._loop.call_soon(self._advance)
                return True
        except PeerError as error:
            self._drop_input()
            self._finish(error.message)
            raise
        self._let_go()
        if self._end - self._start < BUFFER_BYTES:
            self._watch()
        return False

    def _take_plain(self) -> None:
        """Give the reader what is left of an opened record, and let go of it when nothing is."""
        if self._target is None or not self._plain.nbytes:
            return
        size = min(self._plain.nbytes, self._target.nbytes)
        self._target[:size] = self._plain[:size]
        self._target = self._target[size:]
        self._plain = self._plain[size:] or _NOTHING

    def _open(self, record: memoryview) -> None:
        """Where it is wanted if it fits there."""
        size = record.nbytes - OVERHEAD
        if self._opener is None or self._target is None:
            raise RuntimeError("a record was taken that nobody can use")
        if 0 < size <= self._target.nbytes:
            self._opener.open_into(record, self._target[:size])
            self._target = self._target[size:]
            return
        self._plain = memoryview(bytearray(size))
        self._opener.open_into(record, self._plain)
        if not size:
            raise PeerError("the stream ended early")

    def _next_record(self) -> memoryview | None:
        """Valid until the loop runs again."""
        while self._handshake is not None:
            record = self._whole(TLS_PREFIX_BYTES, tls_record_size)
            if record is None:
                return None
            key = self._handshake.greeted(record)
            if key is not None:
                self._opener, self._handshake = Opener(key), None
        return self._whole(PREFIX_BYTES, record_size)

    def _whole(self, prefix: int, size_of: Callable[[memoryview], int]) -> memoryview | None:
        there = self._end - self._start
        if self._buffer is None or there < prefix:
            return None
        size = size_of(self._buffer[self._start : self._end])
        if there < size:
            return None
        self._start += size
        return self._buffer[self._start - size : self._start]

    def _let_go(self) -> None:
        """Of the receive buffer when it is empty: the next connection fills it."""
        if self._start == self._end:
            self._start = self._end = 0
            if self._buffer is not None:
                _SPARE.give(self._buffer)
                self._buffer = None

    def _drop_input(self) -> None:
        self._plain = _NOTHING
        self._start = self._end = 0
        self._let_go()

    # what goes out

    async def _write(self, buffers: tuple[Buffer, ...], out: memoryview) -> None:
        used = len(self._greeting)
        out[:used], self._greeting = self._greeting, b""
        for part in _parts(buffers):
            if used + part.nbytes + OVERHEAD > BUFFER_BYTES:
                await self._send(out[:used])
                used = 0
                await asyncio.sleep(0)  # ten streams of 4 MiB each would keep the loop for long
            used += self._sealer.seal(part, out[used:])
        await self._send(out[:used])

    async def _send(self, data: memoryview) -> None:
        while True:
            if self._broken is not None:
                raise PeerError(self._broken)
            data = data[self._take(data) :]
            if not data.nbytes:
                return
            await self._writable()

    async def _send_end(self) -> None:
        out = memoryview(bytearray(len(self._greeting) + OVERHEAD))
        out[: len(self._greeting)] = self._greeting
        self._sealer.seal(_NOTHING, out[len(self._greeting) :])
        while (out := out[self._take(out) :]).nbytes:
            await self._writable()

    def _take(self, data: memoryview) -> int:
        """Bytes of `data` that the kernel takes now."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._finish("the connection broke")
            raise PeerError("the connection broke") from error

    async def _writable(self) -> None:
        self._writer = waiter = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _wake, waiter)
        try:
            await waiter
        finally:
            self._writer = None
            if not self._shut:  # `abort` has seen to it
                self._loop.remove_writer(self._socket.fileno())

    # the end

    def _finish(self, why: str) -> None:
        """Nothing more comes in."""
        self._finished = True
        self._unwatch()
        self._let_go()
        self._break(why)
        self._note_end()

    def _note_end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _break(self, why: str) -> None:
        if self._broken is None:
            self._broken = why
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_exception(PeerError(self._broken))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _parts(buffers: tuple[Buffer, ...]) -> Iterator[memoryview]:
    """What each record is to carry: small buffers together, large ones in pieces.

    Never nothing: an empty record says that the stream ends.
    """
    small: list[memoryview] = []
    size = 0
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        if 0 < rest.nbytes < JOINED_BYTES_MAX:
            small.append(rest)
            size += rest.nbytes
        if small and (size >= JOINED_BYTES_MAX or rest.nbytes >= JOINED_BYTES_MAX):
            yield memoryview(b"".join(small))
            small, size = [], 0
        if rest.nbytes >= JOINED_BYTES_MAX:
            for start in range(0, rest.nbytes, RECORD_MAX):
                yield rest[start : start + RECORD_MAX]
    if size:
        yield memoryview(b"".join(small))


def _watch_silence(sock: socket.socket) -> None:
    """Break connections whose other side has vanished; by default TCP tries for a quarter of an hour."""
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
