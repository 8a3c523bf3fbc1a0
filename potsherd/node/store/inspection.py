"""Looking at one's own shards and putting right what has rotted (docs/spec/audit.md, section 4).

A rotten cell is found by its leaf hash; the leaf hashes that lie behind the cells are trusted only if they
lead to the descriptor's root. What is written in place is checked before, and was wrong before: a crash in
the middle leaves what was there, a damaged cell.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import HASH_SIZE, MerkleTree, cell_leaves_light
from potsherd.errors import IntegrityError, NotFoundError, StorageError
from potsherd.node.store import files, segments
from potsherd.node.store.index import Index
from potsherd.node.store.intake import ROW_PAGES
from potsherd.node.store.segments import Segment
from potsherd.ports import Buffer, Disk, Env

__all__ = ["Inspection", "ShardVanished"]

T = TypeVar("T")
PORTION_CELLS = 32
"""Cells read at a time."""

Row = Callable[[bytes], Awaitable[Segment | None]]
Own = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


class ShardVanished(StorageError):  # noqa: N818 (names what happened)
    """The file of a shard is not there any more."""


class Inspection:
    """Made by the store. Methods raise NotFoundError when the segment is not held (any more)."""

    def __init__(
        self, env: Env, index: Index, *, row: Row, own: Own, changed: Callable[[bytes], None]
    ) -> None:
        """`own` runs work to its end whatever becomes of the caller; `changed(segment id)`: its file was written."""
        self._env = env
        self._index = index
        self._row = row
        self._own = own
        self._changed = changed

    async def leaves(self, segment_id: bytes) -> tuple[bytes | None, bool]:
        """(leaf hashes that lead to the shard root, whether the stored ones had to be written anew).

        None: neither the stored leaves nor the cells as a whole lead there, so every cell is suspect.
        Raises ShardVanished when there is no file.
        """
        row = await self._require(segment_id)
        if row.allocated is None:
            return await self._env.offload(_small_leaves, await self._small(row), row), False
        stored = await self._env.offload(_stored_leaves, self._env.disk, row)
        if stored is not None:
            return stored, False
        return await self._reseal(row)

    async def damaged(
        self, segment_id: bytes, first: int, count: int, leaves: bytes | None
    ) -> list[int]:
        """Which of these rows the disk does not give, or not as their leaf hashes say; all without `leaves`."""
        row = await self._require(segment_id)
        if leaves is None:
            return list(range(first, first + count))
        if row.allocated is None:
            return []  # its leaves led to the root a moment ago, and they were made from the cells
        return await self._env.offload(
            _damaged_rows, self._env.disk, row, first, count, bytes(leaves)
        )

    async def mend(self, segment_id: bytes, first: int, data: Buffer, leaves: bytes | None) -> None:
        """Write right cells over rotten ones. Raises IntegrityError when they are not the shard's.

        Without `leaves` the cells of a file are checked by `seal`, at the end; a shard in the index is
        given whole.
        """
        row = await self._require(segment_id)
        if row.allocated is None:
            await self._own(self._replace(row, bytes(data)))
        else:
            work = self._env.offload(_write_cells, self._env.disk, row, first, data, leaves)
            await self._own(_awaiting(work))
            self._changed(segment_id)

    async def seal(self, segment_id: bytes) -> bool:
        """Write the leaf hashes of the cells as they are now, if they lead to the shard root; whether they do."""
        row = await self._require(segment_id)
        if row.allocated is None:
            return (await self.leaves(segment_id))[0] is not None
        return (await self._reseal(row))[0] is not None

    async def _reseal(self, row: Segment) -> tuple[bytes | None, bool]:
        found = await self._own(_awaiting(self._env.offload(_seal, self._env.disk, row)))
        self._changed(row.segment_id)
        return found, found is not None

    async def _replace(self, row: Segment, data: bytes) -> None:
        leaves = cell_leaves_light(data, row.descriptor.cell_size)
        if len(data) != row.size or MerkleTree(leaves).root != _root(row):
            raise IntegrityError("these bytes are not the shard")
        sql = "UPDATE shards SET data = ? WHERE segment = ?"

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (data, segments.require(connection, row.segment_id)))

        await self._index.write(work, pages=3 * ROW_PAGES)

    async def _small(self, row: Segment) -> bytes:
        return await self._index.read(lambda c: segments.shard(c, row.segment_id))

    async def _require(self, segment_id: bytes) -> Segment:
        row = await self._row(segment_id)
        if row is None:
            raise NotFoundError(f"segment {segment_id.hex()[:12]} is not held here")
        return row


async def _awaiting(work: Awaitable[T]) -> T:
    return await work


def _root(row: Segment) -> bytes:
    return row.descriptor.roots[row.index]


def _small_leaves(data: bytes, row: Segment) -> bytes | None:
    if len(data) != row.size:
        return None
    leaves = cell_leaves_light(data, row.descriptor.cell_size)
    return leaves if MerkleTree(leaves).root == _root(row) else None


def _stored_leaves(disk: Disk, row: Segment) -> bytes | None:
    try:
        leaves = files.read_leaves(disk, files.shard_path(row.segment_id), row.size)
    except NotFoundError:
        raise ShardVanished(
            f"the file of segment {row.segment_id.hex()[:12]} has vanished"
        ) from None
    except StorageError:
        return None
    return leaves if MerkleTree(leaves).root == _root(row) else None


def _damaged_rows(disk: Disk, row: Segment, first: int, count: int, leaves: bytes) -> list[int]:
    path = files.shard_path(row.segment_id)
    try:
        cells = files.read_runs(disk, path, [(first, count)])
    except StorageError:
        if count == 1:
            return [first]
        ones = (_damaged_rows(disk, row, r, 1, leaves) for r in range(first, first + count))
        return [bad for found in ones for bad in found]
    found = cell_leaves_light(cells, CELL_SIZE)
    return [first + at for at in range(count) if _leaf(found, at) != _leaf(leaves, first + at)]


def _leaf(leaves: bytes, row: int) -> bytes:
    return leaves[row * HASH_SIZE : (row + 1) * HASH_SIZE]


def _write_cells(disk: Disk, row: Segment, first: int, data: Buffer, leaves: bytes | None) -> None:
    count, rest = divmod(memoryview(data).nbytes, CELL_SIZE)
    if rest or first + count > row.descriptor.rows:
        raise IntegrityError("not whole cells of the shard")
    if leaves is not None:
        wanted = leaves[first * HASH_SIZE : (first + count) * HASH_SIZE]
        if cell_leaves_light(data, CELL_SIZE) != wanted:
            raise IntegrityError("these cells are not the shard's")
    path = files.shard_path(row.segment_id)
    disk.write(path, first * CELL_SIZE, data)
    disk.sync(path)


def _seal(disk: Disk, row: Segment) -> bytes | None:
    path, rows = files.shard_path(row.segment_id), row.descriptor.rows
    leaves = bytearray()
    try:
        for first in range(0, rows, PORTION_CELLS):
            run = (first, min(PORTION_CELLS, rows - first))
            leaves += cell_leaves_light(files.read_runs(disk, path, [run]), CELL_SIZE)
    except StorageError:
        return None
    if MerkleTree(leaves).root != _root(row):
        return None
    disk.write(path, row.size, leaves)
    disk.sync(path)
    return bytes(leaves)
