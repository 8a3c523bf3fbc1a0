"""What a node remembers of others for the sake of its segments (docs/spec/store.md, section 3).

Tables of their own in the index: the liveness of peers, entries in doubt. What the bytes mean is the
callers' business.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from potsherd.errors import LimitError
from potsherd.node.store.index import Index

__all__ = ["SCHEMA", "Care"]

EVIDENCE_MAX = 48 * 1024
"""Bytes of evidence with one doubt: a cell, its proof and a signed answer."""
EVIDENCES_MAX = 64
"""Doubts whose evidence is kept; the oldest evidence goes first, the doubts stay."""
BATCH = 64
"""Rows written in one transaction."""
BATCH_PAGES = 2 * BATCH + 8
"""Pages that they dirty at most."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS watched(key BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS doubts(
  segment_id BLOB NOT NULL, node BLOB NOT NULL, counter INTEGER NOT NULL, reason INTEGER NOT NULL,
  date INTEGER NOT NULL, evidence BLOB NOT NULL, PRIMARY KEY(segment_id, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS churn(id INTEGER PRIMARY KEY CHECK(id = 0), counts BLOB NOT NULL);
"""


class Care:
    """Made by the store. Methods raise StorageError, QuotaError when the index may not grow."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def watched(self) -> list[tuple[bytes, bytes]]:
        """(node key, state) of every peer that was written down."""
        sql = "SELECT key, state FROM watched ORDER BY key"
        rows = await self._index.read(lambda c: c.execute(sql).fetchall())
        return [(bytes(key), bytes(state)) for key, state in rows]

    async def keep_watched(self, states: Sequence[tuple[bytes, bytes]]) -> None:
        """Write down the states of some peers."""
        sql = "INSERT OR REPLACE INTO watched VALUES(?, ?)"
        await self._many(sql, states)

    async def forget_watched(self, keys: Sequence[bytes]) -> None:
        """Forget some peers."""
        await self._many("DELETE FROM watched WHERE key = ?", [(key,) for key in keys])

    async def churn(self) -> bytes:
        """What was counted of coming and going; empty when nothing was written down."""
        sql = "SELECT counts FROM churn"
        row = await self._index.read(lambda c: c.execute(sql).fetchone())
        return bytes(row[0]) if row else b""

    async def keep_churn(self, counts: bytes) -> None:
        """Write it down."""
        await self._many("INSERT OR REPLACE INTO churn VALUES(0, ?)", [(counts,)])

    async def doubts(self) -> list[tuple[bytes, bytes, int, int, int]]:
        """(segment id, node key, counter, reason, date) of every entry in doubt, the oldest first."""
        sql = "SELECT segment_id, node, counter, reason, date FROM doubts ORDER BY date, segment_id, node"
        rows = await self._index.read(lambda c: c.execute(sql).fetchall())
        return [(bytes(s), bytes(node), *rest) for s, node, *rest in rows]

    async def doubt(
        self, segment_id: bytes, node: bytes, counter: int, reason: int, date: int, evidence: bytes
    ) -> None:
        """Write down why an entry of a roster does not count; `evidence` of at most EVIDENCE_MAX bytes."""
        if len(evidence) > EVIDENCE_MAX:
            raise LimitError(f"{len(evidence)} bytes of evidence, at most {EVIDENCE_MAX}")
        sql = "INSERT OR REPLACE INTO doubts VALUES(?, ?, ?, ?, ?, ?)"
        await self._many(sql, [(segment_id, node, counter, reason, date, evidence)])
        if evidence:
            newest = (
                "SELECT segment_id, node FROM doubts WHERE evidence <> x'' "
                "ORDER BY date DESC, segment_id, node LIMIT -1 OFFSET ?"
            )
            await self._many(
                f"UPDATE doubts SET evidence = x'' WHERE (segment_id, node) IN ({newest})",  # noqa: S608
                [(EVIDENCES_MAX,)],
            )

    async def trust(self, segment_id: bytes, node: bytes) -> None:
        """The entry counts again."""
        await self._many(
            "DELETE FROM doubts WHERE segment_id = ? AND node = ?", [(segment_id, node)]
        )

    async def evidence(self, segment_id: bytes, node: bytes) -> bytes:
        """What was written down with a doubt; empty when there is none."""
        sql = "SELECT evidence FROM doubts WHERE segment_id = ? AND node = ?"
        row = await self._index.read(lambda c: c.execute(sql, (segment_id, node)).fetchone())
        return bytes(row[0]) if row else b""

    async def _many(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        for at in range(0, len(rows), BATCH):
            batch = rows[at : at + BATCH]

            def work(connection: sqlite3.Connection, batch: object = batch) -> None:
                connection.executemany(sql, batch)  # type: ignore[arg-type] # a list of tuples

            await self._index.write(work, pages=BATCH_PAGES)
