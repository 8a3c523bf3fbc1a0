"""Which donors get the shards of a segment (docs/design/placement.md). Pure.

Drawn at random, weighted by free space, on distinct nodes. Two soft limits, the first before the second:

1. at most n−r shards in one failure domain: operator, /24 or /48, declared site; of loopback and private
   addresses the declared site alone, because there everybody shares operator and prefix;
2. at most n−r shards on nodes without a proven record.

What cannot be kept is minimised and reported. Data columns go to the most available of the drawn.
"""

from __future__ import annotations

import heapq
import ipaddress
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.ports import Address, Rng

__all__ = ["FREE_CLASS_MAX", "Candidate", "Placement", "domains_of", "free_class", "place"]

FREE_CLASS_MAX = 63
"""Class of 2^63 bytes and more."""
SWAP_ROUNDS_MAX = 256
"""Improving exchanges at most; each lessens the excess, so there are rarely more than a few."""


def free_class(free_bytes: int) -> int:
    """⌊log2⌋ of the free bytes, 0 where nothing is free: what a presence says, coarse on purpose."""
    return min(FREE_CLASS_MAX, max(0, free_bytes.bit_length() - 1)) if free_bytes > 0 else 0


@dataclass(frozen=True)
class Candidate:
    """A donor that may get a shard."""

    key: bytes
    """Node key, 32 bytes."""
    dht_id: bytes
    """20 bytes."""
    address: Address | None
    """None when it is reached through a relay."""
    operator: str
    site: str
    free_class: int
    """See `free_class`."""
    availability: float = 1.0
    """Expected share of time online, 0 to 1."""
    proven: bool | None = None
    """Seen for 14 days and one audit passed; None where nobody keeps such records (a client)."""


@dataclass(frozen=True)
class Placement:
    """Who gets which index."""

    holders: tuple[Candidate, ...]
    """By index, data first; shorter than n when there were too few candidates."""
    missing: int
    """Indices without a holder: n − len(holders)."""
    compromises: tuple[str, ...]
    """Soft limits that could not be kept, one sentence each."""


def place(
    candidates: Sequence[Candidate],
    n: int,
    k: int,
    r: int,
    *,
    rng: Rng,
    exclude: Collection[bytes] = (),
) -> Placement:
    """Choose up to n distinct nodes for a k-of-n segment repaired below r.

    `exclude` holds node keys that must not be drawn (they hold or refused the segment).
    Raises UsageError unless 1 ≤ k ≤ r ≤ n.
    """
    if not 1 <= k <= r <= n:
        raise UsageError(f"a placement of {k} of {n}, repaired below {r}")
    order = _draw(_distinct(candidates, frozenset(exclude)), rng)
    limit = max(1, n - r)  # with r = n a domain of one piece is the best there is
    chosen = _choose(order, n, limit)
    holders = sorted(chosen, key=lambda c: -c.availability)
    return Placement(tuple(holders), n - len(holders), tuple(_report(holders, limit)))


def _distinct(candidates: Iterable[Candidate], exclude: frozenset[bytes]) -> list[Candidate]:
    """One of each node key and DHT id, in the order given."""
    keys, ids, result = set(exclude), set(), []
    for candidate in candidates:
        if candidate.key not in keys and candidate.dht_id not in ids:
            keys.add(candidate.key)
            ids.add(candidate.dht_id)
            result.append(candidate)
    return result


def _draw(candidates: Sequence[Candidate], rng: Rng) -> list[Candidate]:
    """A random order in which a node of twice the free space tends to come earlier.

    Weighted sampling without replacement (Efraimidis and Spirakis 2006): sort by log(u)/weight.
    """
    drawn = [
        (math.log(1.0 - rng.random()) / 2.0**c.free_class, i) for i, c in enumerate(candidates)
    ]
    return [candidates[i] for _, i in sorted(drawn, reverse=True)]


# --- failure domains ------------------------------------------------------------------------------

