"""The forecast that `stat` shows: what the holders have just proven and seen, given to `potsherd.durability`.

A client has watched nobody. So some of the holders are asked what they have seen of coming and going; the median of
what they say counts, so that a minority of liars moves nothing. Where holders have watched for less than a
machine-year, the stated priors of the model decide, and the words say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.datasets.health import Health, SegmentHealth, ShardHealth
from potsherd.durability.census import (
    SECONDS_PER_YEAR,
    UNKNOWN_DEPARTURES,
    UNKNOWN_RETURNS,
    Churn,
    HeldShard,
    SegmentCensus,
    State,
    repairs_within,
)
from potsherd.durability.forecast import Forecast, forecast
from potsherd.durability.uncertainty import Rate, Share
from potsherd.errors import PotsherdError
from potsherd.node.churn import AVAILABILITY_WHOLE, NODES_MAX, ChurnSeen, typical
from potsherd.node.placement import Domain
from potsherd.node.session import Session
from potsherd.ports import Address

__all__ = [
    "HOLDERS_REPAIR_S",
    "OBSERVERS",
    "REPAIR_BYTES_PER_S",
    "Seen",
    "ask",
    "churn_of",
    "outlook",
    "seen_by",
]

HOLDERS_REPAIR_S = 15 * 86400.0
"""Mean seconds from a loss to its repair when no holder says: a node is gone after 14 days, then come the next round
and the transfer. An assumption, and weighed as one."""
REPAIR_BYTES_PER_S = 2.0**20
"""What a repair is taken to move: a quarter of what a node allows by default, as it may have several to do."""
HARDLY = 0.05
"""Machine-years that are not worth a number."""
OBSERVERS = 5
"""Holders asked what they have seen."""
OBSERVERS_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Seen:
    """What the holders asked have seen, the median of each number."""

    observers: int
    """How many answered."""
    years: float
    """Machine-years watched."""
    gone: int
    """Machines given up in that time."""
    returned: int
    """Long absences that ended."""
    noticed_s: float
    """From silence until lost shards are made anew, transfer not counted."""
    availability: Mapping[bytes, float]
    """By node, 0 to 1."""

    def words(self) -> str:
        """On what the rate of leaving rests, as a clause."""
        if self.years < UNKNOWN_DEPARTURES.years:
            watched = f"for {_number(self.years)} machine-years only"
            if self.years < HARDLY:
                watched = "for hardly any time yet"
            return f"a machine leaves about once a year (a guess: holders have watched {watched})"
        return (
            f"machines go on leaving as holders have seen it ({self.gone} gone in "
            f"{_number(self.years)} machine-years)"
        )


def _number(years: float) -> str:
    return f"{years:,.1f}" if years < 10 else f"{years:,.0f}"


UNSEEN = Seen(0, 0.0, 0, 0, 0.0, {})


async def outlook(
    session: Session, health: Health, domains: Mapping[bytes, tuple[Domain, ...]]
) -> Forecast | None:
    """Chance of loss within a year; None when not even a descriptor of some segment was found.

    `domains`: where the holders stand (`standing.donors_near`).
    """
    if not all(segment.r for segment in health.segments):
        return None
    seen = await _ask_holders(session, health)
    return await session.env.offload(_forecast, health, domains, seen)


async def _ask_holders(session: Session, health: Health) -> Seen:
    """What some live holders have seen."""
    shards = [s for segment in health.segments for s in segment.shards]
    live = list(dict.fromkeys(s.key for s in shards if s.live))
    asked = session.env.rng.sample(live, min(OBSERVERS, len(live)))
    nodes = list(dict.fromkeys(s.key for s in shards))[:NODES_MAX]
    addresses = {s.key: s.address for s in shards}
    return await ask(session, {key: addresses[key] for key in asked}, nodes)


async def ask(
    session: Session,
    asked: Mapping[bytes, Address | None],
    nodes: Sequence[bytes],
    timeout_s: float = OBSERVERS_TIMEOUT_S,
) -> Seen:
    """What those nodes have seen, and how much up to NODES_MAX others are there; who is silent is left out."""

    async def one(key: bytes) -> ChurnSeen | None:
        try:
            async with asyncio.timeout(timeout_s):
                return await (await session.peer(key, asked[key])).churn(nodes)
        except (PotsherdError, TimeoutError):
            return None  # others may know

    told = await asyncio.gather(*map(one, asked))
    return seen_by([t for t in told if t is not None], nodes)


def seen_by(told: Sequence[ChurnSeen], nodes: Sequence[bytes]) -> Seen:
    """The median of what was told, of two middle values the worse one; nodes in the order asked for."""
    if not told:
        return UNSEEN
    known: dict[bytes, list[int]] = {}
    for one in told:
        for node, share in zip(nodes, one.availability, strict=True):
            if share is not None:
                known.setdefault(node, []).append(share)
    return Seen(
        observers=len(told),
        years=typical([t.watched for t in told]) / SECONDS_PER_YEAR,
        gone=typical([t.gone for t in told], high=True),
        returned=typical([t.returned for t in told]),
        noticed_s=float(typical([t.noticed for t in told], high=True)),
        availability={node: typical(shares) / AVAILABILITY_WHOLE for node, shares in known.items()},
    )


def churn_of(seen: Seen, transfer_s: float) -> Churn:
    """What was seen, added to what is assumed of those who have watched nobody."""
    repair_s = seen.noticed_s + transfer_s if seen.noticed_s else HOLDERS_REPAIR_S
    departures, returns = UNKNOWN_DEPARTURES, UNKNOWN_RETURNS
    ended = seen.returned + seen.gone
    return Churn(
        departures=Rate(departures.events + seen.gone, departures.years + seen.years),
        repairs=repairs_within(repair_s),
        returns=Share(returns.hits + seen.returned, returns.trials + ended),
    )


def _forecast(health: Health, domains: Mapping[bytes, tuple[Domain, ...]], seen: Seen) -> Forecast:
    transfer_s = max(_moved(segment) for segment in health.segments) / REPAIR_BYTES_PER_S
    census = [_census(segment, domains, seen) for segment in health.segments]
    found = forecast(census, churn_of(seen, transfer_s))
    return replace(found, assumes=(*found.assumes, seen.words()))


def _moved(segment: SegmentHealth) -> float:
    """Bytes of one repair: k − 1 shards are read, those below the trigger are sent."""
    return segment.stream_length / segment.k * (segment.k - 1 + segment.n - segment.r + 1)


def _census(
    segment: SegmentHealth, domains: Mapping[bytes, tuple[Domain, ...]], seen: Seen
) -> SegmentCensus:
    shards = tuple(
        HeldShard(
            shard.key,
            shard.index,
            _state(shard, seen),
            domains.get(shard.key, ()),
            seen.availability.get(shard.key, 1.0),
        )
        for shard in segment.shards
    )
    return SegmentCensus(segment.k, segment.n, segment.r, shards, segment.stream_length)


def _state(shard: ShardHealth, seen: Seen) -> State:
    """Wrong bytes are no shard; who is silent for as long as holders wait is given up."""
    if shard.state == "live":
        return "live"
    silent = shard.seen_ago_s is not None and 0 < seen.noticed_s <= shard.seen_ago_s
    return "gone" if silent or shard.state in ("gone", "wrong") else "away"
