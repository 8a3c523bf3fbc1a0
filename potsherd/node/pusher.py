"""One segment on its way to n holders: place, send, replace, commit (docs/design/put.md).

Each shard has a *slot* with a worker of its own that sends its column in order: from the window of freshly coded
batches where it keeps up, from the segment's spool where it does not (a straggler, a holder that took over, a
resumed stage). So one slow holder delays nobody, and one that dies is replaced without asking the caller for
anything again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field, replace

from potsherd.classes import dataclass
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.segment import RowBatch, SegmentEncoder, StreamPart, column_of
from potsherd.errors import (
    PeerError,
    PotsherdError,
    QuotaError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from potsherd.node.client import Peer
from potsherd.node.placement import Candidate, place
from potsherd.node.push_pace import PUSH_BYTES_MIN
from potsherd.node.records import (
    PROVISIONAL_LEASE_S,
    ProvisionalLease,
    Ticket,
)
from potsherd.node.segment_spool import SegmentSpool
from potsherd.node.session import Session
from potsherd.ports import Address, Buffer

__all__ = ["CommittedSegment", "PushPlan", "SegmentPusher", "StoredShard"]

WINDOW_BYTES = 112 * 2**20
"""Coded bytes kept in memory for the workers; beyond it `push_rows` waits, or stragglers use the spool."""
PUSHES_BYTES = WINDOW_BYTES // 2
"""Under way to all holders together, outside of the window at worst; each may have an n-th of it in a push.

Half a window, so that the next pushes are coded while these are taken; with more a small rest follows each.
"""
SPOOL_READS_AT_ONCE = 4
"""Workers that read from the spool at a time: each takes k columns to make one."""
LINGER_S = 0.1
"""How long a worker that could push little waits for more."""
STALL_S = 3.0
"""A push that takes longer no longer holds the others back."""
PUSH_TIMEOUT_S = 90.0
"""A holder that has not answered a push by then is replaced; large ones go only to who was quick just before."""
OPEN_TIMEOUT_S = 15.0
"""A holder that has not opened its stage by then is passed over."""
FINISH_GRACE_S = 20.0
"""How long shards beyond the w-th may still take at the end of a segment."""
TICKET_LIFE_S = 7 * 86400
"""A ticket outlives long uploads and an interruption over a weekend."""
SPARE_FACTOR = 4
"""Donors looked at: n times this, as in design.md section 6."""
SPOOL_READ_BYTES = 2**20
"""Bytes of one column that a worker takes from the spool at a time."""
REPLACEMENTS_MAX = 3
"""Holders tried for one index after the first one failed."""


@dataclass(frozen=True)
class PushPlan:
    """What a segment is to become."""

    k: int
    n: int
    r: int
    w: int
    owner: SigningKey
    placement_key: bytes
    shard_bytes_max: int
    spool_path: str
    """On `Env.disk`: how the names of the spool's files begin."""
    preferred: tuple[bytes, ...] = ()
    """Node keys by index that an earlier, interrupted try used; empty bytes where none."""


@dataclass(frozen=True)
class StoredShard:
    """One acknowledged shard: its index, who keeps it, and the holder's signed roster entry."""

    index: int
    key: bytes
    address: Address
    entry: bytes


@dataclass(frozen=True)
class CommittedSegment:
    """A segment that is durable on at least w holders."""

    segment_id: bytes
    descriptor: Descriptor
    shards: tuple[StoredShard, ...]
    compromises: tuple[str, ...]


@dataclass
class _Slot:
    """Where one shard stands."""

    index: int
    candidate: Candidate | None = None
    peer: Peer | None = None
    stage: int = 0
    sent: int = 0
    """Bytes that the holder has."""
    asked: int = 0
    """Bytes that it has or that are on their way to it."""
    resumed: int = 0
    """Bytes it had from an earlier try and that are not compared yet."""
    resumed_digest: bytes = b""
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=32))
    busy_since: float | None = None
    push_max: int = PUSH_BYTES_MIN
    """Bytes of the next push at most."""
    tries: int = 0
    entry: bytes | None = None
    failure: PotsherdError | None = None
    at_end: asyncio.Event = field(default_factory=asyncio.Event)
    """Its last push has been under way, or its worker has ended."""

    @property
    def live(self) -> bool:
        return self.peer is not None

    def close(self, failure: PotsherdError) -> None:
        self.peer, self.failure, self.busy_since = None, failure, None
        self.sent = self.asked = self.resumed = 0
        self.at_end.clear()


