"""What this node did about segments, and why: the last lines, for people (`potsherd why`)."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

__all__ = ["JOURNAL_MAX", "Journal", "Line"]

JOURNAL_MAX = 1024
"""Lines kept; the oldest goes first."""

_LOG = logging.getLogger(__name__)


class Line(NamedTuple):
    """One event. `date`: seconds UTC."""

    date: int
    segment_id: bytes
    text: str


class Journal:
    """A bounded list in memory."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=JOURNAL_MAX)

    def note(self, utc: float, segment_id: bytes, text: str) -> None:
        """Write a line, and log it."""
        self._lines.append(Line(int(utc), segment_id, text))
        _LOG.info("segment %s: %s", segment_id.hex()[:16], text)

    def lines(self, segment_id: bytes | None = None) -> list[Line]:
        """All lines, or those about one segment; the oldest first."""
        return [line for line in self._lines if segment_id in (None, line.segment_id)]
