"""Entries of rosters that do not count as they stand: not checked yet, in the wrong place, shown wrong.

Kept in memory and written through to the index, so that a restart forgives nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from potsherd.classes import dataclass
from potsherd.node.records import RosterEntry
from potsherd.node.store.care import Care

__all__ = ["DOUBTS_MAX", "Doubt", "Doubts", "Reason"]

DOUBTS_MAX = 65_536
"""Entries in doubt; beyond it the oldest is forgotten: it counts again until it is checked."""


class Reason(IntEnum):
    """Why an entry does not count."""

    UNCHECKED = 0
    """It came up after the segment was settled: a repair, or a claim to have repaired."""
    MISPLACED = 1
    """Its node is not where the index belongs."""
    WRONG = 2
    """Its node gave bytes that are not the shard's, or denies what it has signed."""
    MENDED = 3
    """It was wrong, and its node says anew that it holds it: counts once it has been proven again."""


@dataclass(frozen=True)
class Doubt:
    """One of them; it concerns entries up to `counter`. `date`: seconds UTC."""

    segment_id: bytes
    node: bytes
    counter: int
    reason: Reason
    date: int
    evidence: bytes = b""


class Doubts:
    """All of a node's; `load` before use."""

    def __init__(self, care: Care) -> None:
        self._care = care
        self._doubts: dict[tuple[bytes, bytes], Doubt] = {}

    def __len__(self) -> int:
        return len(self._doubts)

    async def load(self) -> None:
        """Read what was known before the restart. Raises StorageError."""
        for segment_id, node, counter, reason, date in await self._care.doubts():
            doubt = Doubt(segment_id, node, counter, Reason(reason), date)
            self._doubts[segment_id, node] = doubt

    def about(self, entry: RosterEntry) -> Reason | None:
        """Why an entry does not count; None if it does. A newer one than was doubted is unchecked."""
        doubt = self._doubts.get((entry.segment_id, entry.node))
        if doubt is None or entry.counter <= doubt.counter:
            return None if doubt is None else doubt.reason
        return Reason.MENDED if doubt.reason in (Reason.WRONG, Reason.MENDED) else Reason.UNCHECKED

    def of(self, reason: Reason) -> list[Doubt]:
        """Those of one kind."""
        return [doubt for doubt in self._doubts.values() if doubt.reason is reason]

    async def add(self, doubt: Doubt) -> None:
        """Doubt an entry, or doubt it for another reason."""
        key = (doubt.segment_id, doubt.node)
        self._doubts.pop(key, None)
        self._doubts[key] = doubt
        await self._care.doubt(
            doubt.segment_id,
            doubt.node,
            doubt.counter,
            int(doubt.reason),
            doubt.date,
            doubt.evidence,
        )
        while len(self._doubts) > DOUBTS_MAX:
            await self.clear(*next(iter(self._doubts)))

    async def clear(self, segment_id: bytes, node: bytes) -> None:
        """It was checked and counts."""
        if self._doubts.pop((segment_id, node), None) is not None:
            await self._care.trust(segment_id, node)

    async def keep_only(self, segment_ids: Iterable[bytes]) -> None:
        """Forget those about segments that are not held any more."""
        held = set(segment_ids)
        for segment_id, node in [key for key in self._doubts if key[0] not in held]:
            await self.clear(segment_id, node)
