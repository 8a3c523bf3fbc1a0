"""Which engines this process uses: compiled kernels where they are installed and right, else the plain ones.

A compiled kernel is loaded from its image as soon as there is some work, and compiled, which takes a good
part of a second, only after much work. So a small `put` stays quick. The compiler takes a hundred megabytes: images
are made by a process of their own (`build.py`), for which a client waits, and a node does not.
`POTSHERD_KERNELS=off` keeps to the plain engines; `POTSHERD_KERNEL_CACHE` says where images are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar

import platformdirs

from potsherd.kernels.eris import ErisKernel
from potsherd.kernels.gf import Engine, Matrix, PlainEngine, WritableBuffer, check_multiply
from potsherd.kernels.gf_llvm import LlvmEngine
from potsherd.kernels.llvm import KernelUnavailable
from potsherd.ports import Buffer

__all__ = [
    "COMPILE_BYTES_MIN",
    "Kernel",
    "LazyEngine",
    "batch_hash",
    "cache_folder",
    "eris_kernel",
    "gf_engine",
    "light_hash",
]

SMALL_BYTES = 64 * 1024
"""Products over less than this are done in plain Python: faster than loading anything."""
COMPILE_BYTES_MIN = 8 * 2**20
"""Bytes that a process works on with the plain engines before it compiles a kernel."""
BUILD_BYTES_MIN = 64 * 2**20
"""Bytes that a node hashes with hashlib before it has an image made, or looks again for one."""
BUILD_TIMEOUT_S = 60.0
"""Seconds that a client waits for images, before it compiles for itself."""
BUILD = ("-P", "-m", "potsherd.kernels.build")
"""To Python: not from the folder in which somebody happens to be."""
BATCH_HASH_STEP = 128
"""Bytes of a BLAKE2b block: what a kernel hashes are multiples."""

T = TypeVar("T")


def cache_folder() -> Path:
    """Where compiled kernels are kept: the user's cache, for they depend on the machine, not on a home."""
    if named := os.environ.get("POTSHERD_KERNEL_CACHE"):
        return Path(named)
    return platformdirs.user_cache_path("potsherd") / "kernels"


def _allowed() -> bool:
    return os.environ.get("POTSHERD_KERNELS", "") != "off"


class Kernel(Generic[T]):
    """A kernel that is loaded when its image is there, and compiled when there has been enough to do."""

    def __init__(self, load: Callable[[bool], T]) -> None:
        """`load(compiling)` raises KernelUnavailable; after that failed with True it is not called again."""
        self._load = load
        self._lock = threading.Lock()
        self._found: T | None = None
        self._tried: bool | None = None
        """The argument of the last call."""
        self._worked = 0

    def get(self, size: int) -> T | None:
        """The kernel for `size` bytes of work, or None: then the caller does it otherwise."""
        if self._found is None and self._tried is not True:
            with self._lock:
                self._worked += size
                self._try()
        return self._found

    def now(self) -> T | None:
        """The kernel, compiled if need be."""
        return self.get(COMPILE_BYTES_MIN)

    def _try(self) -> None:
        compiling = self._worked >= COMPILE_BYTES_MIN
        if self._found is not None or self._tried in (True, compiling) or not _allowed():
            return
        self._tried = compiling
        try:
            self._found = self._load(compiling)
        except KernelUnavailable as error:
            if "wrong" in error.message:
                self._tried = True
                warnings.warn(error.message, stacklevel=4)


