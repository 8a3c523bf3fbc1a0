"""The ports: the only way in which a node reaches clock, randomness, network, disk and threads.

One `Env` per node, made by `potsherd.node.real` (sockets, disks) or by `potsherd.simulations.world`
(virtual time). The node's code is the same on both; if a change needs "if simulating", the boundary is
in the wrong place (docs/design/rooms.md).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from potsherd.classes import dataclass

__all__ = [
    "Address",
    "Buffer",
    "Datagrams",
    "Disk",
    "Env",
    "Identity",
    "Listener",
    "Net",
    "Offload",
    "Rng",
    "Stream",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Rng: TypeAlias = random.Random
T = TypeVar("T")


class Address(NamedTuple):
    """Where a peer listens: a literal IP address and a port (UDP and TCP alike)."""

    host: str
    port: int


@dataclass(frozen=True)
class Identity:
    """Who we are on the wire: the node's Ed25519 seed (32 bytes, secret), its key, the network's id."""

    seed: bytes
    key: bytes
    network_id: bytes

    def __repr__(self) -> str:
        return f"Identity(key={self.key.hex()[:12]})"


class Datagrams(Protocol):
    """One bound UDP socket."""

    @property
    def address(self) -> Address:
        """The bound address; the port is the real one when 0 was asked for."""

    def send(self, data: bytes, to: Address) -> None:
        """Send without waiting; a full socket buffer or an unreachable host drops the datagram."""

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram. The queue is bounded: beyond it new ones are dropped and counted.

        Raises UnreachableError when the endpoint has been closed.
        """

    def close(self) -> None:
        """Free the socket; waiting receivers end."""


class Stream(Protocol):
    """A reliable byte stream to a peer whose Ed25519 node key is proven.

    One task at a time reads and one writes. After a cancelled or failed read or write the position in the
    stream is unknown: abort it.
    """

    @property
    def peer_key(self) -> bytes:
        """The 32-byte node key that the other side has proven to own."""

    @property
    def peer_address(self) -> Address:
        """Where the other side is."""

    @property
    def received(self) -> int:
        """Bytes that have come in so far, also those that nobody has read yet."""

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises PeerError when the stream ends before."""

    async def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer` whole. Raises PeerError when the stream ends before."""

    async def write(self, *buffers: Buffer) -> None:
        """Send the buffers in order, and wait while the peer is slower. Raises PeerError.

        The buffers may be changed once this returns. It does not mean that the peer has them.
        """

    def abort(self) -> None:
        """Break off at once; may be called twice."""

    async def close(self) -> None:
        """Send what is waiting, then close; may be called twice. Discards what was not read.

        The peer reads what was sent, then gets PeerError. Gives up, and aborts, after some seconds.
        """


class Listener(Protocol):
    """A listening stream socket."""

    @property
    def address(self) -> Address:
        """The bound address."""

    async def close(self) -> None:
        """Stop accepting, abort the streams it accepted, cancel and await their handlers.

        Not to be called by `accept`, which it would wait for.
        """


class Net(Protocol):
    """Datagrams and streams."""

    async def bind(self, at: Address) -> Datagrams:
        """Open a UDP socket. Raises PeerError if the address is taken or not ours."""

    async def listen(
        self, at: Address, identity: Identity, accept: Callable[[Stream], Awaitable[None]]
    ) -> Listener:
        """Accept streams of peers of the same network; `accept` runs as a task of the listener's own.

        When `accept` returns the stream is closed; when it raises, aborted. PeerError from it means that
        the peer broke off and is swallowed; any other error is a fault of ours and is reported to the
        loop. Raises PeerError if the address is taken or not ours.
        """

    async def dial(
        self, to: Address, identity: Identity, peer_key: bytes, *, timeout_s: float
    ) -> Stream:
        """Connect and prove both keys.

        Raises UnreachableError when nobody answers there in time, and PeerError when somebody else does:
        another key, another network, no node. A refusal by the other side shows at the first read.
        """


class Disk(Protocol):
    """One folder for shard files and the index. Blocking: call through `Env.offload`.

    Paths are relative, with `/`. Every method raises StorageError when the disk refuses and
    NotFoundError where a file is missing. A write is durable only after `sync(path)` *and*
    `sync_folder(folder)` of the folder that got or lost the name. Paths do not begin with a dot.
    """

    def create(self, path: str, size: int) -> None:
        """Make a file with `size` allocated bytes of zeros, and its parent folders."""

    def write(self, path: str, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset` within the file's size."""

    def read(self, path: str, offset: int, size: int) -> Buffer:
        """Exactly `size` bytes. Raises StorageError when the file is shorter."""

    def truncate(self, path: str, size: int) -> None:
        """Cut to `size` and free the blocks behind it."""

    def sync(self, path: str) -> None:
        """fsync of a file's content and size."""

    def sync_folder(self, path: str) -> None:
        """fsync of a folder's names ("" is the root), and of its own name if it is new."""

    def rename(self, old: str, new: str) -> None:
        """Atomically; makes the parent folders of `new`."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        """(path, size, allocated bytes: st_blocks x 512) of every file below `folder`, sorted."""

    def free(self) -> int:
        """Bytes that the file system would still give us."""

    def open_index(self, name: str, *, pages_max: int | None = None) -> sqlite3.Connection:
        """The SQLite database `name`: WAL, synchronous=FULL, `isolation_level=None`, for any thread.

        The caller sends BEGIN IMMEDIATE … COMMIT itself, one transaction per `offload` call, and makes
        sure that one call at a time uses the connection. Beyond `pages_max` pages SQLite raises
        sqlite3.OperationalError ("full"). Open each name once. `walk` never sees the database.
        """


class Offload(Protocol):
    """Run blocking or heavy work off the event loop."""

    def __call__(self, fn: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """`fn(*args)` on a bounded thread pool; inline plus a seeded delay in the virtual world.

        Cancelling the awaiter does not stop `fn`.
        """


@dataclass(frozen=True)
class Env:
    """Everything outside, for one node."""

    monotonic: Callable[[], float]
    """Seconds of the loop's clock; for timers and durations."""
    utc: Callable[[], float]
    """Seconds since 1970; may be skewed or jump; for dates in records and hours of day."""
    rng: Rng
    """Real: the operating system's generator. World: seeded."""
    net: Net
    disk: Disk
    offload: Offload
