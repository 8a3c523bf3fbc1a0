"""Signed statements about segments and datasets, and what peers say to each other on the data plane.

Specified in docs/spec/records.md (statements) and docs/spec/node-protocol.md (messages).
Dates are whole seconds since 1970, UTC. A signed statement travels as `signature ‖ encoding`
(`wire.Record.signed`); who signs is said in each class.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.errors import MalformedError
from potsherd.wire import Bool, Bytes, ListOf, Nested, Opt, Record, Text, Tuple, Uint

__all__ = [
    "KEEPERS_MAX",
    "LEASE_GRACE_S",
    "LEASE_PATH_MAX",
    "PAYLOAD_MAX",
    "PROTOCOL_VERSION",
    "PROVISIONAL_LEASE_S",
    "READ_MAX",
    "SEGMENTS_PER_MESSAGE_MAX",
    "Head",
    "HolderTicket",
    "Lease",
    "LeasePath",
    "ProvisionalLease",
    "ReadAnswer",
    "RosterEntry",
    "Ticket",
]

DATE_MAX = 2**40 - 1
"""Seconds: some 34,000 years; keeps dates in range of every library."""
SHARD_BYTES_MAX = 32768 * 32768
"""Bytes of the largest shard: k = 1, all rows."""
KEEPERS_MAX = 8
"""Keys that may extend a lease besides its owner."""
LEASE_PATH_MAX = 20
"""Hashes in a segment's Merkle path: 2^20 segments, about a petabyte in one archive."""
PROVISIONAL_LEASE_S = 30 * 86400
"""Seconds for which a segment is protected before a lease covers it."""
LEASE_GRACE_S = 30 * 86400
"""Seconds between the end of a lease, or its withdrawal, and the deletion it allows; the default."""
PAYLOAD_MAX = 8 * 2**20
"""Bytes of raw payload in one message. Each push costs some CPU time of its own, whatever its size."""
READ_MAX = 4 * 2**20
"""Bytes of cells in one answer, and of those that prove a bad encoding: each answer is in memory whole."""
SEGMENTS_PER_MESSAGE_MAX = 64
"""Segments named in one message; longer lists go in several."""
PROTOCOL_VERSION = 1
NONCE_BYTES = 16
"""Of a read: drawn by the asker."""
ROSTER_SAME, ROSTER_DIFFERS, ROSTER_NOT_HERE = 0, 1, 2
"""States in RosterStates: the same entries, others, no shard of that segment."""


@dataclass(frozen=True)
class Ticket(Record):
    """The owner allows one shard of one coming segment to be pushed to one node. Signed by `owner`."""

    TYPE: ClassVar[str] = "ticket"
    SIZE_MAX: ClassVar[int] = 128
    owner: Annotated[bytes, Bytes(32)]
    placement_key: Annotated[bytes, Bytes(20)]
    index: Annotated[int, Uint(254)]
    holder: Annotated[bytes, Bytes(32)]
    """Node key of who is to keep the shard: a ticket seen by one node is worth nothing at another."""
    shard_bytes_max: Annotated[int, Uint(SHARD_BYTES_MAX)]
    expires: Annotated[int, Uint(DATE_MAX)]


@dataclass(frozen=True)
class HolderTicket(Record):
    """A holder brings a shard of its segment to one node: one it rebuilt, or its own because it leaves.

    Signed by `signer`. Shown with the descriptor and the signer's own roster entry.
    """

    TYPE: ClassVar[str] = "holder-ticket"
    SIZE_MAX: ClassVar[int] = 160
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    """Of the shard that is brought."""
    signer: Annotated[bytes, Bytes(32)]
    holder: Annotated[bytes, Bytes(32)]
    """Node key of who is to keep the shard."""
    expires: Annotated[int, Uint(DATE_MAX)]


@dataclass(frozen=True)
class RosterEntry(Record):
    """A holder says that it keeps (or no longer keeps) one index of a segment. Signed by `node`.

    Per segment and node the entry with the highest counter wins.
    """

    TYPE: ClassVar[str] = "roster"
    SIZE_MAX: ClassVar[int] = 128
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    node: Annotated[bytes, Bytes(32)]
    counter: Annotated[int, Uint(2**32 - 1)]
    held: Annotated[bool, Bool()]


