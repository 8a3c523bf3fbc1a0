"""Which engines this process uses: compiled kernels where they are installed and right, else the plain ones.

Nothing is loaded before there is enough to do: llvmlite costs 60 MB and 0.1 s, numpy 0.1 s. So a small
`put`, and a node that only stores, stay light. `POTSHERD_KERNELS=off` keeps to the plain engines.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import platformdirs

from potsherd.kernels.eris import ErisKernel
from potsherd.kernels.gf import Engine, Matrix, PlainEngine, WritableBuffer, check_multiply
from potsherd.kernels.llvm import KernelUnavailable
from potsherd.ports import Buffer

__all__ = ["LazyEngine", "batch_hash", "cache_folder", "eris_kernel", "gf_engine"]

SMALL_BYTES = 64 * 1024
"""Products over less than this are done in plain Python: faster than loading anything."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: below POTSHERD_HOME if that is set, else the user's cache."""
    home = os.environ.get("POTSHERD_HOME")
    return (
        Path(home) / "cache/kernels" if home else platformdirs.user_cache_path("potsherd/kernels")
    )


def _allowed() -> bool:
    return os.environ.get("POTSHERD_KERNELS", "") != "off"


@functools.cache
def eris_kernel(check: Callable[[ErisKernel], bool]) -> ErisKernel | None:
    """The compiled ERIS backend if this machine has one and `check` says it is right."""
    if not _allowed():
        return None
    try:
        kernel = ErisKernel(cache=cache_folder())
    except KernelUnavailable:
        return None
    if check(kernel):
        return kernel
    warnings.warn(f"{kernel.name} gives wrong results here and is not used", stacklevel=2)
    return None


@functools.cache
def batch_hash() -> Callable[[Buffer, int], bytes]:
    """BLAKE2b-256 of equal blocks that lie one behind the other: (blocks, block size) -> digests.

    Sizes are multiples of 128. Compiled where that is installed and right.
    """
    kernel = eris_kernel(_hashes_right)
    return kernel.references if kernel is not None else _hash_each


def _hash_each(blocks: Buffer, block_size: int) -> bytes:
    view = memoryview(blocks).cast("B")
    starts = range(0, len(view), block_size)
    return b"".join([blake2b(view[at : at + block_size], digest_size=32).digest() for at in starts])


def _hashes_right(kernel: ErisKernel) -> bool:
    data = bytes(range(256)) * 52
    return all(kernel.references(data, n) == _hash_each(data, n) for n in (128, 1024, 13 * 128))


@functools.cache
def gf_engine() -> Engine:
    """The fastest GF(2^8) engine that is installed and right."""
    if _allowed():
        from potsherd.kernels.gf_llvm import LlvmEngine

        try:
            return LlvmEngine(cache=cache_folder())
        except KernelUnavailable as error:
            if "wrong" in error.message:
                warnings.warn(error.message, stacklevel=2)
    from potsherd.kernels.gf_numpy import NumpyEngine

    return NumpyEngine()


class LazyEngine:
    """`gf_engine()` for real work, plain Python below SMALL_BYTES."""

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""
        return gf_engine().name

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply."""
        size = check_multiply(matrix, inputs, outputs) * len(inputs)
        engine: Engine = PlainEngine() if size < SMALL_BYTES else gf_engine()
        engine.multiply(matrix, inputs, outputs)

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply_rows."""
        small = memoryview(table).nbytes < SMALL_BYTES
        engine: Engine = PlainEngine() if small else gf_engine()
        engine.multiply_rows(matrix, table, cell_size, outputs)
