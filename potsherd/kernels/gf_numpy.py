"""GF(2^8) engine on numpy: bit planes and the method of the four Russians.

Multiplication by a constant is linear over bits: output bit b of `c * x` is an XOR of some bits of x. So
a chunk of every input is turned into eight bit planes (an 8 x 8 bit transposition, three rounds of masked
swaps), and each of the 8m output planes is an XOR of some of the 8k input planes. Input planes are taken
in groups of t; all 2^t XORs of a group are made once, then each output plane costs one XOR a group. Every
step is one call of a numpy ufunc on a plane of some KiB, with the GIL released, without any look-up by
byte. Which t and which chunk size, and what else was measured: docs/design/erasure.md.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from potsherd.kernels.gf import (
    Matrix,
    WritableBuffer,
    check_multiply,
    check_multiply_rows,
    multiply,
)
from potsherd.ports import Buffer

__all__ = ["NumpyEngine"]

Bytes: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint64]
Schedule: TypeAlias = tuple[int, list[list[int]]]
Pieces: TypeAlias = tuple[list[Bytes], list[Bytes]]

CHUNK_BYTES_MAX = 256 * 1024
"""Bytes of one column that are worked on at a time."""
CHUNK_BYTES_MIN = 8 * 1024
WORKSPACE_BYTES_MAX = 16 * 1024 * 1024
"""Planes of all columns of one chunk together; wide codes get shorter chunks."""
SCHEDULES_MAX = 32
"""Matrices whose schedule is remembered: encoding has one a code, a rebuild one a pattern of loss."""
GROUP_PLANES_MAX = 5
"""Upper bound of t; beyond it the tables outgrow the second-level cache."""
WORD_BLOCK = 64
"""Chunks are filled up to this many bytes: eight planes of 64-bit words."""
SWAPS = ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555))


@functools.cache
def _bit_matrices() -> NDArray[np.uint32]:
    """[c, b, j] = bit b of `c * 2^j`: the 8 x 8 bit matrix of every constant."""
    products = np.array([[multiply(c, 1 << j) for j in range(8)] for c in range(256)], np.uint32)
    shifts = np.arange(8, dtype=np.uint32)[None, :, None]
    return ((products[:, None, :] >> shifts) & 1).astype(np.uint32)


def _group_size(planes_in: int, planes_out: int) -> int:
    """The t with the fewest XORs: tables of 2^t - t - 1 plus one for each output plane, per group."""

    def xors(t: int) -> int:
        return -(-planes_in // t) * ((1 << t) - t - 1 + planes_out)

    return min(range(1, GROUP_PLANES_MAX + 1), key=xors)


@functools.lru_cache(maxsize=SCHEDULES_MAX)
def _schedule(matrix: Matrix) -> Schedule:
    """(t, for each group of t input planes: which of its 2^t XORs goes to each output plane)."""
    m, k = len(matrix), len(matrix[0])
    coefficients = np.frombuffer(b"".join(matrix), np.uint8).reshape(m, k)
    bits = _bit_matrices()[coefficients].transpose(0, 2, 1, 3).reshape(8 * m, 8 * k)
    t = _group_size(8 * k, 8 * m)
    groups = -(-8 * k // t)
    padded = np.zeros((8 * m, groups * t), np.uint32)
    padded[:, : 8 * k] = bits
    numbers = (padded.reshape(8 * m, groups, t) << np.arange(t, dtype=np.uint32)).sum(axis=2)
    return t, numbers.T.tolist()


def _transpose_bits(planes: Words, scratch: Words) -> None:
    """In place, for (columns, 8, words): bit b of plane j and bit j of plane b change places.

    Its own inverse. Between them lies a layout where plane j holds bit j of every byte.
    """
    columns, _, words = planes.shape
    for shift, mask in SWAPS:
        pairs = planes.reshape(columns, 4 // shift, 2, shift, words)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        swap = scratch[: columns * 4 * words].reshape(low.shape)
        np.right_shift(low, shift, out=swap)
        np.bitwise_xor(swap, high, out=swap)
        np.bitwise_and(swap, mask, out=swap)
        np.bitwise_xor(high, swap, out=high)
        np.left_shift(swap, shift, out=swap)
        np.bitwise_xor(low, swap, out=low)


class _Workspace(threading.local):
    """Memory of one thread, kept between calls: at most about 2 x WORKSPACE_BYTES_MAX."""

    def __init__(self) -> None:
        self.words: Words = np.empty(0, np.uint64)

    def take(self, *sizes: int) -> list[Words]:
        """Arrays of so many words, which share memory with those of the last call."""
        if len(self.words) < sum(sizes):
            self.words = np.empty(sum(sizes), np.uint64)
        parts, start = [], 0
        for size in sizes:
            parts.append(self.words[start : start + size])
            start += size
        return parts


_workspace = _Workspace()


def _combine(schedule: Schedule, planes_in: Words, planes_out: Words, tables: Words) -> None:
    """XOR the planes as the schedule says. Shapes (8k, words), (8m, words), (2^t, words)."""
    t, groups = schedule
    planes_out.fill(0)
    tables[0] = 0
    rows, entries, xor = list(planes_out), list(tables), np.bitwise_xor
    for group, numbers in enumerate(groups):
        filled = 1
        for plane in planes_in[group * t : group * t + t]:
            xor(tables[:filled], plane, out=tables[filled : 2 * filled])
            filled *= 2
        for row, number in zip(rows, numbers, strict=True):
            if number:
                xor(row, entries[number], row)


def _multiply_chunk(schedule: Schedule, inputs: list[Bytes], outputs: list[Bytes]) -> None:
    """One chunk of every column; arrays of one shape, of any strides, at most a chunk long."""
    k, m, size = len(inputs), len(outputs), inputs[0].size
    words = -(-size // WORD_BLOCK)
    width = 8 * words
    source, target, scratch, tables = _workspace.take(
        k * width, m * width, max(k, m) * width // 2, words << schedule[0]
    )
    for column, data in zip(source.reshape(k, width), inputs, strict=True):
        # what fills the last block is whatever was there: bytes do not mix, and its products are dropped
        column.view(np.uint8)[:size].reshape(data.shape)[...] = data
    _transpose_bits(source.reshape(k, 8, words), scratch)
    planes_out = target.reshape(8 * m, words)
    _combine(schedule, source.reshape(8 * k, words), planes_out, tables.reshape(-1, words))
    _transpose_bits(target.reshape(m, 8, words), scratch)
    for column, data in zip(target.reshape(m, width), outputs, strict=True):
        data[...] = column.view(np.uint8)[:size].reshape(data.shape)


def _chunk_bytes(columns: int) -> int:
    room = WORKSPACE_BYTES_MAX // columns // WORD_BLOCK * WORD_BLOCK
    return min(CHUNK_BYTES_MAX, max(CHUNK_BYTES_MIN, room))


def _view(buffer: Buffer) -> Bytes:
    return np.frombuffer(buffer, np.uint8)


def _column_pieces(inputs: list[Bytes], outputs: list[Bytes], chunk: int) -> Iterator[Pieces]:
    for start in range(0, inputs[0].size, chunk):
        part = slice(start, start + chunk)
        yield [column[part] for column in inputs], [column[part] for column in outputs]


def _table_pieces(table: Bytes, outputs: list[Bytes], chunk: int) -> Iterator[Pieces]:
    """Pieces of a table of shape (rows, k, cell): several whole rows, or a part of one."""
    rows, k, cell = table.shape
    step = max(1, chunk // cell)
    for row in range(0, rows, step):
        block = table[row : row + step]
        columns = [column.reshape(rows, cell)[row : row + step] for column in outputs]
        for start in range(0, cell, chunk):
            part = slice(start, start + chunk)
            yield [block[:, i, part] for i in range(k)], [c[:, part] for c in columns]


class NumpyEngine:
    """The engine that is always there: 400 to 1,000 MB/s of data on one core for usual codes."""

    name = "numpy"

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply."""
        if not check_multiply(matrix, inputs, outputs) or not matrix:
            return
        schedule = _schedule(matrix)
        chunk = _chunk_bytes(len(inputs) + len(outputs))
        columns = [_view(b) for b in inputs], [_view(b) for b in outputs]
        for pieces in _column_pieces(*columns, chunk):
            _multiply_chunk(schedule, *pieces)

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply_rows."""
        rows = check_multiply_rows(matrix, table, cell_size, outputs)
        if not rows:
            return
        k = len(matrix[0])
        cells = _view(table).reshape(rows, k, cell_size)
        chunk = _chunk_bytes(k + len(outputs))
        for pieces in _table_pieces(cells, [_view(b) for b in outputs], chunk):
            _multiply_chunk(_schedule(matrix), *pieces)
