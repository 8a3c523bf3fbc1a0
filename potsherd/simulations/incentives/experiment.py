"""One replicate, and what replicates say together: who is served, what peers give, what stays of those who left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations.incentives import rules
from potsherd.simulations.incentives.settings import (
    KINDS,
    LEVELS,
    STRATEGIC,
    WEEKS_PER_YEAR,
    Settings,
)
from potsherd.simulations.incentives.society import LOST, STORED, WITHDRAWN, Society
from potsherd.simulations.montecarlo.replicates import normal_reach

__all__ = ["Mean", "Result", "Weekly", "mean_of", "results", "simulate", "step"]

Floats: TypeAlias = NDArray[np.float64]

ORPHAN_YEARS = 1.0
"""What became of data is asked for those who left at least so long ago."""


@dataclass(frozen=True)
class Result:
    """Of one replicate; shares from 0 to 1, nan where there was nobody."""

    served: float
    """Of the data that peers who are there want kept (by size): stored, mean over the last year."""
    served_altruists: float
    served_strategic: float
    served_riders: float
    legacy: float
    """Of the datasets of all who left at least a year ago, stored or not when they left: still there at the end."""
    orphans_kept: float
    """Of the datasets whose owner left at least a year ago while they were stored: still there at the end."""
    orphans_lost: float
    """Likewise: lost because fewer than k shards were left."""
    orphans_dropped: float
    """Likewise: dropped by the rule."""
    readable: float
    """Stored datasets of which k holders (or an institute) were online, mean over the last year."""
    given: float
    """GB given by all, in units of what all who are there want kept, mean over the last year."""
    level: float
    """What strategic peers give, in units of what their data takes up, mean over the last year."""
    full: float
    """Share of what is given that is used, mean over the last year."""
    outages: float
    """Times a year and peer that stored data was lost while its owner was there, who stored it anew."""


@dataclass(frozen=True)
class Weekly:
    """By week: served share, orphans that are kept (number by peer), level of strategic peers."""

    served: Floats
    orphans: Floats
    level: Floats


def simulate(settings: Settings, replicate: int) -> tuple[Result, Weekly]:
    """The whole time; the same for the same settings, seed and replicate."""
    society = Society(settings, np.random.default_rng([settings.seed, replicate]))
    notes = [_note(society, step(society)) for _ in range(settings.weeks)]
    weekly = Weekly(*(np.array([getattr(n, f.name) for n in notes]) for f in fields(Weekly)))
    return _result(society, notes[-WEEKS_PER_YEAR:]), weekly


@dataclass(frozen=True)
class _Note:
    """Of one week."""

    served: float
    by_kind: tuple[float, ...]
    orphans: float
    readable: float
    given: float
    level: float
    full: float


def step(society: Society) -> Floats:
    """One week; returns what each peer gave."""
    society.depart()
    society.adapt()
    given = society.given()
    society.evict(given)
    s = society.settings
    barter = s.rule == "barter"
    if s.by_ratio:
        rules.account(society, given)
    if s.lease is not None:
        rules.drop_orphans(society, s.lease)
    if barter:
        rules.drop_orphans(society, s.grace)
        rules.unpair(society)
    society.lose()
    free = given - society.used()
    if barter:
        rules.barter(society, free)
    else:
        rules.repair(society, free)
        rules.put(society, free)
    if s.by_pinning:
        rules.unpin(society)
        rules.pin(society)
    society.week += 1
    return given


def _note(society: Society, given: Floats) -> _Note:
    size, there = society.size[society.data], society.state[society.data] == STORED
    kept = society.stored()
    online = society.rng.random(len(given)) < society.uptime
    held = society.holders[kept]
    up = ((held >= 0) & online[np.maximum(held, 0)]).sum(axis=1) >= society.settings.k
    up |= society.pinned[kept].any(axis=1)
    strategic = society.kind == STRATEGIC
    return _Note(
        served=_share(size * there, size),
        by_kind=tuple(
            _share((size * there)[society.kind == kind], size[society.kind == kind])
            for kind in range(len(KINDS))
        ),
        orphans=float((society.orphan_since[kept] >= 0).sum()) / len(given),
        readable=float(up.mean()) if len(kept) else np.nan,
        given=float(given.sum() / size.sum()),
        level=float(np.array(LEVELS)[society.level[strategic]].mean())
        if strategic.any()
        else np.nan,
        full=_share(society.used(), given),
    )


def _share(part: Floats, whole: Floats) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def _result(society: Society, last: list[_Note]) -> Result:
    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    altruists, strategic, riders = (mean(n.by_kind[kind] for n in last) for kind in range(3))
    since = society.orphan_since[: society.count]
    old = (since >= 0) & (since <= society.week - ORPHAN_YEARS * WEEKS_PER_YEAR)
    left = society.state[: society.count][old]
    state = left[left != WITHDRAWN]
    kept, lost = (float((state == s).mean()) if len(state) else np.nan for s in (STORED, LOST))
    return Result(
        served=mean(n.served for n in last),
        served_altruists=altruists,
        served_strategic=strategic,
        served_riders=riders,
        legacy=float((left == STORED).mean()) if len(left) else np.nan,
        orphans_kept=kept,
        orphans_lost=lost,
        orphans_dropped=1 - kept - lost,
        readable=mean(n.readable for n in last),
        given=mean(n.given for n in last),
        level=mean(n.level for n in last),
        full=mean(n.full for n in last),
        outages=society.lost_copies / society.settings.years / society.settings.peers,
    )


@dataclass(frozen=True)
class Mean:
    """Over replicates, with half the width of its 95 % interval (Student's t)."""

    value: float
    half: float


def mean_of(values: Iterable[float]) -> Mean:
    """Raises UsageError for fewer than two values; replicates with nobody to ask are left out."""
    found = np.array([v for v in values if np.isfinite(v)])
    if len(found) < 2:
        return Mean(float("nan"), float("nan"))
    error = float(found.std(ddof=1)) / len(found) ** 0.5
    return Mean(float(found.mean()), normal_reach(len(found)) * error)


def results(settings: Settings, replicates: int) -> dict[str, Mean]:
    """Each number of `Result` over the replicates. Raises UsageError for fewer than two."""
    if replicates < 2:
        raise UsageError(f"replicates = {replicates}: an interval needs two or more")
    found = [simulate(settings, i)[0] for i in range(replicates)]
    return {f.name: mean_of(getattr(r, f.name) for r in found) for f in fields(Result)}
