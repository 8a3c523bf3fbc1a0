"""The real network: UDP on asyncio-dgram, streams over TCP whose keys TLS has proven (`potsherd.ports.Net`)."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import asyncio_dgram

from potsherd.errors import PeerError, UnreachableError
from potsherd.node.real.opening import shake_hands
from potsherd.node.real.streams import SealedStream
from potsherd.node.real.tls import Contexts, proven_key
from potsherd.ports import Address, Buffer, Identity, Stream

__all__ = ["RealDatagrams", "RealListener", "RealNet"]

DATAGRAM_QUEUE_MAX = 1024
"""Datagrams waiting for `receive`; beyond it new ones are dropped and counted."""

DATAGRAM_SOCKET_BYTES = 1 << 20
"""Asked of the kernel for each direction, so that a burst survives a busy event loop."""

HANDSHAKES_MAX = 64
"""At once on one listener; further connections wait in the kernel's backlog."""

HANDSHAKE_TIMEOUT_S = 10.0

STREAMS_ACCEPTED_MAX = 1024
"""Open streams of one listener; beyond it new ones are refused."""

BACKLOG = 128
ACCEPT_PAUSE_S = 1.0
"""After an error that waiting may cure, such as too many open files."""


class RealDatagrams:
    """One bound UDP socket (`potsherd.ports.Datagrams`)."""

    def __init__(self, sock: socket.socket, stream: asyncio_dgram.aio.DatagramStream) -> None:
        self._socket = sock
        self._stream = stream
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        name = sock.getsockname()
        self._address = Address(name[0], name[1])
        self.dropped = 0
        """Arrived while the queue was full."""
        self.unsent = 0
        """Not taken by the kernel: full buffer, no route, too large."""
        self.errors = 0
        """Told by ICMP about earlier datagrams: nobody listens there."""
        self._drainer = asyncio.get_running_loop().create_task(self._drain())

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: Buffer, to: Address) -> None:
        # Not through the package: its `send` waits, and its buffer has no bound.
        if self._closed:
            return
        try:
            socket.inet_pton(
                self._socket.family, to.host
            )  # `sendto` would ask the resolver for a name
            self._socket.sendto(data, to)
        except (OSError, OverflowError, ValueError):
            self.unsent += 1

    async def receive(self) -> tuple[bytes, Address]:
        while not self._queue:
            if self._closed:
                raise UnreachableError("the datagram socket is closed")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # our turn goes to the next
                raise
        return self._queue.popleft()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        self._drainer.cancel()
        self._stream.close()
        while self._waiters:
            self._wake()

    async def _drain(self) -> None:
        """Empty the package's queue, which has no bound, into ours, which has one."""
        while True:
            try:
                data, source = cast(tuple[bytes, tuple[str, int]], await self._stream.recv())
            except asyncio_dgram.TransportClosed:
                return
            except OSError:
                self.errors += 1
                continue
            if len(self._queue) >= DATAGRAM_QUEUE_MAX:
                self.dropped += 1
                continue
            self._queue.append((data, Address(source[0], source[1])))
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class RealListener:
    """A listening TCP socket whose connections begin with TLS (`potsherd.ports.Listener`)."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        network_id: bytes,
        accept: Callable[[Stream], Awaitable[None]],
    ) -> None:
        self._socket = sock
        self._context = context
        self._network_id = network_id
        self._accept = accept
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._fresh: dict[socket.socket, None] = {}  # accepted, their tasks have not run yet
        self._streams = 0
        name = sock.getsockname()
        self._address = Address(name[0], name[1])
        self.refused = 0
        """Connections that did not get through the handshake, or were one too many."""
        self._acceptor = asyncio.get_running_loop().create_task(self._accept_all())

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        self._acceptor.cancel()
        await asyncio.gather(self._acceptor, return_exceptions=True)
        self._socket.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._fresh:
            connection.close()
        self._fresh.clear()

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._handshakes.acquire()
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                self._handshakes.release()
                if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            except BaseException:
                self._handshakes.release()
                raise
            self._fresh[connection] = None
            task = loop.create_task(self._serve(connection))
            self._tasks[task] = None
            task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _serve(self, connection: socket.socket) -> None:
        self._fresh.pop(connection)
        try:
            stream = await self._handshake(connection)
        except (OSError, PeerError, TimeoutError):
            self.refused += 1
            return
        finally:
            self._handshakes.release()
        if self._streams >= STREAMS_ACCEPTED_MAX:
            self.refused += 1
            stream.abort()
            return
        self._streams += 1
        try:
            await self._accept(stream)
            await stream.close()
        except PeerError:
            pass  # the peer broke off: nobody here to tell
        except Exception as error:
            message = "the handler of a stream failed"
            context = {"message": message, "exception": error, "protocol": stream}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self._streams -= 1
            stream.abort()

    async def _handshake(self, connection: socket.socket) -> SealedStream:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                handshake = await shake_hands(connection, self._context, listens=True)
            peer_key = proven_key(handshake.connection, self._network_id)
            return SealedStream(connection, handshake, peer_key)
        except BaseException:
            connection.close()
            raise


class RealNet:
    """Sockets of the operating system."""

    def __init__(self) -> None:
        self._contexts = Contexts()

    async def bind(self, at: Address) -> RealDatagrams:
        sock = _open(at, socket.SOCK_DGRAM)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, DATAGRAM_SOCKET_BYTES)
            stream = await asyncio_dgram.from_socket(sock)
        except BaseException:
            sock.close()
            raise
        return RealDatagrams(sock, stream)

    async def listen(
        self, at: Address, identity: Identity, accept: Callable[[Stream], Awaitable[None]]
    ) -> RealListener:
        context = await self._contexts.server(identity)
        sock = _open(at, socket.SOCK_STREAM)
        try:
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise PeerError(f"cannot listen on {at.host} port {at.port}: {error}") from error
        return RealListener(sock, context, identity.network_id, accept)

    async def dial(
        self, to: Address, identity: Identity, peer_key: bytes, *, timeout_s: float
    ) -> SealedStream:
        where = f"{to.host} port {to.port}"
        _family(to)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._dial(to, identity, peer_key)
        except PeerError:
            raise
        except ssl.SSLError as error:
            raise PeerError(f"{where} does not speak as a node: {error.reason}") from error
        except TimeoutError as error:
            raise UnreachableError(f"{where} did not answer in {timeout_s:g} s") from error
        except (OSError, OverflowError) as error:
            raise UnreachableError(f"{where}: {error}") from error

    async def _dial(self, to: Address, identity: Identity, peer_key: bytes) -> SealedStream:
        context = await self._contexts.client(identity)
        sock = socket.socket(_family(to), socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # in bytes: uvloop encodes text as a name, and imports for that what it takes, 2 ms
            await asyncio.get_running_loop().sock_connect(sock, (to.host.encode(), to.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handshake = await shake_hands(sock, context, listens=False)
            if proven_key(handshake.connection, identity.network_id) != peer_key:
                raise PeerError("the peer has another key than expected")
            return SealedStream(sock, handshake, peer_key)
        except BaseException:
            sock.close()
            raise


def _family(at: Address) -> socket.AddressFamily:
    try:
        version = ipaddress.ip_address(at.host).version
    except ValueError:
        raise UnreachableError(f"{at.host!r} is not an IP address") from None
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _open(at: Address, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(_family(at), kind)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:  # no IPv4 peers in IPv6 clothes
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(at)
    except (OSError, OverflowError) as error:
        sock.close()
        raise PeerError(f"cannot listen on {at.host} port {at.port}: {error}") from error
    return sock
