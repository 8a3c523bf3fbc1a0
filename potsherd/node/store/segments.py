"""Rows of held segments, their small shards, and open stages (docs/spec/store.md, section 3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from potsherd.classes import dataclass
from potsherd.erasure.descriptor import Descriptor
from potsherd.errors import NotFoundError, RefusedError
from potsherd.node.records import ProvisionalLease
from potsherd.node.store import heads, leases, rosters, schema
from potsherd.node.store.types import Held

__all__ = [
    "Segment",
    "StageRow",
    "confirm",
    "files",
    "find",
    "insert",
    "key_of",
    "page",
    "provisional",
    "remove",
    "require",
    "shard",
    "stage_add",
    "stage_remove",
    "stages_clear",
    "totals",
]

COLUMNS = "id, segment_id, idx, n, size, allocated, committed, descriptor"


@dataclass(frozen=True)
class Segment:
    """A row of `segments`. `allocated` is None for a shard in the index."""

    id: int
    segment_id: bytes
    index: int
    n: int
    size: int
    allocated: int | None
    committed: int
    descriptor: Descriptor

    @property
    def held(self) -> Held:
        """What callers of the store see."""
        return Held(self.segment_id, self.index, self.descriptor, self.committed)

    @property
    def blob_bytes(self) -> int:
        """Bytes of the shard within the index."""
        return self.size if self.allocated is None else 0


@dataclass(frozen=True)
class StageRow:
    """A row of `stages`: the committed reservation of a stage with a file."""

    id: int
    owner: bytes
    placement_key: bytes
    index: int
    member: bytes
    reserved: int
    opened: int


def _segment(row: tuple[Any, ...]) -> Segment:
    key, segment_id, index, n, size, allocated, committed, descriptor = row
    return Segment(
        key, segment_id, index, n, size, allocated, committed, Descriptor.decode(descriptor)
    )


def find(connection: sqlite3.Connection, segment_id: bytes) -> Segment | None:
    """The row of a segment."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM segments WHERE segment_id = ?",  # noqa: S608 (a constant)
        (segment_id,),
    ).fetchone()
    return None if row is None else _segment(row)


def key_of(connection: sqlite3.Connection, segment_id: bytes) -> int | None:
    """The integer of a held segment."""
    row = connection.execute(
        "SELECT id FROM segments WHERE segment_id = ?", (segment_id,)
    ).fetchone()
    return None if row is None else int(row[0])


def require(connection: sqlite3.Connection, segment_id: bytes) -> int:
    """The integer of a held segment. Raises NotFoundError."""
    key = key_of(connection, segment_id)
    if key is None:
        raise NotFoundError(f"segment {segment_id.hex()[:12]} is not held here")
    return key


def page(connection: sqlite3.Connection, after: bytes, limit: int) -> list[Segment]:
    """Held segments in order of their ids."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM segments WHERE segment_id > ? "  # noqa: S608 (a constant)
        "ORDER BY segment_id LIMIT ?",
        (after, limit),
    ).fetchall()
    return [_segment(row) for row in rows]


def files(connection: sqlite3.Connection) -> Iterator[tuple[bytes, int, int, int]]:
    """(segment id, size, allocated, n) of every shard with a file, in order of the ids."""
    return iter(
        connection.execute(
            "SELECT segment_id, size, allocated, n FROM segments "
            "WHERE allocated IS NOT NULL ORDER BY segment_id"
        )
    )


def totals(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """(shards, sum of n, bytes of shards within the index)."""
    row = connection.execute(
        "SELECT count(*), sum(n), sum(CASE WHEN allocated IS NULL THEN size ELSE 0 END) FROM segments"
    ).fetchone()
    return int(row[0]), int(row[1] or 0), int(row[2] or 0)


def shard(connection: sqlite3.Connection, segment_id: bytes) -> bytes:
    """A shard within the index. Raises NotFoundError."""
    row = connection.execute(
        "SELECT data FROM shards WHERE segment = (SELECT id FROM segments WHERE segment_id = ?)",
        (segment_id,),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"segment {segment_id.hex()[:12]} is not held here")
    return bytes(row[0])


def insert(
    connection: sqlite3.Connection,
    segment: Segment,
    encoding: bytes,
    data: bytes | None,
    lease: tuple[ProvisionalLease, bytes] | None,
    entry: bytes,
) -> None:
    """A new held segment with its provisional lease (and its signature) and our own roster entry."""
    if key_of(connection, segment.segment_id) is not None:
        raise RefusedError("this node holds an index of the segment already")
    key = schema.insert(
        connection,
        "INSERT INTO segments(segment_id, idx, n, size, allocated, committed, descriptor) "
        "VALUES(?, ?, ?, ?, ?, ?, ?)",
        (
            segment.segment_id,
            segment.index,
            segment.n,
            segment.size,
            segment.allocated,
            segment.committed,
            encoding,
        ),
    )
    if data is not None:
        connection.execute("INSERT INTO shards VALUES(?, ?)", (key, data))
    confirm(connection, key, lease, entry)


def confirm(
    connection: sqlite3.Connection,
    key: int,
    lease: tuple[ProvisionalLease, bytes] | None,
    entry: bytes,
) -> None:
    """Our own entry of the roster; the provisional lease, unless a lease or a longer one is there."""
    if lease is not None and not leases.covered(connection, key):
        record, signature = lease
        connection.execute(
            "INSERT INTO provisional VALUES(?, ?, ?) ON CONFLICT(segment) DO UPDATE "
            "SET until = excluded.until, signature = excluded.signature "
            "WHERE excluded.until > until",
            (key, record.until, signature),
        )
    rosters.merge(connection, key, [entry])


def provisional(connection: sqlite3.Connection, segment_id: bytes) -> bytes | None:
    """The signed provisional lease, as long as no lease covers the segment."""
    row = connection.execute(
        "SELECT until, signature, descriptor FROM provisional JOIN segments ON id = segment "
        "WHERE segment_id = ?",
        (segment_id,),
    ).fetchone()
    if row is None:
        return None
    owner = Descriptor.decode(row[2]).owner_key
    return bytes(row[1]) + ProvisionalLease(owner, segment_id, row[0]).encode()


def remove(connection: sqlite3.Connection, segment_id: bytes) -> bool:
    """Forget a segment and all that is kept for its sake; whether it was there."""
    key = key_of(connection, segment_id)
    if key is None:
        return False
    leases.forget(connection, key)
    heads.forget(connection, key)
    for table in ("roster", "provisional", "uncovered", "shards", "brought"):
        connection.execute(f"DELETE FROM {table} WHERE segment = ?", (key,))  # noqa: S608
    connection.execute("DELETE FROM segments WHERE id = ?", (key,))
    return True


def stage_add(connection: sqlite3.Connection, row: StageRow) -> None:
    """Write a reservation down."""
    connection.execute(
        "INSERT INTO stages VALUES(?, ?, ?, ?, ?, ?, ?)",
        (row.id, row.owner, row.placement_key, row.index, row.member, row.reserved, row.opened),
    )


def stage_remove(connection: sqlite3.Connection, stage: int) -> None:
    """Strike a reservation off."""
    connection.execute("DELETE FROM stages WHERE id = ?", (stage,))


def stages_clear(connection: sqlite3.Connection) -> None:
    """Strike all reservations off: no stage survives a restart."""
    connection.execute("DELETE FROM stages")
