"""Segments that their owner has coded wrongly: proof, verdict, and what is told to others (docs/spec/audit.md).

k proved cells of a row determine all other cells of it. If one of these does not have the leaf hash that
is committed to in the descriptor, the shards are not of one code word: nobody can repair what does not
exist, and no holder is to blame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from potsherd.classes import dataclass
from potsherd.erasure.code import Code
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import cell_leaf, cell_leaves_light, verify_range
from potsherd.errors import (
    IntegrityError,
    MalformedError,
    NotEnoughShards,
    PotsherdError,
    QuotaError,
    RefusedError,
)
from potsherd.node.audit.records import BadEncoding, ProvedCell
from potsherd.node.client import Dial
from potsherd.node.reader import Holder, SegmentReader
from potsherd.node.records import READ_MAX, RosterEntry
from potsherd.node.repair.claiming import ASK_TIMEOUT_S, Gossip
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.plan import Standing
from potsherd.node.repair.view import Seen, View
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore
from potsherd.node.store.audits import BadRow
from potsherd.ports import Buffer, Env

__all__ = ["BadProof", "Encodings", "check_bad_encoding", "join_proof", "split_proof"]

BATCH_ROWS = 8
"""Rows compared at a time when a contradiction is looked for."""
LENGTH_BYTES = 4

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadProof:
    """A verified contradiction. `index` is contradicted by k others in `row`."""

    segment_id: bytes
    index: int
    row: int


def check_bad_encoding(data: bytes, cells: Buffer) -> BadProof:
    """Judge an encoded BadEncoding with its cells.

    Raises MalformedError for what is none, IntegrityError when a hash or path is wrong, or when the cells
    do belong together.
    """
    proof = BadEncoding.decode(data)
    d = Descriptor.decode(proof.descriptor)
    if len(proof.cells) != d.k + 1 or proof.row >= d.rows:
        raise MalformedError("a proof needs k + 1 cells of one row")
    if any(cell.index >= d.n for cell in proof.cells):
        raise MalformedError("a proof with an index that the segment does not have")
    view, size = memoryview(cells).cast("B"), d.cell_size
    if len(view) != d.k * size:
        raise MalformedError("a proof comes with k cells")
    for cell in proof.cells:
        verify_range(d.roots[cell.index], d.rows, proof.row, cell.leaf, cell.path)
    *given, last = proof.cells
    columns = {}
    for at, cell in enumerate(given):
        columns[cell.index] = view[at * size : (at + 1) * size]
        if cell_leaf(columns[cell.index]) != cell.leaf:
            raise IntegrityError("a cell that does not have its leaf hash")
    rebuilt = Code(d.k, d.n).rebuild(columns, [last.index])[last.index]
    if cell_leaf(rebuilt) == last.leaf:
        raise IntegrityError("the cells are of one code word")
    return BadProof(d.segment_id, last.index, proof.row)


def join_proof(data: bytes, cells: Buffer) -> bytes:
    """Proof and cells in one piece: what is kept, and what a person can be given."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data + bytes(cells)


def split_proof(joined: bytes) -> tuple[bytes, bytes]:
    """The inverse. Raises MalformedError."""
    size = int.from_bytes(joined[:LENGTH_BYTES], "big")
    if len(joined) < LENGTH_BYTES + size:
        raise MalformedError("a proof that is cut off")
    rest = joined[LENGTH_BYTES:]
    return rest[:size], rest[size:]