@dataclass(frozen=True)
class ReadAnswer(Record):
    """What a holder has answered to a read of one cell. Signed by `node` (docs/spec/audit.md).

    `digest` is `statements.answer_digest` of the cell and its proof as they were sent.
    """

    TYPE: ClassVar[str] = "read-answer"
    SIZE_MAX: ClassVar[int] = 192
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    row: Annotated[int, Uint(32767)]
    nonce: Annotated[bytes, Bytes(NONCE_BYTES)]
    """Of the request: an answer to an earlier one does not fit."""
    asker: Annotated[bytes, Bytes(32)]
    """Key that the stream has proven: nobody can show an answer as one that was given to others."""
    node: Annotated[bytes, Bytes(32)]
    digest: Annotated[bytes, Bytes(32)]


@dataclass(frozen=True)
class ProvisionalLease(Record):
    """Protects one segment until a lease covers it. Signed by the descriptor's owner."""

    TYPE: ClassVar[str] = "provisional-lease"
    SIZE_MAX: ClassVar[int] = 128
    owner: Annotated[bytes, Bytes(32)]
    segment_id: Annotated[bytes, Bytes(32)]
    until: Annotated[int, Uint(DATE_MAX)]


@dataclass(frozen=True)
class Lease(Record):
    """The segments of one archive are to be kept. Signed by `owner`; keepers may only extend it.

    Scope is (owner, archive); the highest sequence in a scope wins. `root` is the Merkle root over
    the `segments` segment ids in the manifest's order (erasure/merkle.py, domain of segment lists).
    `until` 0 means without end.
    """

    TYPE: ClassVar[str] = "lease"
    SIZE_MAX: ClassVar[int] = 512
    owner: Annotated[bytes, Bytes(32)]
    archive: Annotated[int, Uint(2**32 - 1)]
    sequence: Annotated[int, Uint(2**32 - 1)]
    root: Annotated[bytes, Bytes(32)]
    segments: Annotated[int, Uint(2**LEASE_PATH_MAX, min=1)]
    total_bytes: Annotated[int, Uint(2**60)]
    until: Annotated[int, Uint(DATE_MAX)]
    keepers: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=KEEPERS_MAX)]
    withdraw_key: Annotated[bytes, Bytes(32)]
    grace_s: Annotated[int, Uint(DATE_MAX)]
    repair_below: Annotated[int, Uint(255)]
    """Raises the descriptors' r; 0 leaves it."""

    def check(self) -> None:
        if tuple(sorted(set(self.keepers))) != self.keepers:
            raise MalformedError("Lease.keepers: not sorted and distinct")


@dataclass(frozen=True)
class LeasePath(Record):
    """Where a segment stands in a lease's list, and the hashes that prove it."""

    SIZE_MAX: ClassVar[int] = 1024
    segment_id: Annotated[bytes, Bytes(32)]
    position: Annotated[int, Uint(2**LEASE_PATH_MAX - 1)]
    path: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=LEASE_PATH_MAX)]


@dataclass(frozen=True)
class Head(Record):
    """Names a dataset's newest archive. Signed by `writer`; in epoch 0 that is the genesis' owner key.

    `sealed` is the 66-byte root capability in a secretbox under read[epoch] with `nonce`.
    """

    TYPE: ClassVar[str] = "head"
    SIZE_MAX: ClassVar[int] = 512
    dataset_id: Annotated[bytes, Bytes(32)]
    epoch: Annotated[int, Uint(2**32 - 1)]
    number: Annotated[int, Uint(2**32 - 1, min=1)]
    previous: Annotated[bytes, Bytes(32)]
    """BLAKE2b-256 of the previous head's signed bytes; zeros for number 1."""
    nonce: Annotated[bytes, Bytes(24)]
    sealed: Annotated[bytes, Bytes(82)]
    date: Annotated[int, Uint(DATE_MAX)]
    writer: Annotated[bytes, Bytes(32)]

    def check(self) -> None:
        if (self.number == 1) != (self.previous == bytes(32)):
            raise MalformedError("Head.previous: zeros in head 1 and only there")


# --- messages: request and response bodies of the data plane -------------------------------------------


@dataclass(frozen=True)
class Hello(Record):
    """First message of the dialler, and the listener's answer: the sender's credential chain."""

    SIZE_MAX: ClassVar[int] = 1024
    protocol: Annotated[int, Uint(255)]
    chain: Annotated[bytes, Bytes(max=512)]


@dataclass(frozen=True)
class PushOpen(Record):
    """Reserve room for the shard that the signed `ticket` names."""

    SIZE_MAX: ClassVar[int] = 512
    ticket: Annotated[bytes, Bytes(max=64 + Ticket.SIZE_MAX)]


