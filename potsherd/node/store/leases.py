"""Leases and the paths that lead from them to our segments (docs/spec/store.md, section 3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from potsherd.errors import LimitError
from potsherd.node.records import Lease, LeasePath
from potsherd.node.store.schema import insert, scalar
from potsherd.node.store.types import LEASES_PER_SEGMENT_MAX

__all__ = ["covered", "forget", "of_segment", "put"]

HASH_SIZE = 32


def put(connection: sqlite3.Connection, signed: bytes, paths: Sequence[LeasePath]) -> None:
    """Keep a lease for those of `paths` whose segments are held here.

    In its scope (owner, archive) the highest sequence wins. Paths come in batches, and an older lease
    over the same list of segments still adds its paths to the one that is kept.
    """
    lease = Lease.decode(signed[64:])
    key = _accept(connection, lease, signed)
    if key is None:
        return
    for path in paths:
        _cover(connection, key, path)
    _drop_if_idle(connection, key)


def _accept(connection: sqlite3.Connection, lease: Lease, signed: bytes) -> int | None:
    """The integer of the lease that the paths go to; None when they prove nothing about it."""
    row = connection.execute(
        "SELECT id, lease FROM leases WHERE owner = ? AND archive = ?", (lease.owner, lease.archive)
    ).fetchone()
    if row is None:
        return _add(connection, lease, signed)
    key, known = int(row[0]), Lease.decode(row[1][64:])
    same_list = (known.root, known.segments) == (lease.root, lease.segments)
    if lease.sequence <= known.sequence:
        return key if same_list else None
    if same_list:
        connection.execute("UPDATE leases SET lease = ? WHERE id = ?", (signed, key))
        return key
    # Paths to another root prove nothing any more. They stay behind under an integer that is never
    # used again, are not seen, and go with their segments.
    connection.execute("DELETE FROM leases WHERE id = ?", (key,))
    return _add(connection, lease, signed)


def _add(connection: sqlite3.Connection, lease: Lease, signed: bytes) -> int:
    return insert(
        connection,
        "INSERT INTO leases(owner, archive, lease) VALUES(?, ?, ?)",
        (lease.owner, lease.archive, signed),
    )


def _cover(connection: sqlite3.Connection, lease: int, path: LeasePath) -> None:
    row = connection.execute(
        "SELECT id FROM segments WHERE segment_id = ?", (path.segment_id,)
    ).fetchone()
    if row is None:
        return
    segment = int(row[0])
    connection.execute(
        "DELETE FROM paths WHERE segment = ? AND lease NOT IN (SELECT id FROM leases)", (segment,)
    )
    known = scalar(connection, "SELECT count(*) FROM paths WHERE segment = ?", segment)
    values = (segment, lease, path.position, b"".join(path.path))
    added = connection.execute("INSERT OR IGNORE INTO paths VALUES(?, ?, ?, ?)", values).rowcount
    if added and known >= LEASES_PER_SEGMENT_MAX:
        raise LimitError(f"a segment with more than {LEASES_PER_SEGMENT_MAX} leases")
    connection.execute("UPDATE leases SET covered = covered + ? WHERE id = ?", (added, lease))
    connection.execute("DELETE FROM provisional WHERE segment = ?", (segment,))


def _drop_if_idle(connection: sqlite3.Connection, lease: int) -> None:
    connection.execute("DELETE FROM leases WHERE id = ? AND covered <= 0", (lease,))


def covered(connection: sqlite3.Connection, segment: int) -> bool:
    """Whether a lease covers the segment."""
    found = scalar(
        connection,
        "SELECT count(*) FROM paths JOIN leases ON leases.id = paths.lease WHERE segment = ?",
        segment,
    )
    return found > 0


def of_segment(connection: sqlite3.Connection, segment_id: bytes) -> list[tuple[bytes, LeasePath]]:
    """The signed leases of a segment, each with its path, sorted by their bytes after the signature."""
    rows = connection.execute(
        "SELECT l.lease, p.position, p.path FROM segments s JOIN paths p ON p.segment = s.id "
        "JOIN leases l ON l.id = p.lease WHERE s.segment_id = ? ORDER BY l.owner, l.archive",
        (segment_id,),
    ).fetchall()
    return [(bytes(lease), _path(segment_id, position, path)) for lease, position, path in rows]


def _path(segment_id: bytes, position: int, hashes: bytes) -> LeasePath:
    split = (hashes[i : i + HASH_SIZE] for i in range(0, len(hashes), HASH_SIZE))
    return LeasePath(segment_id, position, tuple(split))


def forget(connection: sqlite3.Connection, segment: int) -> None:
    """Take a segment from all leases; those that cover nothing any more go."""
    keys = connection.execute("SELECT lease FROM paths WHERE segment = ?", (segment,)).fetchall()
    for (key,) in keys:
        connection.execute("UPDATE leases SET covered = covered - 1 WHERE id = ?", (key,))
        _drop_if_idle(connection, key)
    connection.execute("DELETE FROM paths WHERE segment = ?", (segment,))