Domain = tuple[str, str]
"""Kind (operator, network, site) and its label."""


@lru_cache(maxsize=4096)
def _network(host: str) -> str | None:
    """The /24 or /48 of a public address; None for loopback, private and unreadable ones."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not ip.is_global:
        return None
    length = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, length), strict=False))


def domains_of(candidate: Candidate) -> tuple[Domain, ...]:
    """The failure domains that a node stands in; what is not declared is no domain."""
    found: list[Domain] = []
    network = _network(candidate.address.host) if candidate.address else None
    if candidate.address is None or network is not None:
        if candidate.operator:
            found.append(("operator", candidate.operator))
        if network is not None:
            found.append(("network", network))
    if candidate.site:
        found.append(("site", candidate.site))
    return tuple(found)


# --- choosing under soft limits -------------------------------------------------------------------


class _Choice:
    """A set of nodes and how far it exceeds the limits: (shards too many in domains, … on unproven)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._domains: Counter[Domain] = Counter()
        self._unproven = 0

    def cost_of_adding(self, candidate: Candidate) -> tuple[int, int]:
        """By how much each excess would grow."""
        full = sum(self._domains[d] >= self._limit for d in domains_of(candidate))
        return full, int(candidate.proven is False and self._unproven >= self._limit)

    def gain_of_removing(self, candidate: Candidate) -> tuple[int, int]:
        """By how much each excess would shrink."""
        over = sum(self._domains[d] > self._limit for d in domains_of(candidate))
        return over, int(candidate.proven is False and self._unproven > self._limit)

    def change(self, candidate: Candidate, by: int) -> None:
        """Add (1) or remove (−1)."""
        for domain in domains_of(candidate):
            self._domains[domain] += by
        self._unproven += by * (candidate.proven is False)


def _choose(order: Sequence[Candidate], n: int, limit: int) -> list[Candidate]:
    """The first in the order that keep the limits; then those that break them least; then exchanges."""
    choice = _Choice(limit)
    chosen: list[Candidate] = []
    waiting: list[Candidate] = []
    for candidate in order:
        if len(chosen) < n and choice.cost_of_adding(candidate) == (0, 0):
            choice.change(candidate, 1)
            chosen.append(candidate)
        else:
            waiting.append(candidate)
    while len(chosen) < n and waiting:
        best = min(range(len(waiting)), key=lambda i: choice.cost_of_adding(waiting[i]))
        choice.change(waiting[best], 1)
        chosen.append(waiting.pop(best))
    return _improve(choice, chosen, waiting)


def _improve(choice: _Choice, chosen: list[Candidate], waiting: list[Candidate]) -> list[Candidate]:
    """Exchange a chosen for a waiting node while that lessens the excess."""
    for _ in range(SWAP_ROUNDS_MAX):
        if not _exchange_once(choice, chosen, waiting):
            break
    return chosen


def _exchange_once(choice: _Choice, chosen: list[Candidate], waiting: list[Candidate]) -> bool:
    for i, old in enumerate(chosen):
        gain = choice.gain_of_removing(old)
        if gain == (0, 0):
            continue
        choice.change(old, -1)
        for j, new in enumerate(waiting):
            if choice.cost_of_adding(new) < gain:
                choice.change(new, 1)
                chosen[i], waiting[j] = new, old
                return True
        choice.change(old, 1)
    return False


def _report(holders: Sequence[Candidate], limit: int) -> Iterable[str]:
    counts = Counter(domain for holder in holders for domain in domains_of(holder))
    over = ((count, domain) for domain, count in counts.items() if count > limit)
    for count, (kind, label) in heapq.nsmallest(8, over, key=lambda item: (-item[0], item[1])):
        yield f"{count} pieces of a segment with one {kind} ({label}), at most {limit} wanted"
    unproven = sum(holder.proven is False for holder in holders)
    if unproven > limit:
        yield f"{unproven} pieces of a segment on nodes without a proven record, at most {limit} wanted"
