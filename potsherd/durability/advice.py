"""Whether a code keeps data readable and alive on nodes as they have been seen, and which would: what `put` says first.

The planner's model on what little a client knows: how many donors, how much they are there, how they leave. Disks and
lines are not weighed; `potsherd plan` does that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from potsherd.classes import dataclass
from potsherd.durability.census import Churn
from potsherd.durability.long_run import dataset_loss
from potsherd.durability.segment import Code, live_shares, readable_share
from potsherd.durability.wording import loss_in_words, share_in_words

__all__ = ["KS", "LOSS", "N_MAX", "READABLE", "Advice", "Judged", "Seen", "advise"]

READABLE = 0.999
"""Share of time that a segment can be read, at least; the planner's default too."""
LOSS = 1e-3
"""Chance a year that any of the data is lost, at most."""
KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
"""That are tried."""
N_MAX = 255
"""Where codes end."""
EXPANSION_MAX = 8
"""Bytes stored per byte of data, at most, in what is advised."""
NEARLY = 1.15
"""Times what the leanest code stores: so much more is well spent for a smaller k, which reads from fewer nodes."""
SPARED_FROM = 9
TAKERS = 0.8
"""Share of so many donors or more that a segment may be spread over."""
WORTH = 0.5
"""Share of the time not readable, at most, that a code must leave of the given one's to be named when none is enough."""


@dataclass(frozen=True)
class Seen:
    """What a client knows of the donors."""

    donors: int
    up: float
    """Mean share of time that they are there."""
    churn: Churn
    leaving_known: bool
    """Whether departures were watched for long enough to judge by; otherwise only reading is judged."""


@dataclass(frozen=True)
class Judged:
    """A code on these donors."""

    code: Code
    readable: float
    """Share of time that a segment can be read."""
    loss: float | None
    """Chance a year that any of the data is lost, with the interval; None where that is a guess."""
    low: float | None
    high: float | None

    @property
    def enough(self) -> bool:
        """Whether READABLE and LOSS are met."""
        return self.readable >= READABLE and (self.loss is None or self.loss <= LOSS)

    def words(self) -> str:
        """`can be read 96 % of the time; any loss about 1 in 12,000 this year (between …)`."""
        text = f"can be read {share_in_words(self.readable)} of the time"
        if self.loss is None or self.low is None or self.high is None:
            return text
        return f"{text}; any loss {loss_in_words(self.loss, self.low, self.high, 1.0)}"


@dataclass(frozen=True)
class Advice:
    """Why a code will not do, and what would."""

    up: float
    donors: int
    given: Judged
    better: Judged | None
    """A lean code that is enough, else the nearest to it; None where nothing is worth it."""

    def words(self) -> str:
        """One line."""
        code = self.given.code
        why = (
            f"nodes here are up {share_in_words(self.up)} of the time: {code.k}-of-{code.n} "
            f"{self.given.words()}"
        )
        if self.better is None:
            return f"{why}. No code on {self.donors} nodes is much better: it takes more nodes, or steadier ones"
        code = self.better.code
        best = "better" if self.better.enough else "not enough, but the best here"
        return f"{why}. {best.capitalize()}: --k {code.k} --n {code.n}, which {self.better.words()}"


def advise(
    code: Code, segments: int, seen: Seen, repair_below: Callable[[int, int], int]
) -> Advice | None:
    """None where the code is enough. `repair_below(k, n)`: the r that such a code would have."""
    given = _judged(code, segments, seen)
    if given.enough:
        return None
    enough = [j for k in KS if (j := _leanest(k, segments, seen, repair_below)) is not None]
    if enough:
        leanest = min(j.code.n / j.code.k for j in enough)
        better = next(j for j in enough if j.code.n / j.code.k <= NEARLY * leanest)
        return Advice(seen.up, seen.donors, given, better)
    widest = list(_widest(segments, seen, repair_below))
    nearest = max(widest, key=lambda j: (j.readable, -(j.loss or 0.0)), default=given)
    worth = 1 - nearest.readable <= WORTH * (1 - given.readable)
    return Advice(seen.up, seen.donors, given, nearest if worth else None)


def _judged(code: Code, segments: int, seen: Seen) -> Judged:
    repairs = seen.churn.repairs.mean if seen.churn.repairs is not None else 0.0
    shares = live_shares(code, seen.churn.departures.mean, repairs)
    readable = readable_share(code.k, shares, seen.up)
    if not seen.leaving_known:
        return Judged(code, readable, None, None, None)
    loss = dataset_loss(code, segments, seen.churn)
    return Judged(code, readable, loss.probability, loss.low, loss.high)


def _top(k: int, donors: int) -> int:
    """The largest n: of many donors some must be left over, to take what repair makes anew."""
    takers = donors if donors < SPARED_FROM else math.floor(donors * TAKERS)
    return min(takers, N_MAX, EXPANSION_MAX * k)


def _widest(segments: int, seen: Seen, repair_below: Callable[[int, int], int]) -> Iterator[Judged]:
    for k in KS:
        n = _top(k, seen.donors)
        if n > k:
            yield _judged(Code(k, n, repair_below(k, n)), segments, seen)


def _leanest(
    k: int, segments: int, seen: Seen, repair_below: Callable[[int, int], int]
) -> Judged | None:
    """The smallest n that is enough: as n grows, reading and lasting get better."""

    def judged(n: int) -> Judged:
        return _judged(Code(k, n, repair_below(k, n)), segments, seen)

    low, high = k + 1, _top(k, seen.donors)
    if low > high or not (found := judged(high)).enough:
        return None
    while low < high:
        middle = (low + high) // 2
        tried = judged(middle)
        if tried.enough:
            high, found = middle, tried
        else:
            low = middle + 1
    return found
