"""Where bytes of a block stream lie: rows, cells, segments, extents (docs/spec/segments.md).

`Geometry` is the table of one segment. `StreamLayout` plans a whole block stream while it is written:
it is told which encodings begin and how many bytes of blocks come, and answers with steps that the
stream writer carries out in order. It never sees a byte.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.errors import UsageError

__all__ = [
    "CELL_SIZE",
    "CELL_STEP",
    "COLUMN_CELLS",
    "STANDARD",
    "CellSpan",
    "Extent",
    "ExtentMap",
    "Geometry",
    "Limits",
    "rows_max",
]

CELL_SIZE = 32 * 1024
"""Bytes of a cell, except in small streams."""
CELL_STEP = 64
"""Cells of small streams are a multiple of this many bytes, and at least one."""
COLUMN_CELLS = 32 * 1024
"""Data cells of a segment: rows times k is at most this, so a segment has about 1 GiB."""
BLOCK_SMALL = 1024
"""Bytes of an ERIS block of small content; large ones are as long as a cell."""


@dataclass(frozen=True)
class Limits:
    """The sizes that tests make small; everything else uses STANDARD."""

    cell_size: int = CELL_SIZE
    cell_step: int = CELL_STEP
    data_cells: int = COLUMN_CELLS
    block_small: int = BLOCK_SMALL

    def rows_max(self, k: int) -> int:
        """Rows of a segment at most."""
        return self.data_cells // k

    def row_bytes(self, k: int) -> int:
        """Bytes of stream in a row of full cells; a shorter stream is small."""
        return k * self.cell_size

    def capacity(self, k: int) -> int:
        """Bytes of stream in a full segment."""
        return self.rows_max(k) * self.row_bytes(k)

    def small_cell(self, k: int, stream_length: int) -> int:
        """Cell size of a small stream: ⌈length/k⌉ rounded up to the step, at least one step."""
        steps = -(-stream_length // (k * self.cell_step))
        return max(1, steps) * self.cell_step


STANDARD = Limits()


def rows_max(k: int) -> int:
    """Rows of a segment at most: ⌊32768/k⌋."""
    return STANDARD.rows_max(k)


class CellSpan(NamedTuple):
    """Bytes `start` to `stop` of the cell in `row` and `column`."""

    row: int
    column: int
    start: int
    stop: int


@dataclass(frozen=True)
class Geometry:
    """The table of one segment: `rows` rows of n cells, the first k of each filled row by row.

    Stream cell c lies in row c // k, column c % k. What is left of the last row is zero bytes. The
    number of rows follows from the length: the fewest that hold it, and at least one. Raises UsageError
    when the numbers contradict each other.
    """

    k: int
    n: int
    cell_size: int
    rows: int
    stream_length: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n <= 255 or self.cell_size < 1 or self.stream_length < 0:
            raise UsageError("a segment with impossible k, n, cell size or length")
        if self.rows != max(1, -(-self.stream_length // self.row_bytes)):
            raise UsageError(f"{self.rows} rows do not fit {self.stream_length} bytes")

    @classmethod
    def of(
        cls, k: int, n: int, stream_length: int, *, small: bool = False, limits: Limits = STANDARD
    ) -> Geometry:
        """The geometry of a closed segment; `small` as the `Close` step says it.

        Raises UsageError when it is longer than a segment, or small and not shorter than a row.
        """
        if small and stream_length >= limits.row_bytes(k):
            raise UsageError("a small stream is shorter than a row")
        if stream_length > limits.capacity(k):
            raise UsageError("longer than a segment")
        cell = limits.small_cell(k, stream_length) if small else limits.cell_size
        return cls(k, n, cell, max(1, -(-stream_length // (k * cell))), stream_length)

    def conforms(self, limits: Limits = STANDARD) -> bool:
        """Whether a writer under `limits` can have made it."""
        if self.cell_size == limits.cell_size:
            return self.rows <= limits.rows_max(self.k)
        small = limits.small_cell(self.k, self.stream_length)
        return self.cell_size == small < limits.cell_size

    @property
    def row_bytes(self) -> int:
        """Bytes of stream in a row."""
        return self.k * self.cell_size

    @property
    def shard_size(self) -> int:
        """Bytes of a shard."""
        return self.rows * self.cell_size

    @property
    def capacity(self) -> int:
        """Bytes of the table's data cells; those from `stream_length` on are zero."""
        return self.rows * self.row_bytes

    def rows_of(self, offset: int, length: int) -> range:
        """The rows that hold some of these bytes of the stream."""
        self._check(offset, length)
        if not length:
            return range(0)
        return range(offset // self.row_bytes, (offset + length - 1) // self.row_bytes + 1)

    def locate(self, offset: int, length: int) -> list[CellSpan]:
        """The cells of these bytes of the stream, in order. Raises UsageError beyond its end."""
        self._check(offset, length)
        return list(self._spans(offset, offset + length))

    def _spans(self, offset: int, end: int) -> Iterator[CellSpan]:
        while offset < end:
            cell, start = divmod(offset, self.cell_size)
            stop = min(self.cell_size, start + end - offset)
            yield CellSpan(*divmod(cell, self.k), start, stop)
            offset += stop - start

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.stream_length:
            raise UsageError(f"bytes {offset} to {offset + length} of {self.stream_length}")


class Extent(NamedTuple):
    """A run of whole blocks: `length` bytes at `offset` of a segment's stream."""

    segment_number: int
    offset: int
    length: int


class ExtentMap:
    """Maps positions in an encoding (bytes of its post-order block sequence) to segments.

    The sequence is the concatenation of the extents; they may lie in segments of earlier archives.
    """

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = tuple(extents)
        if any(extent.length < 1 or extent.offset < 0 for extent in self.extents):
            raise UsageError("an empty or negative extent")
        self._ends = list(accumulate(extent.length for extent in self.extents))

    @property
    def length(self) -> int:
        """Bytes of all extents together."""
        return self._ends[-1] if self._ends else 0

    def slice(self, start: int, length: int) -> list[Extent]:
        """Where these bytes lie, in order. Raises UsageError beyond the end."""
        if start < 0 or length < 0 or start + length > self.length:
            raise UsageError(f"bytes {start} to {start + length} of {self.length}")
        found, end = [], start + length
        index = bisect.bisect_right(self._ends, start)
        while start < end:
            extent, extent_end = self.extents[index], self._ends[index]
            skip = start - (extent_end - extent.length)
            taken = min(end, extent_end) - start
            found.append(Extent(extent.segment_number, extent.offset + skip, taken))
            start, index = start + taken, index + 1
        return found
