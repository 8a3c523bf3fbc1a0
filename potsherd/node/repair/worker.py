"""One segment, repaired: rows from k holders, rebuilt, streamed to the places of all missing indices.

No key, no owner: what is read is proved by the shard roots, what is sent is proved by them at the
commit. Memory holds one batch of rows. A repair that breaks off leaves its stages where they are; who
goes on resumes them (docs/design/repair.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import MerkleBuilder, cell_leaves_fast, verify_range
from potsherd.errors import (
    IntegrityError,
    NotEnoughShards,
    NotFoundError,
    PeerError,
    PotsherdError,
)
from potsherd.node.client import Peer
from potsherd.node.placement import Candidate
from potsherd.node.reader import Holder, SegmentReader
from potsherd.node.records import HolderTicket, RosterEntry
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.plan import PlaceView
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Address, Buffer, Env

__all__ = ["Inconsistent", "RepairWork", "Repaired", "WorkTools"]

BATCH_BYTES = 8 * 2**20
"""Bytes of all columns together that a batch of rows should have: sources and targets."""
BATCH_ROWS_MAX = 32
"""Rows of a batch: a megabyte of each column."""
TRIES_PER_INDEX = 4
"""Nodes asked to take one index in one pass; then it waits for the next."""
OPEN_TIMEOUT_S = 20.0
"""Seconds for a target to reserve the room."""
TICKET_LIFE_S = 12 * 3600
AVOID_S = 3600.0
"""Seconds for which holders that do not answer heartbeats are asked last."""
RETRY_PAUSE_S = 5.0
"""Seconds between tries to reach a target or sources again, at first; doubles up to RETRY_PAUSE_MAX_S."""
RETRY_PAUSE_MAX_S = 60.0


class Inconsistent(IntegrityError):  # noqa: N818 (names what is the case)
    """The segment's shards do not belong to one code word: its owner coded it wrongly."""

    def __init__(self, index: int) -> None:
        super().__init__(f"k proved shards contradict the committed root of index {index}")
        self.index = index


@dataclass(frozen=True)
class WorkTools:
    """What a repair needs of its node."""

    env: Env
    session: Session
    store: ShardStore
    limiter: Limiter
    key: SigningKey
    patience_s: Callable[[int], float]
    """How long to wait for somebody who has stopped answering, as things are now; the argument: how many
    targets have."""


@dataclass(frozen=True)
class Repaired:
    """What came of it: the receipts of new holders, and who was caught."""

    entries: tuple[tuple[bytes, Address | None], ...]
    failed: tuple[int, ...]
    """Indices that were tried and could not be placed."""
    wrong: dict[bytes, int]
    """Holders whose cells did not fit their shard's root, and their index."""


@dataclass
class _Target:
    """One missing index on its way to its place."""

    index: int
    candidate: Candidate | None = None
    peer: Peer | None = None
    stage: int = 0
    rows: int = 0
    builder: MerkleBuilder | None = None
    """Leaves of what was sent; None when somebody else has sent the beginning."""
    entry: bytes | None = None
    dropped: bool = False
    silent: bool = False
    """It did not take what was sent last."""
    refused: set[bytes] = field(default_factory=set)

    @property
    def open(self) -> bool:
        """Whether rows are to be sent to it."""
        return self.peer is not None and self.entry is None and not self.dropped


