"""Cells as a reader has them: which there are to ask for, verified, rebuilt, put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE, Geometry
from potsherd.erasure.merkle import HASH_SIZE, cell_leaves_fast, verify_range
from potsherd.errors import IntegrityError
from potsherd.node.records import READ_MAX

__all__ = [
    "Proven",
    "ProvenCells",
    "assemble",
    "cells_of",
    "places_of",
    "rebuild_rows",
    "requests_of",
    "runs_of",
    "split_leaves",
    "verify_cells",
]

RUNS_MAX = 128
"""Runs in one request (records.Read)."""


class Proven(NamedTuple):
    """Verified bytes of a stream."""

    data: memoryview
    leaves: bytes
    """BLAKE2b-256 of each 32 KiB cell, if the range is whole cells and all came from holders; else empty."""


class ProvenCells(dict[tuple[int, int], memoryview]):
    """Verified cells by (column, row), and the leaves of those that were hashed to verify them."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[tuple[int, int], bytes] = {}


def cells_of(geometry: Geometry, offset: int, length: int) -> range:
    """Numbers of the data cells, row by row, that hold these bytes of the stream."""
    if length == 0:
        return range(0)
    size = geometry.cell_size
    return range(offset // size, (offset + length - 1) // size + 1)


def runs_of(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted rows as (first, count)."""
    runs: list[tuple[int, int]] = []
    for row in sorted(rows):
        if runs and runs[-1][0] + runs[-1][1] == row:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs


def requests_of(runs: Sequence[tuple[int, int]], cell_size: int) -> Iterable[list[tuple[int, int]]]:
    """Cut runs into requests whose answers fit a message."""
    room_max = READ_MAX // cell_size
    part: list[tuple[int, int]] = []
    room = room_max
    for start, count in runs:
        first, left = start, count
        while left:
            if room == 0 or len(part) == RUNS_MAX:
                yield part
                part, room = [], room_max
            taken = min(left, room)
            part.append((first, taken))
            first, left, room = first + taken, left - taken, room - taken
    if part:
        yield part


def places_of(index: int, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(column, row) of the cells of an answer."""
    return [(index, row) for first, count in runs for row in range(first, first + count)]


def split_leaves(leaves: bytes) -> list[bytes]:
    """One hash each."""
    return [leaves[at : at + HASH_SIZE] for at in range(0, len(leaves), HASH_SIZE)]


def verify_cells(
    descriptor: Descriptor,
    index: int,
    runs: Sequence[tuple[int, int]],
    data: memoryview,
    proofs: Sequence[bytes],
) -> bytes:
    """Check every cell against the shard root; their leaves. Raises IntegrityError."""
    size = descriptor.cell_size
    if len(data) != sum(count for _, count in runs) * size or len(proofs) != len(runs):
        raise IntegrityError("a holder sent another number of bytes than asked for")
    leaves = cell_leaves_fast(data, size)
    place = 0
    for (first, count), proof in zip(runs, proofs, strict=True):
        own = leaves[place * HASH_SIZE : (place + count) * HASH_SIZE]
        verify_range(descriptor.roots[index], descriptor.rows, first, own, proof)
        place += count
    return leaves


def rebuild_rows(
    geometry: Geometry,
    missing: Mapping[int, set[int]],
    have: Sequence[int],
    cells: dict[tuple[int, int], memoryview],
) -> None:
    """Rebuild the missing cells of every row from k columns; rows that stand together in one go."""
    code = Code(geometry.k, geometry.n)
    for first, count in runs_of(set().union(*missing.values())):
        rows = range(first, first + count)
        columns = {i: b"".join(cells[i, row] for row in rows) for i in have}
        rebuilt = code.rebuild(columns, sorted(missing))
        for index, column in rebuilt.items():
            view = memoryview(column)
            for at, row in enumerate(rows):
                size = geometry.cell_size
                cells.setdefault((index, row), view[at * size : (at + 1) * size])


def assemble(
    geometry: Geometry, cells: ProvenCells, ranges: Sequence[tuple[int, int]]
) -> list[Proven]:
    """Each range in one buffer: the only copy between the socket's and the block cipher's."""
    return [_range(geometry, cells, offset, length) for offset, length in ranges]


def _range(geometry: Geometry, cells: ProvenCells, offset: int, length: int) -> Proven:
    size, k = geometry.cell_size, geometry.k
    places = [(cell % k, cell // k) for cell in cells_of(geometry, offset, length)]
    start, end = offset % size, offset % size + length
    if len(places) == 1:
        data = cells[places[0]][start:end]
    else:
        parts = [cells[place] for place in places]
        if parts and (start or end % size):
            parts[-1] = parts[-1][: (end - 1) % size + 1]
            parts[0] = parts[0][start:]
        data = memoryview(b"".join(parts))
    if size != CELL_SIZE or start or end % size:
        return Proven(data, b"")
    leaves = [cells.leaves.get(place, b"") for place in places]
    return Proven(data, b"".join(leaves) if all(leaves) else b"")
