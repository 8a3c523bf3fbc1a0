"""What this node did about segments, and why: the last lines, for people (`potsherd why`).

Lines are kept in memory and written to the index a little later; a crash loses those of the last seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NamedTuple

from potsherd.node.store.audits import JOURNAL_MAX, Audits

__all__ = ["JOURNAL_MAX", "Journal", "Line"]

_LOG = logging.getLogger(__name__)


class Line(NamedTuple):
    """One event. `date`: seconds UTC."""

    date: int
    segment_id: bytes
    text: str


class Journal:
    """The last JOURNAL_MAX lines; `load` before use, `flush` from time to time and at the end."""

    def __init__(self, audits: Audits) -> None:
        self._audits = audits
        self._lines: deque[Line] = deque(maxlen=JOURNAL_MAX)
        self._fresh: deque[Line] = deque(maxlen=JOURNAL_MAX)
        self._news = asyncio.Event()

    async def load(self) -> None:
        """Read what was written before the restart. Raises StorageError."""
        before = [Line(*line) for line in await self._audits.journal()]
        self._lines.extendleft(reversed(before))

    async def flush(self) -> None:
        """Write down what is new. Raises StorageError, QuotaError; then it is tried again next time."""
        lines = list(self._fresh)
        if lines:
            await self._audits.add_journal(lines)
            for _ in lines:
                self._fresh.popleft()

    async def wait(self) -> None:
        """Until there is something to write down."""
        await self._news.wait()
        self._news.clear()

    def note(self, utc: float, segment_id: bytes, text: str) -> None:
        """Write a line, and log it."""
        line = Line(int(utc), segment_id, text)
        self._lines.append(line)
        self._fresh.append(line)
        self._news.set()
        _LOG.info("segment %s: %s", segment_id.hex()[:16], text)

    def lines(self, segment_id: bytes | None = None) -> list[Line]:
        """All lines, or those about one segment; the oldest first."""
        return [line for line in self._lines if segment_id in (None, line.segment_id)]
