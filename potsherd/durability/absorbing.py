"""Markov chains in continuous time that end in a state of loss: mean time, probability, long-run shares.

A chain is a table of rates {state: {state: rate per year}} in which `LOST` has no row. Everything here is sums,
products and quotients of terms that are not negative, so nothing cancels, however rare the loss:

- the mean time and the long-run shares by elimination of states (Grassmann, Taksar, Heyman, Operations Research
  33, 1985), in which the diagonal is never formed by subtraction;
- the probability by uniformisation over a short step and repeated squaring, the absorbed state carried along.
  Each row is brought back to a sum of 1 after each squaring: without that, an error in the sums doubles at each
  squaring, and 30 squarings (repair within minutes, over a century) cost 1e-7.

`numpy.linalg.solve` on the generator is wrong from 1e13 years on, eigenvalues below 1e-13.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LOST",
    "Rates",
    "loss_probabilities",
    "lost_within",
    "matrix_of",
    "mean_time",
    "stationary",
]

State = TypeVar("State", bound=Hashable)
Rates: TypeAlias = Mapping[State, Mapping[State, float]]
"""Rates per year from state to state; a rate of 0 is the same as none."""

LOST: Final = (-1, False)
"""The absorbed state. Tables of rates name it as a target; it has no row."""
STATES_MAX = 2100
"""Of a chain: the probability needs a few dense matrices of this size squared."""
STEP_EVENTS = 0.5
"""Expected events within the short step: its Taylor series converges in some twenty terms."""
SQUARINGS_MAX = 200


def mean_time(rates: Rates[State], start: State, order: Iterable[State]) -> float:
    """Years from `start` until LOST; inf if it is never reached.

    States are eliminated in `order` (any states, `start` is skipped). Those that are left fastest should come
    first: what they pass on is then well scaled.
    """
    left, waits = _censored(rates, order, start)
    out = sum(rate for to, rate in left[start].items() if to == LOST)
    return waits[start] / out if out else math.inf


def stationary(rates: Rates[State], start: State, order: Iterable[State]) -> dict[State, float]:
    """Long-run share of time in each state when whoever is lost begins again at `start`."""
    closed: dict[State, dict[State, float]] = {}
    for state, leaving in rates.items():
        row = closed.setdefault(state, {})
        for to, rate in leaving.items():
            target = start if to == LOST else to
            if rate > 0 and target != state:
                row[target] = row.get(target, 0.0) + rate
    eliminated: list[tuple[State, dict[State, float], dict[State, float]]] = []
    for state in order:
        if state != start:
            leaving = closed.pop(state)
            arriving = {s: row.pop(state) for s, row in closed.items() if state in row}
            _redirect(closed, arriving, leaving)
            eliminated.append((state, arriving, leaving))
    weight = {start: 1.0}
    for state, arriving, leaving in reversed(eliminated):
        total = math.fsum(leaving.values())
        weight[state] = math.fsum(weight[s] * rate for s, rate in arriving.items()) / total
    whole = math.fsum(weight.values())
    return {state: w / whole for state, w in weight.items()}


def loss_probabilities(rates: Rates[State], years: float) -> dict[State, float]:
    """Chance of having been in LOST within `years`, for each state to begin in.

    Raises UsageError when rates and years are too far apart or there are more than STATES_MAX states.
    """
    found = lost_within(matrix_of(rates)[None], years)[0]
    return {state: float(p) for state, p in zip(rates, found, strict=True)}


def lost_within(matrices: NDArray[np.float64], years: float) -> NDArray[np.float64]:
    """Chance of loss within `years` by chain and state, for a stack of chains (`matrix_of`) of one size.

    Raises UsageError when rates and years are too far apart.
    """
    import numpy as np

    size = matrices.shape[-1]
    fastest = float(matrices.sum(axis=-1).max())
    if years == 0 or fastest == 0:
        return np.zeros((len(matrices), size - 1))
    doublings = math.log2(years) + math.log2(fastest) - math.log2(STEP_EVENTS)
    squarings = max(0, math.ceil(doublings))
    if squarings > SQUARINGS_MAX:
        raise UsageError("rates and years are too far apart")
    step = _short_step(matrices, fastest, years / 2**squarings)
    for _ in range(squarings):
        step = step @ step
        step /= step.sum(axis=-1, keepdims=True)
    return np.asarray(np.minimum(step[:, :-1, -1], 1.0))


def matrix_of(rates: Rates[State]) -> NDArray[np.float64]:
    """Rates as a square matrix without its diagonal, in the table's order, LOST last.

    Raises UsageError for more than STATES_MAX states.
    """
    import numpy as np

    if len(rates) > STATES_MAX:
        raise UsageError(f"{len(rates)} states, more than {STATES_MAX}")
    place = {state: i for i, state in enumerate(rates)}
    matrix = np.zeros((len(place) + 1, len(place) + 1))
    for state, leaving in rates.items():
        for to, rate in leaving.items():
            matrix[place[state], -1 if to == LOST else place[to]] += rate
    return matrix


def _censored(
    rates: Rates[State], order: Iterable[State], start: State
) -> tuple[dict[State, dict[State, float]], dict[State, float]]:
    """The chain watched only in `start`: its rates, and the time it spends elsewhere and there."""
    left = {state: {to: r for to, r in row.items() if r > 0} for state, row in rates.items()}
    waits = dict.fromkeys(left, 1.0)
    for state in order:
        if state == start:
            continue
        leaving = left.pop(state)
        arriving = {s: row.pop(state) for s, row in left.items() if state in row}
        total = math.fsum(leaving.values())
        _redirect(left, arriving, leaving)
        for other, rate in arriving.items():
            waits[other] += rate * waits[state] / total
    return left, waits


def _redirect(
    table: dict[State, dict[State, float]],
    arriving: Mapping[State, float],
    leaving: Mapping[State, float],
) -> None:
    """Who came to an eliminated state goes at once where it would have gone from there."""
    total = math.fsum(leaving.values())
    for other, rate in arriving.items():
        row = table[other]
        for to, onward in leaving.items():
            if to != other:
                row[to] = row.get(to, 0.0) + rate * onward / total


def _short_step(rates: NDArray[np.float64], fastest: float, years: float) -> NDArray[np.float64]:
    """exp(Q t) for a short t, as a Poisson mixture of steps of the uniformised chain: no negative term."""
    import numpy as np

    # Twice the fastest rate keeps the diagonal, the only subtraction, between 1/2 and 1.
    pace = 2 * fastest
    size = rates.shape[-1]
    jump = rates / pace
    place = np.arange(size)
    jump[:, place, place] = 1 - jump.sum(axis=-1)
    events = pace * years
    power = np.broadcast_to(np.eye(size), jump.shape)
    total = np.zeros_like(jump)
    weight, number = math.exp(-events), 0
    # As many steps as there are states, so that the farthest one is reached within a short step too.
    while weight > 0 and number <= size + 30:
        total += weight * power
        number += 1
        weight *= events / number
        power = power @ jump
    return np.asarray(total / total.sum(axis=-1, keepdims=True))
