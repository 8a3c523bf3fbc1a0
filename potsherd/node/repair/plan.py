"""What a holder decides about a segment: is it healthy, who repairs it, where do new shards go. Pure.

Every holder decides by itself from its roster, its view of who is there and its view of the pool; so all
rules are functions that give the same for all who see the same (docs/design/repair.md).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import IntEnum

from potsherd.classes import dataclass
from potsherd.durability.binomial import at_least
from potsherd.node.placement import Candidate, Domain, domains_of
from potsherd.node.records import RosterEntry

__all__ = [
    "PLACE_SLACK",
    "URGENT_MARGIN",
    "Health",
    "Outlook",
    "PlaceView",
    "Standing",
    "assess",
    "outlook_of",
    "place_score",
    "repair_ranks",
]

URGENT_MARGIN = 2
"""A segment with at most k + this many distinct live indices does not wait for frozen timers."""
PLACE_SLACK = 5
"""Places that a new holder may stand behind the first in another holder's view of the pool: the first
ones may have refused, be full or be away, and no two views are quite the same."""


class Standing(IntEnum):
    """What an entry of the roster is worth, the better the higher."""

    LOST = 0
    """Given up, or shown to be wrong."""
    UNKNOWN = 1
    """Not judged yet: its node has not answered yet, or its shard and place are not checked."""
    AWAY = 2
    LIVE = 3


@dataclass(frozen=True)
class Outlook:
    """How likely k indices are within reach at any moment, by the habits of their holders."""

    present: float
    """With the indices that are not lost."""
    whole: float
    """With all n, those that are lost being there as often as the others are on average."""
    target: float
    """What the network wants; 0 for nothing."""

    @property
    def falls_short(self) -> bool:
        """Below the target, and a repair would help."""
        return self.present < self.target <= self.whole


@dataclass(frozen=True)
class Health:
    """What is known of a segment's indices at one moment."""

    k: int
    n: int
    wanted: int
    """Repair starts when fewer distinct indices are not lost."""
    standings: Mapping[int, Standing]
    """Per index the best of its holders; indices without any are absent."""
    holders: Mapping[int, tuple[bytes, ...]]
    """Node keys by index, of those that are not lost, sorted."""
    outlook: Outlook | None = None
    """None: nothing is lost, or nothing is left, or nobody asks."""

    @property
    def live(self) -> int:
        """Distinct indices with a holder that is there."""
        return sum(s is Standing.LIVE for s in self.standings.values())

    @property
    def distinct(self) -> int:
        """Distinct indices with a holder that is not lost."""
        return len(self.holders)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices without a holder that is not lost."""
        return tuple(i for i in range(self.n) if i not in self.holders)

    @property
    def needs_repair(self) -> bool:
        """Fewer than wanted, or too seldom k at a time; laziness is what makes one pass serve many losses."""
        return self.distinct < self.wanted or (
            self.outlook is not None and self.outlook.falls_short
        )

    @property
    def is_readable(self) -> bool:
        """Enough live indices to rebuild the others now."""
        return self.live >= self.k

    @property
    def urgent(self) -> bool:
        """So few live indices that frozen timers are not waited for."""
        return self.live <= self.k + URGENT_MARGIN

    def nodes(self) -> frozenset[bytes]:
        """All that hold an index and are not lost."""
        return frozenset(key for keys in self.holders.values() for key in keys)


def assess(
    entries: Iterable[RosterEntry],
    *,
    k: int,
    n: int,
    r: int,
    raised: int = 0,
    urgent: bool = False,
    standing: Callable[[RosterEntry, bool], Standing],
) -> Health:
    """Judge a segment. `raised`: highest `repair_below` of its leases; `standing(entry, urgent)`.

    First without urgency; if few are live, once more with it; with `urgent` only so.
    """
    held = [e for e in entries if e.held and e.index < n]
    wanted = min(n, max(r, raised))
    health = _judge(held, k, n, wanted, lambda entry: standing(entry, urgent))
    if health.urgent and not urgent:
        health = _judge(held, k, n, wanted, lambda entry: standing(entry, True))
    return health


def _judge(
    held: Sequence[RosterEntry],
    k: int,
    n: int,
    wanted: int,
    standing: Callable[[RosterEntry], Standing],
) -> Health:
    best: dict[int, Standing] = {}
    holders: dict[int, list[bytes]] = {}
    for entry in held:
        judged = standing(entry)
        best[entry.index] = max(judged, best.get(entry.index, Standing.LOST))
        if judged is not Standing.LOST:
            holders.setdefault(entry.index, []).append(entry.node)
    return Health(k, n, wanted, best, {i: tuple(sorted(h)) for i, h in holders.items()})


def outlook_of(health: Health, up: Callable[[bytes], float], target: float) -> Outlook | None:
    """`up`: how often a node is there, 0 to 1. As if nodes came and went without regard to each other."""
    if target <= 0 or not health.missing or not health.holders:
        return None
    chances = [1 - math.prod(1 - up(key) for key in keys) for keys in health.holders.values()]
    mean = sum(chances) / len(chances)
    whole = [*chances, *[mean] * len(health.missing)]
    return Outlook(at_least(health.k, chances), at_least(health.k, whole), target)


# --- rendezvous -----------------------------------------------------------------------------------


def _score(person: bytes, *parts: bytes) -> int:
    hasher = hashlib.blake2b(digest_size=8, person=person)
    for part in parts:
        hasher.update(part)
    return int.from_bytes(hasher.digest(), "big")


def place_score(segment_id: bytes, index: int, node: bytes) -> int:
    """How much an index belongs to a node: the highest in the pool gets it, and keeps it."""
    return _score(b"potsherd place", segment_id, bytes([index]), node)


def repair_ranks(segment_id: bytes, holders: Iterable[bytes]) -> list[bytes]:
    """Holders in the order in which they act: the first repairs, the others stand by."""
    return sorted(
        set(holders), key=lambda node: (-_score(b"potsherd repair", segment_id, node), node)
    )


# --- places ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlaceView:
    """One node's view of a segment and its pool, from which places follow."""

    segment_id: bytes
    n: int
    r: int
    shard_bytes: int
    pool: tuple[Candidate, ...]
    """Donors nearest to the placement key, this node included where it is one of them."""
    taken: frozenset[bytes]
    """Nodes that hold an index, and those that must not get one."""
    domains: Mapping[bytes, tuple[Domain, ...]]
    """Failure domains of the present holders, as far as known."""
    judged: bytes | None = None
    """The holder whose place is judged; that it has less room now counts for nothing."""

    def order(
        self, index: int, *, besides: Collection[bytes] = (), more: Iterable[Candidate] = ()
    ) -> list[Candidate]:
        """Who should get the index, the first choice first.

        `besides` are not asked, `more` will hold other indices. Nodes in a failure domain that has its
        n − r shards already come after all others; among equals the rendezvous score decides.
        """
        counts = Counter(d for domains in self.domains.values() for d in domains)
        counts.update(d for candidate in more for d in domains_of(candidate))
        limit = self.n - self.r
        asked = [c for c in self._eligible() if c.key not in besides]

        def key(candidate: Candidate) -> tuple[int, int, bytes]:
            full = sum(counts[d] >= limit for d in domains_of(candidate))
            score = place_score(self.segment_id, index, candidate.key)
            return full, -score, candidate.key

        return sorted(asked, key=key)

    def _eligible(self) -> list[Candidate]:
        """Those that hold nothing yet and have room, and the one whose place is judged."""
        return [
            c
            for c in self.pool
            if c.key not in self.taken
            and (1 << c.free_class >= self.shard_bytes or c.key == self.judged)
        ]

    def choose(self, missing: Sequence[int]) -> dict[int, Candidate]:
        """A place for each missing index, in their order; fewer where the pool is too small."""
        chosen: dict[int, Candidate] = {}
        for index in sorted(missing):
            taken = {c.key for c in chosen.values()}
            order = self.order(index, besides=taken, more=chosen.values())
            if not order:
                break
            chosen[index] = order[0]
        return chosen

    def agrees(self, index: int, node: bytes) -> bool:
        """Whether this node could be the place of the index, give or take PLACE_SLACK."""
        order = [c.key for c in self.order(index)]
        return node in order[: PLACE_SLACK + 1]

    def suits(self, index: int, own_key: bytes) -> bool:
        """The same of this node itself, which its own pool leaves out."""
        own = place_score(self.segment_id, index, own_key)
        before = sum(place_score(self.segment_id, index, c.key) > own for c in self._eligible())
        return before <= PLACE_SLACK
