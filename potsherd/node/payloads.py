"""Buffers for the payloads of requests and of answers, used again.

A fresh buffer costs a page fault for every 4 KiB and is filled with zeros before the payload overwrites it:
of a node that takes in shards, and of a client that reads or verifies them, that was a seventh of the work.
A large one that is new after all is not filled: what comes touches its pages turn by turn, instead of the event
loop all of them in one.
"""

from __future__ import annotations

from collections import deque

from potsherd.kernels.buffers import held, unset

__all__ = [
    "ALIGNMENT",
    "ANSWER_BYTES_MAX",
    "KEPT_BYTES_MAX",
    "POOLED_BYTES_MIN",
    "AnswerBuffers",
    "PayloadBuffers",
    "aligned",
]

ALIGNMENT = 4096
"""Of memory that a disk takes without a copy: the largest block of a device."""

KEPT_BYTES_MAX = 8 * 2**20
"""Bytes of idle buffers that are kept; a buffer beyond that is given up."""
POOLED_BYTES_MIN = 64 * 2**10
"""Smaller payloads have buffers of their own: the allocator has those at hand."""
ANSWER_BYTES_MAX = 48 * 2**20
"""Bytes of answers' buffers that a client keeps, those that are read just now among them."""
ANSWERS_MAX = 64
"""Buffers of answers that are kept."""
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
        """`size` bytes to be overwritten, with what has been left in them; large ones `aligned`."""
        if size >= POOLED_BYTES_MIN:
            for at, buffer in enumerate(self._idle):
                if size <= _room(buffer) <= size * _WASTE_MAX:
                    del self._idle[at]
                    self._idle_bytes -= _room(buffer)
                    return aligned(memoryview(buffer), size)
            return aligned(memoryview(unset(size + ALIGNMENT)), size)
        return memoryview(bytearray(size))

    def give(self, payload: memoryview) -> None:
        """The payload of `take` is done with; views of it that are still held stay as they are."""
        buffer = payload.obj
        if not isinstance(buffer, bytearray) or _room(buffer) < POOLED_BYTES_MIN:
            return
        payload.release()
        if _is_seen(buffer):
            return
        self._idle.appendleft(buffer)
        self._idle_bytes += _room(buffer)
        while self._idle_bytes > self._kept_bytes_max:
            self._idle_bytes -= _room(self._idle.pop())


class AnswerBuffers:
    """For one event loop, and for payloads of which nobody says when he is done.

    A buffer is free again when no view of it exists.
    """

    def __init__(self, bytes_max: int = 0) -> None:
        """Keeps `bytes_max` bytes at most, in use or not; more than that is made anew each time."""
        self._bytes_max = bytes_max
        self._kept: list[bytearray] = []  # the last one used at the end: its pages are warm
        self._kept_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of all buffers that are kept."""
        return self._kept_bytes

    def take(self, size: int) -> memoryview:
        """`size` bytes to be overwritten, with what has been left in them."""
        if size < POOLED_BYTES_MIN:
            return memoryview(bytearray(size))
        for at in reversed(range(len(self._kept))):
            buffer = self._kept[at]
            if size <= len(buffer) <= size * _WASTE_MAX and not _is_seen(buffer):
                self._kept.append(self._kept.pop(at))
                return memoryview(buffer)[:size]
        made = unset(size)
        self._keep(made)
        return memoryview(made)

    def _keep(self, made: bytearray) -> None:
        """If there is room, or can be made by giving up what nobody reads."""
        at = 0
        while at < len(self._kept) and not self._has_room(len(made)):
            if _is_seen(self._kept[at]):
                at += 1
            else:
                self._kept_bytes -= len(self._kept.pop(at))
        if self._has_room(len(made)):
            self._kept.append(made)
            self._kept_bytes += len(made)

    def _has_room(self, size: int) -> bool:
        return self._kept_bytes + size <= self._bytes_max and len(self._kept) < ANSWERS_MAX


def aligned(buffer: memoryview, size: int) -> memoryview:
    """The first `size` bytes of a buffer (ALIGNMENT longer) that begin where a disk wants them to begin."""
    with held([buffer]) as ((place,), _):
        start = -place % ALIGNMENT
    return buffer[start : start + size]


def _room(buffer: bytearray) -> int:
    """Bytes that an aligned payload may have in it."""
    return len(buffer) - ALIGNMENT


def _is_seen(buffer: bytearray) -> bool:
    """Whether any view of the buffer exists: then it cannot be resized."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False
