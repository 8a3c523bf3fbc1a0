"""Rare losses of a segment whose shards do not live exponentially: multilevel splitting, fixed effort.

A path that has fallen to fewer live shards than any before is rare and worth more: from those that reach a level, as
many as there were at the start go on, drawn with replacement. A restart keeps the ages of the shards and the repair
under way, and draws anew what is left of each life given its age. P(loss) is the product of the shares that reach the
next level. With fewer than about 20,000 paths a level the result is too low where it is rarest; the interval
comes from whole replicates, 16 or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.distributions import Distribution
from potsherd.simulations.montecarlo.replicates import Estimate, normal_reach

__all__ = ["PATHS", "Model", "loss_probability"]

PATHS = 20_000
"""A level."""
REPLICATES = 16
STEPS_MAX = 1_000_000
"""Events of a path within its horizon."""

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Model:
    """One segment; times in years."""

    n: int
    k: int
    r: int
    life: Distribution
    """Of a node: a shard lives as long as its node stays."""
    repair: Distribution | float
    """From falling below r to being whole again; a number is constant."""
    years: float
    placed_on: Literal["met", "new"] = "met"
    """Shards go to nodes of all ages, or to ones that have just come."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        if not 1 <= self.k <= self.r <= self.n <= 255:
            raise UsageError(f"k = {self.k}, r = {self.r}, n = {self.n}: not in order, up to 255")
        if not self.years > 0:
            raise UsageError(f"years = {self.years}: not above 0")
        if isinstance(self.repair, float | int) and not self.repair > 0:
            raise UsageError(f"repair = {self.repair}: not above 0")


@dataclass(frozen=True)
class _Paths:
    """Many segments at their own times. Rows: paths; columns: shards."""

    now: Floats
    born: Floats
    """When the node that keeps a shard had come; may be before 0."""
    dies: Floats
    """inf: not live."""
    due: Floats
    """End of the repair under way; inf: none."""

    def pick(self, which: Longs) -> _Paths:
        return _Paths(self.now[which], self.born[which], self.dies[which], self.due[which])


def loss_probability(
    model: Model, seed: int, *, paths: int = PATHS, replicates: int = REPLICATES
) -> Estimate:
    """Chance of fewer than k live shards within the horizon, with an interval from replicates."""
    if replicates < 2 or paths < 2:
        raise UsageError("splitting needs two replicates of two paths or more")
    found = np.array(list(_replicates(model, seed, paths, replicates)))
    mean = float(found.mean())
    seen = int(np.count_nonzero(found))
    if not seen:
        return Estimate(0.0, 0.0, 3.0 / (paths * replicates), 0, paths * replicates)
    # The error's square root law holds for the mean; its logarithm keeps the interval above 0.
    relative = float(found.std(ddof=1)) / mean / replicates**0.5
    reach = float(np.exp(normal_reach(replicates) * relative))
    return Estimate(mean, mean / reach, min(1.0, mean * reach), seen, paths * replicates)


def _replicates(model: Model, seed: int, paths: int, replicates: int) -> Iterator[float]:
    for child in np.random.SeedSequence(seed).spawn(replicates):
        yield _one(model, paths, np.random.default_rng(child))


def _one(model: Model, paths: int, rng: np.random.Generator) -> float:
    """One run through all levels: r − 1 live, …, k − 1."""
    whole = _Paths(
        now=np.zeros(paths),
        born=np.zeros((paths, model.n)),
        dies=np.full((paths, model.n), np.inf),
        due=np.full(paths, np.inf),
    )
    current = _renew(model, whole, np.arange(paths), rng)
    chance = 1.0
    for level in range(model.r - 1, model.k - 2, -1):
        reached = _until(model, current, level, rng)
        chance *= len(reached.now) / paths
        if not len(reached.now) or level == model.k - 1:
            break
        again = reached.pick(rng.integers(len(reached.now), size=paths))
        current = _redraw(model, again, rng)
    return chance


def _redraw(model: Model, paths: _Paths, rng: np.random.Generator) -> _Paths:
    """What is left of each life, given its age."""
    live = np.isfinite(paths.dies)
    age = (paths.now[:, None] - paths.born)[live]
    u = 1.0 - rng.random(len(age))
    dies = paths.dies.copy()
    dies[live] = paths.born[live] + model.life.inverse(u * model.life.survival(age))
    # Rounding must not let a shard die before now.
    return replace(paths, dies=np.maximum(dies, paths.now[:, None]))


def _renew(model: Model, paths: _Paths, which: Longs, rng: np.random.Generator) -> _Paths:
    """Repair done: every missing shard is on another node."""
    born, dies = paths.born.copy(), paths.dies.copy()
    missing = np.zeros(dies.shape, dtype=bool)
    missing[which] = ~np.isfinite(dies[which])
    count = int(missing.sum())
    at = np.broadcast_to(paths.now[:, None], dies.shape)[missing]
    if model.placed_on == "met":
        ages, left = model.life.met(rng, count)
    else:
        ages, left = np.zeros(count), model.life.inverse(1.0 - rng.random(count))
    born[missing], dies[missing] = at - ages, at + left
    due = paths.due.copy()
    due[which] = np.inf
    return _Paths(paths.now, born, dies, due)


def _until(model: Model, paths: _Paths, level: int, rng: np.random.Generator) -> _Paths:
    """The paths that fall to `level` live shards within the horizon, as they are at that moment."""
    now, due = paths.now.copy(), paths.due.copy()
    state = _Paths(now, paths.born.copy(), paths.dies.copy(), due)
    active, reached = np.arange(len(now)), []
    for _ in range(STEPS_MAX):
        dies = state.dies[active]
        victim = dies.argmin(axis=1)
        death = dies[np.arange(len(active)), victim]
        following = np.minimum(death, state.due[active])
        inside = following <= model.years
        active, victim, following = active[inside], victim[inside], following[inside]
        if not len(active):
            break
        state.now[active] = following
        repaired = state.due[active] <= following
        state = _renew(model, state, active[repaired], rng)
        fell, victim = active[~repaired], victim[~repaired]
        state.dies[fell, victim] = np.inf
        live = np.isfinite(state.dies[fell]).sum(axis=1)
        begin = fell[(live < model.r) & np.isinf(state.due[fell])]
        state.due[begin] = state.now[begin] + _repair_times(model, len(begin), rng)
        there = fell[live <= level]
        if len(there):
            reached.append(state.pick(there))
            active = np.setdiff1d(active, there, assume_unique=True)
    return _joined(reached, paths)


def _repair_times(model: Model, size: int, rng: np.random.Generator) -> Floats:
    if isinstance(model.repair, float | int):
        return np.full(size, float(model.repair))
    return model.repair.inverse(1.0 - rng.random(size))


def _joined(parts: list[_Paths], like: _Paths) -> _Paths:
    if not parts:
        return like.pick(np.empty(0, dtype=np.int64))
    return _Paths(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("now", "born", "dies", "due")
        )
    )
