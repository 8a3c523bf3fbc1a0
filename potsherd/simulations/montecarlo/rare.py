"""Losses too rare to wait for: importance sampling of cycles (Goyal, Shahabuddin, Heidelberger 1992).

A segment that is whole begins anew each time it is whole again: a cycle. Losses per year are P(loss in a cycle) over
the mean length of a cycle. The length is sampled as it is; the loss under another law, in which while repair is under
way failure and repair are equally likely (balanced failure biasing), each path weighted by how much likelier it was
made. Where one repair makes all shards at once, d failures must come in a row: a failure then gets d / (d + 1), with
which more than a third of the paths get through, whatever d. To bias a whole path of years instead gives weights that explode and error bars that are falsely small.

This is for chains, where the exact answer is known: it is how the sampled model's rare losses are checked, and what
its confidence intervals are worth. For lives that are not exponential there is `splitting`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.durability.absorbing import LOST
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.replicates import Estimate, normal_reach

__all__ = ["CYCLES_MAX", "loss_rate"]

CYCLES_MAX = 10_000_000
STEPS_MAX = 100_000
"""Jumps of one cycle: a bound against chains that never become whole."""
BALANCED = 0.5
"""Chance of a failure while repair is under way, where repair makes one shard after the other."""

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class _Jumps:
    """The chain's jumps as tables, by state: targets and their cumulated chances under a law, and likelihoods."""

    targets: Longs
    cumulated: Floats
    likelihood: Floats
    """True chance over that under the law."""
    wait: Floats
    """Mean time in the state."""


def loss_rate(chain: Chain, cycles: int, seed: int) -> Estimate:
    """Losses per year in the long run, with a 95 % interval; `cycles` of each kind.

    Raises UsageError without failures or beyond CYCLES_MAX.
    """
    if not 2 <= cycles <= CYCLES_MAX:
        raise UsageError(f"cycles = {cycles}: not from 2 to {CYCLES_MAX}")
    if chain.loss_rate <= 0:
        raise UsageError("a chain without failures")
    rng = np.random.default_rng(seed)
    lengths = _run(_jumps(chain, biased=False), cycles, rng)[0]
    weights = _run(_jumps(chain, biased=True), cycles, rng)[1]
    return _ratio(weights, lengths)


def _ratio(weights: Floats, lengths: Floats) -> Estimate:
    """Quotient of two independent means, on a logarithmic scale, because it spans orders of magnitude."""
    loss, length = float(weights.mean()), float(lengths.mean())
    seen = int(np.count_nonzero(weights))
    trials = length * len(lengths)
    if not seen:
        return Estimate(0.0, 0.0, 3.0 / trials, 0, trials)
    relative = math.hypot(
        float(weights.std(ddof=1)) / loss, float(lengths.std(ddof=1)) / length
    ) / math.sqrt(len(weights))
    reach = math.exp(normal_reach(len(weights)) * relative)
    rate = loss / length
    return Estimate(rate, rate / reach, rate * reach, seen, trials)


def _bias(chain: Chain) -> float:
    """Chance of a failure while repair is under way."""
    depth = max(1, chain.trigger - chain.k)
    return depth / (depth + 1) if chain.repair == "batch" else BALANCED


def _jumps(chain: Chain, *, biased: bool) -> _Jumps:
    """State 0 is whole, the last one lost."""
    states = [(chain.n, False), *(s for s in chain.rates if s != (chain.n, False)), LOST]
    number = {state: i for i, state in enumerate(states)}
    width = max(map(len, chain.rates.values()))
    size = (len(states), width)
    targets = np.zeros(size, dtype=np.int64)
    true, drawn = np.zeros(size), np.zeros(size)
    wait = np.zeros(len(states))
    bias = _bias(chain)
    for state, leaving in chain.rates.items():
        total = math.fsum(leaving.values())
        downs = [to for to in leaving if to == LOST or to[0] < state[0]]
        failing = math.fsum(leaving[to] for to in downs)
        wait[number[state]] = 1 / total
        for column, (to, rate) in enumerate(leaving.items()):
            share = rate / total
            if biased and failing > 0:
                # Half of it in equal parts, so that rare shocks are not rare under the law.
                down = (rate / failing + 1 / len(downs)) / 2
                if to in downs:
                    share = down * (bias if failing < total else 1.0)
                else:
                    share = (1 - bias) * rate / (total - failing)
            place = number[state], column
            targets[place], true[place], drawn[place] = number[to], rate / total, share
    likelihood = np.divide(true, drawn, out=np.ones(size), where=drawn > 0)
    return _Jumps(targets, np.cumsum(drawn, axis=1), likelihood, wait)


def _run(jumps: _Jumps, cycles: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Length of each cycle, and its weight if it ended in a loss, else 0."""
    state = np.zeros(cycles, dtype=np.int64)
    length, weight = np.zeros(cycles), np.ones(cycles)
    lost = len(jumps.wait) - 1
    active = np.arange(cycles)
    for _ in range(STEPS_MAX):
        here = state[active]
        length[active] += rng.exponential(jumps.wait[here])
        u = rng.random(len(active))[:, None]
        column = np.minimum((jumps.cumulated[here] < u).sum(axis=1), jumps.targets.shape[1] - 1)
        weight[active] *= jumps.likelihood[here, column]
        state[active] = jumps.targets[here, column]
        active = active[(state[active] != 0) & (state[active] != lost)]
        if not len(active):
            return length, np.where(state == lost, weight, 0.0)
    raise UsageError("repair is so slow that a cycle does not end")
