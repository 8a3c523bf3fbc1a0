"""Python's buffers for compiled code: their addresses without copies, new ones without a pass of zeros."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import mmap
from typing import Protocol

from potsherd.ports import Buffer

__all__ = ["LARGE_BYTES", "Heap", "grow_in", "held", "unset"]


class _PyBuffer(ctypes.Structure):
    """Py_buffer, as https://docs.python.org/3/c-api/buffer.html lays it out; the same since Python 3.0."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_SIMPLE = 0  # PyBUF_SIMPLE: contiguous, or BufferError
_WRITABLE = 1

_get = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_PyBuffer))(
    ("PyBuffer_Release", ctypes.pythonapi)
)

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
)


LARGE_BYTES = 64 * 2**10
"""Size of the buffers that a `Heap` is told of."""


class Heap(Protocol):
    """Who has memory ready before a buffer is made in it. Called in the thread that makes the buffer."""

    def before(self, size: int) -> None:
        """A buffer of `size` bytes is about to be made."""

    def after(self, end: int) -> None:
        """It has been; this is the address behind it."""


_heap: Heap | None = None


def grow_in(heap: Heap) -> None:
    """From now on tell `heap` of each large buffer; for the whole process."""
    global _heap
    _heap = heap


def unset(size: int) -> bytearray:
    """`size` bytes of whatever was in memory, for who overwrites every one of them.

    `bytearray(size)` fills them with zeros first, as much work as the copy that follows.
    """
    heap = _heap if size >= LARGE_BYTES else None
    if heap is not None:
        heap.before(size)
    made: bytearray = _new(None, size)
    if heap is not None:
        heap.after(ctypes.addressof(ctypes.c_char.from_buffer(made)) + size)
    return made


@contextmanager
def held(
    inputs: Sequence[Buffer | mmap], outputs: Sequence[Buffer] = ()
) -> Iterator[tuple[list[int], list[int]]]:
    """Addresses of the buffers, which cannot be resized before the end of the block.

    Raises BufferError for a buffer that is not contiguous, and for an output that is read-only.
    """
    views: list[_PyBuffer] = []
    try:
        places = [_place(buffer, _SIMPLE, views) for buffer in inputs]
        yield places, [_place(buffer, _WRITABLE, views) for buffer in outputs]
    finally:
        for view in views:
            _release(view)


def _place(buffer: Buffer | mmap, flags: int, views: list[_PyBuffer]) -> int:
    view = _PyBuffer()
    _get(buffer, view, flags)  # raises by itself: PYFUNCTYPE looks for Python's errors
    views.append(view)
    return view.buf or 0
