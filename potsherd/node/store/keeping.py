"""How long segments are to be kept: extensions, withdrawals, tombstones, and what was dropped and why.

Rows beside those of `leases`; signatures have been verified by the caller (docs/spec/retention.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from potsherd.classes import dataclass
from potsherd.errors import LimitError, NotFoundError, RefusedError
from potsherd.node.lease_records import Extension, Withdrawal
from potsherd.node.records import KEEPERS_MAX, PROVISIONAL_LEASE_S, Lease
from potsherd.node.store.schema import scalar

__all__ = [
    "DROPPED_MAX",
    "SCHEMA",
    "TOMBSTONES_MAX",
    "Dropped",
    "Kept",
    "LeaseState",
    "Tombstone",
    "bury",
    "dropped",
    "extensions",
    "intent",
    "kept",
    "largest",
    "note_drop",
    "note_replaced",
    "prune",
    "put_extension",
    "put_withdrawal",
    "set_intent",
    "shard_bytes",
    "tombstone",
    "withdrawal",
]

DROPPED_MAX = 4096
"""Lines of the journal of what was dropped; the oldest goes first."""
TOMBSTONES_MAX = 65_536
"""Segments remembered as withdrawn; the oldest is forgotten first."""
DETAIL_MAX = 300
"""Characters of the reason in one line of the journal."""
PRUNE_MAX = 256
"""Rows of one kind that one transaction removes."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS extensions(
  owner BLOB NOT NULL, archive INTEGER NOT NULL, keeper BLOB NOT NULL, until INTEGER NOT NULL,
  signed BLOB NOT NULL, PRIMARY KEY(owner, archive, keeper)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawals(
  owner BLOB NOT NULL, archive INTEGER NOT NULL, number INTEGER NOT NULL, active INTEGER NOT NULL,
  seen INTEGER NOT NULL, lease BLOB NOT NULL, signed BLOB NOT NULL,
  PRIMARY KEY(owner, archive)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones(
  id INTEGER PRIMARY KEY, segment_id BLOB NOT NULL UNIQUE, owner BLOB NOT NULL,
  archive INTEGER NOT NULL, date INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS replaced(
  owner BLOB NOT NULL, archive INTEGER NOT NULL, not_before INTEGER NOT NULL,
  PRIMARY KEY(owner, archive)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uncovered(segment INTEGER PRIMARY KEY, since INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dropped(
  id INTEGER PRIMARY KEY, date INTEGER NOT NULL, segment_id BLOB NOT NULL, idx INTEGER NOT NULL,
  bytes INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS intent(
  id INTEGER PRIMARY KEY CHECK (id = 1), mode TEXT NOT NULL, quota INTEGER NOT NULL);
"""

FOREVER = 2**62
"""Later than every date; what 0 means in a lease."""


@dataclass(frozen=True)
class LeaseState:
    """One lease of a segment and what changes its end."""

    lease: Lease
    extensions: tuple[Extension, ...]
    """Of keepers that the lease names."""
    withdrawal: Withdrawal | None
    """The one that counts in the scope; it may be a cancelled one."""
    seen: int
    """When the withdrawal was first seen here; 0 without one."""
    not_before: int
    """When a later lease shortened the scope here: the grace does not begin before; else 0."""


@dataclass(frozen=True)
class Kept:
    """A held segment and everything that says how long it is to be kept."""

    segment_id: bytes
    index: int
    size: int
    owner: bytes
    placement_key: bytes
    unleased_until: int
    """End of the provisional lease, or of the time that stands for one while no statement is here."""
    leases: tuple[LeaseState, ...]


@dataclass(frozen=True)
class Tombstone:
    """A withdrawal because of which a segment was dropped here."""

    lease: bytes
    """Signed; it names the key that withdrew."""
    withdrawal: bytes
    """Signed."""
    active: bool
    seen: int


@dataclass(frozen=True)
class Dropped:
    """A line of the journal: a shard that this node keeps no more."""

    date: int
    segment_id: bytes
    index: int
    bytes: int
    reason: str
    """expired, withdrawn, abandoned (never leased), moved, surplus, lost."""
    detail: str


# --- reading ----------------------------------------------------------------------------------------


def kept(connection: sqlite3.Connection, rows: Iterable[tuple[int, Kept]]) -> list[Kept]:
    """Fill in the leases of segments given by integer and bare facts."""
    return [_with_leases(connection, key, bare) for key, bare in rows]


def _with_leases(connection: sqlite3.Connection, key: int, bare: Kept) -> Kept:
    found = connection.execute(
        "SELECT l.lease FROM paths p JOIN leases l ON l.id = p.lease WHERE p.segment = ? "
        "ORDER BY l.owner, l.archive",
        (key,),
    ).fetchall()
    leases = tuple(_state(connection, Lease.decode(row[0][64:])) for row in found)
    until = _unleased_until(connection, key, bare.unleased_until)
    return Kept(
        *(bare.segment_id, bare.index, bare.size, bare.owner, bare.placement_key), until, leases
    )


def _unleased_until(connection: sqlite3.Connection, key: int, committed: int) -> int:
    """The provisional lease's end; without one, as if it had begun at the commit or the uncovering."""
    row = connection.execute("SELECT until FROM provisional WHERE segment = ?", (key,)).fetchone()
    if row is not None:
        return int(row[0])
    since = scalar(connection, "SELECT since FROM uncovered WHERE segment = ?", key)
    return max(committed + PROVISIONAL_LEASE_S, since)


def _state(connection: sqlite3.Connection, lease: Lease) -> LeaseState:
    scope = (lease.owner, lease.archive)
    row = connection.execute(
        "SELECT signed, seen FROM withdrawals WHERE owner = ? AND archive = ?", scope
    ).fetchone()
    ended = Withdrawal.decode(row[0][64:]) if row else None
    if ended is not None and ended.withdraw_key != lease.withdraw_key:
        ended, row = None, None
    longer = (Extension.decode(data[64:]) for data in extensions(connection, *scope))
    not_before = scalar(
        connection, "SELECT not_before FROM replaced WHERE owner = ? AND archive = ?", *scope
    )
    return LeaseState(
        lease,
        tuple(e for e in longer if e.keeper in lease.keepers),
        ended,
        int(row[1]) if row else 0,
        not_before,
    )


def extensions(connection: sqlite3.Connection, owner: bytes, archive: int) -> list[bytes]:
    """The signed extensions of a scope, by keeper."""
    rows = connection.execute(
        "SELECT signed FROM extensions WHERE owner = ? AND archive = ? ORDER BY keeper",
        (owner, archive),
    ).fetchall()
    return [bytes(row[0]) for row in rows]


def withdrawal(connection: sqlite3.Connection, owner: bytes, archive: int) -> Tombstone | None:
    """The withdrawal that counts in a scope."""
    row = connection.execute(
        "SELECT lease, signed, active, seen FROM withdrawals WHERE owner = ? AND archive = ?",
        (owner, archive),
    ).fetchone()
    return None if row is None else Tombstone(bytes(row[0]), bytes(row[1]), bool(row[2]), row[3])


def tombstone(connection: sqlite3.Connection, segment_id: bytes) -> Tombstone | None:
    """The withdrawal because of which a segment was dropped; None once it was cancelled."""
    row = connection.execute(
        "SELECT owner, archive FROM tombstones WHERE segment_id = ?", (segment_id,)
    ).fetchone()
    found = withdrawal(connection, row[0], row[1]) if row else None
    return found if found is not None and found.active else None


def dropped(connection: sqlite3.Connection, limit: int) -> list[Dropped]:
    """The newest lines of the journal, newest first."""
    rows = connection.execute(
        "SELECT date, segment_id, idx, bytes, reason, detail FROM dropped ORDER BY id DESC LIMIT ?",
        (limit,),
    ).fetchall()
    return [Dropped(*row) for row in rows]


def intent(connection: sqlite3.Connection) -> tuple[str, int]:
    """(mode, quota): what the donor has asked for; ("", 0) when nothing."""
    row = connection.execute("SELECT mode, quota FROM intent").fetchone()
    return (str(row[0]), int(row[1])) if row else ("", 0)


def largest(connection: sqlite3.Connection, limit: int, besides: Sequence[bytes]) -> list[bytes]:
    """Ids of the largest shards but for some."""
    marks = ",".join("?" * len(besides))
    rows = connection.execute(
        f"SELECT segment_id FROM segments WHERE segment_id NOT IN ({marks}) "  # noqa: S608
        "ORDER BY size DESC, segment_id LIMIT ?",
        (*besides, limit),
    ).fetchall()
    return [bytes(row[0]) for row in rows]


def shard_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of all shards."""
    return scalar(connection, "SELECT sum(size) FROM segments")


# --- writing ----------------------------------------------------------------------------------------


def _signed_lease(connection: sqlite3.Connection, owner: bytes, archive: int) -> bytes:
    row = connection.execute(
        "SELECT lease FROM leases WHERE owner = ? AND archive = ?", (owner, archive)
    ).fetchone()
    return bytes(row[0]) if row else b""


def _lease_of(connection: sqlite3.Connection, owner: bytes, archive: int) -> Lease | None:
    signed = _signed_lease(connection, owner, archive)
    return Lease.decode(signed[64:]) if signed else None


def put_extension(connection: sqlite3.Connection, signed: bytes) -> None:
    """Keep an extension. Raises NotFoundError without a lease in the scope, RefusedError for a stranger's.

    Per keeper the latest date wins; 0 is later than every date.
    """
    new = Extension.decode(signed[64:])
    lease = _lease_of(connection, new.owner, new.archive)
    if lease is None:
        raise NotFoundError("no lease of that archive is here")
    if new.keeper not in lease.keepers:
        raise RefusedError("the lease does not name this keeper")
    scope = (new.owner, new.archive)
    connection.execute(
        "INSERT INTO extensions VALUES(?, ?, ?, ?, ?) ON CONFLICT(owner, archive, keeper) "
        "DO UPDATE SET until = excluded.until, signed = excluded.signed "
        "WHERE excluded.until > until",
        (*scope, new.keeper, new.until or FOREVER, signed),
    )
    if (
        scalar(
            connection, "SELECT count(*) FROM extensions WHERE owner = ? AND archive = ?", *scope
        )
        > 2 * KEEPERS_MAX
    ):
        raise LimitError("too many extensions of one lease")


def put_withdrawal(connection: sqlite3.Connection, signed: bytes, now: int) -> Tombstone:
    """Keep a withdrawal; the one that counts in the scope afterwards. The highest number wins.

    Raises NotFoundError when no lease or tombstone of the scope is here, RefusedError for another key
    than the lease's.
    """
    new = Withdrawal.decode(signed[64:])
    scope = (new.owner, new.archive)
    known = withdrawal(connection, *scope)
    lease = _signed_lease(connection, *scope) or (known.lease if known else b"")
    if not lease:
        raise NotFoundError("no lease of that archive is here")
    if new.withdraw_key != Lease.decode(lease[64:]).withdraw_key:
        raise RefusedError("the withdrawal is not by the key that the lease names")
    if known is not None and Withdrawal.decode(known.withdrawal[64:]).number >= new.number:
        return known
    connection.execute(
        "INSERT OR REPLACE INTO withdrawals VALUES(?, ?, ?, ?, ?, ?, ?)",
        (*scope, new.number, int(new.active), now, lease, signed),
    )
    return Tombstone(lease, signed, new.active, now)


def note_replaced(connection: sqlite3.Connection, new: Lease, now: int) -> None:
    """Before `new` is put: refuse another withdraw key, and note if it ends what it replaces earlier.

    So who steals an owner's key cannot have deleted what the withdraw key protects, not before the
    grace has passed from now. Raises RefusedError.
    """
    old = _lease_of(connection, new.owner, new.archive)
    if old is None or new.sequence <= old.sequence:
        return
    if new.withdraw_key != old.withdraw_key:
        raise RefusedError("a lease keeps the withdraw key of the one that it replaces")
    scope = (new.owner, new.archive)
    if (old.root, old.segments) != (new.root, new.segments):
        connection.execute(
            "INSERT OR REPLACE INTO uncovered SELECT segment, ? FROM paths WHERE lease = "
            "(SELECT id FROM leases WHERE owner = ? AND archive = ?)",
            (now, *scope),
        )
    if _sooner(new, old):
        connection.execute("INSERT OR REPLACE INTO replaced VALUES(?, ?, ?)", (*scope, now))


def _sooner(new: Lease, old: Lease) -> bool:
    until = (new.until or FOREVER, old.until or FOREVER)
    return (
        until[0] < until[1] or new.grace_s < old.grace_s or not set(old.keepers) <= set(new.keepers)
    )


def bury(
    connection: sqlite3.Connection, segment_id: bytes, scope: tuple[bytes, int], now: int
) -> None:
    """Remember that a segment was dropped because its archive was withdrawn."""
    connection.execute(
        "INSERT OR REPLACE INTO tombstones(segment_id, owner, archive, date) VALUES(?, ?, ?, ?)",
        (segment_id, *scope, now),
    )


def note_drop(connection: sqlite3.Connection, line: Dropped) -> None:
    """Add a line to the journal."""
    connection.execute(
        "INSERT INTO dropped(date, segment_id, idx, bytes, reason, detail) VALUES(?, ?, ?, ?, ?, ?)",
        (line.date, line.segment_id, line.index, line.bytes, line.reason, line.detail[:DETAIL_MAX]),
    )


def set_intent(connection: sqlite3.Connection, mode: str, quota: int) -> None:
    """Remember what the donor has asked for, across restarts."""
    connection.execute("INSERT OR REPLACE INTO intent VALUES(1, ?, ?)", (mode, quota))


def prune(connection: sqlite3.Connection, tombstones_before: int) -> int:
    """Forget some rows that serve nothing any more; how many."""
    rows: list[tuple[str, Sequence[object]]] = [
        (
            "DELETE FROM dropped WHERE id IN (SELECT id FROM dropped ORDER BY id LIMIT "
            "max(0, min(?, (SELECT count(*) FROM dropped) - ?)))",
            (PRUNE_MAX, DROPPED_MAX),
        ),
        (
            "DELETE FROM tombstones WHERE id IN (SELECT id FROM tombstones ORDER BY id LIMIT "
            "max(0, min(?, (SELECT count(*) FROM tombstones) - ?)))",
            (PRUNE_MAX, TOMBSTONES_MAX),
        ),
        (
            "DELETE FROM tombstones WHERE id IN "
            "(SELECT id FROM tombstones WHERE date < ? ORDER BY id LIMIT ?)",
            (tombstones_before, PRUNE_MAX),
        ),
        (
            "DELETE FROM uncovered WHERE segment IN (SELECT segment FROM uncovered WHERE segment "
            "NOT IN (SELECT id FROM segments) LIMIT ?)",
            (PRUNE_MAX,),
        ),
        *((_orphans(table), (PRUNE_MAX,)) for table in ("extensions", "replaced")),
        (_orphans("withdrawals", besides="tombstones"), (PRUNE_MAX,)),
    ]
    return sum(connection.execute(sql, values).rowcount for sql, values in rows)


def _orphans(table: str, besides: str = "") -> str:
    """Rows of scopes of which neither a lease nor a row of `besides` is left."""
    others = ["leases"] + ([besides] if besides else [])
    gone = " AND ".join(
        f"NOT EXISTS (SELECT 1 FROM {other} o WHERE o.owner = t.owner AND o.archive = t.archive)"  # noqa: S608
        for other in others
    )
    scopes = f"SELECT t.owner, t.archive FROM {table} t WHERE {gone} LIMIT ?"  # noqa: S608
    return f"DELETE FROM {table} WHERE (owner, archive) IN ({scopes})"  # noqa: S608
