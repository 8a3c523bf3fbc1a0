"""The chance that a dataset is lost, from a census of its segments; the planner and `stat` use this one code.

Each segment is a chain (`potsherd.durability.segment`) that begins where the segment stands now: live shards count,
away ones count with the chance that they come back, gone ones do not. Failure domains strike several shards at once.
What is only known by counting is taken in all the ways it may be (`potsherd.durability.ways`).

Segments with the same holders are lost together and count once. Others count as independent, but for what failure
domains do by themselves: that strikes all alike and counts once, as in a plan. Where holders are shared in part,
losses come in clusters, and the forecast is on the safe side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from potsherd.classes import dataclass
from potsherd.durability.binomial import counts
from potsherd.durability.census import Churn, SegmentCensus
from potsherd.durability.segment import Code, loss_chances
from potsherd.durability.spread import Spread, standing
from potsherd.durability.ways import Points, any_lost, hazards, mean_and_interval, points
from potsherd.durability.wording import loss_in_words
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Forecast", "forecast"]

POINTS = 500
POINTS_MIN = 50
STATES_EASY = 100
"""Beyond so many states fewer points are looked at, so that a forecast takes about a second."""
PATTERNS_MAX = 4
"""Distinct spreads over failure domains told apart for a code; beyond it, merged to the worse side."""


@dataclass(frozen=True)
class Forecast:
    """Chance of loss within `years`, with the interval that holds the truth 95 times in 100."""

    probability: float
    """That any of the data is lost."""
    low: float
    high: float
    years: float
    survives: int
    """How many more machines may go, whichever they are; negative when the data cannot be read now."""
    share_lost: float
    """Expected share of the data lost (NOMDL)."""
    readable: float
    """P(every segment can be read at a moment), from measured availability."""
    assumes: tuple[str, ...]
    """What the numbers rest on, as clauses."""

    def words(self) -> str:
        """About 1 in 20,000 this year (between … and …); survives 5 more machines gone; assumes that …."""
        return "; ".join(self.clauses())

    def clauses(self) -> tuple[str, ...]:
        """The parts of `words`."""
        if self.survives >= 0:
            machines = "1 more machine" if self.survives == 1 else f"{self.survives} more machines"
            now = f"survives {machines} gone"
        else:
            now = f"cannot be read now: {-self.survives} pieces short"
        return (
            loss_in_words(self.probability, self.low, self.high, self.years),
            now,
            f"assumes that {' and '.join(self.assumes)}",
        )


@dataclass(frozen=True)
class _Kind:
    """Segments that are alike for the forecast."""

    k: int
    n: int
    r: int
    live: int
    away: int
    spread: Spread


def forecast(
    segments: Sequence[SegmentCensus],
    churn: Churn,
    *,
    years: float = 1.0,
) -> Forecast:
    """The chance of loss of a dataset with these segments, within `years` from now.

    Raises UsageError for a census without segments or years that are not positive.
    """
    if not segments:
        raise UsageError("a census without segments")
    if not (math.isfinite(years) and years > 0):
        raise UsageError(f"years = {years}: not more than 0")
    kinds = _merged([_kind(s) for s in segments])
    together = _counted_once(segments, kinds)
    sizes = [max(1, s.stream_bytes) for s in segments]
    at = points(churn, _points_for(kinds))
    chances = _risks(set(kinds), at, years)
    totals = any_lost(
        [
            (hazards(alone), hazards(common), together[kind])
            for kind, (alone, common) in chances.items()
            if kind in together
        ]
    )
    weight = Counter[_Kind]()
    for kind, size in zip(kinds, sizes, strict=True):
        weight[kind] += size
    share_lost = sum(size * float(chances[kind][0].mean()) for kind, size in weight.items())
    mean, low, high = mean_and_interval(totals)
    return Forecast(
        probability=mean,
        low=low,
        high=high,
        years=years,
        survives=min(s.survives() for s in segments),
        share_lost=share_lost / sum(sizes),
        readable=math.prod({_holders(s): s.readable() for s in segments}.values()),
        assumes=tuple(_assumptions(kinds, churn)),
    )


def _kind(segment: SegmentCensus) -> _Kind:
    live, away = segment.count("live"), segment.count("away")
    return _Kind(segment.k, segment.n, segment.r, live, away, segment.spread())


def _merged(kinds: list[_Kind]) -> list[_Kind]:
    """The same, with at most PATTERNS_MAX spreads over domains for each code."""
    patterns: dict[tuple[int, int, int], set[Spread]] = {}
    for kind in kinds:
        patterns.setdefault((kind.k, kind.n, kind.r), set()).add(kind.spread)
    instead: dict[tuple[int, int, int], dict[Spread, Spread]] = {}
    for code, spreads in patterns.items():
        found = sorted(spreads, reverse=True)
        size = math.ceil(len(found) / PATTERNS_MAX)
        groups = [found[i : i + size] for i in range(0, len(found), size)]
        instead[code] = {p: _worst(group) for group in groups for p in group}
    return [
        _Kind(*code, kind.live, kind.away, instead[code][kind.spread])
        for kind in kinds
        for code in [(kind.k, kind.n, kind.r)]
    ]


def _worst(spreads: list[Spread]) -> Spread:
    """At least as concentrated as each: the largest of the first domains, of the second, …."""
    return Spread(_largest([s.apart for s in spreads]), _largest([s.across for s in spreads]))


def _largest(patterns: list[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(column) for column in zip_longest(*patterns, fillvalue=0))


def _holders(segment: SegmentCensus) -> tuple[object, ...]:
    nodes = {s.node for s in segment.best().values() if s.state != "gone"}
    return (segment.k, segment.n, segment.r, frozenset(nodes))


def _counted_once(segments: Sequence[SegmentCensus], kinds: Sequence[_Kind]) -> Counter[_Kind]:
    """How many independent segments there are of each kind: of those with the same holders the weakest."""
    weakest: dict[object, _Kind] = {}
    for segment, kind in zip(segments, kinds, strict=True):
        known = weakest.setdefault(_holders(segment), kind)
        if (kind.live, kind.away) < (known.live, known.away):
            weakest[_holders(segment)] = kind
    return Counter(weakest.values())


def _points_for(kinds: Sequence[_Kind]) -> int:
    states = max(_states_of(kind) for kind in kinds)
    return max(POINTS_MIN, int(POINTS * min(1.0, STATES_EASY / states)))


def _states_of(kind: _Kind) -> int:
    strikes = standing(kind.n, kind.k, kind.spread)
    slots = strikes.slots if strikes is not None else (kind.n,)
    return sum(max(0, most - kind.k + 1) for most in slots)


def _risks(kinds: Iterable[_Kind], at: Points, years: float) -> dict[_Kind, tuple[Floats, Floats]]:
    """Chance of loss of each kind of segment at each point, and what domains by themselves make of it."""
    import numpy as np

    tables: dict[tuple[Code, Spread], tuple[Floats, Floats]] = {}
    found = {}
    for kind in kinds:
        code = Code(kind.k, kind.n, max(kind.r, kind.k))
        if (code, kind.spread) not in tables:
            tables[code, kind.spread] = _tables(code, kind.spread, at, years)
        back = np.array([counts([p] * kind.away) for p in at.returns.tolist()])
        onward = slice(kind.live, kind.live + kind.away + 1)
        alone, common = (
            np.asarray((back * table[:, onward]).sum(axis=1)) for table in tables[code, kind.spread]
        )
        found[kind] = (alone, np.minimum(common, alone))
    return found


def _tables(code: Code, spread: Spread, at: Points, years: float) -> tuple[Floats, Floats]:
    """By point and live shards, 0 … n: chance of loss, and the same if only domains were lost."""
    import numpy as np

    strikes = standing(code.n, code.k, spread)

    def table(loss_rates: Floats) -> Floats:
        return loss_chances(code, loss_rates, at.repair_rates, years, at.domain_rates, strikes)

    alone = table(at.loss_rates)
    if strikes is None:
        return alone, np.zeros_like(alone)
    return alone, table(np.zeros_like(at.loss_rates))


def _assumptions(kinds: Sequence[_Kind], churn: Churn) -> Iterator[str]:
    domains = any(kind.spread != Spread() for kind in kinds)
    yield "sites fail independently" if domains else "machines leave independently"
    if churn.repairs is None:
        yield "nobody repairs"
