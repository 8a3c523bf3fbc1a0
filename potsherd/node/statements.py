"""What makes a signed statement acceptable (docs/spec/records.md). Pure: `now` is an argument.

Every function takes bytes from a peer and gives the record, or raises MalformedError (not our
encoding), IntegrityError (wrong signature, wrong hash) or RefusedError (a rule says no).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from potsherd.crypto.keys import Genesis
from potsherd.crypto.signing import open_signed
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import LEASE_TREE, verify_range
from potsherd.errors import IntegrityError, RefusedError
from potsherd.node.records import (
    PROVISIONAL_LEASE_S,
    Head,
    HolderTicket,
    Lease,
    LeasePath,
    ProvisionalLease,
    ReadAnswer,
    RosterEntry,
    Ticket,
)
from potsherd.ports import Buffer

__all__ = [
    "CLOCK_SKEW_S",
    "HOLDER_TICKET_LIFE_MAX_S",
    "TICKET_LIFE_MAX_S",
    "answer_digest",
    "check_lease_path",
    "open_head",
    "open_holder_ticket",
    "open_lease",
    "open_provisional_lease",
    "open_read_answer",
    "open_roster",
    "open_roster_entry",
    "open_ticket",
]

CLOCK_SKEW_S = 600
"""Seconds that a date may lie in the future, or a clock be wrong."""
TICKET_LIFE_MAX_S = 30 * 86400
"""Seconds ahead that a ticket may expire."""

HOLDER_TICKET_LIFE_MAX_S = 86400
"""Seconds ahead that a holder's ticket may expire."""


def open_ticket(data: bytes, network_id: bytes, now: float, holder: bytes) -> Ticket:
    """A ticket for the node `holder`, signed by its owner, that is valid now."""
    ticket = open_signed(Ticket, data, network_id, lambda t: t.owner)
    if ticket.holder != holder:
        raise RefusedError("the ticket is for another node")
    if ticket.expires + CLOCK_SKEW_S < now:
        raise RefusedError("the ticket has expired", remedy="check this machine's clock")
    if ticket.expires > now + TICKET_LIFE_MAX_S + CLOCK_SKEW_S:
        raise RefusedError("the ticket is valid for longer than tickets may be")
    return ticket


def open_holder_ticket(
    data: bytes,
    descriptor: Descriptor,
    entry: bytes,
    network_id: bytes,
    now: float,
    *,
    holder: bytes,
    peer: bytes,
) -> HolderTicket:
    """A ticket for the node `holder`, signed by `peer`, who says to hold a shard of the descriptor's segment."""
    ticket = open_signed(HolderTicket, data, network_id, lambda t: t.signer)
    if ticket.signer != peer:
        raise RefusedError("the ticket is by another node than the one that brings it")
    if ticket.holder != holder:
        raise RefusedError("the ticket is for another node")
    if ticket.segment_id != descriptor.segment_id or ticket.index >= descriptor.n:
        raise RefusedError("the ticket is for another segment, or a shard that it does not have")
    own = open_roster_entry(entry, network_id, ticket.segment_id)
    if own.node != ticket.signer or not own.held:
        raise RefusedError("who brings the shard does not say that it holds one of the segment")
    if ticket.expires + CLOCK_SKEW_S < now:
        raise RefusedError("the ticket has expired", remedy="check this machine's clock")
    if ticket.expires > now + HOLDER_TICKET_LIFE_MAX_S + CLOCK_SKEW_S:
        raise RefusedError("the ticket is valid for longer than tickets may be")
    return ticket


def open_provisional_lease(
    data: bytes, descriptor: Descriptor, network_id: bytes, now: float
) -> ProvisionalLease:
    """The provisional lease of this very segment, signed by the descriptor's owner."""
    lease = open_signed(ProvisionalLease, data, network_id, lambda _: descriptor.owner_key)
    if lease.owner != descriptor.owner_key or lease.segment_id != descriptor.segment_id:
        raise RefusedError("the provisional lease is for another segment")
    if not now - CLOCK_SKEW_S < lease.until <= now + PROVISIONAL_LEASE_S + CLOCK_SKEW_S:
        raise RefusedError("the provisional lease ends too early or too late")
    return lease


def answer_digest(cell: Buffer, proof: bytes) -> bytes:
    """BLAKE2b-256 of a cell and its proof, personalised: what a holder signs of its answer."""
    hasher = hashlib.blake2b(cell, digest_size=32, person=b"potsherd answer")
    hasher.update(proof)
    return hasher.digest()


def open_read_answer(data: bytes, network_id: bytes, cell: Buffer, proof: bytes) -> ReadAnswer:
    """An answer about just these bytes, signed by the node that it names. Whose shard they are is not judged."""
    answer = open_signed(ReadAnswer, data, network_id, lambda a: a.node)
    if answer.digest != answer_digest(cell, proof):
        raise IntegrityError("the signed answer is about other bytes")
    return answer


def open_roster_entry(data: bytes, network_id: bytes, segment_id: bytes) -> RosterEntry:
    """An entry about this segment, signed by the node that it names."""
    entry = open_signed(RosterEntry, data, network_id, lambda e: e.node)
    if entry.segment_id != segment_id:
        raise IntegrityError("a roster entry of another segment")
    return entry


def open_roster(
    entries: Iterable[bytes], network_id: bytes, segment_id: bytes
) -> list[RosterEntry]:
    """Several entries of one segment; one that is wrong spoils the lot."""
    return [open_roster_entry(data, network_id, segment_id) for data in entries]


def open_lease(data: bytes, network_id: bytes) -> Lease:
    """A lease signed by its owner. Whether keepers extended it is not judged yet: the owner signs."""
    return open_signed(Lease, data, network_id, lambda lease: lease.owner)


def check_lease_path(lease: Lease, path: LeasePath) -> None:
    """Raises IntegrityError unless the lease's list has the segment at that position."""
    if path.position >= lease.segments:
        raise IntegrityError("a position beyond the lease's list")
    proof = b"".join(path.path)
    verify_range(lease.root, lease.segments, path.position, path.segment_id, proof, tree=LEASE_TREE)


def open_head(genesis: bytes, data: bytes, network_id: bytes, now: float) -> tuple[Genesis, Head]:
    """The genesis and a head of its dataset, signed by its owner.

    Writers of later epochs are named by epoch records, which do not exist yet: such heads are refused.
    """
    root = Genesis.decode(genesis)
    head = open_signed(Head, data, network_id, lambda h: h.writer)
    if head.dataset_id != root.dataset_id:
        raise IntegrityError("the head is of another dataset than the genesis")
    if head.epoch != 0 or head.writer != root.owner:
        raise RefusedError("the head's writer is not known to be one")
    if head.date > now + CLOCK_SKEW_S:
        raise RefusedError("the head is dated in the future", remedy="check this machine's clock")
    return root, head
