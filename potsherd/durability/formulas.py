"""Closed forms of the literature, in its notation: n shards, any k suffice, m or r where repair starts.

They are what the exact chain, the sampled model and the planner are checked against (docs/validation.md), and
good for a number on the back of an envelope. Life and repair times are means, in one unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from potsherd.durability.binomial import fewer_than
from potsherd.errors import UsageError

__all__ = [
    "copies_for",
    "lazy_repair_traffic",
    "maintenance_bytes_per_second",
    "nomdl",
    "parallel_mean_time",
    "parallel_mean_time_leading",
    "replicas_alive",
    "shards_for",
    "static_loss",
]

SHARDS_MAX = 4096
"""Where the search for a code stops."""


def static_loss(k: int, survival: Iterable[float]) -> float:
    """Chance that fewer than k shards survive a period without repair; one survival per shard.

    Tahoe-LAFS, lossmodel.lyx; unequal holders by convolution.
    """
    return fewer_than(k, survival)


def copies_for(chance_max: float, availability: float) -> int:
    """Whole copies so that all of them are away with at most this chance (Rodrigues, Liskov 2005)."""
    if not (0 < availability < 1 and 0 < chance_max < 1):
        raise UsageError("availability and chance lie between 0 and 1")
    return math.ceil(math.log(chance_max) / math.log1p(-availability))


def shards_for(k: int, availability: float, chance_max: float) -> int:
    """The smallest n with P(fewer than k of n are up) of at most `chance_max`; n/k is the stretch.

    The exact form of Rodrigues, Liskov 2005. Raises UsageError beyond SHARDS_MAX.
    """
    if not (0 <= availability <= 1 and k >= 1):
        raise UsageError(f"availability = {availability}, k = {k}: no code")
    few = [1.0] + [0.0] * (k - 1)  # chance of each number below k that are up
    for n in range(1, SHARDS_MAX + 1):
        few = [
            up * availability + here * (1 - availability)
            for up, here in zip([0.0, *few[:-1]], few, strict=True)
        ]
        if n >= k and math.fsum(few) <= chance_max:
            return n
    raise UsageError(f"more than {SHARDS_MAX} shards would be needed")


def maintenance_bytes_per_second(stored_bytes: float, life_s: float) -> float:
    """Traffic of a node that stores so much and stays so long: in and out together (Blake, Rodrigues 2003)."""
    return 2 * stored_bytes / life_s


def parallel_mean_time(n: int, k: int, loss_rate: float, repair_rate: float) -> float:
    """Mean time to loss when each missing shard is repaired at `repair_rate`, at once: birth and death."""
    term = 1 / (n * loss_rate)
    total = term
    for i in range(n - 1, k - 1, -1):
        term = (1 + (n - i) * repair_rate * term) / (i * loss_rate)
        total += term
    return total


def parallel_mean_time_leading(n: int, k: int, loss_rate: float, repair_rate: float) -> float:
    """Leading term of `parallel_mean_time` for repair much faster than loss."""
    spare = n - k
    ways = math.factorial(spare) * math.factorial(k - 1) / math.factorial(n)
    return float(ways * repair_rate**spare / loss_rate ** (spare + 1))


def lazy_repair_traffic(n: int, k: int, m: int, life: float) -> float:
    """Share of the stored data that lazy repair moves per unit of `life`'s time.

    (n − m + k) / (life k ln(n/m)): Storj v3 section 7, after Giroire, Monteiro, Perennes.
    """
    if not 1 <= k <= m < n:
        raise UsageError(f"k = {k}, m = {m}, n = {n}: 1 <= k <= m < n does not hold")
    return (n - m + k) / (life * k * math.log(n / m))


def replicas_alive(alive: float, replicas: int) -> float:
    """Chance that one of some replicas is alive when each is with chance `alive` (pkarr-churn)."""
    return 1 - (1 - alive) ** replicas


def nomdl(losses: Iterable[tuple[float, float]]) -> float:
    """Expected share of the data lost in a period, from (bytes, chance of loss) of each segment.

    Normalised magnitude of data loss (Greenan, Plank, Wylie, HotStorage 2010): says how much, not only how
    soon.
    """
    pairs = list(losses)
    stored = math.fsum(size for size, _ in pairs)
    return math.fsum(size * chance for size, chance in pairs) / stored if stored else 0.0