class Encodings:
    """The verdicts of this node; `load` before use."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        session: Session,
        view: View,
        gossip: Gossip,
        journal: Journal,
        limiter: Limiter,
        *,
        dial: Dial,
    ) -> None:
        self._env = env
        self._store = store
        self._session = session
        self._view = view
        self._gossip = gossip
        self._journal = journal
        self._limiter = limiter
        self._dial = dial
        self._bad: dict[bytes, BadRow] = {}

    async def load(self) -> None:
        """Go on with what was known before the restart. Raises StorageError."""
        for bad in await self._store.audits.bad_encodings():
            self._bad[bad.segment_id] = bad

    def is_bad(self, segment_id: bytes) -> bool:
        """Whether its repair has stopped for good."""
        return segment_id in self._bad

    def all(self) -> tuple[BadRow, ...]:
        """All verdicts."""
        return tuple(self._bad.values())

    async def receive(self, data: bytes, cells: Buffer) -> bytes:
        """Somebody sends a proof; its segment id.

        Raises MalformedError, IntegrityError when it proves nothing, RefusedError for a segment that is not
        held here.
        """
        segment_id = Descriptor.decode(BadEncoding.decode(data).descriptor).segment_id
        if await self._store.held(segment_id) is None:
            raise RefusedError("the segment is not held here")
        if self._is_shown(segment_id):
            return segment_id
        found = await self._env.offload(check_bad_encoding, data, cells)
        await self._conclude(found.segment_id, found.index, found.row, join_proof(data, cells))
        return segment_id

    def _is_shown(self, segment_id: bytes) -> bool:
        """Whether a row is known that shows it."""
        known = self._bad.get(segment_id)
        return known is not None and known.row is not None

    async def contradicted(self, held: Held, index: int) -> None:
        """A repair has rebuilt `index` from proved cells, and its root is another: look for a row that shows it."""
        if self._is_shown(held.segment_id):
            return
        await self._conclude(held.segment_id, index, None, b"")
        try:
            proof = await self.find(held)
        except PotsherdError as error:
            _LOG.warning("no proof of a bad encoding: %s", error)
            return
        if proof is not None:
            data, cells = proof
            found = await self._env.offload(check_bad_encoding, data, cells)
            await self._conclude(held.segment_id, found.index, found.row, join_proof(data, cells))
            await self._tell(held, data, cells)

    async def _conclude(self, segment_id: bytes, index: int, row: int | None, proof: bytes) -> None:
        bad = BadRow(segment_id, int(self._env.utc()), index, row, b"")
        self._bad[segment_id] = bad
        where = "the whole shard" if row is None else f"row {row}"
        text = (
            f"coded wrongly by its owner: index {index} does not fit ({where}); it is not repaired"
        )
        self._journal.note(self._env.utc(), segment_id, text)
        try:
            await self._store.audits.note_bad(bad._replace(proof=proof))
        except QuotaError as error:  # it is found again after a restart
            _LOG.warning("a verdict is not written down: %s", error)

    # looking for the contradiction

    async def find(self, held: Held) -> tuple[bytes, bytes] | None:
        """(proof, cells) for the first row in which more than k live shards contradict each other.

        None when there is no such row: only shards that nobody has any more are wrong. Reads all live
        shards up to that row.
        """
        seen = await self._view.look(held)
        holders = {e.index: e for e in seen.holding(Standing.LIVE)}
        d = held.descriptor
        extra = sorted(holders)[d.k :]
        if not extra or d.k * d.cell_size > READ_MAX:
            return None
        reader = SegmentReader.of(
            self._session, d, [Holder(e.index, e.node, None) for e in holders.values()]
        )
        for first in range(0, d.rows, BATCH_ROWS):
            count = min(BATCH_ROWS, d.rows - first)
            await self._limiter.take(len(holders) * count * d.cell_size)
            found = await self._contradiction(reader, holders, first, count)
            if found is not None:
                row, index, sources = found
                return await self._collect(held, holders, row, sources, index)
        return None

    async def _contradiction(
        self, reader: SegmentReader, holders: dict[int, RosterEntry], first: int, count: int
    ) -> tuple[int, int, list[int]] | None:
        """(row, index, the k others) of the first contradiction in these rows."""
        d = reader.descriptor
        base, extra = sorted(holders)[: d.k], sorted(holders)[d.k :]
        cells: dict[tuple[int, int], memoryview] = {}
        rows = list(range(first, first + count))
        fetched = await asyncio.gather(
            *(self._fetch(reader, holders[i], (first, count), cells) for i in (*base, *extra)),
            return_exceptions=True,
        )
        silent = [
            index
            for index, outcome in zip((*base, *extra), fetched, strict=True)
            if _failed(outcome)
        ]
        if silent:  # go on with the others
            for index in silent:
                del holders[index]
            if len(holders) <= d.k:
                raise NotEnoughShards("too few holders answer to look for a contradiction")
            return await self._contradiction(reader, holders, first, count)
        return await self._env.offload(_compare, d, base, extra, rows, cells)

    async def _fetch(
        self,
        reader: SegmentReader,
        entry: RosterEntry,
        run: tuple[int, int],
        cells: dict[tuple[int, int], memoryview],
    ) -> None:
        """Proved cells of one holder, or of our own shard."""
        if entry.node != self._session.identity.key:
            await reader.fetch_part(Holder(entry.index, entry.node, None), [run], cells)
            return
        d = reader.descriptor
        data, proofs = await self._store.read(entry.segment_id, entry.index, [run])
        await self._env.offload(_verify, d, entry.index, run, data, proofs[0])
        for at in range(run[1]):
            part = memoryview(data)[at * d.cell_size : (at + 1) * d.cell_size]
            cells[entry.index, run[0] + at] = part

    async def _collect(
        self,
        held: Held,
        holders: dict[int, RosterEntry],
        row: int,
        sources: Sequence[int],
        index: int,
    ) -> tuple[bytes, bytes]:
        """Once more that row, now with the paths."""
        proved, cells = [], []
        for source in (*sources, index):
            cell, path = await self._cell(held, holders[source], row)
            proved.append(ProvedCell(source, cell_leaf(cell), path))
            cells.append(cell)
        proof = BadEncoding(held.descriptor.encode(), row, tuple(proved)).encode()
        return proof, b"".join(cells[:-1])

    async def _cell(self, held: Held, entry: RosterEntry, row: int) -> tuple[bytes, bytes]:
        """One cell and its path; `check_bad_encoding` judges them."""
        if entry.node == self._session.identity.key:
            data, proofs = await self._store.read(held.segment_id, entry.index, [(row, 1)])
            return bytes(data), proofs[0]
        peer = await self._dial(entry.node, held.descriptor.placement_key)
        got = await peer.read_cell(held.segment_id, entry.index, row)
        return bytes(got.cell), got.proof

    async def _tell(self, held: Held, data: bytes, cells: bytes) -> None:
        seen: Seen = await self._view.look(held)

        async def tell(node: bytes) -> None:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                peer = await self._dial(node, held.descriptor.placement_key)
                await peer.bad_encoding(data, cells)

        await self._gossip.ask_all(seen, tell)


def _verify(d: Descriptor, index: int, run: tuple[int, int], data: bytes, proof: bytes) -> None:
    leaves = cell_leaves_light(data, d.cell_size)
    verify_range(d.roots[index], d.rows, run[0], leaves, proof)


def _failed(outcome: BaseException | None) -> bool:
    if outcome is not None and not isinstance(outcome, PotsherdError):
        raise outcome
    return outcome is not None


def _compare(
    d: Descriptor,
    base: Sequence[int],
    extra: Sequence[int],
    rows: Sequence[int],
    cells: dict[tuple[int, int], memoryview],
) -> tuple[int, int, list[int]] | None:
    code = Code(d.k, d.n)
    for row in rows:
        rebuilt = code.rebuild({i: cells[i, row] for i in base}, list(extra))
        for index in extra:
            if cells[index, row] != rebuilt[index]:
                return row, index, list(base)
    return None