class _Builder:
    """Has images made, once for all kernels of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False

    def wait(self) -> None:
        """Until images are there, or will not come."""
        with self._lock:
            if not self._done and sys.executable and importlib.util.find_spec("llvmlite"):
                nothing = subprocess.DEVNULL
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(
                        [sys.executable, *BUILD],
                        stdin=nothing,
                        stdout=nothing,
                        stderr=nothing,
                        check=False,
                        timeout=BUILD_TIMEOUT_S,
                    )
            self._done = True


_builder = _Builder()


def _made(load: Callable[[bool], T], compiling: bool) -> T:
    """From an image, which another process makes if need be; compiled here only where that does not help."""
    try:
        return load(False)
    except KernelUnavailable:
        if not compiling:
            raise
    _builder.wait()
    with contextlib.suppress(KernelUnavailable):
        return load(False)
    return load(True)


# --- BLAKE2b and ERIS -----------------------------------------------------------------------------


@functools.cache
def eris_kernel(check: Callable[[ErisKernel], bool]) -> Kernel[ErisKernel]:
    """The compiled ERIS backend, used only where `check` says that it is right."""

    def load(compiling: bool) -> ErisKernel:
        folder = cache_folder()
        kernel = _made(lambda here: ErisKernel(cache=folder, compiling=here), compiling)
        if not check(kernel):
            raise KernelUnavailable(f"{kernel.name} gives wrong results here and is not used")
        return kernel

    return Kernel(load)


def batch_hash(blocks: Buffer, block_size: int) -> bytes:
    """BLAKE2b-256 of equal blocks that lie one behind the other, compiled where that is installed and right."""
    kernel = None
    if block_size % BATCH_HASH_STEP == 0:
        kernel = eris_kernel(_hashes_right).get(memoryview(blocks).nbytes)
    return _hash_by(kernel, blocks, block_size)


def _hash_by(kernel: ErisKernel | None, blocks: Buffer, block_size: int) -> bytes:
    return (kernel.references if kernel else _hash_each)(blocks, block_size)


def _hash_each(blocks: Buffer, block_size: int) -> bytes:
    view = memoryview(blocks).cast("B")
    return b"".join(
        blake2b(view[at : at + block_size], digest_size=32).digest()
        for at in range(0, len(view), block_size)
    )


def _hashes_right(kernel: ErisKernel) -> bool:
    data = bytes(range(256)) * 52
    return all(kernel.references(data, n) == _hash_each(data, n) for n in (128, 1024, 13 * 128))


class _LightHash:
    """`batch_hash` for a process that must stay light: without the compiler, which takes 60 MB.

    What an image needs, another process makes (`build.py`), once, when this one has hashed much.
    """

    def __init__(self) -> None:
        self._kernel: ErisKernel | None = None
        self._worked = 0
        self._next = 0
        self._lock = threading.Lock()
        self._builder: subprocess.Popen[bytes] | None = None

    def __call__(self, blocks: Buffer, block_size: int) -> bytes:
        if self._kernel is None:
            self._look(memoryview(blocks).nbytes)
        kernel = None if block_size % BATCH_HASH_STEP else self._kernel
        return _hash_by(kernel, blocks, block_size)

    def _look(self, size: int) -> None:
        with self._lock:
            self._worked += size
            if self._worked < self._next or not _allowed():
                return
            self._next = self._worked + BUILD_BYTES_MIN
            try:
                kernel = ErisKernel(cache=cache_folder(), compiling=False)
            except KernelUnavailable:
                if self._worked >= BUILD_BYTES_MIN:
                    self._build()
                return
            if _hashes_right(kernel):
                self._kernel = kernel

    def _build(self) -> None:
        """Once; a second node of the same user finds what the first has made."""
        if self._builder is None and importlib.util.find_spec("llvmlite") is not None:
            command, nothing = [sys.executable, *BUILD], subprocess.DEVNULL
            self._builder = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
        elif self._builder is not None:
            self._builder.poll()


light_hash = _LightHash()
"""See _LightHash: for nodes."""


# --- GF(2^8) --------------------------------------------------------------------------------------


@functools.cache
def _gf_kernel() -> Kernel[LlvmEngine]:
    def load(compiling: bool) -> LlvmEngine:
        folder = cache_folder()
        return _made(lambda here: LlvmEngine(cache=folder, compiling=here), compiling)

    return Kernel(load)


@functools.cache
def _numpy_engine() -> Engine:
    from potsherd.kernels.gf_numpy import NumpyEngine

    return NumpyEngine()


def gf_engine() -> Engine:
    """The fastest GF(2^8) engine that is installed and right."""
    return _gf_kernel().now() or _numpy_engine()


class LazyEngine:
    """The compiled engine or numpy's for real work, plain Python below SMALL_BYTES."""

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""
        return gf_engine().name

    def multiply(
        self, matrix: Matrix, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply."""
        size = check_multiply(matrix, inputs, outputs) * len(inputs)
        _engine_for(size).multiply(matrix, inputs, outputs)

    def multiply_rows(
        self, matrix: Matrix, table: Buffer, cell_size: int, outputs: Sequence[WritableBuffer]
    ) -> None:
        """See Engine.multiply_rows."""
        engine = _engine_for(memoryview(table).nbytes)
        engine.multiply_rows(matrix, table, cell_size, outputs)


def _engine_for(size: int) -> Engine:
    if size < SMALL_BYTES:
        return PlainEngine()
    return _gf_kernel().get(size) or _numpy_engine()
