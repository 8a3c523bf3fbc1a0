"""How much of the quota one member's data may take (docs/spec/store.md, section 5).

Counted is what came with an owner's ticket, by the member that brought it: owner keys cost nothing to
make, places in a network do. What other holders bring, rebuilt or moved, counts for nobody: whose it is
they do not know, and a repair must not fail for it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping

from potsherd.errors import QuotaError
from potsherd.node.store.ledger import INODE_BYTES, held_bytes
from potsherd.node.store.segments import Segment

__all__ = ["SCHEMA", "Shares", "charge_of_shard", "member_of", "note", "totals"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS brought(segment INTEGER PRIMARY KEY, member BLOB NOT NULL);
"""


def charge_of_shard(allocated: int | None, n: int, blob_bytes: int) -> int:
    """Bytes that a held shard counts: its file, and what it takes of the index."""
    file = 0 if allocated is None else allocated + INODE_BYTES
    return file + held_bytes(1, n, blob_bytes)


def note(connection: sqlite3.Connection, segment_id: bytes, member: bytes) -> None:
    """Who has brought a shard that is held from this transaction on."""
    connection.execute(
        "INSERT OR REPLACE INTO brought SELECT id, ? FROM segments WHERE segment_id = ?",
        (member, segment_id),
    )


def member_of(connection: sqlite3.Connection, key: int) -> bytes | None:
    """The member for which a held shard counts."""
    row = connection.execute("SELECT member FROM brought WHERE segment = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def totals(connection: sqlite3.Connection) -> dict[bytes, int]:
    """Bytes by member, of all that is held."""
    found: Counter[bytes] = Counter()
    sql = "SELECT member, allocated, n, size FROM brought JOIN segments ON id = segment"
    for member, allocated, n, size in connection.execute(sql):
        found[bytes(member)] += charge_of_shard(allocated, n, size if allocated is None else 0)
    return dict(found)


class Shares:
    """Bytes by member; used from the event loop only."""

    def __init__(self, share: float, kept: Mapping[bytes, int]) -> None:
        """`share`: of the quota, that one member may have here; `kept`: what it has."""
        self._share = share
        self._kept = Counter(kept)

    def check(self, member: bytes, staged: int, more: int, quota: int) -> None:
        """Raises QuotaError when `more` bytes are too many beside what is kept and `staged` by open pushes."""
        limit = int(self._share * quota)
        if self._share < 1 and self._kept[member] + staged + more > limit:
            raise QuotaError(
                f"this member keeps {self._kept[member] + staged} bytes here, "
                f"of at most {limit} that one member may",
                remedy="Other nodes may have room; the donor sets the share: node.member_share.",
            )

    def add(self, member: bytes, row: Segment) -> None:
        """It has brought a shard, which is held now."""
        self._kept[member] += charge_of_shard(row.allocated, row.n, row.blob_bytes)

    def less(self, member: bytes, row: Segment) -> None:
        """The shard is held no more."""
        self._kept[member] -= charge_of_shard(row.allocated, row.n, row.blob_bytes)
        if self._kept[member] <= 0:
            del self._kept[member]
