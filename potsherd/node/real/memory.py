"""Memory of large buffers, used again instead of given back and asked for anew.

glibc gives a buffer of more than some 100 KiB back to the system when it is freed. The next one is fresh: each
of its pages costs a fault and is filled with zeros, 0.4 to 0.8 CPU-seconds per GB, several times for each
byte that passes through. Copying within memory in use costs 0.05. What a command touches for the first time it
touches in pages of 2 MiB: 0.07.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from potsherd.kernels.buffers import grow_in

__all__ = [
    "AHEAD_BYTES_MAX",
    "AHEAD_BYTES_MIN",
    "CLIENT_KEEP_BYTES",
    "NODE_KEEP_BYTES",
    "AdvisedHeap",
    "give_back",
    "resident_bytes",
    "reuse_memory",
    "stay_small",
]

CLIENT_KEEP_BYTES = 128 * 2**20
"""Freed memory that a command keeps at most; what is in use is bounded elsewhere."""
NODE_KEEP_BYTES = 8 * 2**20
"""The same for a node, which must stay small."""

SMALL_BYTES = 64 * 10**6
"""A node that occupies less does not look for free memory to give back."""
LOOK_S = 10.0
"""How often it looks: what it gives back costs some 10 ms to get again."""

HUGE_SPARE_BYTES = 4 * 2**20
"""The part of what is kept that is not advised: with all of it free at once, glibc would give it back."""

AHEAD_BYTES_MAX = 16 * 2**20
"""Of a heap of huge pages, made ready beyond the next large buffer, for what others take meanwhile."""
AHEAD_BYTES_MIN = 2 * 2**20
"""The same while little of it is used."""
_STEP_BYTES = 2 * 2**20  # a huge page: who changes the map of the process's memory waits for each

_MADV_POPULATE_WRITE = 23  # madvise(2), since Linux 5.14; before that an error and nothing else

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_LARGEST = 32 * 2**20  # the most that glibc takes for M_MMAP_THRESHOLD
_MMAP_MAX_DEFAULT = 65536


def reuse_memory(keep_bytes: int, *, huge: bool = False) -> bool:
    """For the whole process, before it has threads; False where the C library is not glibc.

    One arena for all threads, so that what one frees serves the others. `huge`: what is kept comes in pages of
    2 MiB where the system has them: a fifth of the cost, for who is going to use much of it once. A node, which
    uses little and gives it back, would only occupy more.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, keep_bytes))
    done = bool(sum(mallopt(name, value) for name, value in settings) == len(settings))
    if done and huge and hasattr(mmap, "MADV_HUGEPAGE"):
        _grow_in_huge_pages(libc, keep_bytes - HUGE_SPARE_BYTES)
    return done


def _grow_in_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Let the heap grow by addresses without memory behind them, of which a first touch brings 2 MiB.

    They are those of one buffer that glibc takes from the heap, as it may map none by itself meanwhile; advised
    and freed again, they stay with the heap.
    """
    malloc, free, madvise = libc.malloc, libc.free, libc.madvise
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.restype, free.argtypes = None, (ctypes.c_void_p,)
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.mallopt(_M_MMAP_MAX, 0)
    try:
        place = malloc(size)
        if place:
            start = place - place % mmap.PAGESIZE
            madvise(
                start, place + size - start, mmap.MADV_HUGEPAGE
            )  # whole pages, the last one too
            free(place)
            grow_in(AdvisedHeap(madvise, start, place + size))
    finally:
        libc.mallopt(_M_MMAP_MAX, _MMAP_MAX_DEFAULT)


class AdvisedHeap:
    """Has pages come before the allocator and Python touch them.

    They do that under the allocator's lock and the interpreter's. Where the first touch of a huge page is slow
    (5 ms on a virtual machine whose host has to find the memory), a row of new buffers kept the event loop for
    75 ms. Here only the thread waits that makes them; the event loop's own never asks for pages.
    """

    def __init__(self, madvise: Callable[[int, int, int], int], start: int, end: int) -> None:
        """Addresses from `start` to `end`, none of them touched yet. The event loop will run in this thread."""
        self._madvise = madvise
        self._start = self._used = self._ready = start
        self._end = end
        self._loop_thread = threading.get_ident()
        self._lock = threading.Lock()

    def before(self, size: int) -> None:
        """See `potsherd.kernels.buffers.Heap`."""
        ahead = min(max(self._used - self._start, AHEAD_BYTES_MIN), AHEAD_BYTES_MAX)
        # half of it, so that pages are asked for in few large steps and not for each buffer
        near = min(self._used + size + ahead // 2, self._end)
        if near <= self._ready or threading.get_ident() == self._loop_thread:
            return
        with self._lock:  # nobody goes on before the pages are there
            self._populate(min(self._used + size + ahead, self._end))

    def after(self, end: int) -> None:
        """See `potsherd.kernels.buffers.Heap`."""
        if self._used < end <= self._end:
            self._used = end

    def _populate(self, end: int) -> None:
        page = mmap.PAGESIZE
        while self._ready < end:
            start, until = self._ready - self._ready % page, min(self._ready + _STEP_BYTES, end)
            if self._madvise(start, until - start, _MADV_POPULATE_WRITE):
                self._ready = self._end  # this system cannot, or the heap has been given back
            else:
                self._ready = until


def give_back() -> bool:
    """Give the free pages between live objects back to the system; False where the C library cannot.

    Freed buffers below a small object that lives on stay with the process otherwise.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0)) if sys.platform == "linux" else False
    except (OSError, AttributeError):
        return False


def resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def stay_small() -> None:
    """Until cancelled, give back what is free.

    Without it a node grew by some 4 MB with each GB that passed through it, to 104 MB after 10 GB.
    """
    while True:
        await asyncio.sleep(LOOK_S)
        if resident_bytes() > SMALL_BYTES:
            gc.collect()  # connections that ended hold a MiB each in cycles, and collections are rare
            await asyncio.to_thread(give_back)
