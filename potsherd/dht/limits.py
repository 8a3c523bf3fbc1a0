"""Token buckets: how often something may happen, per prefix and in all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["TokenBuckets"]


class TokenBuckets:
    """One bucket of `burst` drops for each name, refilled at `rate_per_s`; at most `names_max` names.

    Beyond `names_max` the least recently used name is forgotten, which refills its bucket: somebody
    with many prefixes is bounded by the bucket over all of them, not here.
    """

    def __init__(self, rate_per_s: float, burst: float, names_max: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._names_max = names_max
        self._level: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._level)

    def allow(self, name: Hashable, now: float) -> bool:
        """Take one drop from the bucket of `name`; False when it is empty."""
        level, at = self._level.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        allowed = level >= 1.0
        self._level[name] = (level - 1.0 if allowed else level, now)
        if len(self._level) > self._names_max:
            self._level.popitem(last=False)
        return allowed
