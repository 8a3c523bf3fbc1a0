"""A segment under many sets of rates at once: what the planner, the forecast and `stat` all reckon with.

The chain of `potsherd.durability.chain` with batch repair, and what that one does not have: failure domains that
take several shards at one moment, and that are remembered until repair (`potsherd.durability.spread`). A state is
(live shards, level); repair leads back to (n, 0). From there losses are reckoned in the long run (`loss_rates`),
for repairs that take exactly their time (`timed_loss_rates`) and within some years from where a segment stands
(`loss_chances`). Arrays have one entry for each way things may be. All terms are sums, products and quotients of what
is not negative, so nothing cancels, however rare the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from potsherd.classes import dataclass
from potsherd.durability.binomial import at_least_of_equal
from potsherd.durability.spread import Strikes
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.int64]

__all__ = [
    "Code",
    "live_shares",
    "loss_chances",
    "loss_rates",
    "readable_share",
    "timed_loss_rates",
]

EVENTS_MAX = 3000.0
"""That may happen within the time, step by step; beyond it the long run takes over."""
SHARE_SHORT = 1e-3
"""Of the time under repair: below it, and where there are too many steps otherwise, repairs take no time."""
SHARES_MIN = 1e-9
"""Numbers of live shards with less than this share of the time are left out of an average."""
LOST = 0
"""The state that has no way out; values are 1 there."""


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


@dataclass(frozen=True, eq=False)
class _Rank:
    """The states with one number of live shards, of which there is one a level."""

    live: int
    here: slice
    falls: Places
    """Where each goes when one shard is lost."""
    below: slice
    """States that a strike may lead to."""
    struck: Floats | None
    """Of each state, to each of `below`: how often, at one failure of a domain a year."""
    out: Floats
    """Of each state: sum over `struck`."""


@dataclass(frozen=True, eq=False)
class _States:
    """States in order: LOST, then by live shards, then by level."""

    code: Code
    size: int
    ranks: tuple[_Rank, ...]
    """Fewest live first."""
    start: Places
    """By live shards 0 … n: the state in which nothing has been struck."""

    @property
    def whole(self) -> int:
        """The state with all n."""
        return int(self.start[-1])


@lru_cache(maxsize=32)
def _states(code: Code, strikes: Strikes | None) -> _States:
    import numpy as np

    slots = strikes.slots if strikes is not None else (code.n,)
    place = np.zeros((len(slots), code.n + 1), dtype=np.int64)  # LOST, unless
    size = 1
    for live in range(code.k, code.n + 1):
        for level, most in enumerate(slots):
            if live <= most:
                place[level, live] = size
                size += 1
    ranks = tuple(_rank(code, strikes, place, live) for live in range(code.k, code.n + 1))
    return _States(code, size, ranks, place[0])


def _rank(code: Code, strikes: Strikes | None, place: Places, live: int) -> _Rank:
    import numpy as np

    levels = np.flatnonzero(place[:, live])
    first, last = int(place[levels[0], live]), int(place[levels[-1], live]) + 1
    kinds = [strikes.kinds[level] for level in levels] if strikes is not None else []
    reach = max((s.hits.shape[1] - 1 for kind in kinds for s in kind), default=0)
    lowest = place[:, live - reach] if live - reach >= code.k else place[:, 0]
    begin = int(lowest[lowest > 0].min()) if lowest.any() else 0
    struck = np.zeros((len(levels), first - begin))
    for row, kind in enumerate(kinds):
        for strike in kind:
            hit = np.flatnonzero(strike.hits[live])
            hit = hit[hit > 0]
            to = place[strike.after, live - hit] - begin
            np.add.at(struck[row], to, strike.domains * strike.hits[live, hit])
    return _Rank(
        live,
        slice(first, last),
        place[levels, live - 1] if live > code.k else np.zeros(len(levels), dtype=np.int64),
        slice(begin, first),
        struck if struck.any() else None,
        struck.sum(axis=1),
    )


def loss_rates(
    code: Code,
    shard_rates: Floats,
    repair_rates: Floats,
    domain_rates: Floats | None = None,
    strikes: Strikes | None = None,
) -> Floats:
    """Losses of a segment per year in the long run, by point; without strikes `Chain.loss_rate_per_year` of batch repair."""
    import numpy as np

    states = _states(code, strikes)
    took, lost = _until_repair(states, shard_rates, repair_rates, domain_rates)
    whole = took[states.whole]
    return np.asarray(
        np.where(whole > 0, lost[states.whole] / np.where(whole > 0, whole, 1.0), 0.0)
    )


def _until_repair(
    states: _States, shard_rates: Floats, repair_rates: Floats, domain_rates: Floats | None
) -> tuple[Floats, Floats]:
    """By state: time until repaired or lost, and the chance to be lost first. Both follow from fewer live shards."""
    import numpy as np

    number = len(shard_rates)
    found = np.zeros((states.size, 2, number))
    found[LOST, 1] = 1.0
    table = found.reshape(states.size, 2 * number)
    now = np.array([[1.0], [0.0]])
    for rank in states.ranks:
        falls = rank.live * shard_rates
        total = falls + (repair_rates if rank.live < states.code.r else 0.0)
        here = now + falls * found[rank.falls]
        if rank.struck is not None and domain_rates is not None:
            after = (rank.struck @ table[rank.below]).reshape(here.shape)
            here += domain_rates * after
            total = total + rank.out[:, None] * domain_rates
        # Where nothing can happen any more (every domain struck, nodes that never leave) nobody comes.
        moves = np.where(total > 0, total, np.inf)
        found[rank.here] = here / moves.reshape(-1, 1, number)
    return found[:, 0], found[:, 1]


class _Walk:
    """The same states in time. Values are arrays of states x points."""

    def __init__(
        self, states: _States, shard_rates: Floats, domain_rates: Floats | None, repair: Floats
    ) -> None:
        import numpy as np

        self.states = states
        live = np.concatenate([[0], *(np.full(len(r.falls), r.live) for r in states.ranks)])
        self.down = np.concatenate([[LOST], *(rank.falls for rank in states.ranks)])
        self.falls = live[:, None] * shard_rates
        self.pace = np.zeros_like(shard_rates) if domain_rates is None else domain_rates
        self.low = (live > 0) & (live < states.code.r)
        self.repair = repair
        self.out = self.falls + np.outer(
            np.concatenate([[0.0], *(rank.out for rank in states.ranks)]), self.pace
        )
        self._shortcut = np.zeros((int(self.low.sum()), 0))
        self._short = np.zeros(len(shard_rates), dtype=bool)

    def cut_short(self, years: float, lost: Floats) -> None:
        """Where repairs are so short that there are too many steps: what is below r is at once whole or lost.

        `lost` by state: the chance to be lost before repair. Off by some per cent where loss is rarest (1e-29).
        """
        import numpy as np

        code, whole = self.states.code, self.states.whole
        rates = np.where(self.repair > 0, self.repair, np.inf)
        falls = self.falls[whole]
        share = (falls / (code.n - code.r + 1) + self.out[whole] - falls) / rates
        self._short = (share < SHARE_SHORT) & (self.repair * years > EVENTS_MAX / 3)
        self._shortcut = lost[self.low][:, self._short]

    def lost_within(self, years: Floats, lost_a_year: Floats) -> Floats:
        """By state and point: a Poisson mixture of steps. What EVENTS_MAX leave over is reckoned as in the long run."""
        import numpy as np

        out = self.out.copy()
        out[self.low] = np.where(self._short, 0.0, out[self.low] + self.repair)
        fastest = out.max(axis=0)
        scale = np.where(fastest > 0, fastest, 1.0)
        events = np.minimum(fastest * years, EVENTS_MAX)
        there = np.zeros_like(out)
        there[LOST] = 1.0
        self._cut(there)
        total = there * np.exp(-events)
        logs = np.log(np.where(events > 0, events, 1.0))
        most = float(events.max())
        # As many steps as there are losses to come, so that the rarest is reached too.
        for number in range(1, int(most + 9 * math.sqrt(most)) + self.states.code.n + 30):
            there = self._stepped(there, out, scale)
            weight = np.exp(number * logs - events - math.lgamma(number + 1))
            total += np.where(events > 0, weight, 0.0) * there
        total = np.minimum(total, 1.0)
        total[LOST] = 1.0  # whatever the weights add up to
        beyond = years - events / scale
        return np.asarray(total - (1 - total) * np.expm1(-lost_a_year * np.maximum(beyond, 0.0)))

    def _stepped(self, there: Floats, out: Floats, scale: Floats) -> Floats:
        """One step of the uniformised chain, backwards: what each state expects before it."""
        new = there * (1 - out / scale)
        new += self.falls / scale * there[self.down]
        for rank in self.states.ranks:
            if rank.struck is not None:
                new[rank.here] += self.pace / scale * (rank.struck @ there[rank.below])
        new[self.low] += self.repair / scale * there[self.states.whole]
        self._cut(new)
        return new

    def _cut(self, there: Floats) -> None:
        import numpy as np

        if self._short.any():
            at = np.ix_(self.low, self._short)
            whole = there[self.states.whole, self._short]
            there[at] = self._shortcut + (1 - self._shortcut) * whole

    def first_below(self) -> tuple[Floats, Floats]:
        """From whole, until live < r or lost: time taken, and by state the chance to be where it ends."""
        import numpy as np

        here = np.zeros_like(self.out)
        here[self.states.whole] = 1.0
        wait = np.zeros_like(self.pace)
        for rank in reversed(self.states.ranks):
            if rank.live < self.states.code.r:
                break
            out = self.out[rank.here]
            visit = here[rank.here] / np.where(out > 0, out, np.inf)
            wait = wait + visit.sum(axis=0)
            np.add.at(here, rank.falls, visit * self.falls[rank.here])
            if rank.struck is not None:
                here[rank.below] += rank.struck.T @ (visit * self.pace)
            here[rank.here] = 0.0
        return wait, here


def timed_loss_rates(
    code: Code,
    shard_rates: Floats,
    repair_years: Floats,
    domain_rates: Floats | None = None,
    strikes: Strikes | None = None,
) -> Floats:
    """Losses a year in the long run when every repair takes exactly its time: by renewal, from whole to whole again."""
    import numpy as np

    none = np.zeros_like(shard_rates)
    walk = _Walk(_states(code, strikes), shard_rates, domain_rates, none)
    wait, here = walk.first_below()
    lost = walk.lost_within(repair_years, none)
    chance = (here * lost).sum(axis=0)
    return np.asarray(np.where(wait > 0, chance / (wait + repair_years), 0.0))


def loss_chances(
    code: Code,
    shard_rates: Floats,
    repair_rates: Floats,
    years: float,
    domain_rates: Floats | None = None,
    strikes: Strikes | None = None,
) -> Floats:
    """Chance of loss within `years`, by point and number of live shards to begin with, 0 … n; 1 below k."""
    import numpy as np

    states = _states(code, strikes)
    walk = _Walk(states, shard_rates, domain_rates, repair_rates)
    took, lost = _until_repair(states, shard_rates, repair_rates, domain_rates)
    walk.cut_short(years, lost)
    whole = took[states.whole]
    a_year = np.where(whole > 0, lost[states.whole] / np.where(whole > 0, whole, 1.0), 0.0)
    found = walk.lost_within(np.full(len(shard_rates), years), a_year)
    return np.asarray(found[states.start].T)


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


def readable_share(k: int, live: Mapping[int, float], up: float) -> float:
    """Share of time that k of the live shards are online, by the shares of time with each number of live ones."""
    return math.fsum(
        share * at_least_of_equal(k, shards, up)
        for shards, share in live.items()
        if share > SHARES_MIN
    )
