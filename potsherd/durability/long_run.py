"""Losses per year in the long run, of one code under many sets of rates at once: what the planner searches with.

The chain is `potsherd.durability.chain` with batch repair (tests compare the two); here its recursion runs over arrays,
one entry for each way things may be. Failure domains are shocks that come to all segments alike: what they do by
themselves is *common*, and a dataset pays it once; the rest counts for each segment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from potsherd.durability.binomial import fewer_than
from potsherd.durability.census import Churn
from potsherd.durability.forecast import LEVEL, points
from potsherd.durability.uncertainty import Rate, quantile
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Code",
    "Domains",
    "LongRun",
    "assumed",
    "dataset_loss",
    "hit_chances",
    "live_shares",
    "loss_rates",
    "timed_loss_rate",
]

POINTS = 160
"""Ways things may be, for one code."""
TILT_MAX = 60.0
BISECTIONS = 80


@dataclass(frozen=True)
class Code:
    """k of n, repaired when live < r."""

    k: int
    n: int
    r: int

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        if not 1 <= self.k <= self.n:
            raise UsageError(f"k = {self.k}, n = {self.n}: 1 <= k <= n does not hold")
        if not self.k <= self.r <= self.n:
            raise UsageError(f"r = {self.r}: not from k = {self.k} to n = {self.n}")


@dataclass(frozen=True)
class Domains:
    """Equal failure domains (sites) over which the donors are spread evenly."""

    count: int
    donors: int
    limit: int
    """Shards of a segment in one of them, at most, where that is possible at all."""

    def most(self, n: int) -> int:
        """Shards of a segment that one domain may hold."""
        return min(n, max(self.limit, math.ceil(n / self.count)))


@dataclass(frozen=True)
class LongRun:
    """Chance a year that any of the data is lost, with the interval that holds it 95 times in 100."""

    probability: float
    low: float
    high: float
    common: float
    """The part that strikes all segments at once: domains that are lost together."""


def assumed(rate: float, events: float) -> Rate:
    """A rate per year as sure as if it had been counted from that many events; its mean is `rate`."""
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"rate = {rate}: not above 0")
    return Rate(events, (events + 0.5) / rate)


def hit_chances(n: int, domains: Domains) -> tuple[tuple[float, ...], ...]:
    """By live shards 0 … n: chances that a domain holds 0, 1, … of these.

    Holders are drawn at random among all donors, so a domain's count is hypergeometric; where placement's limit
    cuts it off, what is cut off goes to the other counts so that the mean stays n / domains.
    """
    return _hit_chances(n, domains.count, domains.donors, domains.most(n))


@lru_cache(maxsize=512)
def _hit_chances(n: int, count: int, donors: int, most: int) -> tuple[tuple[float, ...], ...]:
    members = max(1, donors // count)
    drawn = [_drawn(c, donors, members, n) for c in range(min(most, n) + 1)]
    shares = _tilted(drawn, n / count)
    rows = []
    for live in range(n + 1):
        row = [0.0] * (min(most, live) + 1)
        for c, share in enumerate(shares):
            for h in range(min(c, live) + 1):
                row[h] += share * _drawn(h, n, c, live)
        rows.append(tuple(row))
    return tuple(rows)


def _drawn(hit: int, total: int, marked: int, draws: int) -> float:
    """P(hit of `draws` are among the `marked` of `total`)."""
    if hit > marked or draws - hit > total - marked or hit > draws:
        return 0.0
    ways = math.comb(marked, hit) * math.comb(total - marked, draws - hit)
    return ways / math.comb(total, draws)


def _tilted(shares: Sequence[float], mean: float) -> list[float]:
    """The distribution over 0 … most nearest to `shares` that has this mean: weights e^(θ i)."""
    most = len(shares) - 1
    if mean >= most or not sum(shares) > 0:
        return [0.0] * most + [1.0]

    def tilt(theta: float) -> list[float]:
        powers = [math.log(s) + theta * i if s > 0 else -math.inf for i, s in enumerate(shares)]
        top = max(powers)
        weights = [math.exp(power - top) for power in powers]
        whole = math.fsum(weights)
        return [w / whole for w in weights]

    low, high = -TILT_MAX, TILT_MAX
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = math.fsum(i * w for i, w in enumerate(tilt(middle)))
        low, high = (middle, high) if found < mean else (low, middle)
    return tilt((low + high) / 2)


def loss_rates(
    code: Code,
    shard_rates: Floats,
    repair_rates: Floats,
    domain_rates: Floats | None = None,
    domains: Domains | None = None,
) -> Floats:
    """Losses of a segment per year in the long run, by point; `Chain.loss_rate_per_year` of batch repair.

    From i live shards, the time until repaired or lost and the chance to be lost first follow from fewer live
    shards: sums and quotients of terms that are not negative.
    """
    import numpy as np

    size = (code.n + 1, len(shard_rates))
    took, lost = np.zeros(size), np.ones(size)
    hits = hit_chances(code.n, domains) if domains is not None else None
    for live in range(code.k, code.n + 1):
        falls = live * shard_rates
        total = falls + (repair_rates if live < code.r else 0.0)
        time = 1 + falls * took[live - 1]
        chance = falls * lost[live - 1]
        if hits is not None and domains is not None and domain_rates is not None:
            struck = np.array(hits[live][1:])
            pace = domains.count * domain_rates
            targets = slice(live - len(struck), live)
            total = total + pace * struck.sum()
            time = time + pace * (struck[::-1] @ took[targets])
            chance = chance + pace * (struck[::-1] @ lost[targets])
        with np.errstate(divide="ignore", invalid="ignore"):
            took[live], lost[live] = time / total, chance / total
    with np.errstate(divide="ignore", invalid="ignore"):
        found = lost[code.n] / took[code.n]
    return np.asarray(np.nan_to_num(found, nan=0.0))


def dataset_loss(
    code: Code, segments: int, churn: Churn, domains: Domains | None = None
) -> LongRun:
    """Chance a year that any of `segments` is lost, as likely as the churn's counts leave things.

    Segments count as independent but for what domains do to all of them. Raises UsageError without repair.
    """
    import numpy as np

    if churn.repairs is None or segments < 1:
        raise UsageError("a plan needs data and somebody who repairs")
    at = points(churn, POINTS)
    alone = loss_rates(code, at.loss_rates, at.repair_rates, at.domain_rates, domains)
    common = np.zeros_like(alone)
    if domains is not None:
        common = loss_rates(code, np.zeros(POINTS), at.repair_rates, at.domain_rates, domains)
    common = np.minimum(common, alone)
    chances = -np.expm1(-(common + segments * (alone - common)))
    ordered = sorted(chances.tolist())
    mean = math.fsum(ordered) / len(ordered)
    low, high = (quantile(ordered, (1 + sign * LEVEL) / 2) for sign in (-1, 1))
    return LongRun(mean, min(low, mean), max(high, mean), abs(float(np.expm1(-common).mean())))


def timed_loss_rate(code: Code, shard_rate: float, repair_years: float) -> float:
    """Losses of a segment per year when every repair takes exactly so long; without domains.

    Exact by renewal: from whole to below r, then binomial over the repair.
    """
    if shard_rate <= 0:
        return 0.0
    stay = math.exp(-shard_rate * repair_years)
    lost = fewer_than(code.k, [stay] * (code.r - 1))
    cycle = math.fsum(1 / (i * shard_rate) for i in range(code.r, code.n + 1)) + repair_years
    return lost / cycle


def live_shares(code: Code, shard_rate: float, repair_rate: float) -> dict[int, float]:
    """Long-run share of time with each number of live shards, k … n, batch repair, without domains."""
    times = {live: 1 / (live * shard_rate) for live in range(code.r, code.n + 1)}
    arrives = 1.0
    for live in range(code.r - 1, code.k - 1, -1):
        total = live * shard_rate + repair_rate
        times[live] = arrives / total
        arrives *= live * shard_rate / total
    whole = math.fsum(times.values())
    return {live: time / whole for live, time in times.items()}
