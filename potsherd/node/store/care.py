"""What a node remembers of others for the sake of its segments (docs/spec/store.md, section 3).

Tables of their own in the index: the liveness of peers. What the bytes mean is the callers' business.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from potsherd.node.store.index import Index

__all__ = ["SCHEMA", "Care"]

BATCH = 64
"""Rows written in one transaction."""
BATCH_PAGES = 2 * BATCH + 8
"""Pages that they dirty at most."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS watched(key BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
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

    async def _many(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        for at in range(0, len(rows), BATCH):
            batch = rows[at : at + BATCH]

            def work(connection: sqlite3.Connection, batch: object = batch) -> None:
                connection.executemany(sql, batch)  # type: ignore[arg-type] # a list of tuples

            await self._index.write(work, pages=BATCH_PAGES)
