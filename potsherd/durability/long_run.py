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
    "timed_loss_rates",
]

POINTS = 160
"""Ways things may be, for one code."""
STEADY_POINTS = 60
"""The same for repairs that take exactly their time, which are costlier."""
TILT_MAX = 60.0
BISECTIONS = 80
STEPS_MAX = 5000
"""Of a mixture: beyond it repair takes so long that everything is lost anyway."""


@dataclass(frozen=True, order=True)
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
    rows = [tuple(shares)]
    for live in range(n, 0, -1):  # of the live ones one goes, any of them alike
        more = (*rows[-1], 0.0)
        rows.append(
            tuple(
                (more[h] * (live - h) + more[h + 1] * (h + 1)) / live
                for h in range(min(most, live - 1) + 1)
            )
        )
    return tuple(reversed(rows))


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


def timed_loss_rates(
    code: Code,
    shard_rates: Floats,
    repair_years: Floats,
    domain_rates: Floats | None = None,
    domains: Domains | None = None,
) -> Floats:
    """The same when every repair takes exactly its time: by renewal, from whole to whole again.

    Until live < r it is a walk downwards; from there a pure loss process over the repair, by uniformisation.
    """
    import numpy as np

    falls, strikes = _walk(code, domains)
    pace = np.zeros_like(shard_rates)
    if domains is not None and domain_rates is not None:
        pace = domains.count * domain_rates
    rates = (shard_rates, pace)
    out = falls.sum(axis=1)[:, None] * rates[0] + strikes.sum(axis=1)[:, None] * rates[1]
    lost = _lost_in_time((falls, strikes), rates, out, repair_years)
    # Row 0 is lost, row i stands for k − 1 + i live.
    here = np.zeros_like(out)
    here[-1], wait, chance = 1.0, np.zeros_like(pace), np.zeros_like(pace)
    for row in range(len(out) - 1, -1, -1):
        if row + code.k - 1 < code.r:
            chance = chance + here[row] * lost[row]
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            visit = np.where(out[row] > 0, here[row] / out[row], 0.0)
        wait = wait + visit
        here += visit * (falls[row][:, None] * rates[0] + strikes[row][:, None] * rates[1])
    return np.asarray(np.where(wait > 0, chance / (wait + repair_years), 0.0))


def _walk(code: Code, domains: Domains | None) -> tuple[Floats, Floats]:
    """Where losses lead, per loss rate of a shard and per rate at which some domain is struck: row to row."""
    import numpy as np

    size = code.n - code.k + 2
    falls, strikes = np.zeros((size, size)), np.zeros((size, size))
    hits = hit_chances(code.n, domains) if domains is not None else None
    for row in range(1, size):
        live = row + code.k - 1
        falls[row, row - 1] = live
        for hit, chance in enumerate(hits[live] if hits is not None else ()):
            if hit:
                strikes[row, max(0, row - hit)] += chance
    return falls, strikes


def _lost_in_time(
    tables: tuple[Floats, Floats], rates: tuple[Floats, Floats], out: Floats, years: Floats
) -> Floats:
    """Chance to be in row 0 after the time, by row and point: a Poisson mixture of steps, nothing subtracted."""
    import numpy as np

    fastest = out.max(axis=0)
    events = fastest * years
    with np.errstate(divide="ignore", invalid="ignore"):
        share = [np.where(fastest > 0, rate / fastest, 0.0) for rate in rates]
        stay = np.where(fastest > 0, 1 - out / fastest, 1.0)
    there = np.zeros_like(out)
    there[0] = 1.0
    weight = np.exp(-events)
    total = weight * there
    # As many steps as there are rows, so that the farthest one is reached too.
    steps = len(out) + 30 + int(4 * events.max())
    for number in range(1, min(steps, STEPS_MAX)):
        there = stay * there + share[0] * (tables[0] @ there) + share[1] * (tables[1] @ there)
        weight = weight * events / number
        total = total + weight * there
    return np.asarray(np.minimum(total, 1.0))


def dataset_loss(
    code: Code,
    segments: int,
    churn: Churn,
    domains: Domains | None = None,
    *,
    steady: bool = False,
) -> LongRun:
    """Chance a year that any of `segments` is lost, as likely as the churn's counts leave things.

    Segments count as independent but for what domains do to all of them. `steady`: every repair takes the mean
    time; otherwise its length is exponential, as in forecasts. Raises UsageError without repair.
    """
    import numpy as np

    if churn.repairs is None or segments < 1:
        raise UsageError("a plan needs data and somebody who repairs")
    number = STEADY_POINTS if steady else POINTS
    at = points(churn, number)

    def rates(shard_rates: Floats) -> Floats:
        if steady:
            times = 1 / at.repair_rates
            return timed_loss_rates(code, shard_rates, times, at.domain_rates, domains)
        return loss_rates(code, shard_rates, at.repair_rates, at.domain_rates, domains)

    alone = rates(at.loss_rates)
    common = np.zeros_like(alone)
    if domains is not None:
        common = np.minimum(rates(np.zeros(number)), alone)
    chances = -np.expm1(-(common + segments * (alone - common)))
    ordered = sorted(chances.tolist())
    mean = math.fsum(ordered) / len(ordered)
    low, high = (quantile(ordered, (1 + sign * LEVEL) / 2) for sign in (-1, 1))
    together = abs(float(np.expm1(-common).mean()))
    return LongRun(mean, min(low, mean), max(high, mean), together)


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
