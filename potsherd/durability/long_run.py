"""Losses per year in the long run, of one code under many sets of rates at once: what the planner searches with.

The chain is `potsherd.durability.chain` with batch repair (tests compare the two); here its recursion runs over arrays,
one entry for each way things may be. Unlike there, it remembers how many domains were struck since the segment was
whole: tests compare that with simulated networks. Failure domains are shocks that come to all segments alike: what they do by
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
STRUCK_MAX = 6
"""Domains struck since a segment was whole that are told apart."""
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


class _Strikes:
    """What the loss of a domain does, by how many have been struck since the segment was whole, and live shards.

    A struck domain has none of the segment's shards until repair: what is live lies in the others. That is why
    the number struck is part of the state; without it, the third of five sites would seem to take a fifth of what
    is left, not a third.
    """

    def __init__(self, n: int, domains: Domains) -> None:
        self.most = domains.most(n)
        self.chances = _hit_chances(n, domains.count, domains.donors, self.most)
        """Struck x live x hit: chances that the next domain struck takes so many."""
        self.struck_max = len(self.chances) - 1
        self.left = [domains.count - j for j in range(self.struck_max + 1)]
        """Domains not struck yet."""

    def after(self, struck: int) -> int:
        """One more; beyond the last that is told apart it stays."""
        return min(struck + 1, self.struck_max)


@lru_cache(maxsize=64)
def _hit_chances(n: int, count: int, donors: int, most: int) -> Floats:
    import numpy as np

    whole = _thinned(n, count, donors, most)
    found = np.zeros((min(count, STRUCK_MAX) + 1, n + 1, most + 1))
    for struck in range(min(len(found), count)):
        left = count - struck
        for live in range(1, n + 1):
            found[struck, live] = _shared(whole, live, left, count)
    found.flags.writeable = False
    return found


def _shared(whole: Floats, live: int, left: int, count: int) -> Floats:
    """Of `live` shards in `left` equal domains, how many one holds: mean live / left, never more than there are."""
    import numpy as np

    n, most = len(whole) - 1, whole.shape[1] - 1
    as_if = live * count / left
    if left == 1:
        row = np.zeros(most + 1)
        row[min(live, most)] = 1.0
        return row
    below = min(int(as_if), n)
    part = min(as_if - below, 1.0) if below < n else 0.0
    row = (1 - part) * whole[below] + part * whole[min(below + 1, n)]
    if live < most:  # more than there are: all of them
        row = np.concatenate([row[:live], [row[live:].sum()], np.zeros(most - live)])
    return np.asarray(row)


def hit_chances(n: int, domains: Domains) -> Floats:
    """By live shards 0 … n: chances that a domain holds 0, 1, … of these, before any has been struck.

    Holders are drawn at random among all donors, so a domain's count is hypergeometric; where placement's limit
    cuts it off, what is cut off goes to the other counts so that the mean stays n / domains.
    """
    return _thinned(n, domains.count, domains.donors, domains.most(n))


def _thinned(n: int, count: int, donors: int, most: int) -> Floats:
    import numpy as np

    members = max(1, donors // count)
    drawn = [_drawn(c, donors, members, n) for c in range(most + 1)]
    rows = np.zeros((n + 1, most + 2))
    rows[n, :-1] = _tilted(drawn, n / count)
    hit = np.arange(most + 1)
    for live in range(n, 0, -1):  # of the live ones one goes, any of them alike
        more = rows[live]
        stay = np.maximum(live - hit, 0)
        rows[live - 1, :-1] = (more[:-1] * stay + more[1:] * (hit + 1)) / live
    return np.asarray(rows[:, :-1])


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
    """Losses of a segment per year in the long run, by point; without domains `Chain.loss_rate_per_year` of batch repair.

    From i live shards, the time until repaired or lost and the chance to be lost first follow from fewer live
    shards: sums and quotients of terms that are not negative.
    """
    import numpy as np

    strikes = _Strikes(code.n, domains) if domains is not None else None
    depth = strikes.struck_max + 1 if strikes else 1
    took = np.zeros((depth, code.n + 1, len(shard_rates)))
    lost = np.ones_like(took)
    for live in range(code.k, code.n + 1):
        falls = live * shard_rates
        total = falls + (repair_rates if live < code.r else 0.0)
        time = 1 + falls * took[:, live - 1]
        chance = falls * lost[:, live - 1]
        if strikes is not None and domain_rates is not None:
            reach = min(strikes.most, live)
            hits = strikes.chances[:, live, 1 : reach + 1]
            onward = [strikes.after(j) for j in range(depth)]
            pace = np.outer(strikes.left, domain_rates)
            fewer = slice(live - reach, live)
            time = time + pace * np.einsum("jh,jhp->jp", hits, took[onward, fewer][:, ::-1])
            chance = chance + pace * np.einsum("jh,jhp->jp", hits, lost[onward, fewer][:, ::-1])
            total = total + pace * hits.sum(axis=1)[:, None]
        # Where nothing can happen any more (every domain struck, nodes that never leave) nobody comes.
        moves = np.where(total > 0, total, np.inf)
        took[:, live], lost[:, live] = time / moves, chance / moves
    whole = took[0, code.n]
    return np.asarray(np.where(whole > 0, lost[0, code.n] / np.where(whole > 0, whole, 1.0), 0.0))


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

    strikes = _Strikes(code.n, domains) if domains is not None else None
    paces = np.zeros_like(shard_rates) if domain_rates is None else domain_rates
    walk = _Walk(code, shard_rates, paces, strikes)
    lost = walk.lost_within(repair_years)
    here = np.zeros_like(lost)
    here[0, -1] = 1.0
    wait, chance = np.zeros_like(paces), np.zeros_like(paces)
    for row in range(lost.shape[1] - 1, -1, -1):
        if row + code.k - 1 < code.r:
            chance = chance + (here[:, row] * lost[:, row]).sum(axis=0)
            continue
        visit = here[:, row] / np.where(walk.out[:, row] > 0, walk.out[:, row], np.inf)
        wait = wait + visit.sum(axis=0)
        walk.pass_on(here, row, visit)
    return np.asarray(np.where(wait > 0, chance / (wait + repair_years), 0.0))


class _Walk:
    """Losses without repair. Arrays are struck domains x rows x points; row 0 is lost, row i is k − 1 + i live."""

    def __init__(
        self, code: Code, shard_rates: Floats, paces: Floats, strikes: _Strikes | None
    ) -> None:
        import numpy as np

        self._strikes = strikes
        depth = strikes.struck_max + 1 if strikes else 1
        live = np.arange(code.k - 1, code.n + 1)
        live[0] = 0  # what is lost loses no more
        self.falls = live[:, None] * shard_rates
        self.out = np.repeat(self.falls[None], depth, axis=0)
        self.hits: list[tuple[int, int, int, Floats]] = []
        """Struck, hit, rows from which on, and the rate of each such row and point."""
        for struck in range(depth if strikes else 0):
            for hit in range(1, strikes.most + 1 if strikes else 0):
                share = strikes.chances[struck, live, hit] if strikes else live
                rate = share[:, None] * (strikes.left[struck] if strikes else 0) * paces
                rate[0] = 0.0
                if rate.any():
                    self.out[struck] += rate
                    self.hits.append((struck, self._after(struck), hit, rate))

    def _after(self, struck: int) -> int:
        return self._strikes.after(struck) if self._strikes else struck

    def pass_on(self, here: Floats, row: int, visit: Floats) -> None:
        """Where the visits of a row go to."""
        here[:, row - 1] += visit * self.falls[row]
        for struck, after, hit, rate in self.hits:
            here[after, max(0, row - hit)] += visit[struck] * rate[row]

    def lost_within(self, years: Floats) -> Floats:
        """Chance to be in row 0 after the time: a Poisson mixture of steps, nothing subtracted."""
        import numpy as np

        fastest = self.out.max(axis=(0, 1))
        scale = np.where(fastest > 0, fastest, 1.0)
        stay, falls = 1 - self.out / scale, self.falls / scale
        hits = [(j, after, hit, rate / scale) for j, after, hit, rate in self.hits]
        rows = np.arange(len(falls))
        there = np.zeros_like(self.out)
        there[:, 0] = 1.0
        events = fastest * years
        weight = np.exp(-events)
        total = weight * there
        # As many steps as there are rows, so that the farthest one is reached too.
        steps = len(rows) + 30 + int(4 * events.max())
        for number in range(1, min(steps, STEPS_MAX)):
            new = stay * there
            new[:, 1:] += falls[1:] * there[:, :-1]
            for struck, after, hit, rate in hits:
                new[struck] += rate * there[after, np.maximum(rows - hit, 0)]
            there, weight = new, weight * events / number
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
