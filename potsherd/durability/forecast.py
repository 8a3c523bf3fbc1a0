"""The chance that a dataset is lost, from a census of its segments; the planner and `stat` use this one code.

Each segment is a chain (`potsherd.durability.chain`) that begins where the segment stands now: live shards count,
away ones count with the chance that they come back, gone ones do not. Failure domains are shocks. What is only
known by counting (how often nodes leave, how long repair takes, …) is uncertain, and the chance of loss with it:
it is worked out at points that cover the uncertainty evenly. The forecast is the mean over these points, because
that is the number with which the share of datasets lost agrees; the interval holds the middle 95 %.

Segments with the same holders are lost together and count once; others count as independent. Where holders are
shared in part, losses come in clusters, and the forecast is on the safe side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from potsherd.durability.binomial import counts
from potsherd.durability.census import Churn, SegmentCensus
from potsherd.durability.chain import Family, Repair
from potsherd.durability.uncertainty import lattice, quantile
from potsherd.durability.wording import loss_in_words
from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LEVEL", "Forecast", "Points", "any_lost", "forecast", "points"]

LEVEL = 0.95
POINTS = 500
POINTS_MIN = 50
STATES_EASY = 48
"""A chain of more states costs more than its square: fewer points then, so that a forecast takes about a second."""
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
class Points:
    """Ways things may be: rates per year, and the chance that an away node comes back, by point."""

    loss_rates: NDArray[np.float64]
    repair_rates: NDArray[np.float64]
    domain_rates: NDArray[np.float64]
    returns: NDArray[np.float64]


@dataclass(frozen=True)
class _Kind:
    """Segments that are alike for the forecast."""

    k: int
    n: int
    r: int
    live: int
    away: int
    domains: tuple[int, ...]


def forecast(
    segments: Sequence[SegmentCensus],
    churn: Churn,
    *,
    years: float = 1.0,
    repair: Repair = "batch",
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
    chances = _chances(set(kinds), at, years, repair)
    totals = any_lost([(chances[kind], times) for kind, times in together.items()])
    weight = Counter[_Kind]()
    for kind, size in zip(kinds, sizes, strict=True):
        weight[kind] += size
    share_lost = sum(size * float(chances[kind].mean()) for kind, size in weight.items())
    ordered = sorted(totals.tolist())
    mean = math.fsum(ordered) / len(ordered)
    low, high = (quantile(ordered, (1 + sign * LEVEL) / 2) for sign in (-1, 1))
    return Forecast(
        probability=mean,
        low=min(low, mean),
        high=max(high, mean),
        years=years,
        survives=min(s.survives() for s in segments),
        share_lost=share_lost / sum(sizes),
        readable=math.prod({_holders(s): s.readable() for s in segments}.values()),
        assumes=tuple(_assumptions(kinds, churn)),
    )


def points(churn: Churn, number: int) -> Points:
    """That many points which cover what the counts leave open; each is as likely as the others."""
    import numpy as np

    scores = lattice(number, 5)
    repairs = churn.repairs.quantiles(scores[1]) if churn.repairs else np.zeros(number)
    return Points(
        loss_rates=churn.departures.quantiles(scores[0]),
        repair_rates=repairs,
        domain_rates=churn.domain_failures.quantiles(scores[2]),
        returns=churn.returns.at(scores[3], scores[4]),
    )


def any_lost(
    chances: Sequence[tuple[NDArray[np.float64], int]],
) -> NDArray[np.float64]:
    """1 − Π (1 − chance)^times over (chances at the points, times), point by point, without cancellation."""
    import numpy as np

    with np.errstate(divide="ignore"):  # a certain loss is a logarithm of 0
        return np.asarray(-np.expm1(sum(times * np.log1p(-chance) for chance, times in chances)))


def _kind(segment: SegmentCensus) -> _Kind:
    live, away = segment.count("live"), segment.count("away")
    return _Kind(segment.k, segment.n, segment.r, live, away, segment.domain_counts())


def _merged(kinds: list[_Kind]) -> list[_Kind]:
    """The same, with at most PATTERNS_MAX spreads over domains for each code."""
    patterns: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
    for kind in kinds:
        found = patterns.setdefault((kind.k, kind.n, kind.r), [])
        if kind.domains not in found:
            found.append(kind.domains)
    instead: dict[tuple[int, int, int], dict[tuple[int, ...], tuple[int, ...]]] = {}
    for code, found in patterns.items():
        found.sort(reverse=True)
        size = math.ceil(len(found) / PATTERNS_MAX)
        groups = [found[i : i + size] for i in range(0, len(found), size)]
        instead[code] = {p: _worst(group) for group in groups for p in group}
    return [
        _Kind(*code, kind.live, kind.away, instead[code][kind.domains])
        for kind in kinds
        for code in [(kind.k, kind.n, kind.r)]
    ]


def _worst(patterns: list[tuple[int, ...]]) -> tuple[int, ...]:
    """At least as concentrated as each: the largest of the first domains, of the second, …."""
    length = max(map(len, patterns))
    filled = [p + (0,) * (length - len(p)) for p in patterns]
    return tuple(max(column) for column in zip(*filled, strict=True))


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
    states = max(kind.n - kind.k + 1 for kind in kinds)
    return max(POINTS_MIN, int(POINTS * min(1.0, (STATES_EASY / states) ** 2)))


def _chances(
    kinds: Iterable[_Kind], at: Points, years: float, repair: Repair
) -> dict[_Kind, NDArray[np.float64]]:
    """Chance of loss of each kind of segment at each point."""
    import numpy as np

    tables: dict[tuple[int, int, int, tuple[int, ...]], NDArray[np.float64]] = {}
    found = {}
    for kind in kinds:
        code = (kind.n, kind.k, kind.r)
        name = (*code, kind.domains)
        if name not in tables:
            family = Family(*code, repair, kind.domains)
            tables[name] = family.loss_probabilities(
                at.loss_rates, at.repair_rates, at.domain_rates, years
            )
        back = np.array([counts([p] * kind.away) for p in at.returns.tolist()])
        onward = tables[name][:, kind.live : kind.live + kind.away + 1]
        found[kind] = np.asarray((back * onward).sum(axis=1))
    return found


def _assumptions(kinds: Sequence[_Kind], churn: Churn) -> Iterator[str]:
    domains = any(kind.domains for kind in kinds)
    yield "sites fail independently" if domains else "machines leave independently"
    if churn.repairs is None:
        yield "nobody repairs"
