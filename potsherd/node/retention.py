"""How long a segment is to be kept, and whether it may be dropped now (docs/spec/retention.md). Pure.

A segment lives while any lease covers it. A lease ends at its date or a keeper's later one, or by a
withdrawal; then its grace runs. A holder drops a segment only when its own clock *and* the median clock of
other nodes say that the grace of every lease is over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median_low
from typing import TypeAlias

from potsherd.classes import dataclass
from potsherd.node.store import Kept, LeaseState

__all__ = [
    "FOREVER",
    "GRACE_MIN_S",
    "WITNESSES_MIN",
    "Scope",
    "Verdict",
    "agreed",
    "agreed_seen",
    "hasty",
    "is_wanted",
    "judge",
    "lease_end",
    "witnesses_needed",
]

FOREVER = 2**62
"""Later than every date."""
GRACE_MIN_S = 7 * 86400
"""Seconds of grace that a holder grants whatever a lease says, and after a provisional lease."""
WITNESSES_MIN = 3
"""Other nodes whose clocks are compared, where there are so many."""

Scope: TypeAlias = tuple[bytes, int]
"""Owner key and archive number."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a segment. Dates; FOREVER where there is none."""

    ends: int
    """From then on nobody has to keep it, and nobody repairs it."""
    gone: int
    """From then on it may be dropped."""
    reason: str
    """What ends it: expired, withdrawn, abandoned (no lease ever covered it)."""
    scope: Scope | None
    """Of the lease that lasts longest; None without one."""


def lease_end(state: LeaseState) -> int:
    """The latest of the lease's date and its keepers', withdrawals not counted."""
    dates = [state.lease.until, *(extension.until for extension in state.extensions)]
    return max(date or FOREVER for date in dates)


def judge(
    kept: Kept, *, grace_min_s: int = GRACE_MIN_S, seen: Mapping[Scope, int] | None = None
) -> Verdict:
    """What the statements known here say; the lease that lasts longest counts.

    `seen` replaces, per scope, the date at which a withdrawal was first seen.
    """
    if not kept.leases:
        until = kept.unleased_until
        return Verdict(until, until + grace_min_s, "abandoned", None)
    verdicts = (_judge_lease(state, grace_min_s, seen or {}) for state in kept.leases)
    return max(verdicts, key=lambda verdict: (verdict.gone, verdict.ends))


def _judge_lease(state: LeaseState, grace_min_s: int, seen: Mapping[Scope, int]) -> Verdict:
    scope = (state.lease.owner, state.lease.archive)
    grace = max(state.lease.grace_s, grace_min_s)
    ends = lease_end(state)
    expiry = Verdict(ends, max(ends, state.not_before) + grace, "expired", scope)
    withdrawal = state.withdrawal
    if withdrawal is None or not withdrawal.active:
        return expiry
    # A date in the past costs nobody the grace: it runs from when the withdrawal was there to be seen.
    start = max(withdrawal.date, seen.get(scope, state.seen))
    taken = Verdict(withdrawal.date, start + grace, "withdrawn", scope)
    return min(expiry, taken, key=lambda verdict: (verdict.gone, verdict.ends))


def is_wanted(kept: Kept, now: float) -> bool:
    """Whether somebody wants it to live on: what has ended is kept through its grace, not repaired."""
    return judge(kept).ends > now


def hasty(kept: Kept, now: float, *, grace_min_s: int = GRACE_MIN_S) -> bool:
    """Whether it might have to go, if others have known of a withdrawal for longer: worth asking them."""
    dates = {
        (state.lease.owner, state.lease.archive): state.withdrawal.date
        for state in kept.leases
        if state.withdrawal is not None
    }
    return judge(kept, grace_min_s=grace_min_s, seen=dates).gone <= now


def witnesses_needed(candidates: int) -> int:
    """How many other clocks must be heard when so many nodes could be asked; never none."""
    return max(1, min(WITNESSES_MIN, candidates))


def agreed_seen(own: int, others: Sequence[int | None]) -> int:
    """When a withdrawal was there to be seen: here, or at most of those who were asked.

    None stands for a node that does not know it.
    """
    if len(others) < WITNESSES_MIN:
        return own
    return min(own, median_low([FOREVER if seen is None else seen for seen in others]))


def agreed(
    kept: Kept,
    now: float,
    clocks: Collection[float],
    candidates: int,
    *,
    grace_min_s: int = GRACE_MIN_S,
    seen: Mapping[Scope, int] | None = None,
) -> Verdict | None:
    """Why the segment may be dropped now; None while it may not.

    `clocks`: what other nodes say the time is; `candidates`: how many could have been asked.
    """
    if len(clocks) < witnesses_needed(candidates):
        return None
    verdict = judge(kept, grace_min_s=grace_min_s, seen=seen)
    return verdict if verdict.gone <= min(now, median_low(clocks)) else None
