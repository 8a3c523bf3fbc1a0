"""Putting right a shard of our own that has rotted: its rows from k others, by the machinery of repair.

Rotten cells are written over in place, each checked by its leaf hash before; where the leaf hashes are
rotten too, every row is rebuilt and the root decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from potsherd.errors import NotEnoughShards
from potsherd.node.reader import Holder, SegmentReader
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.plan import Standing
from potsherd.node.repair.view import View
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore

__all__ = ["BATCH_ROWS", "Mender", "runs_of"]

BATCH_ROWS = 16
"""Rows rebuilt at a time: half a megabyte of each column."""
AVOID_S = 3600.0
"""Seconds for which holders that do not answer heartbeats are asked last."""


def runs_of(rows: Sequence[int], longest: int) -> list[tuple[int, int]]:
    """Ascending rows as (first, count), none longer than `longest`."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][0] + runs[-1][1] == row and runs[-1][1] < longest:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs


class Mender:
    """Rebuilds rows of shards that are held here."""

    def __init__(
        self, session: Session, store: ShardStore, view: View, limiter: Limiter, *, node_key: bytes
    ) -> None:
        self._session = session
        self._store = store
        self._view = view
        self._limiter = limiter
        self._me = node_key
        self.bytes_in = 0
        """That came from other holders since start."""

    async def mend(self, held: Held, rows: Sequence[int], leaves: bytes | None) -> bool:
        """Write right cells into these rows; whether the shard is whole then.

        Raises NotEnoughShards when k others cannot be read, IntegrityError when what they give is not the
        shard: then its owner has coded it wrongly.
        """
        reader = await self._reader(held)
        d = held.descriptor
        for first, count in runs_of(rows, BATCH_ROWS):
            await self._limiter.take(d.k * count * d.cell_size)
            cells: dict[tuple[int, int], memoryview] = {}
            columns = await reader.columns(first, count, [held.index], {}, cells)
            await self._store.inspection.mend(held.segment_id, first, columns[held.index], leaves)
        self.bytes_in += reader.received
        if leaves is None:
            return await self._store.inspection.seal(held.segment_id)
        for first, count in runs_of(rows, BATCH_ROWS):
            if await self._store.inspection.damaged(held.segment_id, first, count, leaves):
                return False
        return True

    async def _reader(self, held: Held) -> SegmentReader:
        seen = await self._view.look(held)
        sources = [
            Holder(e.index, e.node, None)
            for e in seen.holding(Standing.AWAY)
            if e.node != self._me and e.index != held.index
        ]
        if len({holder.index for holder in sources}) < held.descriptor.k:
            raise NotEnoughShards("fewer than k other holders are known")
        reader = SegmentReader.of(self._session, held.descriptor, sources)
        for entry in seen.entries:
            if seen.standings.get(entry.node) is Standing.AWAY:
                reader.avoid(entry.node, AVOID_S)
        return reader
