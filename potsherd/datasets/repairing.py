"""`repair`: holders are asked to rebuild what is missing now, and are watched until it is done or cannot be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.datasets.context import Context
from potsherd.datasets.health import Health, examine
from potsherd.datasets.manifest import SegmentRef
from potsherd.datasets.retrieving import open_dataset
from potsherd.errors import PotsherdError
from potsherd.node.audit.asking import RUNNING, STUCK, WAITING, WHOLE
from potsherd.node.audit.records import RepairState
from potsherd.node.reader import SegmentReader
from potsherd.node.session import Session

__all__ = ["RepairReport", "SegmentRepair", "repair"]

ASKED_AT_ONCE = 32
ASK_TIMEOUT_S = 15.0
"""Seconds for one holder to answer."""
PAUSE_S = 2.0
"""Seconds between two rounds of questions; with many segments PAUSE_PER_QUESTION_S for each holder asked."""
PAUSE_PER_QUESTION_S = 0.02
STUCK_ROUNDS = 3
"""Rounds in which nobody can do anything, after which it is given up."""
QUIET_S = 3600.0
"""Seconds without any change after which waiting ends."""


@dataclass(frozen=True)
class SegmentRepair:
    """How holders see one segment at the end."""

    segment_id: bytes
    state: int
    """Of potsherd.node.audit.asking: WHOLE, WAITING, RUNNING, STUCK."""
    distinct: int
    """Indices that holders do not count as lost, by the one that counts fewest."""
    reason: str
    """What is in the way, as most holders say; empty when nothing is."""
    rows: int = 0
    """Rows sent by who repairs: that it gets on."""


@dataclass(frozen=True)
class RepairReport:
    """What came of it; `health` was proven at the end."""

    health: Health
    segments: tuple[SegmentRepair, ...]

    @property
    def complete(self) -> bool:
        """Whether every segment has n proven pieces."""
        return all(segment.r and segment.live >= segment.n for segment in self.health.segments)


async def repair(
    context: Context, capability: ReadCapability, *, wait: bool = True
) -> RepairReport:
    """Ask all holders of all segments; with `wait` until n are there everywhere, or nobody can do more.

    Raises NotFoundError, NotEnoughShards when not even the root page can be read.
    """
    archive = await open_dataset(context, capability)
    names: Sequence[SegmentRef] = archive.manifest.segments
    found = await _watch(context, names, wait=wait)
    health = await examine(context.session, names)
    return RepairReport(health, tuple(found[name.segment_id] for name in names))


async def _watch(
    context: Context, names: Sequence[SegmentRef], *, wait: bool
) -> dict[bytes, SegmentRepair]:
    monotonic = context.env.monotonic
    found: dict[bytes, SegmentRepair] = {}
    open_ones, stuck, changed_at = list(names), 0, monotonic()
    while True:
        asked = await _ask_all(context.session, open_ones)
        now = {name.segment_id: _sum_up(name, states) for name, states in asked}
        if any(found.get(segment_id) != state for segment_id, state in now.items()):
            changed_at = monotonic()
        found.update(now)
        _show(context, names, found)
        open_ones = [name for name in names if found[name.segment_id].state != WHOLE]
        moving = any(found[n.segment_id].state in (WAITING, RUNNING) for n in open_ones)
        stuck = 0 if moving else stuck + 1
        if not wait or not open_ones or stuck >= STUCK_ROUNDS:
            return found
        if monotonic() - changed_at >= QUIET_S:
            return found
        questions = sum(len(states) for _, states in asked)
        await asyncio.sleep(max(PAUSE_S, PAUSE_PER_QUESTION_S * questions))


def _show(context: Context, names: Sequence[SegmentRef], found: dict[bytes, SegmentRepair]) -> None:
    done = sum(found[name.segment_id].distinct for name in names)
    context.on_progress("pieces", done, sum(name.n for name in names))


async def _ask_all(
    session: Session, names: Sequence[SegmentRef]
) -> list[tuple[SegmentRef, list[RepairState]]]:
    gate = asyncio.Semaphore(ASKED_AT_ONCE)
    answers = await asyncio.gather(*(_ask(session, name, gate) for name in names))
    return list(zip(names, answers, strict=True))


async def _ask(session: Session, name: SegmentRef, gate: asyncio.Semaphore) -> list[RepairState]:
    """What the holders that answer say about one segment."""
    reader = SegmentReader(session, name.segment_id, name.placement_key)
    try:
        await reader.locate()
    except PotsherdError:
        return []

    async def one(key: bytes) -> list[RepairState]:
        try:
            async with gate, asyncio.timeout(ASK_TIMEOUT_S):
                peer = await session.peer(key, near=name.placement_key)
                return await peer.ask_repair([name.segment_id])
        except (PotsherdError, TimeoutError):
            return []

    keys = sorted({holder.key for holders in reader.holders.values() for holder in holders})
    return [state for told in await asyncio.gather(*map(one, keys)) for state in told]


def _sum_up(name: SegmentRef, states: Sequence[RepairState]) -> SegmentRepair:
    """Somebody who repairs counts more than all who wait, and who waits more than who cannot."""
    if not states:
        return SegmentRepair(name.segment_id, STUCK, 0, "no holder answers")
    by_state = Counter(state.state for state in states)
    state = next(s for s in (RUNNING, WAITING, STUCK, WHOLE) if by_state[s])
    reasons = Counter(s.reason for s in states if s.state == state and s.reason)
    reason = reasons.most_common(1)[0][0] if reasons else ""
    distinct, rows = min(s.distinct for s in states), max(s.rows or 0 for s in states)
    return SegmentRepair(name.segment_id, state, distinct, reason, rows)
