"""A segment as a continuous-time Markov chain: how long until fewer than k shards are live.

Live shards are lost one at a time, each at `loss_rate`. Repair starts when live < trigger and goes on to
n: "batch", all missing shards at once at `repair_rate` (Giroire, Monteiro, Perennes; Storj v3, section 7);
"parallel", each missing shard at `repair_rate`; "serial", one shard at a time. The last two have a
memory: between the trigger and n it matters whether repair has begun. Which of them is meant changes the
result by orders of magnitude, as does live < trigger against live <= trigger.

Failure domains, which take several shards at one moment, are in `potsherd.durability.segment`; without them that is
this chain with batch repair (tests compare the two).

The arithmetic is that of `potsherd.durability.absorbing`: right to 1e-8 relative and better, also where the loss
is 1e-25.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal, TypeAlias

from potsherd.durability.absorbing import (
    LOST,
    Rates,
    loss_probabilities,
    mean_time,
    stationary,
)
from potsherd.errors import UsageError

__all__ = ["Chain", "Repair", "Traffic"]

Repair: TypeAlias = Literal["batch", "parallel", "serial"]
Traffic: TypeAlias = tuple[float, float, float]
"""Per year in the long run: repair passes, shards made anew, and data moved in sizes of the segment's content."""
_State: TypeAlias = tuple[int, bool]  # live shards, repair under way
_KINDS = ("batch", "parallel", "serial")
SHARDS_MAX = 1024
"""Of a segment; codes end at 255, virtual populations may be larger."""


