"""What other nodes ask about liveness, repair and audit: the server's handlers that are not about storing and reading."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from potsherd.crypto.membership import Member
from potsherd.node import records
from potsherd.node.audit.records import (
    PROOF_DATES_MAX,
    Accusation,
    BadEncodingPut,
    ProvenReply,
    RepairAsk,
    RepairState,
    RepairStates,
)
from potsherd.node.repair import records as repair_records
from potsherd.node.rpc import Answer, Methods, Request
from potsherd.node.store import ShardStore
from potsherd.ports import Buffer

__all__ = ["Caretaker", "handlers"]

Handler = Callable[[Request], Awaitable[Answer]]


class Caretaker(Protocol):
    """The part of a node that keeps segments alive, as its server sees it."""

    def seen_ago(self, key: bytes) -> int | None:
        """Seconds since that node gave a sign of life; None when it never did."""

    async def claimed(self, claim: bytes, sender: bytes) -> bytes:
        """A node claims to repair a segment; the signed claim that stands now, empty if none does."""

    def check_read(self, segment_id: bytes, runs: Sequence[tuple[int, int]]) -> None:
        """Raises IntegrityError for cells that are known to be damaged here."""

    async def accused(self, accusation: Accusation, accuser: bytes) -> None:
        """A node says that another one's shard is wrong, or ours."""

    async def bad_encoding(self, data: bytes, cells: Buffer) -> None:
        """A proof that a segment was coded wrongly. Raises IntegrityError, MalformedError when it is none."""

    async def repair_asked(self, segment_ids: Sequence[bytes]) -> list[RepairState]:
        """Somebody wants these segments repaired now."""

    def fed(self, segment_id: bytes, index: int, feeder: bytes, error: str) -> None:
        """A holder has brought a shard that was refused at its commit."""

    def came(self, segment_id: bytes, index: int, bringer: bytes, *, repaired: bool) -> None:
        """A shard has come: from a client with the owner's ticket, or from another holder."""


def handlers(caretaker: Caretaker, store: ShardStore, member: Member) -> dict[int, Handler]:
    """By number of the method, for one greeted peer."""
    sender = member.node_key

    async def last_seen(request: Request) -> Answer:
        nodes = repair_records.LastSeenQuery.decode(request.body).nodes
        return repair_records.LastSeen(tuple(map(caretaker.seen_ago, nodes))), ()

    async def claim(request: Request) -> Answer:
        body = repair_records.ClaimPut.decode(request.body)
        return repair_records.ClaimStands(await caretaker.claimed(body.claim, sender)), ()

    async def accuse(request: Request) -> Answer:
        await caretaker.accused(Accusation.decode(request.body), sender)
        return records.Done(), ()

    async def proven(request: Request) -> Answer:
        segment_id = records.SegmentQuery.decode(request.body).segment_id
        rows = (await store.audits.proofs(segment_id))[:PROOF_DATES_MAX]
        return ProvenReply(tuple((r.idx, r.node, r.date, r.row) for r in rows)), ()

    async def bad_encoding(request: Request) -> Answer:
        body = BadEncodingPut.decode(request.body)
        await caretaker.bad_encoding(body.proof, request.payload)
        return records.Done(), ()

    async def repair(request: Request) -> Answer:
        body = RepairAsk.decode(request.body)
        return RepairStates(tuple(await caretaker.repair_asked(body.segment_ids))), ()

    return {
        Methods.LAST_SEEN.number: last_seen,
        Methods.CLAIM.number: claim,
        Methods.ACCUSE.number: accuse,
        Methods.PROVEN.number: proven,
        Methods.BAD_ENCODING.number: bad_encoding,
        Methods.REPAIR.number: repair,
    }
