"""Rosters: who says that it holds an index of a segment (docs/spec/store.md, section 3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from potsherd.node.records import RosterEntry
from potsherd.node.store.schema import insert, scalar
from potsherd.node.store.types import ROSTER_MAX

__all__ = ["entries", "forget", "merge", "nodes", "parse", "prune"]

PRUNE_MAX = 256
"""Peers without entries that one transaction removes."""


def parse(signed: bytes) -> RosterEntry:
    """The entry in `signature ‖ encoding`. Raises MalformedError; the signature is the caller's business."""
    return RosterEntry.decode(signed[64:])


def entries(connection: sqlite3.Connection, segment_id: bytes) -> list[bytes]:
    """The signed entries of a segment, sorted by index and node."""
    rows = connection.execute(
        "SELECT r.idx, p.key, r.counter, r.held, r.signature FROM segments s "
        "JOIN roster r ON r.segment = s.id JOIN peers p ON p.id = r.peer "
        "WHERE s.segment_id = ? ORDER BY r.idx, p.key",
        (segment_id,),
    ).fetchall()
    return [
        bytes(signature) + RosterEntry(segment_id, index, node, counter, bool(held)).encode()
        for index, node, counter, held, signature in rows
    ]


def merge(connection: sqlite3.Connection, segment: int, signed: Sequence[bytes]) -> int:
    """Per node the highest counter wins; how many entries changed.

    Two entries of one node with one counter: the greater encoding, so that all holders agree.
    """
    room = ROSTER_MAX - scalar(connection, "SELECT count(*) FROM roster WHERE segment = ?", segment)
    changed = 0
    for data in signed:
        entry = parse(data)
        known = connection.execute(
            "SELECT counter, held, idx FROM roster JOIN peers ON id = peer "
            "WHERE segment = ? AND key = ?",
            (segment, entry.node),
        ).fetchone()
        if room == 0 if known is None else not _beats(entry, known):
            continue
        room -= known is None
        changed += 1
        peer = _peer(connection, entry.node)
        connection.execute(
            "INSERT INTO roster VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(segment, peer) DO UPDATE SET "
            "idx = excluded.idx, counter = excluded.counter, held = excluded.held, "
            "signature = excluded.signature",
            (segment, peer, entry.index, entry.counter, int(entry.held), data[:64]),
        )
    return changed


def _beats(entry: RosterEntry, known: tuple[int, int, int]) -> bool:
    counter, held, index = known
    mine = RosterEntry(entry.segment_id, index, entry.node, counter, bool(held))
    return (entry.counter, entry.encode()) > (counter, mine.encode())


def _peer(connection: sqlite3.Connection, key: bytes) -> int:
    row = connection.execute("SELECT id FROM peers WHERE key = ?", (key,)).fetchone()
    if row is not None:
        return int(row[0])
    return insert(connection, "INSERT INTO peers(key) VALUES(?)", (key,))


def forget(connection: sqlite3.Connection, segment: int, keys: Sequence[bytes]) -> int:
    """Take the entries of some nodes out of a roster; how many there were."""
    forgotten = 0
    for key in keys:
        forgotten += connection.execute(
            "DELETE FROM roster WHERE segment = ? AND peer = (SELECT id FROM peers WHERE key = ?)",
            (segment, key),
        ).rowcount
    return forgotten


def nodes(connection: sqlite3.Connection, limit: int) -> list[bytes]:
    """Keys of the nodes that hold an index of a segment of ours, sorted; our own among them."""
    rows = connection.execute(
        "SELECT key FROM peers WHERE shared > 0 ORDER BY key LIMIT ?", (limit,)
    ).fetchall()
    return [bytes(row[0]) for row in rows]


def prune(connection: sqlite3.Connection) -> int:
    """Forget some of the peers that no roster names."""
    return connection.execute(
        "DELETE FROM peers WHERE id IN (SELECT id FROM peers WHERE entries = 0 LIMIT ?)",
        (PRUNE_MAX,),
    ).rowcount
