"""Statements and messages of repair and audit (docs/spec/repair.md).

Statements travel signed, as those of node/records.py do. What a repairer hands over a shard with is the
HolderTicket there.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.errors import MalformedError
from potsherd.wire import Bytes, ListOf, Opt, Record, Uint

__all__ = [
    "LAST_SEEN_MAX",
    "ClaimPut",
    "ClaimStands",
    "LastSeen",
    "LastSeenQuery",
    "RepairClaim",
    "indices_of",
    "mask_of",
]

LAST_SEEN_MAX = 255
"""Nodes in one question about sightings."""
MASK_BYTES = 32
"""A bit for each index of a segment."""


def mask_of(indices: tuple[int, ...]) -> bytes:
    """Indices 0 … 254 as 32 bytes: bit i of the little-endian number stands for index i."""
    return sum(1 << index for index in set(indices)).to_bytes(MASK_BYTES, "little")


def indices_of(mask: bytes) -> tuple[int, ...]:
    """The inverse of `mask_of`, ascending."""
    bits = int.from_bytes(mask, "little")
    return tuple(index for index in range(8 * MASK_BYTES) if bits >> index & 1)


@dataclass(frozen=True)
class RepairClaim(Record):
    """A holder is repairing these indices and has come so far. Signed by `repairer`.

    Per segment and repairer the highest number wins; no indices: it has ended.
    """

    TYPE: ClassVar[str] = "repair-claim"
    SIZE_MAX: ClassVar[int] = 160
    segment_id: Annotated[bytes, Bytes(32)]
    repairer: Annotated[bytes, Bytes(32)]
    number: Annotated[int, Uint(2**32 - 1)]
    mask: Annotated[bytes, Bytes(MASK_BYTES)]
    rows: Annotated[int, Uint(32768)]
    """Rows sent so far, of the target that has the fewest."""

    def check(self) -> None:
        if self.mask[-1] & 0x80:
            raise MalformedError("RepairClaim.mask: there is no index 255")

    @property
    def indices(self) -> tuple[int, ...]:
        """What is being rebuilt, ascending."""
        return indices_of(self.mask)


@dataclass(frozen=True)
class LastSeenQuery(Record):
    """When were these nodes last seen?"""

    SIZE_MAX: ClassVar[int] = 12 * 1024
    nodes: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=LAST_SEEN_MAX, min=1)]


@dataclass(frozen=True)
class LastSeen(Record):
    """Seconds since a sign of life, in the order asked for; nil where there was none."""

    SIZE_MAX: ClassVar[int] = 2048
    ages: Annotated[tuple[int | None, ...], ListOf(Opt(Uint(2**32 - 1)), max=LAST_SEEN_MAX, min=1)]


@dataclass(frozen=True)
class ClaimPut(Record):
    """A signed RepairClaim."""

    SIZE_MAX: ClassVar[int] = 320
    claim: Annotated[bytes, Bytes(max=64 + RepairClaim.SIZE_MAX)]


@dataclass(frozen=True)
class ClaimStands(Record):
    """The signed RepairClaim that stands at the asked node after that; empty: none."""

    SIZE_MAX: ClassVar[int] = 320
    claim: Annotated[bytes, Bytes(max=64 + RepairClaim.SIZE_MAX)]
