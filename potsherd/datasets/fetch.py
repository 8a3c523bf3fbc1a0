"""Many files of an archive, in the order of their stream: small ones by the hundred, long ones in windows.

What becomes of their bytes is a `Receiver`'s business: `get` writes them, `verify` only looks. A file that
cannot be read does not stop the others: it is reported.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from potsherd.classes import dataclass
from potsherd.datasets.content import ContentHash
from potsherd.datasets.manifest import Node
from potsherd.datasets.reader import ArchiveReader, content_of
from potsherd.errors import (
    IntegrityError,
    MalformedError,
    NotEnoughShards,
    NotFoundError,
    PotsherdError,
)
from potsherd.ports import Buffer, Env

__all__ = ["Failure", "Fetcher", "LongFile", "Receiver"]

GROUP_BYTES_MAX = 4 * 2**20
"""Content bytes of files that are read together."""
GROUP_FILES_MAX = 512
"""Files that are read together."""
GROUPS_AHEAD = 3
"""Groups under way at the same time, besides one that is being collected."""
LONG_BYTES_MIN = 2**21
"""From this size on a file is read by itself, in windows."""
FAILURES_MAX = 1000
"""Files that may fail before the whole does: then it is not the files."""
READ_FAILURES = (IntegrityError, MalformedError, NotEnoughShards, NotFoundError)
"""What concerns one file or segment only."""


class LongFile(Protocol):
    """Takes one long file. Blocks; on threads."""

    def start(self, hashes: ContentHash) -> int:
        """Where to begin: behind what is there already, which has been fed to the hashes."""

    def write(self, start: int, data: Buffer) -> None:
        """The next bytes, verified block by block."""

    def finish(self) -> None:
        """All bytes came, and their hashes are right."""

    def fail(self) -> None:
        """The hashes are wrong."""

    def close(self) -> None:
        """Once, whatever happened."""


class Receiver(Protocol):
    """Takes files. Its methods block and are called on threads, one at a time."""

    def wanted(self, nodes: Sequence[Node]) -> list[bool]:
        """Which of these files are to be read at all."""

    def files(self, items: Sequence[tuple[Node, bytes]]) -> None:
        """Whole files, verified."""

    def long_file(self, node: Node) -> LongFile:
        """A long file begins."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    node: Node
    error: PotsherdError


class Fetcher:
    """Reads files into a receiver: `add` nodes in manifest order, then `finish`; `close` at any rate."""

    def __init__(
        self, env: Env, archive: ArchiveReader, receiver: Receiver, *, both_hashes: bool = False
    ) -> None:
        """`both_hashes`: check SHA-256 besides BLAKE2b."""
        self._env, self._archive, self._receiver = env, archive, receiver
        self._both = both_hashes
        self._group: list[Node] = []
        self._group_bytes = 0
        self._waiting: deque[asyncio.Task[None]] = deque()
        self.turn = asyncio.Lock()
        """Held while the receiver works."""
        self.failures: list[Failure] = []
        self.files = 0
        """Files read."""
        self.content_bytes = 0
        """Bytes of them."""
        self.skipped = 0
        """Files that the receiver did not want."""

    async def add(self, node: Node) -> None:
        """A file to read; returns when there is room for the next."""
        length = content_of(node).length
        if length >= LONG_BYTES_MIN:
            await self._launch()
            await self._long(node)
            return
        self._group.append(node)
        self._group_bytes += length
        if len(self._group) >= GROUP_FILES_MAX or self._group_bytes >= GROUP_BYTES_MAX:
            await self._launch()

    async def finish(self) -> None:
        """Wait until everything has been read and received."""
        await self._launch()
        while self._waiting:
            await self._waiting.popleft()

    async def close(self) -> None:
        """Stop what is under way."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._waiting.clear()

    async def _launch(self) -> None:
        if self._group:
            self._waiting.append(asyncio.create_task(self._read_group(self._group)))
            self._group, self._group_bytes = [], 0
        while len(self._waiting) > GROUPS_AHEAD:
            await self._waiting.popleft()

    async def _wanted(self, nodes: list[Node]) -> list[Node]:
        async with self.turn:
            wanted = await self._env.offload(self._receiver.wanted, nodes)
        self.skipped += wanted.count(False)
        return [node for node, yes in zip(nodes, wanted, strict=True) if yes]

    async def _read_group(self, nodes: list[Node]) -> None:
        nodes = await self._wanted(nodes)
        if nodes:
            await self._read_some(nodes)

    async def _read_some(self, nodes: list[Node]) -> None:
        try:
            contents = await self._archive.read_files(nodes)
        except READ_FAILURES as error:
            if len(nodes) == 1:
                self._fail(nodes[0], error)
                return
            half = len(nodes) // 2  # find those that it is about
            await self._read_some(nodes[:half])
            await self._read_some(nodes[half:])
            return
        await self._receive(nodes, contents)

    async def _receive(self, nodes: list[Node], contents: list[bytes]) -> None:
        items = list(zip(nodes, contents, strict=True))
        if self._both:
            items = await self._env.offload(self._check_both, items)
        async with self.turn:
            await self._env.offload(self._receiver.files, items)
        self.files += len(items)
        self.content_bytes += sum(len(data) for _, data in items)

    def _check_both(self, items: list[tuple[Node, bytes]]) -> list[tuple[Node, bytes]]:
        good = []
        for node, data in items:
            hashes = ContentHash()
            hashes.update(data)
            if hashes.digests == _digests(node):
                good.append((node, data))
            else:
                self._fail(node, _wrong_hash())
        return good

    # --- long files ----------------------------------------------------------------------------------

    async def _long(self, node: Node) -> None:
        if not await self._wanted([node]):
            return
        try:
            if not await self._read_long(node):  # what an earlier try had left was not good
                await self._read_long(node)
        except READ_FAILURES as error:
            self._fail(node, error)
            return
        self.files += 1

    async def _read_long(self, node: Node) -> bool:
        """False when bytes left by an earlier try were wrong; they are gone then."""
        offload = self._env.offload
        async with self.turn:
            target = await offload(self._receiver.long_file, node)
        try:
            hashes = ContentHash(sha256=self._both)
            resumed = at = await offload(target.start, hashes)
            # A tree of blocks is authenticated from its root key down, so what streams out of it needs no
            # second hash: half of the time of a `get`. What lay there before, and `verify`, do.
            hashed = self._both or resumed > 0
            async with aclosing(self._archive.file(node).stream(at)) as pieces:
                async for piece in pieces:
                    if hashed:
                        await offload(hashes.update, piece)
                    await offload(target.write, at, piece)
                    at += len(piece)
                    self.content_bytes += len(piece)
            if not hashed:
                await offload(target.finish)
                return True
            if hashes.digests[: 1 + self._both] == _digests(node)[: 1 + self._both]:
                await offload(target.finish)
                return True
            await offload(target.fail)
        finally:
            await offload(target.close)
        if resumed:
            return False
        raise _wrong_hash()

    def _fail(self, node: Node, error: PotsherdError) -> None:
        if len(self.failures) >= FAILURES_MAX:
            raise error
        self.failures.append(Failure(node, error))


def _digests(node: Node) -> tuple[bytes, bytes]:
    content = content_of(node)
    return content.blake2b, content.sha256


def _wrong_hash() -> IntegrityError:
    return IntegrityError("a file's content does not have the hash that the manifest gives")
