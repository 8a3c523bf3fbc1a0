"""From stream bytes to columns, leaves and a descriptor, in batches of rows; and back.

Memory is bounded by the batch that is handed in, whatever the segment's size. The batch is the unit of
work off the event loop: `SegmentEncoder.encode_rows` is one call, its result is what goes to n holders.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import CELL_SIZE, STANDARD, Geometry, Limits
from potsherd.erasure.merkle import HASH_SIZE, MerkleBuilder, cell_leaves_fast
from potsherd.errors import LimitError, UsageError
from potsherd.ports import Buffer

__all__ = [
    "BATCH_BYTES",
    "CellHasher",
    "ColumnRun",
    "RowBatch",
    "SegmentEncoder",
    "batch_rows",
    "column_of",
    "join_columns",
    "rebuild_rows",
]

CellHasher: TypeAlias = Callable[[Buffer, int], bytes]
"""(run of cells, cell size) -> concatenated leaves; `merkle.cell_leaves`, or a kernel that equals it."""


BATCH_BYTES = 2 * 1024 * 1024
"""Bytes of stream that a batch should have: the engine is at full speed from about 1 MiB on."""


def batch_rows(k: int, cell_size: int = CELL_SIZE) -> int:
    """Rows of a batch of about BATCH_BYTES, at least one."""
    return max(1, BATCH_BYTES // (k * cell_size))


@dataclass(frozen=True)
class ColumnRun:
    """Cells of one shard, one below the other, and their leaves (32 bytes each)."""

    cells: Buffer
    leaves: bytes


@dataclass(frozen=True)
class RowBatch:
    """Rows `first_row` to `first_row + rows - 1` of all n columns."""

    first_row: int
    rows: int
    columns: tuple[ColumnRun, ...]


def column_of(table: Buffer, k: int, cell_size: int, column: int) -> bytes:
    """One data column of a row-major table of whole rows, its cells one below the other."""
    view = memoryview(table).cast("B")
    starts = range(column * cell_size, len(view), k * cell_size)
    return b"".join(view[start : start + cell_size] for start in starts)


def join_columns(columns: Sequence[Buffer], cell_size: int) -> bytearray:
    """The row-major stream bytes of k data columns: the inverse of `column_of`."""
    views = [memoryview(column).cast("B") for column in columns]
    if len({len(view) for view in views}) != 1 or len(views[0]) % cell_size:
        raise UsageError("columns that are not the same whole cells")
    table = bytearray(sum(len(view) for view in views))
    place = 0
    for start in range(0, len(views[0]), cell_size):
        for view in views:
            table[place : place + cell_size] = view[start : start + cell_size]
            place += cell_size
    return table


class SegmentEncoder:
    """Codes one segment, batch after batch.

    `cell_size` is CELL_SIZE, or for a small stream that of its geometry; then there is one batch.
    """

    def __init__(
        self,
        code: Code,
        *,
        cell_size: int = CELL_SIZE,
        hash_cells: CellHasher = cell_leaves_fast,
        limits: Limits = STANDARD,
    ) -> None:
        self.code = code
        self.cell_size = cell_size
        self._hash_cells = hash_cells
        self._limits = limits
        self._builders = [MerkleBuilder() for _ in range(code.n)]
        self._rows = 0
        self._length = 0

    @property
    def rows(self) -> int:
        """Rows coded so far."""
        return self._rows

    @property
    def stream_length(self) -> int:
        """Bytes of stream taken so far."""
        return self._length

    def encode_rows(
        self, stream: Buffer, known_leaves: Mapping[int, bytes] | None = None
    ) -> RowBatch:
        """Code the next bytes of the stream: whole rows, except in the last call.

        `known_leaves` gives leaves of data cells by their number within this batch, row by row: the
        caller vouches that they are BLAKE2b-256 of the cells. The others are hashed here. Raises
        LimitError beyond the rows of a segment, UsageError after a row that was not full.
        """
        row_bytes = self.code.k * self.cell_size
        size = memoryview(stream).nbytes
        if self._length != self._rows * row_bytes:
            raise UsageError("the last row was not full: nothing may follow")
        rows = max(-(-size // row_bytes), 0 if self._rows else 1)
        if self._rows + rows > self._rows_max():
            raise LimitError("more rows than a segment has")
        table = _filled(stream, rows * row_bytes)
        batch = RowBatch(self._rows, rows, self._columns(table, known_leaves or {}))
        for builder, column in zip(self._builders, batch.columns, strict=True):
            builder.extend(column.leaves)
        self._rows, self._length = self._rows + rows, self._length + size
        return batch

    def roots(self) -> tuple[bytes, ...]:
        """The Merkle roots of the n shards so far."""
        return tuple(builder.root() for builder in self._builders)

    def finish(
        self, *, r: int, placement_key: bytes, owner_key: bytes, entry: Entry | None = None
    ) -> Descriptor:
        """The descriptor of the segment as it is now. Raises MalformedError when a value is wrong."""
        if not self._rows:
            self.encode_rows(b"")
        descriptor = Descriptor(
            self.code.k,
            self.code.n,
            r,
            self.cell_size,
            self._rows,
            self._length,
            placement_key,
            owner_key,
            self.roots(),
            entry,
        )
        descriptor.encode()  # checks every bound
        return descriptor

    def geometry(self) -> Geometry:
        """The table of the segment as it is now."""
        return Geometry(self.code.k, self.code.n, self.cell_size, self._rows, self._length)

    def _rows_max(self) -> int:
        full = self.cell_size == self._limits.cell_size
        return self._limits.rows_max(self.code.k) if full else 1

    def _columns(self, table: Buffer, known: Mapping[int, bytes]) -> tuple[ColumnRun, ...]:
        """Data cells are copied together, column by column; parity columns share one buffer."""
        k, cell = self.code.k, self.cell_size
        leaves = self._data_leaves(table, known)
        data = [
            ColumnRun(column_of(table, k, cell, column), b"".join(leaves[column::k]))
            for column in range(k)
        ]
        size = memoryview(table).nbytes // k
        parity = memoryview(bytearray(size * (self.code.n - k)))
        columns = [parity[at : at + size] for at in range(0, len(parity), size)]
        self.code.parity_rows_into(table, cell, columns)
        hashes, step = self._hash_cells(parity, cell) if parity else b"", size // cell * HASH_SIZE
        runs = [hashes[at : at + step] for at in range(0, len(hashes), step)]
        return (*data, *map(ColumnRun, columns, runs))

    def _data_leaves(self, table: Buffer, known: Mapping[int, bytes]) -> list[bytes]:
        """Leaves of all data cells, row by row; those not known are hashed in as long runs as they form."""
        view, cell = memoryview(table).cast("B"), self.cell_size
        leaves = [known.get(number, b"") for number in range(len(view) // cell)]
        if any(len(leaf) != HASH_SIZE for leaf in leaves if leaf):
            raise UsageError("a leaf that is not a hash")
        start = 0
        for known_ones, run in itertools.groupby(leaves, bool):
            stop = start + sum(1 for _ in run)
            if not known_ones:
                found = self._hash_cells(view[start * cell : stop * cell], cell)
                leaves[start:stop] = [
                    found[at : at + HASH_SIZE] for at in range(0, len(found), HASH_SIZE)
                ]
            start = stop
        return leaves


def _filled(stream: Buffer, size: int) -> Buffer:
    missing = size - memoryview(stream).nbytes
    return bytes(stream) + bytes(missing) if missing else stream


def rebuild_rows(
    code: Code,
    cells: Mapping[int, Buffer],
    wanted: Iterable[int],
    cell_size: int,
    *,
    hash_cells: CellHasher = cell_leaves_fast,
) -> dict[int, ColumnRun]:
    """For a run of rows: the wanted columns' cells and leaves from any k columns' cells.

    The cells must have been verified: one wrong byte spoils what is rebuilt, which then fails against
    the shard root. Raises NotEnoughShards with fewer than k.
    """
    rebuilt = code.rebuild(cells, wanted)
    return {index: ColumnRun(run, hash_cells(run, cell_size)) for index, run in rebuilt.items()}
