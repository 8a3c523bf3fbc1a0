"""Memory of large buffers, used again instead of given back and asked for anew.

glibc gives a buffer of more than some 100 KiB back to the system when it is freed. The next one is fresh: each
of its pages costs a fault and is filled with zeros, 0.4 to 0.8 CPU-seconds per GB, several times for each
byte that passes through. Copying within memory in use costs 0.05.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["CLIENT_KEEP_BYTES", "NODE_KEEP_BYTES", "reuse_memory"]

CLIENT_KEEP_BYTES = 128 * 2**20
"""Freed memory that a command keeps at most; what is in use is bounded elsewhere."""
NODE_KEEP_BYTES = 8 * 2**20
"""The same for a node, which must stay small."""

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = 32 * 2**20  # the most that glibc takes for M_MMAP_THRESHOLD


def reuse_memory(keep_bytes: int) -> bool:
    """For the whole process, before it has threads; False where the C library is not glibc.

    One arena for all threads, so that what one frees serves the others.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, keep_bytes))
    return bool(sum(mallopt(name, value) for name, value in settings) == len(settings))