class RepairWork:
    """Made for one pass over one segment; `run` once."""

    def __init__(
        self,
        tools: WorkTools,
        held: Held,
        *,
        own_entry: bytes,
        holders: Sequence[Holder],
        avoid: Iterable[bytes],
        missing: Sequence[int],
        view: PlaceView,
        progress: Callable[[Sequence[int], int], Awaitable[None]],
    ) -> None:
        """`avoid`: holders that are asked last; `progress(indices, rows)` is told how far it has come, and may raise to end the pass."""
        self._tools = tools
        self._env = tools.env
        self._held = held
        self._own_entry = own_entry
        self._view = view
        self._progress = progress
        self._targets = [_Target(index) for index in sorted(missing)]
        self._reader = SegmentReader.of(tools.session, held.descriptor, holders)
        for key in avoid:
            self._reader.avoid(key, AVOID_S)
        self._row = 0
        self._sent = 0
        self._own_is_good = True

    @property
    def _descriptor(self) -> Descriptor:
        return self._held.descriptor

    async def run(self) -> Repaired:
        """Rebuild all that is missing. Raises NotEnoughShards, Inconsistent, what `progress` raises.

        What cannot be placed now is left for another pass.
        """
        await asyncio.gather(*(self._open(target) for target in self._targets))
        if any(target.open for target in self._targets):
            await self._stream()
            await self._commit_all()
        done = [(t.entry, t.candidate.address) for t in self._targets if t.entry and t.candidate]
        failed = tuple(t.index for t in self._targets if t.entry is None)
        return Repaired(tuple(done), failed, dict(self._reader.wrong))

    def _patience_s(self) -> float:
        return self._tools.patience_s(sum(target.silent for target in self._targets))

    @property
    def own_is_good(self) -> bool:
        """Whether our own cells have fitted their root, as far as they were read."""
        return self._own_is_good

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that came from sources and that went to targets so far."""
        return self._reader.received, self._sent

    # places

    async def _open(self, target: _Target) -> None:
        """Reserve room at the index's place, or at the next ones when it refuses."""
        for _ in range(TRIES_PER_INDEX):
            candidate = self._next_place(target)
            if candidate is None:
                return
            target.candidate = candidate
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await self._open_at(target, candidate)
                return
            except (PotsherdError, TimeoutError):
                target.refused.add(candidate.key)
                target.candidate = target.peer = None

    def _next_place(self, target: _Target) -> Candidate | None:
        others = [t.candidate for t in self._targets if t.candidate and t is not target]
        besides = target.refused | {c.key for c in others}
        order = self._view.order(target.index, besides=besides, more=others)
        return order[0] if order else None

    async def _open_at(self, target: _Target, candidate: Candidate) -> None:
        descriptor = self._descriptor
        peer = await self._tools.session.peer(
            candidate.key, candidate.address, near=descriptor.placement_key
        )
        known = await self._entry_of(peer)
        if known is not None:
            if RosterEntry.decode(known[64:]).index == target.index:
                target.entry = known  # brought before, and the receipt was lost
                return
            raise NotFoundError("the node holds another index of the segment")
        staged = await peer.holder_open(
            self._ticket(target.index, candidate.key), descriptor.encode(), self._own_entry
        )
        target.peer, target.stage = peer, staged.stage
        target.rows, rest = divmod(staged.size, descriptor.cell_size)
        if rest or target.rows > descriptor.rows:
            await peer.push_abort(staged.stage)
            raise PeerError("the stage ends within a cell")
        if target.builder is None and target.rows == 0:
            target.builder = MerkleBuilder()

    async def _entry_of(self, peer: Peer) -> bytes | None:
        try:
            roster = await peer.roster(self._held.segment_id)
        except NotFoundError:
            return None
        return next((d for e, d, _ in roster if e.node == peer.key and e.held), None)

    def _ticket(self, index: int, holder: bytes) -> bytes:
        expires = int(self._env.utc()) + TICKET_LIFE_S
        key = self._tools.key
        ticket = HolderTicket(self._held.segment_id, index, key.verify_key, holder, expires)
        return ticket.signed(key.sign, self._tools.session.identity.network_id)

    # rows

    async def _stream(self) -> None:
        rows = self._descriptor.rows
        while any(t.open and t.rows < rows for t in self._targets):
            self._row = min(t.rows for t in self._targets if t.open)
            count = min(self._batch_rows(), rows - self._row)
            await self._progress([t.index for t in self._targets if t.open], self._row)
            columns = await self._columns(self._row, count)
            wanted = [t for t in self._targets if t.open and t.index in columns]
            await asyncio.gather(*(self._send(t, columns[t.index]) for t in wanted))

    def _batch_rows(self) -> int:
        columns = self._descriptor.k + len(self._targets)
        return max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // (columns * self._descriptor.cell_size)))

    async def _columns(self, first: int, count: int) -> dict[int, bytes]:
        """The missing cells of these rows; waits for sources as long as patience lasts."""
        end, size = first + count, self._descriptor.cell_size
        wanted = [t.index for t in self._targets if t.open and first <= t.rows < end]
        waiting = _Patience(self._env, self._patience_s)
        own = await self._own(first, count)
        fetched = (self._descriptor.k - len(own)) * count * size
        await self._tools.limiter.take(fetched + len(wanted) * count * size)
        cells: dict[tuple[int, int], memoryview] = {}
        while True:
            try:
                return await self._reader.columns(first, count, wanted, own, cells)
            except NotEnoughShards:
                if not await waiting.pause():
                    raise

    async def _own(self, first: int, count: int) -> dict[int, Buffer]:
        """Our own cells of these rows, proved like everybody else's; none when the disk has rotted."""
        held = self._held
        if not self._own_is_good:
            return {}
        try:
            data, proofs = await self._tools.store.read(
                held.segment_id, held.index, [(first, count)]
            )
            await self._env.offload(_check_own, held, first, data, proofs[0])
        except PotsherdError:
            self._own_is_good = False
            return {}
        return {held.index: data}

    async def _send(self, target: _Target, column: bytes) -> None:
        """Bring one batch to a target; waits for one that does not answer as long as patience lasts."""
        size, first = self._descriptor.cell_size, self._row
        waiting = _Patience(self._env, self._patience_s)
        while target.open:
            start = target.rows - first
            part = memoryview(column)[start * size :]
            if not part:
                return
            try:
                await self._push(target, part)
                target.silent = False
                return
            except PotsherdError:
                target.silent = True
                if not await waiting.pause() or not await self._reopen(target):
                    target.dropped = True

    async def _push(self, target: _Target, part: memoryview) -> None:
        peer = target.peer
        if peer is None:
            raise PeerError("the target is not open")
        await peer.push(target.stage, target.rows * self._descriptor.cell_size, part)
        if target.builder is not None:
            leaves = await self._env.offload(cell_leaves_fast, part, self._descriptor.cell_size)
            target.builder.extend(leaves)
        target.rows += len(part) // self._descriptor.cell_size
        self._sent += len(part)

    async def _reopen(self, target: _Target) -> bool:
        """Find the stage again on a new connection; False when it has not the rows that were sent."""
        candidate, before = target.candidate, target.rows
        if candidate is None:
            return False
        self._tools.session.drop(candidate.key)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._open_at(target, candidate)
        except (PotsherdError, TimeoutError):
            return True  # not yet: the caller's patience decides
        if target.entry is None and target.rows != before:
            target.builder = None
        return target.entry is not None or target.rows >= self._row

    # the end

    async def _commit_all(self) -> None:
        whole = [t for t in self._targets if t.open and t.rows == self._descriptor.rows]
        for target in whole:
            root = target.builder.root() if target.builder is not None else None
            if root is not None and root != self._descriptor.roots[target.index]:
                await asyncio.gather(*(self._abort(t) for t in whole))
                raise Inconsistent(target.index)
        await asyncio.gather(*(self._commit(target) for target in whole))

    async def _abort(self, target: _Target) -> None:
        if target.peer is not None:
            try:
                await target.peer.push_abort(target.stage)
            except PotsherdError:
                return  # it expires by itself

    async def _commit(self, target: _Target) -> None:
        """Make it a shard. One whose beginning came from elsewhere and is wrong is sent again next time."""
        lease = await self._tools.store.provisional_lease(self._held.segment_id) or b""
        waiting = _Patience(self._env, self._patience_s)
        while target.open and target.peer is not None:
            try:
                target.entry = await target.peer.commit(
                    target.stage, self._descriptor.encode(), lease
                )
            except IntegrityError:
                target.dropped = True
            except PotsherdError:
                again = await waiting.pause() and await self._reopen(target)
                target.dropped = not again


class _Patience:
    """Waits a little longer each time, until patience is over."""

    def __init__(self, env: Env, patience_s: Callable[[], float]) -> None:
        self._env = env
        self._patience_s = patience_s
        self._since: float | None = None
        self._pause = RETRY_PAUSE_S

    async def pause(self) -> bool:
        """Wait before another try; False when it is time to give up."""
        now = self._env.monotonic()
        since = self._since = now if self._since is None else self._since
        left = self._patience_s() - (now - since)
        if left <= 0:
            return False
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, RETRY_PAUSE_MAX_S)
        return True


def _check_own(held: Held, first: int, data: Buffer, proof: bytes) -> None:
    descriptor = held.descriptor
    leaves = cell_leaves_fast(data, descriptor.cell_size)
    verify_range(descriptor.roots[held.index], descriptor.rows, first, leaves, proof)
