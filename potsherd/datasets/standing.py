"""What the proofs of a dataset amount to: complete or not, spread over what, kept until when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from potsherd.classes import dataclass
from potsherd.datasets.health import Health, SegmentHealth
from potsherd.datasets.keeping import keeping_of
from potsherd.datasets.manifest import SegmentRef
from potsherd.erasure.descriptor import defaults
from potsherd.errors import PotsherdError
from potsherd.node.placement import Domain, domains_of
from potsherd.node.reader import SegmentReader
from potsherd.node.retention import Verdict
from potsherd.node.session import Session

__all__ = [
    "Spread",
    "Standing",
    "count_donors",
    "donors_near",
    "keeping_by",
    "spread_of",
    "standing_of",
    "state_of",
]

NEIGHBOURHOODS_MAX = 8
"""Segments around which donors are asked for where they stand."""
KINDS = ("site", "operator", "network")


@dataclass(frozen=True)
class Spread:
    """How the proven pieces of the worst segment lie over one kind of failure domain."""

    kind: str
    """site, operator or network (/24, /48)."""
    places: int
    """Different ones, as far as declared."""
    most: int
    """Distinct indices in the fullest one: so many go with it."""
    label: str
    """Its name."""
    survived: bool
    """Whether the segment could still be read without it."""


@dataclass(frozen=True)
class Standing:
    """What is true of a dataset besides the proofs themselves."""

    state: str
    """complete: n proven pieces of every segment; acknowledged: at least w; short: fewer."""
    donors: int
    """In this network, as far as seen."""
    attainable: bool
    """Whether this network has n donors at all; if not, completing waits for new ones."""
    spread: tuple[Spread, ...]
    keeping: Verdict | None
    """Until when, and what ends it; None when no holder says."""


def state_of(health: Health) -> str:
    """See `Standing.state`; of the segment that has fewest."""
    if all(segment.r and segment.live >= segment.n for segment in health.segments):
        return "complete"
    enough = (segment.live >= defaults(segment.k, segment.n)[1] for segment in health.segments)
    return "acknowledged" if all(enough) else "short"


def spread_of(health: Health, domains: Mapping[bytes, Sequence[Domain]]) -> tuple[Spread, ...]:
    """Per kind of domain the segment that suffers most from losing one."""
    found = []
    for kind in KINDS:
        spreads = [_spread(segment, kind, domains) for segment in health.segments]
        known = [spread for spread in spreads if spread is not None]
        if known:
            found.append(max(known, key=lambda spread: (not spread.survived, spread.most)))
    return tuple(found)


def _spread(
    segment: SegmentHealth, kind: str, domains: Mapping[bytes, Sequence[Domain]]
) -> Spread | None:
    """None where no holder has declared one."""
    inside: dict[str, set[int]] = {}
    where: dict[int, set[str]] = {}
    for shard in segment.shards:
        if not shard.live:
            continue
        labels = {label for k, label in domains.get(shard.key, ()) if k == kind}
        where.setdefault(shard.index, set()).update(labels or {""})
        for label in labels:
            inside.setdefault(label, set()).add(shard.index)
    if not inside:
        return None
    # an index whose copies all lie inside goes with the domain
    lost = Counter(
        label for label, indices in inside.items() for index in indices if where[index] == {label}
    )
    label, most = max(lost.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return Spread(kind, len(inside), most, label, segment.live - most >= segment.k)


async def donors_near(
    session: Session, segments: Sequence[SegmentRef]
) -> dict[bytes, tuple[Domain, ...]]:
    """Where the donors around some of the segments stand."""
    domains: dict[bytes, tuple[Domain, ...]] = {}
    for segment in segments[:NEIGHBOURHOODS_MAX]:
        for candidate in await session.donors(segment.placement_key, 4 * segment.n):
            domains[candidate.key] = domains_of(candidate)
    return domains


async def count_donors(
    session: Session, segments: Sequence[SegmentRef]
) -> tuple[int, dict[bytes, tuple[Domain, ...]]]:
    """How many there are, and where those around some of the segments stand. In a small network one scan tells both."""
    donors = await session.network_size()
    domains = await donors_near(session, segments)
    return max(donors, len(domains)), domains


def standing_of(
    health: Health,
    donors: int,
    domains: Mapping[bytes, Sequence[Domain]],
    keeping: Verdict | None,
) -> Standing:
    """Put it together."""
    return Standing(
        state=state_of(health),
        donors=donors,
        attainable=all(segment.n <= donors for segment in health.segments),
        spread=spread_of(health, domains),
        keeping=keeping,
    )


async def keeping_by(session: Session, entry: SegmentRef) -> Verdict | None:
    """For how long holders of the entry segment keep it; None when nobody says."""
    reader = SegmentReader(session, entry.segment_id, entry.placement_key)
    try:
        await reader.locate()
        facts = await keeping_of(session, reader)
    except PotsherdError:
        return None
    return facts.verdict if facts.kept.leases else None
