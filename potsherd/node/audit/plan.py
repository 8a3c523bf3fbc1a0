"""Who audits which shard when, within which budget. Pure: `now` is an argument.

Every holder decides by itself, as for repair: all who see the same holders there name the same auditor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from potsherd.node.records import RosterEntry

__all__ = ["DAY_S", "Budget", "auditor_of", "due", "moment", "period_of"]

DAY_S = 86_400.0
LATEST = 0.7
"""Share of a period by which an audit is due: the rest is for holders that do not answer at once."""


def period_of(utc: float, period_s: float) -> int:
    """Number of the period in which a date lies; periods are the same for all nodes."""
    return int(utc // period_s)


def auditor_of(segment_id: bytes, index: int, period: int, nodes: Collection[bytes]) -> bytes:
    """Which of these nodes audits the shard in that period: the highest score, docs/spec/audit.md.

    `nodes` must not be empty.
    """

    def score(node: bytes) -> tuple[bytes, bytes]:
        hasher = hashlib.blake2b(digest_size=8, person=b"potsherd audit")
        hasher.update(segment_id + bytes([index]) + period.to_bytes(8, "big") + node)
        return hasher.digest(), node

    return max(nodes, key=score)


def moment(salt: bytes, segment_id: bytes, node: bytes, period: int) -> float:
    """When within the period, as a share of it: nobody can tell who does not know the auditor's salt."""
    hasher = hashlib.blake2b(key=salt, digest_size=8, person=b"potsherd moment")
    hasher.update(segment_id + node + period.to_bytes(8, "big"))
    return LATEST * int.from_bytes(hasher.digest(), "big") / 2**64


def due(
    live: Iterable[RosterEntry],
    *,
    me: bytes,
    utc: float,
    period_s: float,
    proven: dict[bytes, int],
    salt: bytes,
) -> list[RosterEntry]:
    """Entries whose shards this node is to audit now.

    `live`: entries of holders that are there, this node's own among them. `proven`: by node, date of the
    last proof of its shard.
    """
    entries = list(live)
    nodes = {entry.node for entry in entries}
    period = period_of(utc, period_s)
    begin = period * period_s
    found = []
    for entry in entries:
        others = nodes - {entry.node}
        if entry.node == me or not others or proven.get(entry.node, -1) >= begin:
            continue
        if auditor_of(entry.segment_id, entry.index, period, others) != me:
            continue
        if utc - begin >= period_s * moment(salt, entry.segment_id, entry.node, period):
            found.append(entry)
    return found


class Budget:
    """So many bytes in any day, given back evenly; what is not used is not saved up for longer than a day."""

    def __init__(self, per_day: int, now: float) -> None:
        self._per_day = per_day
        self._left = float(per_day)
        self._at = now

    def left(self, now: float) -> int:
        """Bytes that may be spent now."""
        earned = max(0.0, now - self._at) * self._per_day / DAY_S
        self._left, self._at = min(float(self._per_day), self._left + earned), now
        return int(self._left)

    def take(self, size: int, now: float) -> bool:
        """Spend, if there is enough; a day's budget pays for one thing that is larger."""
        if self.left(now) < min(size, self._per_day):
            return False
        self._left -= size
        return True
