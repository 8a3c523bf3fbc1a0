"""The listening side of the data plane: admits peers, bounds what they may occupy, answers requests.

Nothing is served before hello: both sides show their credential chain, and the node key that it must
name has been proven by the stream. What a request may change is decided by `statements` (signatures,
dates) and by the store (room, roots, one index of a segment).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from potsherd import __version__
from potsherd.classes import dataclass
from potsherd.crypto.membership import Member
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import (
    IntegrityError,
    LimitError,
    NotFoundError,
    PeerError,
    PotsherdError,
    RefusedError,
)
from potsherd.node import lease_exchange, lease_records, records
from potsherd.node.audit import requests
from potsherd.node.challenge import CHALLENGE_ROWS_MAX, Challenge, ChallengeAnswer
from potsherd.node.churn import ChurnQuery, ChurnSeen
from potsherd.node.client import Admit
from potsherd.node.membrane import charge_of
from potsherd.node.payloads import PayloadBuffers
from potsherd.node.records import (
    PROTOCOL_VERSION,
    READ_MAX,
    ROSTER_DIFFERS,
    ROSTER_NOT_HERE,
    ROSTER_SAME,
    RosterEntry,
)
from potsherd.node.rosters import Rosters
from potsherd.node.rpc import Answer, Methods, Request, Responder, Work
from potsherd.node.settings import ServerLimits
from potsherd.node.statements import (
    answer_digest,
    open_head,
    open_holder_ticket,
    open_provisional_lease,
    open_ticket,
)
from potsherd.node.store import Held, ShardStore, Tombstone
from potsherd.ports import Address, Buffer, Env, Identity, Stream
from potsherd.wire import Record

__all__ = ["Neighbours", "Server", "ServerStatistics"]

_LOG = logging.getLogger(__name__)


class Neighbours(Protocol):
    """What the server tells the rest of the node, and asks of it."""

    def met(self, member: Member) -> None:
        """A proven peer is there: traffic counts as a sign of life."""

    def address_of(self, key: bytes) -> Address | None:
        """Where that node was last met."""

    def check_intake(self, *, commit: bool = False) -> None:
        """Raises RefusedError while the node takes no new shards, or not even those on their way."""

    def committed(self, held: Held) -> None:
        """A shard has been stored, or a head beside one: announce it soon."""

    async def announce_asked(self, held: Sequence[Held]) -> int:
        """Announce and say how many record keepers took it, at least."""

    def churn_seen(self, nodes: Sequence[bytes]) -> ChurnSeen:
        """What this node has seen of coming and going, and how much those nodes are there."""

    @property
    def caretaker(self) -> requests.Caretaker:
        """What keeps segments alive."""


@dataclass(frozen=True)
class ServerStatistics:
    """Counts since start, and connections now."""

    connections: int
    requests: int
    failures: int
    refused_connections: int
    bytes_in: int
    bytes_out: int


@dataclass
class _Counts:
    requests: int = 0
    failures: int = 0
    refused_connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Server:
    """`accept` is given to `Net.listen` and runs once for each connection."""

    def __init__(
        self,
        env: Env,
        identity: Identity,
        store: ShardStore,
        neighbours: Neighbours,
        *,
        chain: bytes,
        admit: Admit,
        limits: ServerLimits,
        rosters: Rosters,
    ) -> None:
        self.env = env
        self.identity = identity
        self.store = store
        self.neighbours = neighbours
        self.limits = limits
        self.rosters = rosters
        self.counts = _Counts()
        self._buffers = PayloadBuffers()
        self.since = int(env.utc())
        self.sign = SigningKey(identity.seed).sign
        self._hello = records.Hello(PROTOCOL_VERSION, chain)
        self._admit = admit
        self._greeting = 0
        self._by_key: Counter[bytes] = Counter()
        self._by_member: Counter[bytes] = Counter()

    def statistics(self) -> ServerStatistics:
        """A snapshot."""
        return ServerStatistics(self._by_key.total(), **vars(self.counts))

    async def accept(self, stream: Stream) -> None:
        """Serve one connection until it ends."""
        responder = Responder(
            stream, idle_timeout_s=self.limits.idle_timeout_s, buffers=self._buffers
        )
        try:
            member = await self._greet(responder, stream)
        except (PotsherdError, TimeoutError) as error:
            self.counts.refused_connections += 1
            _LOG.info("refused a connection: %s", error)
            await self._dismiss(stream)
            return
        try:
            with self._seat(member):
                await responder.serve(_Connection(self, member).prepare)
        finally:
            stream.abort()

    async def _dismiss(self, stream: Stream) -> None:
        """Let the reason reach the peer, but do not wait for it long."""
        try:
            async with asyncio.timeout(self.limits.farewell_s):
                await stream.close()
        except (PeerError, TimeoutError):
            stream.abort()

    async def _greet(self, responder: Responder, stream: Stream) -> Member:
        if self._greeting >= self.limits.greetings_max:
            raise PeerError("too many connections that say nothing")
        admitted: list[Member] = []

        def answer(hello: records.Hello) -> records.Hello:
            if hello.protocol != PROTOCOL_VERSION:
                raise RefusedError(f"this node speaks version {PROTOCOL_VERSION} of the protocol")
            member = self._admit(hello.chain, stream.peer_key)
            self._check_seats(member)
            admitted.append(member)
            return self._hello

        self._greeting += 1
        try:
            await responder.greet(answer)
        finally:
            self._greeting -= 1
        return admitted[0]

    def _check_seats(self, member: Member) -> None:
        limits = self.limits
        if (
            self._by_key.total() >= limits.connections_max
            or self._by_key[member.node_key] >= limits.connections_per_key
            or self._by_member[charge_of(member)] >= limits.connections_per_member
        ):
            raise LimitError("the node has too many connections", remedy="try again later")

    @contextmanager
    def _seat(self, member: Member) -> Iterator[None]:
        key, charge = member.node_key, charge_of(member)
        self._by_key[key] += 1
        self._by_member[charge] += 1
        try:
            yield
        finally:
            for counter, name in ((self._by_key, key), (self._by_member, charge)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]


@dataclass
class _Stage:
    """A stage that this connection has opened."""

    index: int
    segment_id: bytes = b""
    """Known when another holder has opened it; then its leases come after the commit."""
    last: asyncio.Future[None] | None = None
    """Done when the latest request for the stage is; requests of one stage run in order."""


Handler = Callable[[Request], Awaitable[Answer]]


def _check_not_withdrawn(tombstone: Tombstone | None) -> None:
    if tombstone is not None:
        raise RefusedError("the segment was withdrawn by its owner and dropped here")


class _Connection:
    """One greeted peer and its stages. Methods named like the requests answer them."""

    def __init__(self, server: Server, member: Member) -> None:
        self._server = server
        self._store = server.store
        self._rosters = server.rosters
        self._network_id = server.identity.network_id
        self._member = member
        self._stages: dict[int, _Stage] = {}
        self._handlers: dict[int, Handler] = {
            Methods.PUSH_OPEN.number: self._push_open,
            Methods.HOLDER_OPEN.number: self._holder_open,
            Methods.PUSH.number: self._push,
            Methods.PUSH_ABORT.number: self._push_abort,
            Methods.COMMIT.number: self._commit,
            Methods.READ.number: self._read,
            Methods.CHALLENGE.number: self._challenge,
            Methods.DESCRIPTOR.number: self._descriptor,
            Methods.ROSTER.number: self._roster,
            Methods.MERGE_ROSTER.number: self._merge_roster,
            Methods.ROSTER_DIGESTS.number: self._roster_digests,
            Methods.CONFIRM.number: self._confirm,
            Methods.CHURN.number: self._churn,
            Methods.LEASE_PUT.number: self._lease_put,
            Methods.LEASES.number: self._leases,
            Methods.EXTEND.number: self._extend,
            Methods.WITHDRAW.number: self._withdraw,
            Methods.KEEPING.number: self._keeping,
            Methods.HEAD_PUT.number: self._head_put,
            Methods.HEADS.number: self._heads,
            Methods.ANNOUNCE.number: self._announce,
            Methods.STATUS.number: self._status,
            **requests.handlers(server.neighbours.caretaker, server.store, member),
        }

    # --- order -------------------------------------------------------------------------------------

    def prepare(self, request: Request) -> Work:
        """See rpc.Handle: called in the order of the requests, so those of a stage keep theirs."""
        counts = self._server.counts
        counts.requests += 1
        counts.bytes_in += len(request.payload)
        self._server.neighbours.met(self._member)
        handler = self._handlers[request.method.number]
        if request.method in (Methods.PUSH, Methods.PUSH_ABORT, Methods.COMMIT):
            try:
                stage = self._stages.get(request.record().stage)
            except PotsherdError:
                stage = None  # the handler parses again and answers with the failure
            if stage is not None:
                before, stage.last = stage.last, asyncio.get_running_loop().create_future()
                return partial(self._in_turn, before, stage.last, handler, request)
        return partial(self._counted, handler, request)

    async def _in_turn(
        self,
        before: asyncio.Future[None] | None,
        mine: asyncio.Future[None],
        handler: Handler,
        request: Request,
    ) -> Answer:
        try:
            if before is not None and not before.done():
                await asyncio.wait((before,))  # a plain await would cancel the other with us
            return await self._counted(handler, request)
        finally:
            mine.set_result(None)

    async def _counted(self, handler: Handler, request: Request) -> Answer:
        counts = self._server.counts
        try:
            answer = await handler(request)
        except Exception:
            counts.failures += 1
            raise
        counts.bytes_out += sum(memoryview(part).nbytes for part in answer[1])
        return answer

    # --- storing -----------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._server.env.utc()

    async def _push_open(self, request: Request) -> Answer:
        body = records.PushOpen.decode(request.body)
        if len(self._stages) >= self._server.limits.stages_per_connection:
            raise LimitError("too many open stages on one connection")
        self._server.neighbours.check_intake()
        key = self._server.identity.key
        ticket = open_ticket(body.ticket, self._network_id, self._now(), key)
        state = await self._store.stage(ticket, ticket.index, charge_of(self._member))
        self._stages[state.stage] = _Stage(ticket.index)
        return records.Staged(state.stage, state.size, state.digest), ()

    async def _holder_open(self, request: Request) -> Answer:
        body = records.HolderOpen.decode(request.body)
        if len(self._stages) >= self._server.limits.stages_per_connection:
            raise LimitError("too many open stages on one connection")
        self._server.neighbours.check_intake()
        descriptor = Descriptor.decode(body.descriptor)
        ticket = open_holder_ticket(
            *(body.ticket, descriptor, body.entry, self._network_id, self._now()),
            holder=self._server.identity.key,
            peer=self._member.node_key,
        )
        await self._check_welcome(descriptor.segment_id, ticket.index)
        room = records.Ticket(
            owner=descriptor.owner_key,
            placement_key=descriptor.placement_key,
            index=ticket.index,
            holder=ticket.holder,
            shard_bytes_max=descriptor.geometry.shard_size,
            expires=ticket.expires,
        )
        member = charge_of(self._member)
        state = await self._store.stage(room, ticket.index, member, by_holder=True)
        self._stages[state.stage] = _Stage(ticket.index, descriptor.segment_id)
        return records.Staged(state.stage, state.size, state.digest), ()

    async def _check_welcome(self, segment_id: bytes, index: int) -> None:
        """Refuse a shard that could not be committed before its bytes are sent."""
        self._server.neighbours.check_intake(commit=True)
        _check_not_withdrawn(await self._store.tombstone(segment_id))
        held = await self._store.held(segment_id)
        if held is not None and held.index != index:
            raise RefusedError("the node holds another shard of this segment")

    def _stage(self, number: int) -> _Stage:
        stage = self._stages.get(number)
        if stage is None:
            raise NotFoundError("no such stage on this connection", remedy="open it again")
        return stage

    async def _push(self, request: Request) -> Answer:
        body: records.Push = request.record()
        self._stage(body.stage)
        await self._store.append(body.stage, body.offset, request.payload)
        return records.Done(), ()

    async def _push_abort(self, request: Request) -> Answer:
        body: records.PushAbort = request.record()
        self._stage(body.stage)
        await self._store.abort(body.stage)
        self._stages.pop(body.stage, None)
        return records.Done(), ()

    async def _commit(self, request: Request) -> Answer:
        body: records.Commit = request.record()
        descriptor = Descriptor.decode(body.descriptor)
        if body.lease or not self._is_from_holder(body.stage, descriptor.segment_id):
            open_provisional_lease(body.lease, descriptor, self._network_id, self._now())
        segment_id = descriptor.segment_id
        held, tombstone = await asyncio.gather(  # at the same time: one way to the index
            self._store.held(segment_id), self._store.tombstone(segment_id)
        )
        if held is None:
            self._server.neighbours.check_intake(commit=True)
            _check_not_withdrawn(tombstone)
            entry = await self._commit_stage(body, descriptor)
        else:
            entry = await self._commit_again(body.stage, held)
        return records.Receipt(entry), ()

    def _is_from_holder(self, number: int, segment_id: bytes) -> bool:
        stage = self._stages.get(number)
        return stage is not None and stage.segment_id == segment_id

    async def _commit_stage(self, body: records.Commit, descriptor: Descriptor) -> bytes:
        index = self._stage(body.stage).index
        if index >= descriptor.n:
            raise RefusedError("the segment has no shard of that number")
        entry = self._rosters.sign_first(descriptor.segment_id, index)
        await self._commit_in_store(body, descriptor, index, entry)
        self._stages.pop(body.stage, None)
        held = await self._store.held(descriptor.segment_id)
        if held is not None:
            self._server.neighbours.committed(held)
        return entry

    async def _commit_in_store(
        self, body: records.Commit, descriptor: Descriptor, index: int, entry: bytes
    ) -> None:
        """What comes from another holder, rebuilt or moved, is noted: who brought it, or brought garbage."""
        segment_id, bringer = descriptor.segment_id, self._member.node_key
        caretaker = self._server.neighbours.caretaker
        from_holder = self._is_from_holder(body.stage, segment_id)
        try:
            await self._store.commit(body.stage, body.descriptor, body.lease, entry)
        except IntegrityError as error:
            if from_holder:
                caretaker.fed(segment_id, index, bringer, error.message)
            raise
        caretaker.came(segment_id, index, bringer, repaired=from_holder)

    async def _commit_again(self, number: int, held: Held) -> bytes:
        """The segment is here already: after a lost answer the same receipt, else a refusal."""
        stage = self._stages.pop(number, None)
        if stage is not None:
            await self._store.abort(number)
            if stage.index != held.index:
                raise RefusedError("the node holds another shard of this segment")
        entry = await self._rosters.own(held.segment_id)
        if entry is None:
            raise NotFoundError("the node has no receipt of its shard")
        return entry[1]

    # --- reading -----------------------------------------------------------------------------------

    async def _read(self, request: Request) -> Answer:
        body = records.Read.decode(request.body)
        size = sum(count for _, count in body.runs) * CELL_SIZE
        if size > READ_MAX:
            raise LimitError("more cells than one answer can hold")
        await request.reserve(size)
        self._server.neighbours.caretaker.check_read(body.segment_id, body.runs)
        data, proofs = await self._store.read(body.segment_id, body.index, body.runs)
        answer = b""
        if body.runs[0][1] == 1 == len(body.runs):
            answer = self._signed_answer(body, data, proofs[0])
        return records.ReadProofs(tuple(proofs), answer), (data,)

    def _signed_answer(self, body: records.Read, cell: Buffer, proof: bytes) -> bytes:
        """What an auditor can show to others; readers of one cell get it too: nobody knows which is which."""
        node, digest = self._server.identity.key, answer_digest(cell, proof)
        facts = (body.segment_id, body.index, body.runs[0][0], body.nonce)
        answer = records.ReadAnswer(*facts, self._member.node_key, node, digest)
        return answer.signed(self._server.sign, self._network_id)

    async def _challenge(self, request: Request) -> Answer:
        """Costs what a read of the same cells costs, but for the traffic: so it waits for the same room."""
        body = Challenge.decode(request.body)
        rows = sum(count for _, count in body.runs)
        if rows > CHALLENGE_ROWS_MAX:
            raise LimitError("more cells than one challenge may name")
        await request.reserve(rows * CELL_SIZE)
        self._server.neighbours.caretaker.check_read(body.segment_id, body.runs)
        place = (body.segment_id, body.index, body.runs)
        return ChallengeAnswer(await self._store.challenge(*place, body.nonce)), ()

    async def _held(self, segment_id: bytes) -> Held:
        held = await self._store.held(segment_id)
        if held is None:
            raise NotFoundError(f"segment {segment_id.hex()[:16]} is not here")
        return held

    async def _descriptor(self, request: Request) -> Answer:
        held = await self._held(records.SegmentQuery.decode(request.body).segment_id)
        return records.DescriptorReply(held.descriptor.encode()), ()

    async def _roster(self, request: Request) -> Answer:
        segment_id = records.SegmentQuery.decode(request.body).segment_id
        entries = await self._store.roster(segment_id)
        if not entries:
            raise NotFoundError(f"segment {segment_id.hex()[:16]} is not here")
        hints = tuple(self._hint(entry) for entry in entries)
        return records.Roster(segment_id, hints), ()

    def _hint(self, entry: bytes) -> records.HolderHint:
        node = RosterEntry.decode(entry[64:]).node
        address = self._server.neighbours.address_of(node)
        return records.HolderHint(entry, *(address or ("", 0)))

    # --- statements --------------------------------------------------------------------------------

    async def _merge_roster(self, request: Request) -> Answer:
        body = records.Roster.decode(request.body)
        held = await self._held(body.segment_id)
        hints = [
            (h.entry, Address(h.host, h.port) if h.host and h.port else None) for h in body.holders
        ]
        await self._rosters.merge(held, hints)
        return records.Done(), ()

    async def _roster_digests(self, request: Request) -> Answer:
        body = records.RosterDigests.decode(request.body)
        states = []
        for segment_id, digest in body.rosters:
            mine = await self._rosters.digest(segment_id)
            differs = ROSTER_SAME if mine == digest else ROSTER_DIFFERS
            states.append(ROSTER_NOT_HERE if mine is None else differs)
        return records.RosterStates(tuple(states)), ()

    async def _confirm(self, request: Request) -> Answer:
        body = records.Confirm.decode(request.body)
        return records.Receipt(await self._rosters.confirm(body.entry)), ()

    async def _churn(self, request: Request) -> Answer:
        nodes = ChurnQuery.decode(request.body).nodes
        return self._server.neighbours.churn_seen(nodes), ()

    async def _lease_put(self, request: Request) -> Answer:
        body = records.LeasePut.decode(request.body)
        await lease_exchange.accept_lease(self._store, self._network_id, body.lease, body.paths)
        return records.Done(), ()

    async def _extend(self, request: Request) -> Answer:
        body = lease_records.ExtensionPut.decode(request.body)
        await lease_exchange.accept_extension(self._store, self._network_id, body.extension)
        return records.Done(), ()

    async def _withdraw(self, request: Request) -> Answer:
        body = lease_records.WithdrawalPut.decode(request.body)
        taken = await lease_exchange.accept_withdrawal(
            self._store, self._network_id, body.withdrawal, self._now()
        )
        return lease_records.WithdrawalTaken(taken.seen), ()

    async def _keeping(self, request: Request) -> Answer:
        query = lease_records.KeepingQuery.decode(request.body)
        return await lease_exchange.answer(self._store, query, self._now()), ()

    async def _leases(self, request: Request) -> Answer:
        segment_id = records.SegmentQuery.decode(request.body).segment_id
        leases = await self._store.leases(segment_id)
        return records.LeaseReply(tuple(leases[: records.SEGMENTS_PER_MESSAGE_MAX])), ()

    async def _head_put(self, request: Request) -> Answer:
        body = records.HeadPut.decode(request.body)
        genesis, _ = open_head(body.genesis, body.head, self._network_id, self._now())
        held = await self._held(body.segment_id)
        if held.descriptor.owner_key != genesis.owner:
            raise RefusedError("the head is not by the segment's owner")
        await self._store.put_head(body.segment_id, body.genesis, body.head)
        self._server.neighbours.committed(held)
        return records.Done(), ()

    async def _heads(self, request: Request) -> Answer:
        body = records.HeadQuery.decode(request.body)
        genesis, heads = await self._store.heads(body.dataset_id)
        return records.HeadReply(genesis, tuple(heads)), ()

    # --- the rest ----------------------------------------------------------------------------------

    async def _announce(self, request: Request) -> Answer:
        body = records.AnnounceNow.decode(request.body)
        held = [await self._held(segment_id) for segment_id in body.segment_ids]
        keepers = await self._server.neighbours.announce_asked(held)
        return records.Announced(min(keepers, 255)), ()

    async def _status(self, request: Request) -> Answer:
        records.NodeStatusQuery.decode(request.body)
        usage = self._store.usage()
        reply: Record = records.NodeStatusReply(
            usage.quota, usage.used, usage.shards, __version__, self._server.since
        )
        return reply, ()
