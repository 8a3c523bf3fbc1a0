"""Timers and limits of repair and audit, by name and with their units."""

from __future__ import annotations

from dataclasses import field

from potsherd.classes import dataclass
from potsherd.node.repair.claims import ClaimPolicy

__all__ = ["RepairSettings"]


@dataclass(frozen=True)
class RepairSettings:
    """The defaults are the service's; tests and fast labs scale them."""

    round_s: float = 3600.0
    """Seconds in which the health of every segment held here is looked at once."""
    tick_s: float = 30.0
    """Seconds between two steps, at least; segments that need repair are looked at in each."""
    batch: int = 64
    """Segments looked at in one step."""
    pool_life_s: float = 300.0
    """Seconds for which the pool of a segment is remembered."""
    standby_s: float = 900.0
    """Seconds that each rank waits longer than the one before it."""
    patience_s: float = 2700.0
    """Seconds that a repair waits for a target or for sources that have stopped answering."""
    partition_s: float = 7200.0
    """The same while many have vanished together: a pause costs less than sending all again."""
    retry_s: float = 21_600.0
    """Seconds until a segment is tried again that could not be completed."""
    settle_s: float = 600.0
    """Seconds after which a second copy of an index counts as surplus, and after which entries about
    a segment that is held here are checked before they count."""
    reconsider_s: float = 86_400.0
    """Seconds after which the place of a holder that stood in the wrong one is judged once more."""
    readable_target: float = 0.0
    """Repair too when a segment that misses indices is readable at any moment with less than this chance, and
    would reach it if it were whole; 0: only the count decides."""
    bytes_per_s: float = 4 * 2**20
    """Bytes that repairs of this node may move, in and out together."""
    repairs_parallel: int = 2
    """Segments repaired at a time."""
    claims: ClaimPolicy = field(default_factory=ClaimPolicy)
    """How long a claim keeps others away."""