class Chain:
    """Rates per year: `loss_rate` of a shard, `repair_rate` of a repair. The segment begins with n."""

    def __init__(
        self,
        n: int,
        k: int,
        trigger: int,
        loss_rate: float,
        repair_rate: float,
        repair: Repair = "batch",
    ) -> None:
        """Raises UsageError that names the field that makes no sense."""
        if not 1 <= k <= n:
            raise UsageError(f"k = {k}, n = {n}: 1 <= k <= n does not hold")
        if n > SHARDS_MAX:
            raise UsageError(f"n = {n}: more than {SHARDS_MAX}")
        if not 0 <= trigger <= n:
            raise UsageError(f"trigger = {trigger}: not from 0 to n")
        for name, rate in (("loss_rate", loss_rate), ("repair_rate", repair_rate)):
            if not (math.isfinite(rate) and rate >= 0):
                raise UsageError(f"{name} = {rate}: not a finite rate of 0 or more")
        if repair not in _KINDS:
            raise UsageError(f"repair = {repair!r}: not one of {', '.join(_KINDS)}")
        self.n, self.k, self.trigger = n, k, trigger
        self.loss_rate, self.repair_rate, self.repair = loss_rate, repair_rate, repair

    @cached_property
    def _rates(self) -> dict[_State, dict[_State, float]]:
        return self._transitions()

    @cached_property
    def _order(self) -> list[_State]:
        """Fewest live first: those are left fast."""
        return sorted(self._rates)

    def __repr__(self) -> str:
        return (
            f"Chain(n={self.n}, k={self.k}, trigger={self.trigger}, loss_rate={self.loss_rate},"
            f" repair_rate={self.repair_rate}, repair={self.repair!r})"
        )

    @property
    def rates(self) -> Rates[tuple[int, bool]]:
        """The table of rates: from (live, repair under way) to such states or LOST, per year."""
        return self._rates

    def mean_time_to_loss(self) -> float:
        """Years until the first moment with fewer than k live shards, from n; inf if it never comes."""
        if self.repair == "batch":
            return self._batch_mean_time()
        return mean_time(self._rates, (self.n, False), self._order)

    def _batch_mean_time(self) -> float:
        """Without a table: from i live shards it takes A_i + (1 − C_i) T_n, where everything falls but a repair.

        C_i, the chance to be lost before a repair, is a product: nothing is subtracted.
        """
        took, lost = 0.0, 1.0
        for live in range(self.k, self.n + 1):
            falls = live * self.loss_rate
            total = falls + (self.repair_rate if live < self.trigger else 0.0)
            if total == 0:
                return math.inf
            took, lost = (1 + falls * took) / total, falls * lost / total
        return took / lost if lost else math.inf

    def loss_probability(self, years: float, live: int | None = None) -> float:
        """Chance that within `years` there is a moment with fewer than k live shards.

        Begins with `live` shards, n unless given; below the trigger with repair under way.
        """
        live = self.n if live is None else live
        if live < self.k:
            return 1.0
        return self.loss_probabilities(years)[min(live, self.n)]

    def loss_probabilities(self, years: float) -> dict[int, float]:
        """`loss_probability` for each number of live shards from k to n, at the price of one."""
        if not (math.isfinite(years) and years >= 0):
            raise UsageError(f"years = {years}: not a finite time of 0 or more")
        found = loss_probabilities(self._rates, years)
        return {live: found[live, live < self.trigger] for live in range(self.k, self.n + 1)}

    def loss_rate_per_year(self) -> float:
        """Losses per year in the long run: 1 / mean time. What a segment of any age risks."""
        return 1 / self.mean_time_to_loss()

    def traffic(self) -> Traffic:
        """What repair moves in the long run.

        A batch pass reads k − 1 shards (the repairer has its own) and sends x rebuilt ones; with parallel and
        serial repair each shard is a pass.
        """
        if self.repair == "batch" and self.loss_rate > 0:
            return self._batch_traffic()
        shares = stationary(self._rates, (self.n, False), self._order)
        passes = shards = moved = 0.0
        for (live, repairing), share in shares.items():
            if repairing:
                batch = self.repair == "batch"
                missing = self.n - live
                rate = share * self.repair_rate * (missing if self.repair == "parallel" else 1)
                made = missing if batch else 1
                passes += rate
                shards += rate * made
                moved += rate * (self.k - 1 + made) / self.k
        return passes, shards, moved

    def _batch_traffic(self) -> Traffic:
        """By the cycle from n down to a repair or loss, and back."""
        first = max(self.trigger, self.k)
        length = math.fsum(1 / (i * self.loss_rate) for i in range(first, self.n + 1))
        passes = shards = 0.0
        arrives = 1.0
        for live in range(self.trigger - 1, self.k - 1, -1):
            total = live * self.loss_rate + self.repair_rate
            length += arrives / total
            repaired = arrives * self.repair_rate / total
            passes += repaired
            shards += repaired * (self.n - live)
            arrives *= live * self.loss_rate / total
        moved = passes * (self.k - 1) + shards
        return passes / length, shards / length, moved / length / self.k

    def live_shares(self) -> dict[int, float]:
        """Long-run share of time with each number of live shards; a lost segment begins again with n."""
        found: dict[int, float] = {}
        for (live, _), share in stationary(self._rates, (self.n, False), self._order).items():
            found[live] = found.get(live, 0.0) + share
        return found

    # --- the table of rates ----------------------------------------------------------------------

    def _transitions(self) -> dict[_State, dict[_State, float]]:
        """Rates from state to state, of the states that can be reached from any number of live shards."""
        rates: dict[_State, dict[_State, float]] = {}
        waiting: list[_State] = [(live, live < self.trigger) for live in range(self.k, self.n + 1)]
        while waiting:
            state = waiting.pop()
            if state in rates or state == LOST:
                continue
            rates[state] = {to: rate for to, rate in self._leaving(state).items() if rate > 0}
            waiting += rates[state]
        return rates

    def _leaving(self, state: _State) -> dict[_State, float]:
        live, repairing = state
        fewer = live - 1
        to = LOST if fewer < self.k else (fewer, repairing or fewer < self.trigger)
        leaving = {to: live * self.loss_rate}
        if repairing:
            if self.repair == "batch":
                up, rate = (self.n, False), self.repair_rate
            else:
                up = (live + 1, live + 1 < self.n)
                rate = self.repair_rate * (self.n - live if self.repair == "parallel" else 1)
            leaving[up] = leaving.get(up, 0.0) + rate
        return leaving
