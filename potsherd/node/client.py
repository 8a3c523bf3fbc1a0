"""The dialling side of the data plane: one proven, greeted connection to a node.

What comes back is checked as far as this page says in each method; cells and descriptors are checked by
the caller, who knows the hashes. All methods raise PeerError when the connection fails, the peer is
late or breaks the protocol, and otherwise the error that the peer reports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from potsherd.crypto.membership import Member
from potsherd.erasure.descriptor import segment_id_of
from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import IntegrityError, LimitError, PeerError
from potsherd.node import lease_records, records
from potsherd.node.audit.records import Accusation, BadEncodingPut, RepairAsk, RepairState
from potsherd.node.challenge import Challenge
from potsherd.node.churn import ChurnQuery, ChurnSeen
from potsherd.node.payloads import AnswerBuffers
from potsherd.node.push_pace import PushPace
from potsherd.node.records import (
    NONCE_BYTES,
    PAYLOAD_MAX,
    PROTOCOL_VERSION,
    READ_MAX,
    SEGMENTS_PER_MESSAGE_MAX,
    LeasePath,
    NodeStatusReply,
    ReadAnswer,
    RosterEntry,
    Staged,
)
from potsherd.node.repair import records as repair_records
from potsherd.node.rpc import HELLO_TIMEOUT_S, Caller, Methods
from potsherd.node.statements import answer_digest, open_roster, open_roster_entry
from potsherd.ports import Address, Buffer, Env, Identity, Stream

__all__ = ["ANNOUNCE_TIMEOUT_S", "DIAL_TIMEOUT_S", "Admit", "CellAnswer", "Dial", "Peer"]

DIAL_TIMEOUT_S = 5.0
"""Seconds for connecting and proving both keys."""
ANNOUNCE_TIMEOUT_S = 120.0
"""Seconds for a node to announce: look-ups with silent contacts take their time."""
OFFLOAD_ENTRIES = 32
"""Signatures checked on the loop (some 60 µs each); more go to a thread."""

Dial: TypeAlias = Callable[[bytes, bytes], Awaitable["Peer"]]
"""(node key, placement key) → a connection. Raises PotsherdError."""
Admit: TypeAlias = Callable[[bytes, bytes], Member]
"""(credential chain, node key) → who that is. Raises MembershipError, MalformedError."""


class CellAnswer(NamedTuple):
    """A cell as a holder sent it, unverified, and what it would have signed had it answered by the rules."""

    cell: memoryview
    proof: bytes
    signed: bytes
    """A ReadAnswer with its signature, unverified."""
    expected: ReadAnswer


class Peer:
    """One connection; safe to use from many tasks. Made by `connect`, ended by `close` or `abort`."""

    def __init__(
        self, env: Env, identity: Identity, stream: Stream, address: Address, caller: Caller
    ) -> None:
        self.key = stream.peer_key
        self.address = address
        self.member: Member
        self.pace = PushPace()
        """What pushes on this connection have told of its line."""
        self._env = env
        self._network_id = identity.network_id
        self._own_key = identity.key
        self._caller = caller

    @classmethod
    async def connect(
        cls,
        env: Env,
        identity: Identity,
        key: bytes,
        address: Address,
        *,
        chain: bytes,
        admit: Admit,
        timeout_s: float = DIAL_TIMEOUT_S,
        buffers: AnswerBuffers | None = None,
    ) -> Peer:
        """Dial, prove both keys, say hello. Raises UnreachableError, PeerError, MembershipError."""
        stream = await env.net.dial(address, identity, key, timeout_s=timeout_s)
        caller = Caller(stream, buffers)
        caller.start()
        peer = cls(env, identity, stream, address, caller)
        try:
            await peer._greet(chain, admit)
        except BaseException:
            await caller.close()
            raise
        return peer

    async def _greet(self, chain: bytes, admit: Admit) -> None:
        hello = records.Hello(PROTOCOL_VERSION, chain)
        reply = await self._caller.call(Methods.HELLO, hello, timeout_s=HELLO_TIMEOUT_S)
        if reply.body.protocol != PROTOCOL_VERSION:
            raise PeerError(f"the peer speaks version {reply.body.protocol} of the protocol")
        self.member = admit(reply.body.chain, self.key)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._caller.broken is not None

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._caller.in_flight

    @property
    def received(self) -> int:
        """Bytes that have come from the node on this connection, also those of an answer that is not whole yet."""
        return self._caller.stream.received

    def abort(self) -> None:
        """Break off at once; every waiting call ends with PeerError."""
        self._caller.abort()

    async def close(self) -> None:
        """Break off and wait for the connection's tasks."""
        await self._caller.close()

    # --- storing -----------------------------------------------------------------------------------

    async def push_open(self, ticket: bytes) -> Staged:
        """Reserve room for the ticket's shard, or find what an earlier try left.

        Raises QuotaError, and RefusedError for a ticket that names another node or has expired.
        """
        reply = await self._caller.call(Methods.PUSH_OPEN, records.PushOpen(ticket))
        return reply.body

    async def holder_open(self, ticket: bytes, descriptor: bytes, entry: bytes) -> Staged:
        """Reserve room for a shard that this node, a holder, brings; `entry`: its own signed roster entry.

        Raises QuotaError; RefusedError when the node holds another index or the segment was withdrawn.
        """
        body = records.HolderOpen(ticket, descriptor, entry)
        return (await self._caller.call(Methods.HOLDER_OPEN, body)).body

    async def push(self, stage: int, offset: int, *buffers: Buffer) -> None:
        """Append bytes to the stage, which must end at `offset`; more than PAYLOAD_MAX go in several messages."""
        for run in _slices(buffers, PAYLOAD_MAX):
            await self._caller.call(Methods.PUSH, records.Push(stage, offset), *run)
            offset += sum(len(part) for part in run)

    async def push_abort(self, stage: int) -> None:
        """Give the stage up and free its room."""
        await self._caller.call(Methods.PUSH_ABORT, records.PushAbort(stage))

    async def commit(self, stage: int, descriptor: bytes, lease: bytes) -> bytes:
        """Make the stage a shard; the holder's signed RosterEntry, checked to be of that node.

        `lease` is the signed provisional lease, empty for a stage of `holder_open`.

        Asked again (also on a new connection, with any stage) for a segment that the node holds
        already, it answers with the same entry: a lost answer costs nothing.
        """
        reply = await self._caller.call(Methods.COMMIT, records.Commit(stage, descriptor, lease))
        data = reply.body.entry
        entry = open_roster_entry(data, self._network_id, segment_id_of(descriptor))
        if entry.node != self.key or not entry.held:
            raise IntegrityError("the receipt is not that of the holder")
        return data

    # --- reading -----------------------------------------------------------------------------------

    async def read(
        self, segment_id: bytes, index: int, runs: Sequence[tuple[int, int]]
    ) -> tuple[memoryview, tuple[bytes, ...]]:
        """Cells of all runs (first row, count) one after another, and one proof a run; unverified."""
        cells = sum(count for _, count in runs)
        if cells * CELL_SIZE > READ_MAX:
            raise LimitError(f"{cells} cells in one read, at most {READ_MAX // CELL_SIZE}")
        body = records.Read(segment_id, index, tuple(runs), self._env.rng.randbytes(NONCE_BYTES))
        reply = await self._caller.call(Methods.READ, body, payload_max=cells * CELL_SIZE)
        return reply.payload, reply.body.proofs

    async def read_cell(self, segment_id: bytes, index: int, row: int) -> CellAnswer:
        """The same for one cell, with the holder's signature under its answer; unverified.

        Raises IntegrityError for another number of proofs than one.
        """
        nonce = self._env.rng.randbytes(NONCE_BYTES)
        body = records.Read(segment_id, index, ((row, 1),), nonce)
        reply = await self._caller.call(Methods.READ, body, payload_max=CELL_SIZE)
        if len(reply.body.proofs) != 1:
            raise IntegrityError("another number of proofs than asked for")
        (proof,) = reply.body.proofs
        digest = answer_digest(reply.payload, proof)
        facts = (segment_id, index, row, nonce, self._own_key, self.key, digest)
        return CellAnswer(reply.payload, proof, reply.body.answer, ReadAnswer(*facts))

    async def challenge(
        self, segment_id: bytes, index: int, runs: Sequence[tuple[int, int]], nonce: bytes
    ) -> tuple[bytes, ...]:
        """A tag for each run (first row, count) that the node is challenged over; the caller compares.

        At most CHALLENGE_RUNS_MAX runs and CHALLENGE_ROWS_MAX rows (node/challenge.py).
        """
        body = Challenge(segment_id, index, tuple(runs), nonce)
        tags = (await self._caller.call(Methods.CHALLENGE, body)).body.tags
        if len(tags) != len(runs):
            raise PeerError("the peer answered to another number of runs")
        return tags

    async def descriptor(self, segment_id: bytes) -> bytes:
        """The descriptor's bytes; the caller checks them against the id. Raises NotFoundError."""
        query = records.SegmentQuery(segment_id)
        return (await self._caller.call(Methods.DESCRIPTOR, query)).body.descriptor

    async def roster(self, segment_id: bytes) -> list[tuple[RosterEntry, bytes, Address | None]]:
        """(entry, its signed bytes, where the node was last met), signatures checked. Raises IntegrityError."""
        reply = await self._caller.call(Methods.ROSTER, records.SegmentQuery(segment_id))
        signed = [hint.entry for hint in reply.body.holders]
        if len(signed) <= OFFLOAD_ENTRIES:
            entries = open_roster(signed, self._network_id, segment_id)
        else:
            entries = await self._env.offload(open_roster, signed, self._network_id, segment_id)
        hints = [_address(hint) for hint in reply.body.holders]
        return list(zip(entries, signed, hints, strict=True))

    # --- statements --------------------------------------------------------------------------------

    async def merge_roster(
        self, segment_id: bytes, holders: Sequence[tuple[bytes, Address | None]]
    ) -> None:
        """Tell the node of other holders: (signed entry, address hint)."""
        hints = tuple(
            records.HolderHint(entry, *(address or ("", 0))) for entry, address in holders
        )
        await self._caller.call(Methods.MERGE_ROSTER, records.Roster(segment_id, hints))

    async def roster_digests(self, rosters: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """For each (segment id, digest): ROSTER_SAME, ROSTER_DIFFERS or ROSTER_NOT_HERE."""
        states: list[int] = []
        for start in range(0, len(rosters), SEGMENTS_PER_MESSAGE_MAX):
            part = tuple(rosters[start : start + SEGMENTS_PER_MESSAGE_MAX])
            reply = await self._caller.call(Methods.ROSTER_DIGESTS, records.RosterDigests(part))
            if len(reply.body.states) != len(part):
                raise PeerError("the peer answered about another number of rosters")
            states += reply.body.states
        return states

    async def confirm(self, entry: bytes) -> bytes:
        """Show the node a signed entry of its own; its newest entry about that segment, checked."""
        shown = RosterEntry.decode(entry[64:])
        data = (await self._caller.call(Methods.CONFIRM, records.Confirm(entry))).body.entry
        newest = open_roster_entry(data, self._network_id, shown.segment_id)
        if newest.node != self.key or newest.counter < shown.counter:
            raise IntegrityError("the node answered with an entry that is not its newest")
        return data

    async def last_seen(self, nodes: Sequence[bytes]) -> list[int | None]:
        """For each of up to LAST_SEEN_MAX nodes: seconds since the peer has seen it; None: never."""
        query = repair_records.LastSeenQuery(tuple(nodes))
        ages = (await self._caller.call(Methods.LAST_SEEN, query)).body.ages
        if len(ages) != len(nodes):
            raise PeerError("the peer answered about another number of nodes")
        return list(ages)

    async def churn(self, nodes: Sequence[bytes]) -> ChurnSeen:
        """What the peer has seen of coming and going, and how much those nodes (up to NODES_MAX) are there."""
        seen = (await self._caller.call(Methods.CHURN, ChurnQuery(tuple(nodes)))).body
        if len(seen.availability) != len(nodes):
            raise PeerError("the peer answered about another number of nodes")
        return seen

    async def claim(self, claim: bytes) -> bytes:
        """Tell of a signed RepairClaim of our own; the one that stands there now, empty if none. Unverified."""
        reply = await self._caller.call(Methods.CLAIM, repair_records.ClaimPut(claim))
        return reply.body.claim

    async def accuse(self, accusation: Accusation) -> None:
        """Tell of a holder whose shard is wrong. Raises RefusedError where the segment is not held."""
        await self._caller.call(Methods.ACCUSE, accusation)

    async def proven(self, segment_id: bytes) -> list[tuple[int, bytes, int, int]]:
        """(index, node key, date, row) of proofs that the node says to have seen; hearsay."""
        query = records.SegmentQuery(segment_id)
        return list((await self._caller.call(Methods.PROVEN, query)).body.proofs)

    async def bad_encoding(self, proof: bytes, cells: Buffer) -> None:
        """Hand over a BadEncoding and its cells. Raises IntegrityError where it proves nothing."""
        await self._caller.call(Methods.BAD_ENCODING, BadEncodingPut(proof), cells)

    async def ask_repair(self, segment_ids: Sequence[bytes]) -> list[RepairState]:
        """Have segments repaired now, at most 64; how the node sees those that it holds."""
        ask = RepairAsk(tuple(segment_ids))
        states = (await self._caller.call(Methods.REPAIR, ask)).body.states
        if not {state.segment_id for state in states} <= set(segment_ids):
            raise PeerError("the peer answered about other segments than it was asked for")
        return list(states)

    async def put_lease(self, lease: bytes, paths: Sequence[LeasePath]) -> None:
        """Hand over a signed lease with the paths of segments that the node holds; in batches."""
        for start in range(0, len(paths), SEGMENTS_PER_MESSAGE_MAX):
            part = tuple(paths[start : start + SEGMENTS_PER_MESSAGE_MAX])
            await self._caller.call(Methods.LEASE_PUT, records.LeasePut(lease, part))

    async def leases(self, segment_id: bytes) -> list[tuple[bytes, LeasePath]]:
        """The signed leases of a segment that the node knows; unverified."""
        reply = await self._caller.call(Methods.LEASES, records.SegmentQuery(segment_id))
        return list(reply.body.leases)

    async def extend(self, extension: bytes) -> None:
        """Hand over a keeper's signed extension. Raises NotFoundError where its lease is not known."""
        await self._caller.call(Methods.EXTEND, lease_records.ExtensionPut(extension))

    async def withdraw(self, withdrawal: bytes) -> int:
        """Hand over a signed withdrawal; when the node first saw the one that counts there.

        Raises NotFoundError where its lease is not known.
        """
        body = lease_records.WithdrawalPut(withdrawal)
        return (await self._caller.call(Methods.WITHDRAW, body)).body.seen

    async def keeping(self, segment_ids: Sequence[bytes]) -> lease_records.KeepingReply:
        """The node's clock and what it knows of up to KEEPING_SEGMENTS_MAX segments; unverified.

        Raises PeerError when the answer is about other segments.
        """
        query = lease_records.KeepingQuery(tuple(segment_ids))
        reply = (await self._caller.call(Methods.KEEPING, query)).body
        if tuple(segment.segment_id for segment in reply.segments) != query.segment_ids:
            raise PeerError("the peer answered about other segments than it was asked for")
        return reply

    async def put_head(self, segment_id: bytes, genesis: bytes, head: bytes) -> None:
        """Hand over a signed head, to be kept beside a segment that the node holds."""
        await self._caller.call(Methods.HEAD_PUT, records.HeadPut(segment_id, genesis, head))

    async def heads(self, dataset_id: bytes) -> tuple[bytes, list[bytes]]:
        """The genesis (empty when unknown) and signed heads of a dataset; unverified."""
        reply = await self._caller.call(Methods.HEADS, records.HeadQuery(dataset_id))
        return reply.body.genesis, list(reply.body.heads)

    async def announce(self, segment_ids: Sequence[bytes]) -> int:
        """Have segments announced now; the least number of record keepers reached."""
        least = 255
        for start in range(0, len(segment_ids), SEGMENTS_PER_MESSAGE_MAX):
            part = tuple(segment_ids[start : start + SEGMENTS_PER_MESSAGE_MAX])
            reply = await self._caller.call(
                Methods.ANNOUNCE, records.AnnounceNow(part), timeout_s=ANNOUNCE_TIMEOUT_S
            )
            least = min(least, reply.body.keepers)
        return least

    async def status(self) -> NodeStatusReply:
        """What the node offers."""
        return (await self._caller.call(Methods.STATUS, records.NodeStatusQuery())).body


def _slices(buffers: Sequence[Buffer], size_max: int) -> Iterator[list[memoryview]]:
    """The buffers in order, cut into runs of at most `size_max` bytes, without copies."""
    run: list[memoryview] = []
    room = size_max
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        while len(rest):
            run.append(rest[:room])
            rest, room = rest[room:], room - len(run[-1])
            if not room:
                yield run
                run, room = [], size_max
    if run:
        yield run


def _address(hint: records.HolderHint) -> Address | None:
    return Address(hint.host, hint.port) if hint.host and hint.port else None
