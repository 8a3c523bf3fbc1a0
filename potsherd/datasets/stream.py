"""The block stream of a `put`, carried out: bytes laid out by `StreamLayout` become rows of segments.

The network is behind `SegmentSink`. One call of it is under way while the next bytes are encoded, and no
more: so memory is flat and a slow network slows the encoder.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from potsherd.classes import dataclass
from potsherd.erasure.layout import STANDARD, Limits
from potsherd.erasure.merkle import HASH_SIZE
from potsherd.erasure.segment import StreamPart
from potsherd.erasure.stream import Close, Pad, Placed, Put, Step
from potsherd.errors import UsageError
from potsherd.ports import Buffer

__all__ = ["FLUSH_BYTES", "Entry", "SegmentSink", "StreamWriter", "WrittenSegment"]

FLUSH_BYTES = 8 * 2**20
"""Bytes of stream collected before they are handed to the sink; at least a row goes at once."""

Entry: TypeAlias = tuple[bytes, int, int]
"""(locator, offset, length) of the root page in the segment that ends with it."""


class SegmentSink(Protocol):
    """Takes one segment after the other. Calls come one at a time: begin, rows …, finish, begin …

    After an exception no call follows; the sink's owner frees what it holds.
    """

    async def begin(self, segment_number: int, placement_key: bytes, stream_bytes_max: int) -> None:
        """A segment begins whose stream is not longer: whole rows, or if it is small less than one row."""

    async def rows(self, parts: Sequence[StreamPart], *, cell_size: int) -> None:
        """Whole rows of k cells, in order; the last one filled up with zeros. Returns when more may come."""

    async def finish(
        self, *, stream_length: int, cell_size: int, rows: int, entry: Entry | None
    ) -> bytes:
        """The segment is complete; gives its id once it is durable on at least w holders."""


@dataclass(frozen=True)
class WrittenSegment:
    """A segment as it was handed over and acknowledged."""

    number: int
    segment_id: bytes
    placement_key: bytes
    stream_length: int


Committed = Callable[[WrittenSegment], Awaitable[None]]


class StreamWriter:
    """Carries out the steps of a layout. `close` it whatever happens.

    `committed` are segments that an earlier try made durable: their bytes are dropped.
    """

    def __init__(
        self,
        sink: SegmentSink,
        *,
        k: int,
        placement_key: Callable[[int], bytes],
        bytes_max: Callable[[int], int],
        on_committed: Committed,
        committed: Sequence[WrittenSegment] = (),
        limits: Limits = STANDARD,
    ) -> None:
        self._sink = sink
        self._k = k
        self._limits = limits
        self._placement_key = placement_key
        self._bytes_max = bytes_max
        self._on_committed = on_committed
        self._skip = len(committed)
        self.segments: list[WrittenSegment] = list(committed)
        """Acknowledged ones, by number; complete after `settle`."""
        self.bytes_sent = 0
        """Bytes of stream handed to the sink."""
        self._pending: list[StreamPart] = []
        self._size = 0
        self._open: int | None = None
        self._rows = 0
        self._flight: asyncio.Task[None] | None = None

    async def begin_early(self) -> None:
        """Begin the first segment before its bytes are there, so that holders are met while these are encoded.

        Only for a stream that is not small; does nothing when an earlier try has committed a segment.
        """
        if not self._skip and self._open is None:
            await self._begin(0, ())

    async def write(
        self,
        steps: Sequence[Step],
        data: Iterable[Buffer | StreamPart] = (),
        *,
        entry: Entry | None = None,
    ) -> None:
        """Carry out steps; `data` are the bytes of their `Put`s. `entry` belongs to the last segment.

        References that come with the data spare their cells a second hash.

        Bytes of segments that are committed already are dropped.
        """
        waiting = deque(part for part in map(self._known, data) if len(part.data))
        for step in steps:
            if isinstance(step, Placed):
                continue
            parts = self._take(waiting, step.length) if isinstance(step, Put) else []
            if step.segment_number < self._skip:
                continue
            if isinstance(step, Close):
                await self._close_segment(step, entry)
                continue
            if isinstance(step, Pad):
                parts = [StreamPart(bytes(step.length))]
            if self._open is None:
                await self._begin(step.segment_number, steps)
            await self._add(parts)
        if waiting:
            raise UsageError("bytes that no step puts anywhere")

    def _take(self, waiting: deque[StreamPart], length: int) -> list[StreamPart]:
        """The next `length` bytes."""
        parts: list[StreamPart] = []
        while length and waiting:
            part = waiting.popleft()
            if len(part.data) > length:
                part, rest = part.cut(length, self._limits.cell_size)
                waiting.appendleft(rest)
            parts.append(part)
            length -= len(part.data)
        if length:
            raise UsageError("a step without its bytes")
        return parts

    def _known(self, data: Buffer | StreamPart) -> StreamPart:
        """References of smaller blocks than a cell are of no use here."""
        if not isinstance(data, StreamPart):
            return StreamPart(data)
        cells, rest = divmod(len(data.data), self._limits.cell_size)
        fits = not rest and len(data.references) == cells * HASH_SIZE
        return data if fits else StreamPart(data.data, b"", data.again)

    async def settle(self) -> None:
        """Wait until the sink has done what it was given; raises what it raised."""
        if self._flight is not None:
            flight, self._flight = self._flight, None
            await flight

    async def close(self) -> None:
        """Let go of a call that is under way; errors are no longer of interest."""
        if self._flight is not None:
            flight, self._flight = self._flight, None
            flight.cancel()
            await asyncio.gather(flight, return_exceptions=True)

    # --- into rows -----------------------------------------------------------------------------------

    async def _begin(self, number: int, steps: Sequence[Step]) -> None:
        self._open = number
        size = self._bytes_max(number)
        row_bytes = self._limits.row_bytes(self._k)
        end = next((s for s in steps if isinstance(s, Close) and s.segment_number == number), None)
        if end is not None:
            size = min(size, end.stream_length)
        if end is None or not end.small:
            size = -(-size // row_bytes) * row_bytes
        key = self._placement_key(number)
        await self._launch(lambda: self._sink.begin(number, key, size))

    async def _add(self, parts: Iterable[StreamPart]) -> None:
        for part in parts:
            self._pending.append(part)
            self._size += len(part.data)
        row_bytes = self._limits.row_bytes(self._k)
        if self._size >= max(FLUSH_BYTES, row_bytes):
            await self._flush(self._size - self._size % row_bytes, self._limits.cell_size)

    async def _flush(self, size: int, cell_size: int) -> None:
        waiting = deque(self._pending)
        rows = self._take(waiting, size)
        if cell_size != self._limits.cell_size:
            rows = [StreamPart(part.data) for part in rows]
        self._pending, self._size = list(waiting), self._size - size
        self._rows += size // (self._k * cell_size)
        await self._launch(lambda: self._sink.rows(rows, cell_size=cell_size))
        self.bytes_sent += size

    async def _close_segment(self, step: Close, entry: Entry | None) -> None:
        if self._open != step.segment_number:
            raise UsageError("the end of a segment that is not open")
        cell_size = self._limits.cell_size
        if step.small:
            cell_size = self._limits.small_cell(self._k, step.stream_length)
        missing = -self._size % (self._k * cell_size)
        if self._size:
            self._pending.append(StreamPart(bytes(missing)))
            await self._flush(self._size + missing, cell_size)
        rows = self._rows
        await self._launch(lambda: self._finish(step, cell_size, rows, entry))
        self._open, self._rows, self._size, self._pending = None, 0, 0, []

    # --- calls of the sink, one at a time ------------------------------------------------------------

    async def _launch(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self.settle()
        self._flight = asyncio.create_task(call())

    async def _finish(self, step: Close, cell_size: int, rows: int, entry: Entry | None) -> None:
        segment_id = await self._sink.finish(
            stream_length=step.stream_length, cell_size=cell_size, rows=rows, entry=entry
        )
        number = step.segment_number
        written = WrittenSegment(
            number, segment_id, self._placement_key(number), step.stream_length
        )
        await self._on_committed(written)
        self.segments.append(written)