@dataclass(frozen=True)
class HolderOpen(Record):
    """Reserve room for the shard of a signed HolderTicket; `entry`: its signer's own signed RosterEntry."""

    SIZE_MAX: ClassVar[int] = 12 * 1024
    ticket: Annotated[bytes, Bytes(max=64 + HolderTicket.SIZE_MAX)]
    descriptor: Annotated[bytes, Bytes(max=10 * 1024)]
    entry: Annotated[bytes, Bytes(max=64 + RosterEntry.SIZE_MAX)]


@dataclass(frozen=True)
class Staged(Record):
    """A stage's handle, how many bytes it has, and BLAKE2b-256 of them (for resuming)."""

    SIZE_MAX: ClassVar[int] = 128
    stage: Annotated[int, Uint(2**32 - 1)]
    size: Annotated[int, Uint(SHARD_BYTES_MAX)]
    digest: Annotated[bytes, Bytes(32)]


@dataclass(frozen=True)
class Push(Record):
    """Payload: bytes of the shard from `offset` on, which is where the stage ends now."""

    SIZE_MAX: ClassVar[int] = 64
    stage: Annotated[int, Uint(2**32 - 1)]
    offset: Annotated[int, Uint(SHARD_BYTES_MAX)]


@dataclass(frozen=True)
class PushAbort(Record):
    """Give the stage up and free its room."""

    SIZE_MAX: ClassVar[int] = 64
    stage: Annotated[int, Uint(2**32 - 1)]


@dataclass(frozen=True)
class Commit(Record):
    """The stage is shard `index` of this descriptor; answered by a signed RosterEntry once durable.

    `lease` is the signed ProvisionalLease; empty for a stage that a holder has opened, whose leases follow.
    """

    SIZE_MAX: ClassVar[int] = 12 * 1024
    stage: Annotated[int, Uint(2**32 - 1)]
    descriptor: Annotated[bytes, Bytes(max=10 * 1024)]
    lease: Annotated[bytes, Bytes(max=64 + ProvisionalLease.SIZE_MAX)]


@dataclass(frozen=True)
class Receipt(Record):
    """A signed RosterEntry."""

    SIZE_MAX: ClassVar[int] = 256
    entry: Annotated[bytes, Bytes(max=64 + RosterEntry.SIZE_MAX)]


@dataclass(frozen=True)
class Read(Record):
    """Runs of rows (first, count) of one shard; answered by ReadProofs and the cells as payload.

    Every read has a fresh nonce, so that none shows whether it is an audit.
    """

    SIZE_MAX: ClassVar[int] = 4096
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    runs: Annotated[
        tuple[tuple[int, int], ...],
        ListOf(Tuple(Uint(32767), Uint(32768, min=1)), max=128, min=1),
    ]
    nonce: Annotated[bytes, Bytes(NONCE_BYTES)] = bytes(NONCE_BYTES)


@dataclass(frozen=True)
class ReadProofs(Record):
    """For each run the hashes outside it that lead to the shard root (erasure/merkle.py).

    `answer`: the signed ReadAnswer if one cell was asked for; else empty.
    """

    SIZE_MAX: ClassVar[int] = 160 * 1024
    proofs: Annotated[tuple[bytes, ...], ListOf(Bytes(max=32 * 32), max=128, min=1)]
    answer: Annotated[bytes, Bytes(max=64 + ReadAnswer.SIZE_MAX)] = b""


@dataclass(frozen=True)
class SegmentQuery(Record):
    """Asks about one segment: its descriptor, or its roster."""

    SIZE_MAX: ClassVar[int] = 64
    segment_id: Annotated[bytes, Bytes(32)]


@dataclass(frozen=True)
class DescriptorReply(Record):
    """The descriptor's exact bytes; the asker checks them by segment id."""

    SIZE_MAX: ClassVar[int] = 12 * 1024
    descriptor: Annotated[bytes, Bytes(max=10 * 1024)]


@dataclass(frozen=True)
class HolderHint(Record):
    """A signed RosterEntry and where its node was last met; the address is only a hint."""

    SIZE_MAX: ClassVar[int] = 512
    entry: Annotated[bytes, Bytes(max=64 + RosterEntry.SIZE_MAX)]
    host: Annotated[str, Text(max=45)]
    port: Annotated[int, Uint(65535)]


@dataclass(frozen=True)
class Roster(Record):
    """All entries known of one segment: as an answer, or given to be merged."""

    SIZE_MAX: ClassVar[int] = 256 * 1024
    segment_id: Annotated[bytes, Bytes(32)]
    holders: Annotated[tuple[HolderHint, ...], ListOf(Nested(HolderHint), max=512)]


