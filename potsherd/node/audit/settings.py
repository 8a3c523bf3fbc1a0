"""Timers and budgets of audit and scrub, by name and with their units."""

from __future__ import annotations

from potsherd.classes import dataclass

__all__ = ["AuditSettings"]


@dataclass(frozen=True)
class AuditSettings:
    """The defaults are the service's; tests and fast labs scale them."""

    period_s: float = 7 * 86_400.0
    """Each shard has one auditor in so many seconds."""
    round_s: float = 21_600.0
    """Seconds in which every segment held here is looked at once for audits that are due."""
    tick_s: float = 30.0
    """Seconds between two steps, at least; jittered by half."""
    batch: int = 64
    """Segments looked at in one step."""
    bytes_per_day: int = 64 * 2**20
    """Bytes that audits of this node may cost in a day: some 1,900 cells."""
    recheck_s: float = 3600.0
    """Seconds until the same accusation is looked into again."""
    scrub_bytes_per_s: float = 512 * 1024
    """Bytes of the own disk that are read to see whether they are still right."""
    scrub_round_s: float = 30 * 86_400.0
    """Seconds from the end of a round over the whole disk until the next begins."""
    mend_retry_s: float = 3600.0
    """Seconds until a damaged shard is tried again that could not be mended."""
    journal_flush_s: float = 10.0
    """Seconds after which lines of the journal are written down."""
