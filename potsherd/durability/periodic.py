"""A segment that somebody checks now and then: the model of Tahoe-LAFS, in matrices.

Time goes in steps; in each step every share survives with the same chance; every so many steps a checker comes,
and where it finds fewer than the trigger, but k or more, it makes all n anew. Tahoe-LAFS keeps the same model in
`misc/operations_helpers/provisioning/reliability.py`, with a decay matrix whose row for no share at all is zero,
so that probability leaks away there; docs/validation.md compares both.
"""

from __future__ import annotations

import math

from potsherd.classes import dataclass
from potsherd.durability.binomial import counts
from potsherd.errors import UsageError

__all__ = ["PeriodicCheck"]

STEPS_MAX = 10_000_000


@dataclass(frozen=True)
class PeriodicCheck:
    """All times in one unit, any."""

    n: int
    k: int
    trigger: int
    """Repaired when a check finds fewer."""
    life: float
    """Mean life of a share, exponential."""
    step: float
    check_every: float
    """Rounded up to whole steps; inf for never."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field that makes no sense."""
        if not 1 <= self.k <= self.trigger <= self.n:
            raise UsageError(f"k = {self.k}, trigger = {self.trigger}, n = {self.n}: not in order")
        for name in ("life", "step", "check_every"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} = {getattr(self, name)}: not more than 0")

    def decay(self, shares: int) -> list[float]:
        """Chance of each number of shares left after a step, from so many."""
        return counts([math.exp(-self.step / self.life)] * shares)

    def shares_after(self, steps: int) -> list[float]:
        """Chance of each number of shares, 0 … n, after so many steps; from n. Nothing leaks: it sums to 1."""
        if steps > STEPS_MAX:
            raise UsageError(f"{steps} steps, more than {STEPS_MAX}")
        rows = [self.decay(shares) for shares in range(self.n + 1)]
        found = [0.0] * self.n + [1.0]
        since = 0
        for _ in range(steps):
            found = _apply(found, rows)
            since += 1
            if since * self.step >= self.check_every:
                since = 0
                found = self._repaired(found)
        return found

    def loss_probability(self, steps: int) -> float:
        """Chance of fewer than k shares after so many steps."""
        return math.fsum(self.shares_after(steps)[: self.k])

    def _repaired(self, found: list[float]) -> list[float]:
        made = math.fsum(found[self.k : self.trigger])
        result = [0.0 if self.k <= i < self.trigger else p for i, p in enumerate(found)]
        result[self.n] += made
        return result


def _apply(found: list[float], rows: list[list[float]]) -> list[float]:
    return [
        math.fsum(found[start] * rows[start][end] for start in range(end, len(found)))
        for end in range(len(found))
    ]
