"""What would have to change where no code will do: each lever by itself, moved as far as it has to, or not enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.simulations.planner.question import Question
from potsherd.simulations.planner.search import reaches_any

__all__ = ["Lever", "levers"]

STEPS = 7
"""Bisections: each lever is known to about 3 % of its way."""
DAY = 1 / 365.25
TURNOVER_MIN = 0.01
UPTIME_MAX = 0.99
MORE_MAX = 100.0
LESS_MIN = 1e-4
SITES_MAX = 64


@dataclass(frozen=True)
class Lever:
    """One thing that could change."""

    field: str
    """Of the question."""
    now: float
    needed: float | None
    """Where it is enough, all else as it is; None: not even at `limit`."""
    limit: float
    """How far it was tried."""


@dataclass(frozen=True)
class _Way:
    field: str
    limit: float
    move: Callable[[Question, float], Question]
    whole: bool = False


def levers(
    question: Question, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Lever]:
    """Those that suffice by themselves first."""
    ways = list(_ways(question))
    found = []
    for number, way in enumerate(ways):
        found.append(_moved(question, way))
        progress(number + 1, len(ways))
    return sorted(found, key=lambda lever: lever.needed is None)


def _ways(question: Question) -> Iterator[_Way]:
    def set_(field: str) -> Callable[[Question, float], Question]:
        return lambda q, value: replace(q, **{field: value})  # type: ignore[arg-type] # by name

    yield _Way("disk", question.disk * MORE_MAX, set_("disk"))
    yield _Way("data", question.data * LESS_MIN, set_("data"))
    yield _Way("donors", question.donors * MORE_MAX, _more_donors, whole=True)
    yield _Way("up", question.up * MORE_MAX, _faster)
    if question.turnover > TURNOVER_MIN:
        yield _Way("turnover", TURNOVER_MIN, set_("turnover"))
    if question.uptime < UPTIME_MAX:
        yield _Way("uptime", UPTIME_MAX, set_("uptime"))
    if question.gone_after > DAY:
        yield _Way("gone_after", DAY, set_("gone_after"))
    if question.sites:
        yield _Way("site_loss", question.site_loss * LESS_MIN, set_("site_loss"))
        most = min(SITES_MAX, question.donors)
        if most > question.sites:
            yield _Way("sites", most, lambda q, v: replace(q, sites=round(v)), whole=True)
    yield _Way("target", 0.5, set_("target"))


def _more_donors(question: Question, value: float) -> Question:
    return replace(question, donors=round(value))


def _faster(question: Question, value: float) -> Question:
    return replace(question, up=value, down=question.down * value / question.up)


def _moved(question: Question, way: _Way) -> Lever:
    """Bisection between where it is, which is not enough, and its limit, on a logarithmic scale."""
    now = float(getattr(question, way.field))
    if not reaches_any(way.move(question, way.limit)):
        return Lever(way.field, now, None, way.limit)
    low, high = math.log(now), math.log(way.limit)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if reaches_any(way.move(question, math.exp(middle))):
            high = middle
        else:
            low = middle
    needed = math.exp(high)
    return Lever(way.field, now, float(round(needed)) if way.whole else needed, way.limit)
