"""GF(2^8) with polynomial 0x11d: plain arithmetic, and the interface of the engines that do it fast.

A matrix is a tuple of rows, a row is `bytes` with one coefficient for each input. An engine computes
`output[j] = sum over i of matrix[j][i] * input[i]`, byte by byte. `PlainEngine` is the slow, obvious one
that the others are compared with; it needs neither numpy nor a compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from potsherd.errors import UsageError
from potsherd.ports import Buffer

__all__ = [
    "POLYNOMIAL",
    "Engine",
    "Matrix",
    "PlainEngine",
    "WritableBuffer",
    "add_scaled",
    "check_multiply",
    "check_multiply_rows",
    "inverse",
    "multiples",
    "multiply",
]

POLYNOMIAL = 0x11D
"""x^8 + x^4 + x^3 + x^2 + 1; its root x = 2 generates the 255 units."""

Matrix: TypeAlias = tuple[bytes, ...]
WritableBuffer: TypeAlias = bytearray | memoryview


def _tables() -> tuple[bytes, bytes]:
    powers, logs, value = bytearray(510), bytearray(256), 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logs[value] = exponent
        value = (value << 1) ^ (POLYNOMIAL if value & 0x80 else 0)
    return bytes(powers), bytes(logs)


_POWERS, _LOGS = _tables()


def multiply(a: int, b: int) -> int:
    """Product of two field elements."""
    return _POWERS[_LOGS[a] + _LOGS[b]] if a and b else 0


def inverse(a: int) -> int:
    """The element whose product with `a` is 1. Raises ZeroDivisionError for 0."""
    if not a:
        raise ZeroDivisionError("0 has no inverse")
    return _POWERS[255 - _LOGS[a]]


@functools.cache  # 256 tables of 256 bytes at most
def multiples(factor: int) -> bytes:
    """Table for `bytes.translate`: entry b is `factor * b`."""
    return bytes(multiply(factor, b) for b in range(256))


def add_scaled(target: bytes, factor: int, source: bytes) -> bytes:
    """`target + factor * source`, element by element; both of one length."""
    product = source.translate(multiples(factor))
    total = int.from_bytes(target, "little") ^ int.from_bytes(product, "little")
    return total.to_bytes(len(target), "little")


class Engine(Protocol):
    """Multiplies a matrix with columns of bytes. Calls may come from several threads at a time."""

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """Fill output j with row j of `matrix` times `inputs`; all buffers have one length.

        Raises UsageError when shapes do not fit. Outputs must not overlap inputs.
        """

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """The same for the k columns of a row-major table: rows x k cells of `cell_size` bytes.

        Output j gets rows x `cell_size` bytes: cell by cell, one column without gaps.
        """


def check_multiply(
    matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
) -> int:
    """The common length of the buffers. Raises UsageError when shapes do not fit."""
    if len(outputs) != len(matrix) or any(len(row) != len(inputs) for row in matrix):
        raise UsageError("matrix and buffers do not fit together")
    sizes = {memoryview(buffer).nbytes for buffer in (*inputs, *outputs)}
    if len(sizes) > 1:
        raise UsageError("buffers of different lengths")
    return sizes.pop() if sizes else 0


def check_multiply_rows(
    matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
) -> int:
    """The number of rows of `table`. Raises UsageError when shapes do not fit."""
    width = len(matrix[0]) * cell_size if matrix else 0
    if width <= 0:
        raise UsageError("an empty matrix or cell")
    rows, rest = divmod(memoryview(table).nbytes, width)
    if rest or len(outputs) != len(matrix) or any(len(row) * cell_size != width for row in matrix):
        raise UsageError("matrix, table and outputs do not fit together")
    if any(memoryview(output).nbytes != rows * cell_size for output in outputs):
        raise UsageError("outputs of another size than a column of the table")
    return rows


class PlainEngine:
    """Engine in plain Python: a few MB/s, the yardstick for right results."""

    name = "plain"

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply."""
        size = check_multiply(matrix, inputs, outputs)
        columns = [bytes(column) for column in inputs]
        for row, output in zip(matrix, outputs, strict=True):
            total = bytes(size)
            for factor, column in zip(row, columns, strict=True):
                total = add_scaled(total, factor, column)
            memoryview(output).cast("B")[:] = total

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply_rows."""
        rows = check_multiply_rows(matrix, table, cell_size, outputs)
        view, k = memoryview(table).cast("B"), len(matrix[0])
        for row in range(rows):
            starts = range(row * k * cell_size, (row + 1) * k * cell_size, cell_size)
            inputs = [view[start : start + cell_size] for start in starts]
            here = slice(row * cell_size, (row + 1) * cell_size)
            self.multiply(matrix, inputs, [memoryview(o).cast("B")[here] for o in outputs])
