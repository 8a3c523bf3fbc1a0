"""What is known of a dataset's segments and of the nodes that keep them: what a forecast rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Literal, TypeAlias

from potsherd.classes import dataclass
from potsherd.durability.binomial import at_least
from potsherd.durability.spread import Spread
from potsherd.durability.uncertainty import Rate, Share
from potsherd.errors import UsageError

__all__ = [
    "UNKNOWN_DEPARTURES",
    "UNKNOWN_DOMAIN_FAILURES",
    "UNKNOWN_RETURNS",
    "Churn",
    "HeldShard",
    "SegmentCensus",
    "State",
    "repairs_within",
]

State: TypeAlias = Literal["live", "away", "gone"]
_STATES = ("live", "away", "gone")

UNKNOWN_DEPARTURES = Rate(0.5, 1.0)
"""Node-years, for who has watched nobody yet: about one a year, 2.5 % to 370 %. Add it to what was counted."""
UNKNOWN_DOMAIN_FAILURES = Rate(0.5, 50.0)
"""Domain-years: that a site, an operator or an address range is lost whole, about once in 50 years."""
UNKNOWN_RETURNS = Share(0.5, 1.0)
"""Of the nodes that are away: anything from none to all come back."""
REPAIRS_ASSUMED = 8.0
"""How many repairs an assumption about their duration counts for: known to a factor of about two."""
SECONDS_PER_YEAR = 365.25 * 86400


def repairs_within(mean_s: float) -> Rate:
    """An assumed mean time from a loss to its repair (noticing included), before repairs have been seen."""
    if not mean_s > 0:
        raise UsageError(f"mean_s = {mean_s}: not more than 0")
    return Rate(REPAIRS_ASSUMED, (REPAIRS_ASSUMED + 0.5) * mean_s / SECONDS_PER_YEAR)


@dataclass(frozen=True)
class HeldShard:
    """One holder's word for one index."""

    node: Hashable
    """Whatever tells nodes apart; two shards on one node go together."""
    index: int
    state: State
    """live: proven or heard lately; away: does not answer; gone: given up."""
    domains: tuple[Hashable, ...] = ()
    """Failure domains of the node (`potsherd.node.placement.domains_of`)."""
    availability: float = 1.0
    """Measured share of time online, 0 to 1."""

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        if self.state not in _STATES:
            raise UsageError(f"state = {self.state!r}: not one of {', '.join(_STATES)}")
        if not 0 <= self.availability <= 1:
            raise UsageError(f"availability = {self.availability}: not from 0 to 1")


@dataclass(frozen=True)
class SegmentCensus:
    """Who keeps a segment. Of several holders of an index the best counts: live before away before gone."""

    k: int
    n: int
    r: int
    """Repair starts when live < r."""
    shards: tuple[HeldShard, ...]
    stream_bytes: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError that names the field."""
        if not 1 <= self.k <= self.n:
            raise UsageError(f"k = {self.k}, n = {self.n}: 1 <= k <= n does not hold")
        if not 0 <= self.r <= self.n:
            raise UsageError(f"r = {self.r}: not from 0 to n")
        wrong = [s.index for s in self.shards if not 0 <= s.index < self.n]
        if wrong:
            raise UsageError(f"index = {wrong[0]}: not from 0 to {self.n - 1}")

    def best(self) -> dict[int, HeldShard]:
        """The best holder of each index that somebody has."""
        found: dict[int, HeldShard] = {}
        for shard in sorted(self.shards, key=lambda s: _STATES.index(s.state)):
            found.setdefault(shard.index, shard)
        return found

    def count(self, state: State) -> int:
        """Distinct indices in this state."""
        return sum(shard.state == state for shard in self.best().values())

    def survives(self) -> int:
        """How many machines, whichever they are, may go before fewer than k indices are live.

        Away ones count as gone. Negative when the segment cannot be read now: how many indices are short.
        Exact where no index has two holders; else the worst machine is taken one after the other.
        """
        left: dict[int, set[Hashable]] = {}
        for shard in self.shards:
            if shard.state == "live":
                left.setdefault(shard.index, set()).add(shard.node)
        if len(left) < self.k:
            return len(left) - self.k
        gone = 0
        while len(left) >= self.k:
            # The worst machine: the one whose going costs most indices, then most copies.
            cost = Counter(node for nodes in left.values() if len(nodes) == 1 for node in nodes)
            copies = Counter(node for nodes in left.values() for node in nodes)
            worst = max(copies, key=lambda node: (cost[node], copies[node]))
            left = {i: nodes - {worst} for i, nodes in left.items() if nodes != {worst}}
            gone += 1
        return gone - 1

    def spread(self) -> Spread:
        """How many shards each failure domain holds that holds at least two, as it will be with all n.

        Repair spreads what is missing like what is there. Equal domains count once. Of domains that overlap (an
        operator's two sites) those are *apart* that hold most shards without having one in common.
        """
        members: dict[Hashable, set[int]] = {}
        there = {i: shard for i, shard in self.best().items() if shard.state != "gone"}
        for index, shard in there.items():
            for domain in shard.domains:
                members.setdefault(domain, set()).add(index)
        distinct = {frozenset(indices) for indices in members.values() if len(indices) > 1}
        families: list[list[frozenset[int]]] = []
        for indices in sorted(distinct, key=lambda d: (-len(d), sorted(d))):
            room = (f for f in families if not any(indices & other for other in f))
            family = next(room, None)
            if family is None:
                families.append(family := [])
            family.append(indices)
        families.sort(key=lambda f: -sum(map(len, f)))
        grown = [_grown([len(d) for d in f], len(there), self.n) for f in families]
        return Spread(grown[0] if grown else (), tuple(sorted(sum(grown[1:], ()), reverse=True)))

    def readable(self) -> float:
        """P(at least k of the holders that are not gone are online at a moment), from availabilities."""
        up = [s.availability for s in self.best().values() if s.state != "gone"]
        return at_least(self.k, up)


def _grown(counts: list[int], there: int, n: int) -> tuple[int, ...]:
    """Shards of domains when `there` shards become n: in proportion, the largest remainders rounded up."""
    whole = [count * n // there for count in counts]
    short = round(sum(counts) * n / there) - sum(whole)
    ahead = sorted(range(len(counts)), key=lambda i: (-(counts[i] * n % there), i))
    for i in ahead[:short]:
        whole[i] += 1
    return tuple(sorted(whole, reverse=True))


@dataclass(frozen=True)
class Churn:
    """How nodes come and go, as measured; a node adds the UNKNOWN_ constants to its own counts."""

    departures: Rate = UNKNOWN_DEPARTURES
    """Nodes that left for good, per node-year watched."""
    repairs: Rate | None = None
    """Repairs done, per year of segments waiting for one (its mean is 1 / mean duration); None: nobody repairs."""
    returns: Share = UNKNOWN_RETURNS
    """Of nodes away as long as those that are away now: came back, of how many."""
    domain_failures: Rate = UNKNOWN_DOMAIN_FAILURES
    """Failures of whole domains, per domain-year."""
