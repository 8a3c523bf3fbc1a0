"""A segment as a continuous-time Markov chain: how long until fewer than k shards are live.

Live shards are lost one at a time, each at `loss_rate`. Repair starts when live < trigger and goes on to
n: "batch", all missing shards at once at `repair_rate` (Giroire, Monteiro, Perennes; Storj v3, section 7);
"parallel", each missing shard at `repair_rate`; "serial", one shard at a time. The last two have a
memory: between the trigger and n it matters whether repair has begun. Which of them is meant changes the
result by orders of magnitude, as does live < trigger against live <= trigger.

Both results are sums and products of terms that are not negative, so nothing cancels: the mean time by
elimination of states (Grassmann, Taksar, Heyman, Operations Research 33, 1985), the probability by uniformisation over
a short step and repeated squaring with the absorbed state carried along. Right to 1e-8 relative and better,
also where the loss is 1e-25.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Chain", "Repair"]

Repair: TypeAlias = Literal["batch", "parallel", "serial"]
_State: TypeAlias = tuple[int, bool]  # live shards, repair under way
_KINDS = ("batch", "parallel", "serial")
_LOST: _State = (-1, False)
_STEP_EVENTS = 0.5
"""Expected events within the short step: its Taylor series converges in some twenty terms."""
_SQUARINGS_MAX = 200


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
        if not 0 <= trigger <= n:
            raise UsageError(f"trigger = {trigger}: not from 0 to n")
        for name, rate in (("loss_rate", loss_rate), ("repair_rate", repair_rate)):
            if not (math.isfinite(rate) and rate >= 0):
                raise UsageError(f"{name} = {rate}: not a finite rate of 0 or more")
        if repair not in _KINDS:
            raise UsageError(f"repair = {repair!r}: not one of {', '.join(_KINDS)}")
        self.n, self.k, self.trigger = n, k, trigger
        self.loss_rate, self.repair_rate, self.repair = loss_rate, repair_rate, repair
        self._rates = self._transitions()

    def __repr__(self) -> str:
        return (
            f"Chain(n={self.n}, k={self.k}, trigger={self.trigger}, loss_rate={self.loss_rate},"
            f" repair_rate={self.repair_rate}, repair={self.repair!r})"
        )

    def _transitions(self) -> dict[_State, dict[_State, float]]:
        """Rates from state to state, of the states that can be reached from n live shards."""
        rates: dict[_State, dict[_State, float]] = {}
        waiting = [(self.n, False)]
        while waiting:
            state = waiting.pop()
            if state in rates or state == _LOST:
                continue
            rates[state] = {to: rate for to, rate in self._leaving(state).items() if rate > 0}
            waiting += rates[state]
        return rates

    def _leaving(self, state: _State) -> dict[_State, float]:
        live, repairing = state
        fewer = live - 1
        lost = _LOST if fewer < self.k else (fewer, repairing or fewer < self.trigger)
        leaving = {lost: live * self.loss_rate}
        if repairing:
            if self.repair == "batch":
                up, rate = (self.n, False), self.repair_rate
            else:
                up = (live + 1, live + 1 < self.n)
                rate = self.repair_rate * (self.n - live if self.repair == "parallel" else 1)
            leaving[up] = rate
        return leaving

    def mean_time_to_loss(self) -> float:
        """Years until the first moment with fewer than k live shards, from n; inf if it never comes."""
        if self.loss_rate == 0:
            return math.inf
        rates = {state: dict(to) for state, to in self._rates.items()}
        reward = dict.fromkeys(rates, 1.0)
        start = (self.n, False)
        # Fewest live first: those are left fast, so what they pass on is well scaled.
        for state in sorted(rates):
            if state != start:
                _eliminate(rates, reward, state)
        (out,) = (rate for to, rate in rates[start].items() if to == _LOST)
        return reward[start] / out if out else math.inf

    def loss_probability(self, years: float) -> float:
        """Chance that within `years` there is a moment with fewer than k live shards."""
        if not (math.isfinite(years) and years >= 0):
            raise UsageError(f"years = {years}: not a finite time of 0 or more")
        if years == 0 or self.loss_rate == 0:
            return 0.0
        order = [*sorted(self._rates, reverse=True), _LOST]
        matrix = self._matrix(order)
        fastest = float(matrix.sum(axis=1).max())
        squarings = max(0, math.ceil(math.log2(max(years * fastest / _STEP_EVENTS, 1.0))))
        if squarings > _SQUARINGS_MAX:
            raise UsageError("rates and years are too far apart")
        step = _short_step(matrix, fastest, years / 2**squarings)
        for _ in range(squarings):
            step = step @ step
        return min(1.0, float(step[order.index((self.n, False)), -1]))

    def _matrix(self, order: list[_State]) -> NDArray[np.float64]:
        """Rates as a square matrix without its diagonal."""
        import numpy as np

        place = {state: i for i, state in enumerate(order)}
        matrix = np.zeros((len(order), len(order)))
        for state, leaving in self._rates.items():
            for to, rate in leaving.items():
                matrix[place[state], place[to]] += rate
        return matrix


def _eliminate(
    rates: dict[_State, dict[_State, float]], reward: dict[_State, float], state: _State
) -> None:
    """Censor the chain on the other states: who came here goes where this state goes, and waits as long."""
    leaving = rates.pop(state)
    leaving.pop(state, None)
    total = math.fsum(leaving.values())
    for other, onward in rates.items():
        arriving = onward.pop(state, 0.0)
        if arriving:
            for to, rate in leaving.items():
                if to != other:
                    onward[to] = onward.get(to, 0.0) + arriving * rate / total
            reward[other] += arriving * reward[state] / total


def _short_step(rates: NDArray[np.float64], fastest: float, years: float) -> NDArray[np.float64]:
    """exp(Q t) for a short t, as a Poisson mixture of steps of the uniformised chain: no negative term."""
    import numpy as np

    # Twice the fastest rate keeps the diagonal, the only subtraction, between 1/2 and 1.
    pace = 2 * fastest
    jump = rates / pace
    jump[np.diag_indices_from(jump)] = 1 - jump.sum(axis=1)
    events = pace * years
    power = np.eye(len(rates))
    total = np.zeros_like(power)
    weight, number = math.exp(-events), 0
    # As many steps as there are states, so that the farthest one is reached within a short step too.
    while weight > 0 and number <= len(rates) + 30:
        total += weight * power
        number += 1
        weight *= events / number
        power = power @ jump
    return total
