"""The descriptor: the public facts of a segment, and its id (docs/spec/segments.md, section 5)."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Annotated, ClassVar, NamedTuple

from potsherd.classes import dataclass
from potsherd.erasure.code import N_MAX
from potsherd.erasure.layout import CELL_SIZE, COLUMN_CELLS, STANDARD, Geometry
from potsherd.errors import MalformedError, UsageError
from potsherd.wire import Bytes, ListOf, Nested, Opt, Record, Uint

__all__ = ["DefaultCode", "Descriptor", "Entry", "default_code", "defaults", "segment_id_of"]

SEGMENT_ID_PERSON = b"potsherd segment"
"""Personalisation of segment ids."""
STREAM_LENGTH_MAX = COLUMN_CELLS * CELL_SIZE


def segment_id_of(encoding: bytes | memoryview) -> bytes:
    """BLAKE2b-256 of a descriptor's exact bytes."""
    return blake2b(encoding, digest_size=32, person=SEGMENT_ID_PERSON).digest()


@dataclass(frozen=True)
class Entry(Record):
    """Where the root manifest lies, in the segment that ends with it."""

    TYPE: ClassVar[str] = "entry"
    locator: Annotated[bytes, Bytes(20)]
    offset: Annotated[int, Uint(STREAM_LENGTH_MAX)]
    length: Annotated[int, Uint(STREAM_LENGTH_MAX, min=1)]


@dataclass(frozen=True)
class Descriptor(Record):
    """Public facts of a segment. Not signed: who has the segment id can check it."""

    TYPE: ClassVar[str] = "descriptor"
    SIZE_MAX: ClassVar[int] = 9 * 1024
    """255 roots of 34 bytes and the rest; tested with the longest."""

    k: Annotated[int, Uint(N_MAX, min=1)]
    n: Annotated[int, Uint(N_MAX, min=1)]
    r: Annotated[int, Uint(N_MAX, min=1)]
    """Repair starts when fewer indices than this are live."""
    cell_size: Annotated[int, Uint(CELL_SIZE, min=1)]
    rows: Annotated[int, Uint(COLUMN_CELLS, min=1)]
    stream_length: Annotated[int, Uint(STREAM_LENGTH_MAX)]
    placement_key: Annotated[bytes, Bytes(20)]
    owner_key: Annotated[bytes, Bytes(32)]
    """Verify key of the dataset."""
    roots: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=N_MAX, min=1)]
    """Merkle roots of the n shards, by index."""
    entry: Annotated[Entry | None, Opt(Nested(Entry))] = None

    def check(self) -> None:
        """See Record.check."""
        if not self.k <= self.r <= self.n or len(self.roots) != self.n:
            raise MalformedError("Descriptor: k <= r <= n with n roots does not hold")
        try:
            geometry = self.geometry
        except UsageError as error:
            raise MalformedError(f"Descriptor: {error}") from None
        if not geometry.conforms(STANDARD):
            raise MalformedError("Descriptor: a cell size or number of rows that is not used")
        if self.entry and self.entry.offset + self.entry.length > self.stream_length:
            raise MalformedError("Descriptor: the entry lies outside the stream")

    @cached_property
    def segment_id(self) -> bytes:
        """The name of the segment: 32 bytes."""
        return segment_id_of(self.encode())

    @cached_property
    def geometry(self) -> Geometry:
        """The segment's table."""
        return Geometry(self.k, self.n, self.cell_size, self.rows, self.stream_length)


class DefaultCode(NamedTuple):
    """A code and the number of live indices below which repair starts."""

    k: int
    n: int
    r: int


_BY_DONORS = ((40, DefaultCode(10, 30, 20)), (9, DefaultCode(4, 9, 7)), (4, DefaultCode(2, 4, 4)))
"""Fewest live donors from which a code is the default; below the last: replication on all."""


def default_code(live_donors: int) -> DefaultCode:
    """The code for a network of so many live donors. Raises UsageError when there is none."""
    if live_donors < 1:
        raise UsageError("no live donor")
    for fewest, code in _BY_DONORS:
        if live_donors >= fewest:
            return code
    return DefaultCode(1, live_donors, live_donors)


def defaults(k: int, n: int) -> tuple[int, int]:
    """(r, w) of a code: repair below r live indices, acknowledge at w durable shards."""
    if not 1 <= k <= n <= N_MAX:
        raise UsageError(f"a code of {k} of {n}")
    table = {(code.k, code.n): code.r for _, code in _BY_DONORS}
    r = n if k == 1 else table.get((k, n), k + -(-(n - k) // 2))
    return r, -(-(r + n) // 2)
