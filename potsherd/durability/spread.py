"""Over which failure domains a segment's shards lie, and what the loss of a domain takes.

A domain that was lost has none of the segment's shards until repair: what is live lies in the others. So the third of
five sites takes a third of what is left, not a fifth. That is why the *level* of a segment, what has been struck since
it was whole, is part of its state (`potsherd.durability.segment`). Two spreads are known:

- `drawn`: holders drawn at random among the donors of equal domains, as a plan has them; the level is the number of
  domains struck.
- `standing`: holders that are known, as a forecast has them; the level is the number of shards that lay in domains
  struck, whatever became of them. Given it, every live shard is alike in the rest, so this is exact for batch repair
  where domains do not overlap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from potsherd.classes import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Domains", "Spread", "Strike", "Strikes", "drawn", "hit_chances", "standing"]

STRUCK_MAX = 6
"""Domains struck since a segment was whole that are told apart, where holders are drawn."""
LEVELS_MAX = 24
"""Of a known spread; more numbers of shards struck are brought to the nearest."""
ROWS_MAX = 600
"""Levels times numbers of live shards: what a forecast can bear."""
TILT_MAX = 60.0
BISECTIONS = 80


@dataclass(frozen=True)
class Domains:
    """Equal failure domains (sites) over which the donors are spread evenly."""

    count: int
    donors: int
    limit: int
    """Shards of a segment in one of them, at most, where that is possible at all."""

    def most(self, n: int) -> int:
        """Shards of a segment that one domain may hold."""
        return min(n, max(self.limit, math.ceil(n / self.count)))


@dataclass(frozen=True, order=True)
class Spread:
    """Known failure domains of a segment, by how many of its n shards they hold."""

    apart: tuple[int, ...] = ()
    """Domains that have no shard in common, most first."""
    across: tuple[int, ...] = ()
    """Others, that cross them: taken as lying at random, and not remembered."""


@dataclass(frozen=True, eq=False)
class Strike:
    """The loss of a domain of one kind."""

    domains: float
    """How many such domains have not been struck; each fails at the rate of a domain."""
    after: int
    """Level that a strike leads to."""
    hits: Floats
    """By live shards 0 … n and shards hit 0 … most: chances. Rows add up to 1."""


@dataclass(frozen=True, eq=False)
class Strikes:
    """By level: what can be struck, and up to how many shards can be live. Compared by identity."""

    kinds: tuple[tuple[Strike, ...], ...]
    slots: tuple[int, ...]


# --- holders drawn at random ------------------------------------------------------------------------


@lru_cache(maxsize=64)
def drawn(n: int, domains: Domains) -> Strikes:
    """As placement draws holders among the donors of equal domains, at most `domains.limit` in one."""
    row = _counts(n, domains)
    last = min(domains.count, STRUCK_MAX)
    kinds: list[tuple[Strike, ...]] = []
    for struck in range(last + 1):
        left = domains.count - struck
        hits = _left(n, row, left, domains.count) if left else None
        kinds.append(() if hits is None else (Strike(left, min(struck + 1, last), hits),))
    return Strikes(tuple(kinds), tuple(n - struck for struck in range(last + 1)))


def hit_chances(n: int, domains: Domains) -> Floats:
    """By live shards 0 … n: chances that a domain holds 0, 1, … of these, before any has been struck.

    Holders are drawn at random among all donors, so a domain's count is hypergeometric; where placement's limit
    cuts it off, what is cut off goes to the other counts so that the mean stays n / domains.
    """
    return _thinned(n, n, _counts(n, domains))


def _counts(n: int, domains: Domains) -> list[float]:
    """Chances that a domain holds 0, 1, … of all n shards."""
    most, donors = domains.most(n), domains.donors
    members = max(1, donors // domains.count)
    return _tilted([_share(c, donors, members, n) for c in range(most + 1)], n / domains.count)


def _left(n: int, row: Sequence[float], left: int, count: int) -> Floats:
    """Of the live shards in `left` equal domains, how many one holds: mean live / left, never more than there are."""
    import numpy as np

    most = len(row) - 1
    if left == 1:
        found = np.zeros((n + 1, most + 1))
        found[np.arange(n + 1), np.minimum(np.arange(n + 1), most)] = 1.0
        return found
    slots = n * left / count  # where live shards can be, on average
    below, above = max(1, math.floor(slots)), max(1, math.ceil(slots))
    part = (1 / below - 1 / slots) / (1 / below - 1 / above) if above > below else 0.0
    return np.asarray(
        (1 - part) * _thinned(n, below, _at_most(below, row))
        + part * _thinned(n, above, _at_most(above, row))
    )


def _at_most(slots: int, row: Sequence[float]) -> list[float]:
    """More than there are: all of them."""
    if len(row) <= slots + 1:
        return list(row)
    return [*row[:slots], math.fsum(row[slots:]), *(0.0 for _ in row[slots + 1 :])]


def _thinned(n: int, slots: int, row: Sequence[float]) -> Floats:
    """Hits by live shards, when all of `slots` live give `row`; more live than that give it too.

    Of the live ones one goes, any of them alike.
    """
    import numpy as np

    most = len(row) - 1
    rows = np.zeros((n + 1, most + 2))
    rows[slots:, :-1] = row
    hit = np.arange(most + 1)
    for live in range(slots, 0, -1):
        more = rows[live]
        stay = np.maximum(live - hit, 0)
        rows[live - 1, :-1] = (more[:-1] * stay + more[1:] * (hit + 1)) / live
    return np.asarray(rows[:, :-1])


def _share(hit: int, total: int, marked: int, draws: int) -> float:
    """P(hit of `draws` are among the `marked` of `total`)."""
    if hit > marked or draws - hit > total - marked or hit > draws:
        return 0.0
    ways = math.comb(marked, hit) * math.comb(total - marked, draws - hit)
    return ways / math.comb(total, draws)


def _tilted(shares: Sequence[float], mean: float) -> list[float]:
    """The distribution over 0 … most nearest to `shares` that has this mean: weights e^(θ i)."""
    most = len(shares) - 1
    if mean >= most or not sum(shares) > 0:
        return [0.0] * most + [1.0]

    def tilt(theta: float) -> list[float]:
        powers = [math.log(s) + theta * i if s > 0 else -math.inf for i, s in enumerate(shares)]
        top = max(powers)
        weights = [math.exp(power - top) for power in powers]
        whole = math.fsum(weights)
        return [w / whole for w in weights]

    low, high = -TILT_MAX, TILT_MAX
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = math.fsum(i * w for i, w in enumerate(tilt(middle)))
        low, high = (middle, high) if found < mean else (low, middle)
    return tilt((low + high) / 2)


# --- holders that are known -------------------------------------------------------------------------


@lru_cache(maxsize=64)
def standing(n: int, k: int, spread: Spread) -> Strikes | None:
    """As the holders stand now, and as repair will leave them; None where no domain holds a shard.

    All sets of domains that make a level are taken as equally likely, the fewest domains first.
    """
    if not (spread.apart or spread.across):
        return None
    sizes = Counter(spread.apart)
    gone = _gone(sizes, n - k)
    levels = _levels(sorted(gone), max(2, min(LEVELS_MAX, ROWS_MAX // (n - k + 2))))
    slots = [n, *(0 for _ in levels[1:])]
    kinds: list[tuple[Strike, ...]] = []
    for level, struck in enumerate(levels):
        left = n - struck
        found = [_across(n, left, level, size) for size in spread.across]
        for size, many in sorted(sizes.items()):
            domains = many - gone[struck].get(size, 0.0)
            after = max(level, _nearest(levels, struck + size))
            if domains > 0:
                taken = min(size, left)
                found.append(Strike(domains, after, _taken(n, left, taken)))
                slots[after] = max(slots[after], max(left, slots[level]) - taken)
        kinds.append(tuple(found))
    return Strikes(tuple(kinds), tuple(slots))


def _across(n: int, left: int, level: int, size: int) -> Strike:
    """A domain that crosses the others: of what is left it has its share; the level stays."""
    return Strike(1.0, level, _taken(n, left, min(left, max(1, round(size * left / n)))))


def _taken(n: int, slots: int, size: int) -> Floats:
    """Hits of a domain that has `size` of the `slots` where live shards can be."""
    return _thinned(n, slots, [0.0] * size + [1.0])


def _gone(sizes: Counter[int], most: int) -> dict[int, dict[int, float]]:
    """By shards in domains struck, 0 … most: how many domains of each size are among them, on average."""
    found: dict[int, tuple[int, int, dict[int, int]]] = {0: (0, 1, {})}  # struck, ways, sums
    for size, many in sizes.items():
        following = dict(found)
        for shards, (struck, ways, sums) in found.items():
            for more in range(1, many + 1):
                to, choices = shards + more * size, math.comb(many, more)
                if to > most:
                    break
                fresh = {s: c * choices for s, c in sums.items()} | {size: more * ways * choices}
                known = following.get(to)
                if known is None or struck + more < known[0]:
                    following[to] = (struck + more, ways * choices, fresh)
                elif struck + more == known[0]:
                    both = Counter(known[2])
                    both.update(fresh)
                    following[to] = (known[0], known[1] + ways * choices, dict(both))
        found = following
    return {
        shards: {size: total / ways for size, total in sums.items()}
        for shards, (_, ways, sums) in found.items()
    }


def _levels(shards: list[int], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(shards) <= most:
        return shards
    return [shards[round(i * (len(shards) - 1) / (most - 1))] for i in range(most)]


def _nearest(levels: Sequence[int], struck: int) -> int:
    return min(range(len(levels)), key=lambda i: (abs(levels[i] - struck), i))
