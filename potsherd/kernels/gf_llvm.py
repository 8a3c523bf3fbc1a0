"""GF(2^8) engine on compiled kernels (potsherd.kernels.gf_ir)."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from potsherd.kernels.buffers import held
from potsherd.kernels.gf import (
    Matrix,
    PlainEngine,
    WritableBuffer,
    check_multiply,
    check_multiply_rows,
    multiply,
)
from potsherd.kernels.gf_ir import GROUP_MAX, gf_module
from potsherd.kernels.llvm import KernelUnavailable, Target, load
from potsherd.ports import Buffer

__all__ = ["LlvmEngine"]

STEP = 64
PORTION = 16 * 2**10
"""Bytes of each column that are worked on together: k + n of these fit into a core's cache."""
"""Cells are whole multiples of this; other lengths are worked on in a copy filled up to it."""
TABLES_MAX = 32
"""Matrices whose tables are remembered: encoding has one a code, a rebuild one a pattern of loss."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


@functools.cache  # 256 entries at most
def _affine(factor: int) -> bytes:
    """The 8 x 8 bit matrix of a constant, as VGF2P8AFFINEQB wants it: row of output bit b in byte 7 - b."""
    products = [multiply(factor, 1 << j) for j in range(8)]
    rows = [
        sum((product >> bit & 1) << j for j, product in enumerate(products)) for bit in range(8)
    ]
    return bytes(reversed(rows))


@functools.cache  # 256 entries at most
def _nibbles(factor: int) -> bytes:
    """Products with the 16 low and the 16 high nibbles."""
    return bytes(multiply(factor, x << shift) for shift in (0, 4) for x in range(16))


def _groups(outputs: int) -> list[int]:
    """(first, count) of even groups of at most GROUP_MAX outputs."""
    number = -(-outputs // GROUP_MAX)
    cuts = [outputs * i // number for i in range(number + 1)]
    return [v for start, stop in itertools.pairwise(cuts) for v in (start, stop - start)]


class LlvmEngine:
    """See gf.Engine. Checks itself against PlainEngine when it is made. Safe in several threads."""

    def __init__(
        self, target: Target | None = None, *, cache: Path | None = None, compiling: bool = True
    ) -> None:
        """Raises KernelUnavailable, also when the kernel gives other bytes than PlainEngine."""
        library, self.target = load(
            "gf", lambda t: gf_module(t.gf_method), target, cache=cache, compiling=compiling
        )
        kinds = (_POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER, *(_SIZE,) * 4)
        self._run: Callable[..., Any] = library.function("gf_multiply", kinds)
        entry = _affine if self.target.gf_method.startswith("gfni") else _nibbles
        self._tables = functools.lru_cache(TABLES_MAX)(
            lambda matrix: b"".join(entry(factor) for row in matrix for factor in row)
        )
        self._self_check()

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""
        return f"kernel {self.target.gf_method}"

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply."""
        size = check_multiply(matrix, inputs, outputs)
        whole = size - size % STEP
        if whole and inputs and outputs:
            with held(inputs, outputs) as (sources, targets):
                rows, rest = divmod(whole, PORTION)
                if rows:
                    self._call(matrix, sources, targets, rows, PORTION, PORTION, PORTION)
                if rest:
                    start = whole - rest
                    sources, targets = ([a + start for a in part] for part in (sources, targets))
                    self._call(matrix, sources, targets, 1, 0, 0, rest)
        elif outputs and not inputs:
            PlainEngine().multiply(matrix, inputs, outputs)
        if size != whole and inputs and outputs:
            self._rest(matrix, inputs, outputs, whole)

    def _rest(
        self,
        matrix: Matrix,
        inputs: Sequence[Buffer],
        outputs: Sequence[WritableBuffer],
        start: int,
    ) -> None:
        """The last bytes, in copies filled up with zeros."""
        filled = [bytes(memoryview(b).cast("B")[start:]).ljust(STEP, b"\0") for b in inputs]
        results = [bytearray(STEP) for _ in outputs]
        with held(filled, results) as (sources, targets):
            self._call(matrix, sources, targets, 1, 0, 0, STEP)
        for output, result in zip(outputs, results, strict=True):
            view = memoryview(output).cast("B")[start:]
            view[:] = result[: len(view)]

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply_rows."""
        rows = check_multiply_rows(matrix, table, cell_size, outputs)
        k = len(matrix[0])
        if cell_size % STEP:
            view = memoryview(table).cast("B")
            for row in range(rows):
                cells = range(row * k * cell_size, (row + 1) * k * cell_size, cell_size)
                here = slice(row * cell_size, (row + 1) * cell_size)
                parts = [memoryview(o).cast("B")[here] for o in outputs]
                self.multiply(matrix, [view[at : at + cell_size] for at in cells], parts)
            return
        if not rows or not outputs:
            return
        with held([table], outputs) as ((base,), targets):
            starts = [base + i * cell_size for i in range(k)]
            self._call(matrix, starts, targets, rows, k * cell_size, cell_size, cell_size)

    def _call(
        self,
        matrix: Matrix,
        inputs: Sequence[int],
        outputs: Sequence[int],
        rows: int,
        in_stride: int,
        out_stride: int,
        size: int,
    ) -> None:
        """`inputs` and `outputs` are addresses."""
        groups = _groups(len(matrix))
        self._run(
            self._tables(matrix),
            len(matrix[0]),
            (_SIZE * len(groups))(*groups),
            len(groups) // 2,
            (_POINTER * len(inputs))(*inputs),
            (_POINTER * len(outputs))(*outputs),
            rows,
            in_stride,
            out_stride,
            size,
        )

    def _self_check(self) -> None:
        matrix = tuple(bytes((37 * j + 11 * i) % 256 for i in range(5)) for j in range(7))
        inputs = [bytes((i * 7 + x * (x + i)) % 256 for x in range(1000)) for i in range(5)]
        ours, plain = ([bytearray(1000) for _ in matrix] for _ in range(2))
        self.multiply(matrix, inputs, ours)
        PlainEngine().multiply(matrix, inputs, plain)
        if ours != plain:
            raise KernelUnavailable(f"{self.name} gives wrong results on this machine")
