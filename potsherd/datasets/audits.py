"""What holders say about audits of each other, for status lines: hearsay, and shown as such."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from potsherd.classes import dataclass
from potsherd.datasets.health import Health, SegmentHealth
from potsherd.errors import PotsherdError
from potsherd.node.session import Session

__all__ = ["Audited", "audited"]

SEGMENTS_MAX = 16
"""Segments whose holders are asked, those that survive least first."""
ASKED_AT_ONCE = 16
TIMEOUT_S = 10.0
"""Seconds for one holder to answer."""


@dataclass(frozen=True)
class Audited:
    """Over the segments that were asked about."""

    pieces: int
    """Distinct indices that a holder other than theirs has read a proved cell of."""
    of: int
    """Indices of these segments."""
    oldest: int
    """Date of the last such proof of the piece that was audited longest ago; 0 when there is none."""
    newest: int
    segments: int


async def audited(session: Session, health: Health) -> Audited:
    """Ask the holders that have just proven their shards."""
    asked = sorted(health.segments, key=lambda segment: segment.survives)[:SEGMENTS_MAX]
    gate = asyncio.Semaphore(ASKED_AT_ONCE)
    found = await asyncio.gather(*(_segment(session, segment, gate) for segment in asked))
    dates = [date for by_index in found for date in by_index.values()]
    return Audited(
        pieces=len(dates),
        of=sum(segment.n for segment in asked),
        oldest=min(dates, default=0),
        newest=max(dates, default=0),
        segments=len(asked),
    )


async def _segment(
    session: Session, segment: SegmentHealth, gate: asyncio.Semaphore
) -> dict[int, int]:
    """Date of the last proof by index."""

    async def ask(key: bytes) -> Sequence[tuple[int, bytes, int, int]]:
        try:
            async with gate, asyncio.timeout(TIMEOUT_S):
                return await (await session.peer(key)).proven(segment.segment_id)
        except (PotsherdError, TimeoutError):
            return ()

    live = {shard.key for shard in segment.shards if shard.live}
    held = {(shard.key, shard.index) for shard in segment.shards}
    last: dict[int, int] = {}
    for told in await asyncio.gather(*(ask(key) for key in sorted(live))):
        for index, node, date, _ in told:
            if (node, index) in held and date <= session.env.utc():
                last[index] = max(date, last.get(index, 0))
    return last
