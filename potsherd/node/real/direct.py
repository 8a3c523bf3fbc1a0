"""Reading and writing past the page cache (O_DIRECT), for runs that are large enough.

What a node stores is read days later, by others, once: kept in the page cache it would push out what the owner
of the machine works with, and every byte would be copied once more. The kernel wants memory, offset and size in
whole blocks of the device; a file system that does not know it refuses, and gets the usual calls.

open(2) warns of fork during such a call: Python's subprocess uses vfork, which copies no memory.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from potsherd.kernels.buffers import held
from potsherd.node.payloads import ALIGNMENT, AnswerBuffers, aligned
from potsherd.node.real.open_files import OpenFiles

__all__ = ["DIRECT_BYTES_MIN", "Direct"]

DIRECT_BYTES_MIN = 1 << 18
"""Smaller runs go through the page cache: audits, slices, proofs."""

BUFFERS_BYTES_MAX = 8 << 20
"""Of reads that are kept for the next ones, those in use among them."""

_FLAG = getattr(os, "O_DIRECT", 0)
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


class Direct:
    """Large runs of files below one root. Methods block, and may be called by several threads."""

    def __init__(self, files: OpenFiles) -> None:
        self._files = files
        self._works = bool(_FLAG)
        self._buffers = AnswerBuffers(BUFFERS_BYTES_MAX)
        self._lock = threading.Lock()

    def write(self, path: Path, offset: int, data: memoryview) -> int:
        """Bytes written: 0 when it is for the page cache. Raises OSError."""
        if not (self._works and _fits(offset, data.nbytes) and _is_aligned(data)):
            return 0
        return self._try(path, True, lambda descriptor: os.pwrite(descriptor, data, offset))

    def buffer(self, offset: int, size: int) -> memoryview | None:
        """Where to read a large run to, free again when nobody looks at it; None for a small one."""
        if not _fits(offset, size):
            return None
        with self._lock:
            return aligned(self._buffers.take(size + ALIGNMENT), size)

    def read(self, path: Path, offset: int, buffer: memoryview) -> int:
        """Bytes read into what `buffer` gave: 0 when it is for the page cache. Raises OSError."""
        if not self._works:
            return 0
        return self._try(path, False, lambda descriptor: os.preadv(descriptor, [buffer], offset))

    def _try(self, path: Path, writable: bool, work: Callable[[int], int]) -> int:
        try:
            with self._files.using(path, writable=writable, flags=_FLAG) as descriptor:
                return work(descriptor)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._works = False  # not on this file system
            return 0


def _fits(offset: int, size: int) -> bool:
    return size >= DIRECT_BYTES_MIN and not (size % ALIGNMENT or offset % ALIGNMENT or offset < 0)


def _is_aligned(data: memoryview) -> bool:
    with held([data]) as ((place,), _):
        return place % ALIGNMENT == 0