@dataclass(frozen=True)
class RosterDigests(Record):
    """Segments and what the asker's rosters of them hash to (rosters.roster_digest)."""

    SIZE_MAX: ClassVar[int] = 4096
    rosters: Annotated[
        tuple[tuple[bytes, bytes], ...],
        ListOf(Tuple(Bytes(32), Bytes(16)), max=SEGMENTS_PER_MESSAGE_MAX, min=1),
    ]


@dataclass(frozen=True)
class RosterStates(Record):
    """For each segment asked about: ROSTER_SAME, ROSTER_DIFFERS or ROSTER_NOT_HERE."""

    SIZE_MAX: ClassVar[int] = 128
    states: Annotated[tuple[int, ...], ListOf(Uint(2), max=SEGMENTS_PER_MESSAGE_MAX, min=1)]


@dataclass(frozen=True)
class Confirm(Record):
    """A signed RosterEntry of the asked node: it answers with what holds now, signed."""

    SIZE_MAX: ClassVar[int] = 256
    entry: Annotated[bytes, Bytes(max=64 + RosterEntry.SIZE_MAX)]


@dataclass(frozen=True)
class LeasePut(Record):
    """A signed Lease and the paths of segments that the asked node holds."""

    SIZE_MAX: ClassVar[int] = 64 * 1024
    lease: Annotated[bytes, Bytes(max=64 + Lease.SIZE_MAX)]
    paths: Annotated[
        tuple[LeasePath, ...], ListOf(Nested(LeasePath), max=SEGMENTS_PER_MESSAGE_MAX, min=1)
    ]


@dataclass(frozen=True)
class LeaseReply(Record):
    """The signed leases of one segment that a holder knows, each with the segment's path."""

    SIZE_MAX: ClassVar[int] = 128 * 1024
    leases: Annotated[
        tuple[tuple[bytes, LeasePath], ...],
        ListOf(
            Tuple(Bytes(max=64 + Lease.SIZE_MAX), Nested(LeasePath)), max=SEGMENTS_PER_MESSAGE_MAX
        ),
    ]


@dataclass(frozen=True)
class HeadPut(Record):
    """A genesis record's exact bytes and a signed Head of that dataset, kept beside `segment_id`."""

    SIZE_MAX: ClassVar[int] = 2048
    segment_id: Annotated[bytes, Bytes(32)]
    genesis: Annotated[bytes, Bytes(max=256)]
    head: Annotated[bytes, Bytes(max=64 + Head.SIZE_MAX)]


@dataclass(frozen=True)
class HeadQuery(Record):
    """Asks for the heads of a dataset."""

    SIZE_MAX: ClassVar[int] = 64
    dataset_id: Annotated[bytes, Bytes(32)]


@dataclass(frozen=True)
class HeadReply(Record):
    """The genesis (empty when unknown) and the signed heads kept, the highest number first."""

    SIZE_MAX: ClassVar[int] = 8192
    genesis: Annotated[bytes, Bytes(max=256)]
    heads: Annotated[tuple[bytes, ...], ListOf(Bytes(max=64 + Head.SIZE_MAX), max=8)]


@dataclass(frozen=True)
class AnnounceNow(Record):
    """Announce these segments in the DHT before answering."""

    SIZE_MAX: ClassVar[int] = 4096
    segment_ids: Annotated[
        tuple[bytes, ...], ListOf(Bytes(32), max=SEGMENTS_PER_MESSAGE_MAX, min=1)
    ]


@dataclass(frozen=True)
class Announced(Record):
    """The least number of record keepers that took an announcement."""

    SIZE_MAX: ClassVar[int] = 16
    keepers: Annotated[int, Uint(255)]


@dataclass(frozen=True)
class Done(Record):
    """Nothing more to say."""

    SIZE_MAX: ClassVar[int] = 16


@dataclass(frozen=True)
class Failure(Record):
    """A refusal or failure: the class of the error by name (errors.py), its message and remedy."""

    SIZE_MAX: ClassVar[int] = 2048
    kind: Annotated[str, Text(max=32)]
    message: Annotated[str, Text(max=500)]
    remedy: Annotated[str, Text(max=500)]


@dataclass(frozen=True)
class NodeStatusQuery(Record):
    """Asks a node for what it offers."""

    SIZE_MAX: ClassVar[int] = 16


@dataclass(frozen=True)
class NodeStatusReply(Record):
    """Room left within the quota, shards kept, and the software's version."""

    SIZE_MAX: ClassVar[int] = 256
    quota: Annotated[int, Uint()]
    used: Annotated[int, Uint()]
    shards: Annotated[int, Uint()]
    version: Annotated[str, Text(max=64)]
    since: Annotated[int | None, Opt(Uint(DATE_MAX))]
