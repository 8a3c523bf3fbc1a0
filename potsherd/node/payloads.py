"""Buffers for the payloads of requests, used again.

A fresh buffer costs a page fault for every 4 KiB and is filled with zeros before the payload overwrites it:
of a node that takes in shards that was a seventh of its work.
"""

from __future__ import annotations

from collections import deque

__all__ = ["KEPT_BYTES_MAX", "POOLED_BYTES_MIN", "PayloadBuffers"]

KEPT_BYTES_MAX = 8 * 2**20
"""Bytes of idle buffers that are kept; a buffer beyond that is given up."""
POOLED_BYTES_MIN = 64 * 2**10
"""Smaller payloads have buffers of their own: the allocator has those at hand."""
_WASTE_MAX = 4
"""A buffer is used for payloads of at least this part of its size."""


class PayloadBuffers:
    """For one event loop. A buffer that somebody still looks at is never used again."""

    def __init__(self, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._idle: deque[bytearray] = deque()  # the last one used at the left: its pages are warm
        self._idle_bytes = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes of buffers that wait for their next payload."""
        return self._idle_bytes

    def take(self, size: int) -> memoryview:
        """`size` bytes to be overwritten, with what an earlier payload left in them."""
        if size >= POOLED_BYTES_MIN:
            for at, buffer in enumerate(self._idle):
                if size <= len(buffer) <= size * _WASTE_MAX:
                    del self._idle[at]
                    self._idle_bytes -= len(buffer)
                    return memoryview(buffer)[:size]
        return memoryview(bytearray(size))

    def give(self, payload: memoryview) -> None:
        """The payload of `take` is done with; views of it that are still held stay as they are."""
        buffer = payload.obj
        if not isinstance(buffer, bytearray) or len(buffer) < POOLED_BYTES_MIN:
            return
        try:
            payload.release()
            buffer.append(buffer.pop())  # refused while any view of it exists
        except BufferError:
            return
        self._idle.appendleft(buffer)
        self._idle_bytes += len(buffer)
        while self._idle_bytes > self._kept_bytes_max:
            self._idle_bytes -= len(self._idle.pop())
