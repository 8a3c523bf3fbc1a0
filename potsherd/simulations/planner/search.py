"""The cheapest codes that do what is asked.

For each k the loss falls as n and r grow, while disk and traffic rise: so the largest n that the disks bear with the
largest r that the lines bear says whether k will do at all; then the smallest n is sought, then the smallest r.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from potsherd.classes import dataclass
from potsherd.durability.advice import KS, N_MAX
from potsherd.durability.segment import Code
from potsherd.simulations.planner.evaluation import (
    UTILISATION_MAX,
    Load,
    Plan,
    evaluate,
    load,
    loss,
    readable,
)
from potsherd.simulations.planner.prices import Prices
from potsherd.simulations.planner.question import Question

__all__ = [
    "KS",
    "N_MAX",
    "Best",
    "best",
    "codes",
    "misses",
    "n_max",
    "plans",
    "reaches",
    "reaches_any",
]

WIDER = (1.0, 1.1, 1.25, 1.5)
"""n beyond the smallest that are tried: more disk, less traffic."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Best:
    """The least loss that can be reached at all, and what stands in its way."""

    code: Code
    loss: float
    readable: float
    utilisation: float


def n_max(question: Question, k: int) -> int:
    """The largest n for which disks and donors suffice."""
    return min(N_MAX, question.donors, math.floor(k * question.expansion_max + 1e-9))


def largest_r(question: Question, k: int, n: int) -> tuple[int, Load] | None:
    """The largest r that the lines bear, or None: not even the laziest."""

    def bears(r: int) -> Load | None:
        found = load(question, Code(k, n, r))
        return found if found.utilisation <= UTILISATION_MAX else None

    low, high = k + 1, n
    found = bears(low) if low <= high else None
    if found is None:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        better = bears(middle)
        if better is None:
            high = middle - 1
        else:
            low, found = middle, better
    return low, found


def reaches(question: Question, code: Code, given: Load) -> bool:
    """Whether target and reading are met."""
    return (
        loss(question, code, given).probability <= question.target
        and readable(question, code, given.repair_years)[0] >= question.readable
    )


def _will_do(question: Question, k: int, n: int) -> int | None:
    """The largest r that the lines bear, if with it everything is met."""
    most = largest_r(question, k, n)
    if most is None or not reaches(question, Code(k, n, most[0]), most[1]):
        return None
    return most[0]


def misses(question: Question, plan: Plan) -> list[str]:
    """What a plan does not do, by name: disk, donors, lines, loss, readable."""
    wrong = {
        "donors": plan.code.n > min(question.donors, N_MAX),
        "disk": plan.expansion > question.expansion_max,
        "lines": plan.load.utilisation > UTILISATION_MAX,
        "loss": plan.loss.probability > question.target,
        "readable": plan.readable < question.readable,
    }
    return [name for name, missed in wrong.items() if missed]


def reaches_any(question: Question) -> bool:
    """Whether any code will do."""
    return any(
        n_max(question, k) > k and _will_do(question, k, n_max(question, k)) is not None for k in KS
    )


def best(question: Question) -> Best | None:
    """The code with the least loss that disks and lines bear; None if they bear none."""
    found: list[Best] = []
    for k in KS:
        n = n_max(question, k)
        most = largest_r(question, k, n) if n > k else None
        if most is None:
            continue
        code = Code(k, n, most[0])
        chance = loss(question, code, most[1]).probability
        mean, _ = readable(question, code, most[1].repair_years)
        found.append(Best(code, chance, mean, most[1].utilisation))
    enough = [b for b in found if b.readable >= question.readable]
    return min(enough or found, key=lambda b: (b.loss, -b.readable), default=None)


def plans(
    question: Question,
    prices: Prices,
    most: int = len(KS),
    progress: Progress = lambda done, total: None,
) -> list[Plan]:
    """The cheapest for each k that will do, the cheapest first, at most `most`; empty if none will."""
    found: list[tuple[float, Code]] = []
    for number, k in enumerate(KS):
        found += sorted((_cost(question, c, prices), c) for c in codes(question, k))[:1]
        progress(number + 1, len(KS))
    return [evaluate(question, code) for _, code in sorted(found)[:most]]


def _cost(question: Question, code: Code, prices: Prices) -> float:
    """A year, of donors' disks and lines."""
    moved = load(question, code).moved_bytes
    return prices.donated_per_year(question.data * code.n / code.k, moved)


def codes(question: Question, k: int) -> Iterator[Code]:
    """With this k, all that is asked met: the smallest n first, then wider ones, each with its smallest r."""
    top = n_max(question, k)
    if top <= k or _will_do(question, k, top) is None:
        return
    low, high = k + 1, top
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if _will_do(question, k, middle) is not None else (middle + 1, high)
        )
    tried = set()
    for factor in WIDER:
        n = min(top, math.ceil(low * factor))
        if n not in tried:
            tried.add(n)
            code = _lazy(question, k, n)
            if code is not None:
                yield code


def _lazy(question: Question, k: int, n: int) -> Code | None:
    """The smallest r that will do."""
    high = _will_do(question, k, n)
    if high is None:
        return None
    low = k + 1
    while low < high:
        middle = (low + high) // 2
        code = Code(k, n, middle)
        given = load(question, code)
        if given.utilisation <= UTILISATION_MAX and reaches(question, code, given):
            high = middle
        else:
            low = middle + 1
    return Code(k, n, high)
