"""Statements that lengthen or end leases, and the messages that carry them (docs/spec/retention.md).

Dates are whole seconds since 1970, UTC. Statements travel signed, as those of `records` do.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.node.records import DATE_MAX, Lease, LeasePath
from potsherd.wire import Bool, Bytes, ListOf, Nested, Record, Tuple, Uint

__all__ = [
    "KEEPING_LEASES_MAX",
    "KEEPING_SEGMENTS_MAX",
    "Extension",
    "ExtensionPut",
    "KeepingQuery",
    "KeepingReply",
    "KeptSegment",
    "Withdrawal",
    "WithdrawalPut",
    "WithdrawalTaken",
]

KEEPING_SEGMENTS_MAX = 32
"""Segments in one question about keeping: the longest answer fits a frame."""
KEEPING_LEASES_MAX = 2
"""Leases told of one segment: those that last longest, because any one keeps it."""
STATEMENTS_MAX = 64
"""Extensions, and withdrawals, in one answer."""
WITHDRAWAL_NUMBER_MAX = 2**32 - 1


@dataclass(frozen=True)
class Extension(Record):
    """A keeper keeps an archive at least until then. Signed by `keeper`, whom the lease must name.

    Scope is (owner, archive), whatever the lease's sequence; per keeper the latest date wins.
    `until` 0 means without end.
    """

    TYPE: ClassVar[str] = "extension"
    SIZE_MAX: ClassVar[int] = 128
    owner: Annotated[bytes, Bytes(32)]
    archive: Annotated[int, Uint(2**32 - 1)]
    keeper: Annotated[bytes, Bytes(32)]
    until: Annotated[int, Uint(DATE_MAX)]


@dataclass(frozen=True)
class Withdrawal(Record):
    """An archive need not be kept any more, or, with `active` false, is to be kept after all.

    Signed by `withdraw_key`, which must be the lease's. It ends every lease of the scope (owner,
    archive), whatever its sequence; in a scope the highest number wins.
    """

    TYPE: ClassVar[str] = "withdrawal"
    SIZE_MAX: ClassVar[int] = 128
    owner: Annotated[bytes, Bytes(32)]
    archive: Annotated[int, Uint(2**32 - 1)]
    number: Annotated[int, Uint(WITHDRAWAL_NUMBER_MAX, min=1)]
    date: Annotated[int, Uint(DATE_MAX)]
    active: Annotated[bool, Bool()]
    withdraw_key: Annotated[bytes, Bytes(32)]


# --- messages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExtensionPut(Record):
    """A signed Extension of a lease that the asked node keeps."""

    SIZE_MAX: ClassVar[int] = 512
    extension: Annotated[bytes, Bytes(max=64 + Extension.SIZE_MAX)]


@dataclass(frozen=True)
class WithdrawalPut(Record):
    """A signed Withdrawal in a scope of which the asked node keeps the lease."""

    SIZE_MAX: ClassVar[int] = 512
    withdrawal: Annotated[bytes, Bytes(max=64 + Withdrawal.SIZE_MAX)]


@dataclass(frozen=True)
class WithdrawalTaken(Record):
    """When the node first saw the withdrawal that counts in the scope: its grace runs from there."""

    SIZE_MAX: ClassVar[int] = 32
    seen: Annotated[int, Uint(DATE_MAX)]


@dataclass(frozen=True)
class KeepingQuery(Record):
    """Asks how long segments are to be kept, and what time it is. They need not be held there."""

    SIZE_MAX: ClassVar[int] = 2048
    segment_ids: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=KEEPING_SEGMENTS_MAX)]


@dataclass(frozen=True)
class KeptSegment(Record):
    """What a node knows of one segment: whether it holds it, and the signed leases that last longest."""

    SIZE_MAX: ClassVar[int] = 4096
    segment_id: Annotated[bytes, Bytes(32)]
    held: Annotated[bool, Bool()]
    leases: Annotated[
        tuple[tuple[bytes, LeasePath], ...],
        ListOf(Tuple(Bytes(max=64 + Lease.SIZE_MAX), Nested(LeasePath)), max=KEEPING_LEASES_MAX),
    ]


@dataclass(frozen=True)
class KeepingReply(Record):
    """The node's clock, and per segment asked for, in that order, what it knows.

    `withdrawals`: (signed withdrawal, when first seen there), of held segments and of such as were
    dropped because of them. The stream proves whose answer it is: it is not signed.
    """

    SIZE_MAX: ClassVar[int] = 240 * 1024
    utc: Annotated[int, Uint(DATE_MAX)]
    segments: Annotated[
        tuple[KeptSegment, ...], ListOf(Nested(KeptSegment), max=KEEPING_SEGMENTS_MAX)
    ]
    extensions: Annotated[
        tuple[bytes, ...], ListOf(Bytes(max=64 + Extension.SIZE_MAX), max=STATEMENTS_MAX)
    ]
    withdrawals: Annotated[
        tuple[tuple[bytes, int], ...],
        ListOf(Tuple(Bytes(max=64 + Withdrawal.SIZE_MAX), Uint(DATE_MAX)), max=STATEMENTS_MAX),
    ]
