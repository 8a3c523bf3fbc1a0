"""Segments without a network, for tests and studies. No product code imports this module.

`MemorySegments` is sink and source at once. It behaves: it keeps what it is given, holds the writer to the
contract of `SegmentSink`, and gives wrong bytes or none where it is told to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import field
from hashlib import blake2b
from typing import Any, TypeVar

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.crypto.hashing import entry_locator
from potsherd.datasets.manifest import SegmentRef
from potsherd.datasets.reader import Piece, RootPlace
from potsherd.datasets.stream import Entry
from potsherd.erasure.layout import STANDARD, Geometry, Limits
from potsherd.erasure.merkle import cell_leaves
from potsherd.erasure.segment import StreamPart
from potsherd.errors import ChangedError, NotEnoughShards, NotFoundError, PeerError

__all__ = ["ContractBroken", "MemorySegment", "MemorySegments", "inline"]

T = TypeVar("T")


async def inline(fn: Callable[..., T], /, *args: Any) -> T:
    """An `Env.offload` that runs at once."""
    return fn(*args)


class ContractBroken(Exception):  # noqa: N818 (says what happened)
    """The writer did what no sink has to expect."""


@dataclass
class MemorySegment:
    """One committed segment."""

    number: int
    placement_key: bytes
    data: bytearray
    """The stream, without the zeros that fill its last row."""
    small: bool
    entry: Entry | None


@dataclass
class _Open:
    number: int
    placement_key: bytes
    bytes_max: int
    data: bytearray = field(default_factory=bytearray)
    cell_size: int = 0


def _right_references(parts: Sequence[StreamPart], cell_size: int) -> bool:
    return all(
        part.references == cell_leaves(part.data, cell_size) for part in parts if part.references
    )


def _made_again(parts: Sequence[StreamPart]) -> int:
    """Bytes that can be made again and come out the same, whole and their second half alone."""
    made = 0
    for part in parts:
        if part.again is None:
            continue
        half = len(part.data) // 2
        for start in (0, half):
            size = len(part.data) - start
            try:
                again = part.again.make(part.again.start + start, size)
            except ChangedError:
                break  # the test has changed the file meanwhile
            _require(bytes(again) == bytes(part.data[start:]), "other bytes when made again")
        else:
            made += len(part.data)
    return made


class MemorySegments:
    """Keeps segments by id."""

    def __init__(self, k: int, n: int, *, limits: Limits = STANDARD) -> None:
        self.k, self.n, self.limits = k, n, limits
        self.segments: dict[bytes, MemorySegment] = {}
        self.order: list[bytes] = []
        """Ids as they were committed."""
        self._open: _Open | None = None
        self.bytes_again = 0
        """Bytes of streams that could have been made again when they came."""
        self.calls = 0
        self.fail_at = -1
        """The number of the call, from 0, that raises PeerError."""
        self.reads: list[tuple[int, list[tuple[int, int]]]] = []
        """Every read: segment number and ranges."""
        self.lost: set[bytes] = set()
        """Ids of segments that cannot be read."""
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Called before each call of the sink, with its name."""

    # --- sink ----------------------------------------------------------------------------------------

    async def _call(self, name: str) -> None:
        if self.before is not None:
            await self.before(name)
        self.calls += 1
        if self.calls - 1 == self.fail_at:
            self._open = None
            raise PeerError("the network is gone")

    async def begin(self, segment_number: int, placement_key: bytes, stream_bytes_max: int) -> None:
        """See SegmentSink."""
        await self._call("begin")
        _require(self._open is None, "two segments open at once")
        _require(0 < stream_bytes_max <= self.limits.capacity(self.k), "bytes_max")
        self._open = _Open(segment_number, placement_key, stream_bytes_max)

    async def rows(self, parts: Sequence[StreamPart], *, cell_size: int) -> None:
        """See SegmentSink."""
        data = b"".join(part.data for part in parts)
        _require(_right_references(parts, cell_size), "wrong references")
        self.bytes_again += _made_again(parts)
        await self._call("rows")
        segment = self._opened()
        _require(len(data) > 0 and len(data) % (self.k * cell_size) == 0, "rows that are not whole")
        _require(segment.cell_size in (0, cell_size), "cells of two sizes")
        segment.cell_size = cell_size
        segment.data += data
        row_bytes = self.limits.row_bytes(self.k)
        room = self.k * self.limits.small_cell(self.k, segment.bytes_max)
        if segment.bytes_max >= row_bytes:
            room = segment.bytes_max // row_bytes * row_bytes
        _require(len(segment.data) <= room, "more rows than holders were asked to reserve")

    async def finish(
        self, *, stream_length: int, cell_size: int, rows: int, entry: Entry | None
    ) -> bytes:
        """See SegmentSink."""
        await self._call("finish")
        segment = self._opened()
        _require(segment.cell_size == cell_size, "cell size")
        _require(stream_length <= segment.bytes_max, "longer than announced")
        geometry = Geometry(self.k, self.n, cell_size, rows, stream_length)
        _require(geometry.conforms(self.limits), "geometry")
        _require(len(segment.data) == geometry.capacity, "rows missing")
        _require(not any(segment.data[stream_length:]), "filling that is not zero")
        if entry is not None:
            after = stream_length - entry[1] - entry[2]  # a stream of cells ends with a whole one
            _require(0 <= after < cell_size, "a root page that is not the last")
        identity = blake2b(
            repr((segment.placement_key, cell_size, stream_length, entry)).encode() + segment.data,
            digest_size=32,
        ).digest()
        small = cell_size != self.limits.cell_size
        kept = MemorySegment(
            segment.number, segment.placement_key, segment.data[:stream_length], small, entry
        )
        self.segments[identity] = kept
        self.order.append(identity)
        self._open = None
        return identity

    def _opened(self) -> _Open:
        if self._open is None:
            raise ContractBroken("no segment is open")
        return self._open

    # --- source --------------------------------------------------------------------------------------

    async def roots(self, capability: ReadCapability) -> AsyncIterator[RootPlace]:
        """See SegmentSource."""
        locator = entry_locator(capability.root_reference, capability.root_key)
        found = False
        for identity, segment in self.segments.items():
            if segment.entry is not None and segment.entry[0] == locator:
                found = True
                _, offset, length = segment.entry
                yield RootPlace(self.ref(identity), offset, length)
        if not found:
            raise NotFoundError("no node knows that dataset")

    def ref(self, identity: bytes) -> SegmentRef:
        """What a manifest says of a segment."""
        return SegmentRef(identity, self.segments[identity].placement_key, self.k, self.n)

    async def read(self, segment: SegmentRef, ranges: Sequence[tuple[int, int]]) -> Sequence[Piece]:
        """See SegmentSource."""
        if segment.segment_id not in self.segments:
            raise NotFoundError("no such segment")
        if segment.segment_id in self.lost:
            raise NotEnoughShards
        kept = self.segments[segment.segment_id]
        _require(segment == self.ref(segment.segment_id), "a segment under another name")
        self.reads.append((kept.number, list(ranges)))
        for offset, length in ranges:
            _require(offset >= 0 and 0 < length <= len(kept.data) - offset, "beyond the stream")
        return [Piece(bytes(kept.data[offset : offset + length])) for offset, length in ranges]


def _require(true: bool, what: str) -> None:
    if not true:
        raise ContractBroken(what)
