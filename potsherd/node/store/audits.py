"""What a node has seen proven, found damaged, and done: tables of their own in the index (docs/spec/store.md).

All are bounded, the oldest rows go first. What the bytes mean is the callers' business.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from potsherd.node.store.index import Index

__all__ = [
    "BAD_ENCODINGS_MAX",
    "BAD_PROOF_BYTES_MAX",
    "DAMAGED_MAX",
    "JOURNAL_MAX",
    "PROOFS_MAX",
    "SCHEMA",
    "Audits",
    "BadRow",
    "ProofRow",
    "ScrubRow",
]

PROOFS_MAX = 65_536
"""Last proofs remembered, one for each (segment, holder)."""
JOURNAL_MAX = 4096
"""Lines of the journal of what was done about segments."""
DAMAGED_MAX = 4096
"""Own shards remembered as damaged; further ones are found again in the next round of scrubbing."""
BAD_ENCODINGS_MAX = 256
"""Segments remembered as coded wrongly; a forgotten one is found again by the next repair."""
BAD_PROOF_BYTES_MAX = 2**20
"""Bytes of a proof that is kept; of a longer one only the verdict."""
TEXT_MAX = 400
"""Characters of one line of the journal."""
BATCH = 64
"""Rows written in one transaction."""
PAGES = 2 * BATCH + 8
"""Pages that they dirty at most."""
SPARE_PAGES = 16
OVERFLOW_BYTES = 8000
"""Bytes of a long value that one page takes, at least."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS proofs(
  segment_id BLOB NOT NULL, node BLOB NOT NULL, idx INTEGER NOT NULL, date INTEGER NOT NULL,
  row INTEGER NOT NULL, PRIMARY KEY(segment_id, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scrub(
  id INTEGER PRIMARY KEY CHECK (id = 1), after BLOB NOT NULL, row INTEGER NOT NULL,
  began INTEGER NOT NULL, bytes INTEGER NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS damaged(
  segment_id BLOB PRIMARY KEY, date INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bad_encodings(
  segment_id BLOB PRIMARY KEY, date INTEGER NOT NULL, idx INTEGER NOT NULL, row INTEGER,
  proof BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal(
  id INTEGER PRIMARY KEY, date INTEGER NOT NULL, segment_id BLOB NOT NULL, text TEXT NOT NULL);
"""

_NEWEST = "(SELECT {key} FROM {table} ORDER BY date DESC, {key} LIMIT -1 OFFSET ?)"


class ProofRow(NamedTuple):
    """The last proved read of one holder's shard. `date`: seconds UTC."""

    segment_id: bytes
    node: bytes
    idx: int
    date: int
    row: int


class ScrubRow(NamedTuple):
    """How far the scrub has come. Dates in seconds UTC."""

    after: bytes = b""
    """Segment under way."""
    row: int = 0
    """Its next row."""
    began: int = 0
    """When the round began; 0: none has."""
    bytes: int = 0
    """Read in this round."""
    finished: int = 0
    """When the last round ended; 0: none has."""


class BadRow(NamedTuple):
    """A segment that was coded wrongly. `row` is None where no row shows it (docs/spec/audit.md)."""

    segment_id: bytes
    date: int
    idx: int
    row: int | None
    proof: bytes


class Audits:
    """Made by the store. Methods raise StorageError, QuotaError when the index may not grow."""

    def __init__(self, index: Index) -> None:
        self._index = index

    # proofs of others

    async def note_proof(self, proof: ProofRow) -> None:
        """Remember it as the last one of this holder's shard."""
        await self._run("INSERT OR REPLACE INTO proofs VALUES(?, ?, ?, ?, ?)", proof)

    async def proofs(self, segment_id: bytes) -> list[ProofRow]:
        """The last proofs of a segment's shards, by node key."""
        sql = "SELECT * FROM proofs WHERE segment_id = ? ORDER BY node"
        rows = await self._index.read(lambda c: c.execute(sql, (segment_id,)).fetchall())
        return [ProofRow(*row) for row in rows]

    async def proof_dates(self) -> tuple[int, int, int]:
        """(how many, date of the oldest, of the newest); zeros without any."""
        sql = "SELECT count(*), coalesce(min(date), 0), coalesce(max(date), 0) FROM proofs"
        row = await self._index.read(lambda c: c.execute(sql).fetchone())
        return int(row[0]), int(row[1]), int(row[2])

    async def prune_proofs(self, before: int) -> None:
        """Forget proofs that are older, those of segments not held any more, and those beyond PROOFS_MAX."""
        useless = "segment_id NOT IN (SELECT segment_id FROM segments) OR date < ?"
        await self._run(
            f"DELETE FROM proofs WHERE (segment_id, node) IN ("  # noqa: S608 (constants)
            f"SELECT segment_id, node FROM proofs WHERE {useless} LIMIT ?)",
            (before, BATCH),
        )
        oldest = "SELECT segment_id, node FROM proofs ORDER BY date LIMIT min(?, max(0, (SELECT count(*) FROM proofs) - ?))"
        await self._run(
            f"DELETE FROM proofs WHERE (segment_id, node) IN ({oldest})",  # noqa: S608
            (BATCH, PROOFS_MAX),
        )

    # our own disk

    async def scrub(self) -> ScrubRow:
        """Where the scrub was; at the beginning when it never ran."""
        sql = "SELECT after, row, began, bytes, finished FROM scrub"
        row = await self._index.read(lambda c: c.execute(sql).fetchone())
        return ScrubRow(*row) if row else ScrubRow()

    async def set_scrub(self, state: ScrubRow) -> None:
        """Remember where it is."""
        await self._run("INSERT OR REPLACE INTO scrub VALUES(1, ?, ?, ?, ?, ?)", state)

    async def damaged(self) -> list[tuple[bytes, int]]:
        """(segment id, since when) of own shards that are damaged."""
        sql = "SELECT segment_id, date FROM damaged ORDER BY date, segment_id"
        rows = await self._index.read(lambda c: c.execute(sql).fetchall())
        return [(bytes(row[0]), int(row[1])) for row in rows]

    async def set_damaged(self, segment_id: bytes, date: int) -> None:
        """Our shard is damaged; the oldest notes beyond DAMAGED_MAX go."""
        await self._run("INSERT OR IGNORE INTO damaged VALUES(?, ?)", (segment_id, date))
        keys = _NEWEST.format(key="segment_id", table="damaged")
        await self._run(
            f"DELETE FROM damaged WHERE segment_id IN {keys}",  # noqa: S608
            (DAMAGED_MAX,),
        )

    async def set_whole(self, segment_id: bytes) -> None:
        """It is not, or not any more."""
        await self._run("DELETE FROM damaged WHERE segment_id = ?", (segment_id,))

    # bad encodings

    async def bad_encodings(self) -> list[BadRow]:
        """Segments known to be coded wrongly, the oldest first; without their proofs."""
        sql = "SELECT segment_id, date, idx, row FROM bad_encodings ORDER BY date, segment_id"
        rows = await self._index.read(lambda c: c.execute(sql).fetchall())
        return [BadRow(row[0], row[1], row[2], row[3], b"") for row in rows]

    async def bad_proof(self, segment_id: bytes) -> bytes:
        """The proof that was kept; empty when there is none."""
        sql = "SELECT proof FROM bad_encodings WHERE segment_id = ?"
        row = await self._index.read(lambda c: c.execute(sql, (segment_id,)).fetchone())
        return bytes(row[0]) if row else b""

    async def note_bad(self, bad: BadRow) -> None:
        """Remember a verdict, with its proof if it is not too long; the oldest beyond the bound go."""
        kept = bad if len(bad.proof) <= BAD_PROOF_BYTES_MAX else bad._replace(proof=b"")
        pages = SPARE_PAGES + len(kept.proof) // OVERFLOW_BYTES
        await self._run("INSERT OR REPLACE INTO bad_encodings VALUES(?, ?, ?, ?, ?)", kept, pages)
        keys = _NEWEST.format(key="segment_id", table="bad_encodings")
        await self._run(
            f"DELETE FROM bad_encodings WHERE segment_id IN {keys}",  # noqa: S608
            (BAD_ENCODINGS_MAX,),
        )

    # the journal

    async def journal(self, limit: int = JOURNAL_MAX) -> list[tuple[int, bytes, str]]:
        """(date, segment id, text) of the last lines, the oldest first."""
        sql = "SELECT date, segment_id, text FROM journal ORDER BY id DESC LIMIT ?"
        rows = await self._index.read(lambda c: c.execute(sql, (limit,)).fetchall())
        return [(int(date), bytes(segment), str(text)) for date, segment, text in reversed(rows)]

    async def add_journal(self, lines: Sequence[tuple[int, bytes, str]]) -> None:
        """Append lines; the oldest beyond JOURNAL_MAX go."""
        sql = "INSERT INTO journal(date, segment_id, text) VALUES(?, ?, ?)"
        for at in range(0, len(lines), BATCH):
            batch = [(date, s, text[:TEXT_MAX]) for date, s, text in lines[at : at + BATCH]]

            def work(
                connection: sqlite3.Connection, batch: Sequence[tuple[int, bytes, str]] = batch
            ) -> None:
                connection.executemany(sql, batch)
                connection.execute(
                    "DELETE FROM journal WHERE id <= (SELECT max(id) FROM journal) - ?",
                    (JOURNAL_MAX,),
                )

            await self._index.write(work, pages=PAGES)

    async def _run(self, sql: str, values: Sequence[object], pages: int = PAGES) -> None:
        await self._index.write(lambda c: c.execute(sql, tuple(values)) and None, pages=pages)
