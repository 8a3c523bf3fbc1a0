"""Messages and proofs of audit (docs/spec/audit.md)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.errors import MalformedError
from potsherd.node.records import DATE_MAX, ReadAnswer
from potsherd.wire import Bytes, ListOf, Nested, Opt, Record, Text, Tuple, Uint

__all__ = [
    "EVIDENCE_MAX",
    "PROOF_DATES_MAX",
    "REASON_MAX",
    "STATES",
    "Accusation",
    "BadEncoding",
    "BadEncodingPut",
    "Evidence",
    "ProvedCell",
    "ProvenReply",
    "RepairAsk",
    "RepairState",
    "RepairStates",
]

EVIDENCE_MAX = 36 * 1024
"""Bytes of evidence: a cell, its proof, a signed answer."""
PROOF_DATES_MAX = 512
"""Proofs named in one answer: a roster has no more entries."""
REASON_MAX = 300
"""Bytes of a reason for people."""
PATH_MAX = 16 * 32
"""Bytes of one cell's Merkle path: a shard has at most 2^15 cells."""
ANSWER_PROOF_MAX = 32 * 32
"""Bytes of a proof as a holder may send it, right or wrong."""
STATES = ("whole", "waiting", "running", "stuck")
"""Of RepairState.state, by number."""


@dataclass(frozen=True)
class Evidence(Record):
    """A wrong answer as its holder has signed it: anybody who has the descriptor can see that it is wrong."""

    SIZE_MAX: ClassVar[int] = EVIDENCE_MAX
    answer: Annotated[bytes, Bytes(max=64 + ReadAnswer.SIZE_MAX)]
    """Signed ReadAnswer."""
    cell: Annotated[bytes, Bytes(max=32768)]
    proof: Annotated[bytes, Bytes(max=ANSWER_PROOF_MAX)]


@dataclass(frozen=True)
class Accusation(Record):
    """The asker has found a holder's shard wrong; `evidence` is an Evidence, or empty where it denied all."""

    SIZE_MAX: ClassVar[int] = EVIDENCE_MAX + 256
    segment_id: Annotated[bytes, Bytes(32)]
    node: Annotated[bytes, Bytes(32)]
    row: Annotated[int, Uint(32767)]
    evidence: Annotated[bytes, Bytes(max=EVIDENCE_MAX)]


@dataclass(frozen=True)
class ProvenReply(Record):
    """(index, node key, date, row): proved reads that the asked node remembers of a segment's shards."""

    SIZE_MAX: ClassVar[int] = 32 * 1024
    proofs: Annotated[
        tuple[tuple[int, bytes, int, int], ...],
        ListOf(
            Tuple(Uint(254), Bytes(32), Uint(DATE_MAX), Uint(32767)),
            max=PROOF_DATES_MAX,
        ),
    ]


@dataclass(frozen=True)
class ProvedCell(Record):
    """BLAKE2b-256 of the cell of one index, and its Merkle path to the shard root."""

    SIZE_MAX: ClassVar[int] = 640
    index: Annotated[int, Uint(254)]
    leaf: Annotated[bytes, Bytes(32)]
    path: Annotated[bytes, Bytes(max=PATH_MAX)]


@dataclass(frozen=True)
class BadEncoding(Record):
    """k + 1 proved cells of one row that are not of one code word: the owner has coded the segment wrongly.

    The cells of the first k travel as payload, in this order; the last one is contradicted by them, and
    its leaf suffices.
    """

    SIZE_MAX: ClassVar[int] = 180 * 1024
    descriptor: Annotated[bytes, Bytes(max=10 * 1024)]
    row: Annotated[int, Uint(32767)]
    cells: Annotated[tuple[ProvedCell, ...], ListOf(Nested(ProvedCell), max=255, min=2)]

    def check(self) -> None:
        indices = [cell.index for cell in self.cells]
        if len(set(indices)) != len(indices) or indices[:-1] != sorted(indices[:-1]):
            raise MalformedError("BadEncoding.cells: not ascending and distinct but for the last")


@dataclass(frozen=True)
class BadEncodingPut(Record):
    """A BadEncoding; its cells are the payload."""

    SIZE_MAX: ClassVar[int] = 200 * 1024
    proof: Annotated[bytes, Bytes(max=BadEncoding.SIZE_MAX)]


@dataclass(frozen=True)
class RepairAsk(Record):
    """Look at these segments now, and repair what is missing, whether or not the threshold is reached."""

    SIZE_MAX: ClassVar[int] = 4096
    segment_ids: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=64, min=1)]


@dataclass(frozen=True)
class RepairState(Record):
    """How the asked node sees one segment that it holds."""

    SIZE_MAX: ClassVar[int] = 512
    segment_id: Annotated[bytes, Bytes(32)]
    state: Annotated[int, Uint(len(STATES) - 1)]
    """0 nothing is missing, 1 waits for its turn or for a try, 2 is being repaired, 3 cannot be now."""
    live: Annotated[int, Uint(255)]
    distinct: Annotated[int, Uint(255)]
    """Indices that are not lost."""
    rows: Annotated[int | None, Opt(Uint(32768))]
    """Rows sent by who repairs, if somebody does."""
    reason: Annotated[str, Text(max=REASON_MAX)]


@dataclass(frozen=True)
class RepairStates(Record):
    """One for each segment asked about, in that order; those not held here are left out."""

    SIZE_MAX: ClassVar[int] = 40 * 1024
    states: Annotated[tuple[RepairState, ...], ListOf(Nested(RepairState), max=64)]