class SegmentPusher:
    """Sends one segment. Calls in order: `open`, `push_rows` …, `commit`, `share_roster`; `abort` at any time."""

    def __init__(self, session: Session, plan: PushPlan) -> None:
        self._session = session
        self._env = session.env
        self._plan = plan
        self._code = Code(plan.k, plan.n)
        self._encoder: SegmentEncoder | None = None
        self._slots = [_Slot(i) for i in range(plan.n)]
        self._spares: list[Candidate] = []
        self._window: deque[RowBatch] = deque()
        self._window_bytes = 0
        self._cell_size = 0
        self._rows = 0
        self._complete = False
        self._pressed = False
        """The window is full and waits for the workers."""
        self._changed = asyncio.Condition()
        self._spool_reads = asyncio.Semaphore(SPOOL_READS_AT_ONCE)
        self._workers: list[asyncio.Task[None]] = []
        self._commits: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """At the end, whether enough holders have come so far that shards are committed."""
        self._compromises: tuple[str, ...] = ()
        bytes_max = plan.k * plan.shard_bytes_max
        self._spool = SegmentSpool(self._env.disk, plan.spool_path, bytes_max)
        self._own_fault: PotsherdError | None = None
        """Why the spool could not serve somebody."""

    @property
    def holders(self) -> tuple[bytes, ...]:
        """Node keys by index, for resuming; empty bytes where there is none."""
        return tuple(s.candidate.key if s.candidate and s.live else b"" for s in self._slots)

    # --- opening -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Place the shards and reserve their room. Raises RefusedError, or QuotaError if no donor has room."""
        plan = self._plan
        donors = await self._session.donors(plan.placement_key, plan.n * SPARE_FACTOR)
        wanted = self._prefer(donors)
        rest = [c for c in donors if c.key not in {w.key for w in wanted.values()}]
        placement = place(rest, plan.n, plan.k, plan.r, rng=self._env.rng)
        self._compromises = placement.compromises
        chosen = {h.key for h in placement.holders}
        fresh = iter(placement.holders)
        for slot in self._slots:
            slot.candidate = wanted.get(slot.index) or next(fresh, None)
        used = {s.candidate.key for s in self._slots if s.candidate}
        self._spares = [c for c in placement.holders if c.key not in used]
        self._spares += [c for c in rest if c.key not in chosen]
        clearing = self._env.offload(self._spool.clear)  # of a run that was killed
        await asyncio.gather(clearing, *(self._fill(slot) for slot in self._slots))
        self._require(self._live(), "opened")
        self._workers = [asyncio.ensure_future(self._work(slot)) for slot in self._slots]

    def _prefer(self, donors: Sequence[Candidate]) -> dict[int, Candidate]:
        by_key = {c.key: c for c in donors}
        return {i: by_key[key] for i, key in enumerate(self._plan.preferred) if key in by_key}

    def _live(self) -> int:
        return sum(slot.live for slot in self._slots)

    def _require(self, have: int, done: str) -> None:
        """Raises when fewer than w holders remain, with the reason that most of them gave, or our own."""
        w = self._plan.w
        if have >= w:
            return
        if self._own_fault is not None:
            raise self._own_fault
        failures = [s.failure for s in self._slots if s.failure is not None]
        full = [f for f in failures if isinstance(f, QuotaError)]
        text = f"only {have} of the {w} holders that are needed {done} a piece"
        if full:
            raise QuotaError(
                f"{text}: {len(full)} of {len(failures)} refusals were for lack of room",
                remedy="ask donors for more quota, wait for more donors, or choose a smaller n/k",
            )
        reasons = "; ".join(sorted({str(f) for f in failures})[:3])
        raise RefusedError(
            f"{text}{': ' + reasons if reasons else ''}",
            remedy="see `potsherd peers` for who answers",
        )

    async def _fill(self, slot: _Slot) -> None:
        """Open a stage for the slot's candidate, or for spares while there are some."""
        while True:
            if slot.candidate is None:
                if not self._spares or slot.tries > REPLACEMENTS_MAX:
                    return
                slot.candidate = self._spares.pop(0)
            slot.tries += 1
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await self._open_stage(slot, slot.candidate)
                return
            except (PotsherdError, TimeoutError) as error:
                failure = (
                    error if isinstance(error, PotsherdError) else UnreachableError("no answer")
                )
                slot.close(failure)
                slot.candidate = None

    async def _open_stage(self, slot: _Slot, candidate: Candidate) -> None:
        plan = self._plan
        ticket = Ticket(
            owner=plan.owner.verify_key,
            placement_key=plan.placement_key,
            index=slot.index,
            holder=candidate.key,
            shard_bytes_max=plan.shard_bytes_max,
            expires=int(self._env.utc()) + TICKET_LIFE_S,
        )
        signed = ticket.signed(plan.owner.sign, self._session.identity.network_id)
        peer = await self._session.peer(candidate.key, candidate.address)
        start = self._env.monotonic()
        staged = await peer.push_open(signed)
        now = self._env.monotonic()
        peer.pace.begin(now, now - start)
        slot.push_max = peer.pace.size(PUSHES_BYTES // plan.n)
        slot.peer, slot.stage, slot.sent, slot.asked = peer, staged.stage, 0, 0
        slot.resumed, slot.resumed_digest = staged.size, staged.digest
        slot.digest = hashlib.blake2b(digest_size=32)

    # --- rows --------------------------------------------------------------------------------------

    async def push_rows(self, data: Buffer, *, cell_size: int = CELL_SIZE) -> None:
        """`push_parts` of bytes of which nothing is known."""
        await self.push_parts([StreamPart(data)], cell_size=cell_size)

    async def push_parts(self, parts: Sequence[StreamPart], *, cell_size: int = CELL_SIZE) -> None:
        """The next rows of the stream, whole but for the last call. Waits for back-pressure.

        Raises RefusedError when fewer than w holders are left, UsageError beyond the segment's rows.
        """
        if self._encoder is None:
            self._cell_size = cell_size
            self._encoder = SegmentEncoder(self._code, cell_size=cell_size)
        encoding = self._env.offload(self._encoder.encode_parts, parts)
        if keep := self._spool.add(parts):
            batch, _ = await asyncio.gather(encoding, self._env.offload(self._spool.write, keep))
        else:
            batch = await encoding
        size = batch.rows * cell_size * self._plan.n
        await self._room(size)
        async with self._changed:
            self._window.append(batch)
            self._window_bytes += size
            self._rows += batch.rows
            self._changed.notify_all()
        self._require(self._live(), "keep")

    async def _room(self, size: int) -> None:
        """Wait until `size` more bytes fit the window: until workers that are not stalled are past its start."""
        while self._window and self._window_bytes + size > WINDOW_BYTES:
            oldest = self._window[0]
            end = (oldest.first_row + oldest.rows) * self._cell_size
            if any(self._holds_back(slot, end) for slot in self._slots):
                await self._press()
                self._require(self._live(), "keep")
            else:
                self._window.popleft()
                self._window_bytes -= oldest.rows * self._cell_size * self._plan.n
        self._pressed = False

    async def _press(self) -> None:
        """Have workers push what there is, and wait until one of them is further."""
        async with self._changed:
            if not self._pressed:
                self._pressed = True
                self._changed.notify_all()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), STALL_S / 2)

    def _holds_back(self, slot: _Slot, end: int) -> bool:
        if not slot.live or slot.sent >= end:
            return False
        busy = slot.busy_since
        in_window = slot.sent >= self._window[0].first_row * self._cell_size
        return in_window and (busy is None or self._env.monotonic() - busy < STALL_S)

    # --- workers -----------------------------------------------------------------------------------

    async def _work(self, slot: _Slot) -> None:
        try:
            await self._await_work(slot)
            while self._ready(slot):
                try:
                    await self._step(slot)
                except PotsherdError as error:
                    if slot.entry is None:  # else it has signed that it keeps the shard
                        await self._replace(slot, error)
                await self._notify()
                await self._await_work(slot)
        finally:
            self._reach_end(slot)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _await_work(self, slot: _Slot) -> None:
        """Until there is something to push, and for a moment longer until there is much; or until the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready(slot) or self._complete)
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._changed.wait_for(lambda: self._enough(slot))

    def _ready(self, slot: _Slot) -> bool:
        return slot.live and slot.entry is None and slot.sent < self._rows * self._cell_size

    def _enough(self, slot: _Slot) -> bool:
        """Whether waiting brings no larger push: it is large, the window is full, or no more comes.

        A first push waits for nothing, so that the holder has something to do.
        """
        missing = slot.push_max - (self._rows * self._cell_size - slot.sent)
        return missing <= 0 or slot.sent == 0 or self._complete or self._pressed

    async def _replace(self, slot: _Slot, error: PotsherdError) -> None:
        if slot.candidate is not None:
            self._session.drop(slot.candidate.key)
        slot.close(error)
        slot.candidate = None
        await self._fill(slot)

    async def _step(self, slot: _Slot) -> None:
        """Bring what is ready to the holder, or compare it with what the holder has from before."""
        try:
            columns = await self._columns(slot)
        except PotsherdError as error:  # no other holder could be served
            await self._give_up(slot, error)
            return
        if slot.resumed > slot.sent:
            await self._compare(slot, columns)
            return
        peer = slot.peer
        if peer is None:
            return
        size = sum(map(len, columns))
        slot.asked = slot.sent + size
        if self._complete and self._is_asked(slot):
            self._reach_end(slot)
        start = slot.busy_since = self._env.monotonic()
        try:
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                await peer.push(slot.stage, slot.sent, *columns)
        except TimeoutError:
            raise PeerError(f"a push was not answered within {PUSH_TIMEOUT_S:.0f} s") from None
        finally:
            slot.busy_since = None
        slot.sent += size
        now = self._env.monotonic()
        peer.pace.pushed(now, size, now - start)
        slot.push_max = peer.pace.size(PUSHES_BYTES // self._plan.n)

    async def _give_up(self, slot: _Slot, error: PotsherdError) -> None:
        """Its bytes are not to be had any more: repair will bring the shard, if w others are acknowledged."""
        if slot.peer is not None:
            with suppress(PotsherdError):
                await slot.peer.push_abort(slot.stage)
        self._own_fault = error
        slot.close(error)
        slot.candidate = None

    async def _compare(self, slot: _Slot, columns: Sequence[memoryview]) -> None:
        """The holder has bytes from an interrupted try: keep them if they are the same, else start anew."""
        for column in columns:
            part = column[: slot.resumed - slot.sent]
            await self._env.offload(slot.digest.update, part)
            slot.sent += len(part)
        if slot.sent < slot.resumed:
            return
        if slot.digest.digest() != slot.resumed_digest and slot.peer and slot.candidate:
            await slot.peer.push_abort(slot.stage)
            await self._open_stage(slot, slot.candidate)
        slot.resumed = 0

    async def _columns(self, slot: _Slot) -> list[memoryview]:
        """The next bytes of the slot's shard, `push_max` at most, out of as many batches as are ready."""
        found: list[memoryview] = []
        at, end = slot.sent, slot.sent + slot.push_max
        for batch in self._window:
            start = batch.first_row * self._cell_size
            if start <= at < min(end, start + batch.rows * self._cell_size):
                column = memoryview(batch.columns[slot.index].cells)[at - start : end - start]
                found.append(column)
                at += len(column)
        return found or [await self._column_from_spool(slot)]

    async def _column_from_spool(self, slot: _Slot) -> memoryview:
        cell, k = self._cell_size, self._plan.k
        row, skip = divmod(slot.sent, cell)
        rows = max(
            1, min(self._rows - row, SPOOL_READ_BYTES // cell, -(-slot.push_max // cell) + 1)
        )
        async with self._spool_reads:
            table = await self._env.offload(self._spool.read, row * k * cell, rows * k * cell)
            column = await self._env.offload(_column, self._code, table, cell, slot.index)
        return memoryview(column)[skip : skip + slot.push_max]

    # --- the end -----------------------------------------------------------------------------------

    async def commit(self, *, stream_length: int, entry: Entry | None) -> CommittedSegment:
        """Prove, store and acknowledge the segment. Raises RefusedError below w durable shards."""
        plan = self._plan
        descriptor = self._descriptor(stream_length, entry)
        lease = ProvisionalLease(
            owner=plan.owner.verify_key,
            segment_id=descriptor.segment_id,
            until=int(self._env.utc()) + PROVISIONAL_LEASE_S,
        )
        signed = lease.signed(plan.owner.sign, self._session.identity.network_id)
        self._complete = True
        await self._notify()
        for slot in filter(self._is_asked, self._slots):
            self._reach_end(slot)
        encoded = descriptor.encode()
        ends = [asyncio.ensure_future(self._end(slot, encoded, signed)) for slot in self._slots]
        await self._wait_enough(ends)
        stored = self._stored()
        self._require(sum(map(self._is_asked, self._slots)), "took")
        self._require(len(stored), "acknowledged")
        await self.close()
        return CommittedSegment(descriptor.segment_id, descriptor, stored, self._compromises)

    def _descriptor(self, stream_length: int, entry: Entry | None) -> Descriptor:
        plan = self._plan
        if self._encoder is None:
            raise UsageError("a segment without rows")
        descriptor = self._encoder.finish(
            r=plan.r,
            placement_key=plan.placement_key,
            owner_key=plan.owner.verify_key,
            entry=None,
        )
        # The caller may have filled the last row with zeros itself: its length is the true one.
        return replace(descriptor, stream_length=stream_length, entry=entry)

    def _reach_end(self, slot: _Slot) -> None:
        """Its last push is under way, or its worker ends: perhaps shards can be committed now, or never."""
        slot.at_end.set()
        if self._commits.done() or not self._complete:
            return
        enough = sum(map(self._is_asked, self._slots)) >= self._plan.w
        if enough or all(other.at_end.is_set() for other in self._slots):
            self._commits.set_result(enough)

    def _is_asked(self, slot: _Slot) -> bool:
        """Whether all bytes are there, or on their way."""
        size = self._rows * self._cell_size
        return slot.live and size in (slot.asked, slot.sent)

    async def _end(self, slot: _Slot, descriptor: bytes, lease: bytes) -> None:
        """Commit one shard when its last push is on its way; none before w have come so far."""
        await slot.at_end.wait()
        if self._workers[slot.index].done():
            self._workers[slot.index].result()  # an error of ours
        if await asyncio.shield(self._commits):
            await self._commit_slot(slot, descriptor, lease)

    async def _commit_slot(self, slot: _Slot, descriptor: bytes, lease: bytes) -> None:
        """Behind the last push, whose answer has not come then; where that goes wrong, again after it."""
        worker = self._workers[slot.index]
        while True:
            behind = not worker.done()
            if behind and not self._is_asked(slot):  # another holder gets it all from the spool
                await asyncio.shield(worker)
                continue
            if (peer := slot.peer) is None:
                return
            stage = slot.stage
            try:
                entry = await peer.commit(stage, descriptor, lease)
            except PotsherdError as error:
                if not behind:
                    await self._replace(slot, error)
                    await self._work(slot)
            else:
                if slot.peer is peer and slot.stage == stage:
                    slot.entry = entry
                    return
            if behind:
                await asyncio.shield(worker)

    async def _wait_enough(self, tasks: Sequence[asyncio.Future[None]]) -> None:
        """Wait for all tasks, but once w shards are stored only for FINISH_GRACE_S more. None goes on afterwards."""
        deadline: float | None = None
        pending = set(tasks)
        try:
            while pending:
                left = None if deadline is None else deadline - self._env.monotonic()
                if left is not None and left <= 0:
                    break
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                if deadline is None and len(self._stored()) >= self._plan.w:
                    deadline = self._env.monotonic() + FINISH_GRACE_S
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _stored(self) -> tuple[StoredShard, ...]:
        return tuple(
            StoredShard(s.index, s.candidate.key, s.peer.address, s.entry)
            for s in self._slots
            if s.entry is not None and s.candidate is not None and s.peer is not None
        )

    async def share_roster(self, committed: CommittedSegment) -> None:
        """Tell every holder of all the others, after `commit`; one that misses it learns from the rest."""
        holders = [(s.entry, s.address) for s in committed.shards]

        async def share(slot: _Slot) -> None:
            if slot.peer is not None and slot.entry is not None:
                with suppress(PotsherdError):
                    await slot.peer.merge_roster(committed.segment_id, holders)

        await asyncio.gather(*(share(slot) for slot in self._slots))

    async def abort(self) -> None:
        """Give up: free the stages and the spool."""

        async def release(slot: _Slot) -> None:
            if slot.peer is not None and slot.entry is None:
                with suppress(PotsherdError):
                    await slot.peer.push_abort(slot.stage)

        await self.close()
        await asyncio.gather(*(release(slot) for slot in self._slots))

    async def close(self) -> None:
        """Stop the workers and free the spool; stages stay, so an interrupted put can resume."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        self._window.clear()
        self._window_bytes = 0
        if self._spool.kept_bytes:
            await self._env.offload(self._spool.clear)


def _column(code: Code, table: Buffer, cell_size: int, index: int) -> Buffer:
    """One column of whole rows, coded again if it is parity."""
    if index < code.k:
        return column_of(table, code.k, cell_size, index)
    data = {i: column_of(table, code.k, cell_size, i) for i in range(code.k)}
    return code.rebuild(data, [index])[index]
