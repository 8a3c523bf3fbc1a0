"""From stream bytes to columns, leaves and a descriptor, in batches of rows; and back.

Memory is bounded by the batch that is handed in, whatever the segment's size. The batch is the unit of
work off the event loop: `SegmentEncoder.encode_rows` is one call, its result is what goes to n holders.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from potsherd.classes import dataclass
from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import CELL_SIZE, STANDARD, Geometry, Limits
from potsherd.erasure.merkle import HASH_SIZE, MerkleBuilder, cell_leaves_fast
from potsherd.errors import LimitError, UsageError
from potsherd.kernels.buffers import unset
from potsherd.ports import Buffer

__all__ = [
    "BATCH_BYTES",
    "CellHasher",
    "ColumnRun",
    "Remake",
    "RowBatch",
    "SegmentEncoder",
    "StreamPart",
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


class Remake(NamedTuple):
    """How bytes of the stream can be made once more, so that nobody needs to keep them."""

    make: Callable[[int, int], Buffer]
    """(start, size) -> the bytes; blocks. Raises PotsherdError where their source is not what it was."""
    start: int = 0


class StreamPart(NamedTuple):
    """Some bytes of the stream, and what is known of them."""

    data: Buffer
    references: bytes = b""
    """BLAKE2b-256 of each piece of `data` of the size of a cell, in order; empty when not known."""
    again: Remake | None = None
    """None: they cannot be made again, or not cheaply."""

    def cut(self, at: int, cell_size: int) -> tuple[StreamPart, StreamPart]:
        """The bytes before and from `at` on; what is known stays with them where a cell ends there."""
        view = memoryview(self.data).cast("B")
        place, within = divmod(at, cell_size)
        known = b"" if within else self.references
        again = self.again and self.again._replace(start=self.again.start + at)
        return (
            StreamPart(view[:at], known[: place * HASH_SIZE], self.again),
            StreamPart(view[at:], known[place * HASH_SIZE :], again),
        )


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

    def encode_rows(self, stream: Buffer) -> RowBatch:
        """`encode_parts` of bytes of which nothing is known."""
        return self.encode_parts([StreamPart(stream)])

    def encode_parts(self, parts: Sequence[StreamPart]) -> RowBatch:
        """Code the next bytes of the stream: whole rows, except in the last call.

        A reference that is given for a whole cell is its leaf: the caller vouches for it. The other
        cells are hashed here. Raises LimitError beyond the rows of a segment, UsageError after a row
        that was not full, and for references that do not fit their data.
        """
        row_bytes = self.code.k * self.cell_size
        size = sum(memoryview(part.data).nbytes for part in parts)
        if self._length != self._rows * row_bytes:
            raise UsageError("the last row was not full: nothing may follow")
        rows = max(-(-size // row_bytes), 0 if self._rows else 1)
        if self._rows + rows > self._rows_max():
            raise LimitError("more rows than a segment has")
        missing = rows * row_bytes - size
        batch = RowBatch(
            self._rows, rows, self._columns([*parts, StreamPart(bytes(missing))], rows)
        )
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

    def _columns(self, parts: Iterable[StreamPart], rows: int) -> tuple[ColumnRun, ...]:
        """The stream's bytes are copied here, and only here: from its parts into k columns.

        Each column has memory of its own, so that who holds on to one does not hold all n.
        """
        k, cell = self.code.k, self.cell_size
        columns = [memoryview(unset(rows * cell)) for _ in range(self.code.n)]
        known = _deal(parts, columns[:k], cell)
        if columns[k:]:
            self.code.parity_into(columns[:k], columns[k:])
        known += [[b""] * rows for _ in columns[k:]]
        return tuple(
            ColumnRun(column, self._leaves(column, ones))
            for column, ones in zip(columns, known, strict=True)
        )

    def _leaves(self, column: memoryview, known: list[bytes]) -> bytes:
        """Leaves of all cells of a column; those not known are hashed in runs as long as they form."""
        cell, start = self.cell_size, 0
        leaves: list[bytes] = []
        for known_ones, run in itertools.groupby(known, bool):
            stop = start + sum(1 for _ in run)
            if known_ones:
                leaves += known[start:stop]
            else:
                leaves.append(self._hash_cells(column[start * cell : stop * cell], cell))
            start = stop
        return b"".join(leaves)


def _deal(
    parts: Iterable[StreamPart], columns: Sequence[memoryview], cell: int
) -> list[list[bytes]]:
    """Copy the parts of a row-major table into its columns; gives the leaves that are known of each."""
    leaves = [[b""] * (len(column) // cell) for column in columns]
    row, column, within = 0, 0, 0  # of the table, and the bytes that this cell has
    for part in parts:
        view = memoryview(part.data).cast("B")
        known = part.references
        if known and len(known) * cell != len(view) * HASH_SIZE:
            raise UsageError("references that do not fit their data")
        at = 0
        while at < len(view):
            if known and not within and not at % cell:
                leaves[column][row] = known[at // cell * HASH_SIZE :][:HASH_SIZE]
            taken = min(cell - within, len(view) - at)
            target = row * cell + within
            columns[column][target : target + taken] = view[at : at + taken]
            at, within = at + taken, within + taken
            if within == cell:
                within = 0
                row, column = (row + 1, 0) if column + 1 == len(columns) else (row, column + 1)
    return leaves


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
