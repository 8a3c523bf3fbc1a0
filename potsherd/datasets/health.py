"""How well an archive is kept: every holder is asked to prove what it says it keeps.

"Live" means proven just now: a random cell of the shard, or with `deep` all of them, came back with a
proof to the shard root, or a challenge over them was answered (potsherd.node.deep). Two holders of one index
count once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from potsherd.classes import dataclass
from potsherd.datasets.manifest import SegmentRef
from potsherd.errors import IntegrityError, NotFoundError, PotsherdError
from potsherd.node.deep import WINDOWS_AT_ONCE, prove_all
from potsherd.node.habits import LossPolicy
from potsherd.node.reader import Holder, SegmentReader, probe
from potsherd.node.repair.records import LAST_SEEN_MAX
from potsherd.node.session import Session
from potsherd.ports import Address

__all__ = ["Health", "SegmentHealth", "ShardHealth", "examine"]

PROBES_AT_ONCE = 32
SEGMENTS_AT_ONCE = 8
SIGHTINGS_ASKED = 3
"""Holders asked when they have seen the others."""
SIGHTINGS_TIMEOUT_S = 10.0
GONE_S = LossPolicy().prior_s
"""Seconds of silence after which a holder of whom nothing is known is given up."""
Troubles: TypeAlias = dict[Holder, PotsherdError | None]
"""What kept each holder of a segment from proving its shard; None: nothing did."""
_Prover: TypeAlias = Callable[[SegmentReader], Awaitable[Troubles]]
STATES = ("live", "away", "gone", "wrong")
"""What a shard may be, the best first."""


@dataclass(frozen=True)
class ShardHealth:
    """One shard at one holder."""

    index: int
    key: bytes
    address: Address | None
    live: bool
    trouble: str
    """Why it is not live; empty when it is."""
    seen_ago_s: int | None = None
    """Seconds since other holders have seen its node, the least of what they say; None: they never did, or
    nobody was asked because it is live."""

    @property
    def state(self) -> str:
        """live: proven; wrong: its bytes were not the shard; away: no answer; gone: none for so long that a holder of
        whom nothing is known is given up. Holders decide by what they have learned of each, so they may repair sooner
        or later."""
        if self.live:
            return "live"
        if self.trouble.startswith("wrong"):
            return "wrong"
        gone = self.seen_ago_s is not None and self.seen_ago_s >= GONE_S
        return "gone" if gone else "away"

    def facts(self) -> dict[str, Any]:
        """What `--json` says of a piece, the same in every verb."""
        address = f"{self.address.host}:{self.address.port}" if self.address else None
        return {
            "index": self.index,
            "key": self.key.hex(),
            "address": address,
            "live": self.live,
            "state": self.state,
            "seen_ago_s": self.seen_ago_s,
            "trouble": self.trouble,
        }


@dataclass(frozen=True)
class SegmentHealth:
    """One segment with everybody who says to keep a shard of it."""

    segment_id: bytes
    k: int
    n: int
    r: int
    """Repair starts when fewer are live; 0 when not even a descriptor was found."""
    stream_length: int
    shards: tuple[ShardHealth, ...]
    rows: int = 0
    """Cells of each shard."""

    @property
    def live(self) -> int:
        """Distinct indices proven just now."""
        return len({shard.index for shard in self.shards if shard.live})

    def count(self, state: str) -> int:
        """Distinct indices of which the best holder is in this state (see ShardHealth.state)."""
        best: dict[int, int] = {}
        for shard in self.shards:
            rank = STATES.index(shard.state)
            best[shard.index] = min(rank, best.get(shard.index, rank))
        return sum(STATES[rank] == state for rank in best.values())

    def replaced(self, shard: ShardHealth) -> bool:
        """Whether its node does not answer, and another one has proven the same index."""
        silent = shard.state in ("away", "gone")
        return silent and any(s.live and s.index == shard.index for s in self.shards)

    @property
    def survives(self) -> int:
        """Holders that may still go; negative when the segment cannot be read now."""
        return self.live - self.k


@dataclass(frozen=True)
class Health:
    """The segments of an archive in its order, and when they were asked."""

    segments: tuple[SegmentHealth, ...]
    proven_at: int
    """Seconds since 1970, UTC."""
    deep: bool

    @property
    def weakest(self) -> SegmentHealth:
        """The segment that survives least."""
        return min(self.segments, key=lambda segment: segment.survives)

    @property
    def readable(self) -> bool:
        """Whether every segment has k live shards."""
        return all(segment.survives >= 0 for segment in self.segments)

    @property
    def on_target(self) -> bool:
        """Whether no segment needs repair."""
        return all(segment.r and segment.live >= segment.r for segment in self.segments)

    @property
    def cells(self) -> int:
        """Of all shards of all segments together."""
        return sum(segment.rows * segment.n for segment in self.segments)

    @property
    def cells_proven(self) -> int:
        """Cells that came back with a proof just now."""
        return sum(
            (segment.rows if self.deep else 1)
            for segment in self.segments
            for shard in segment.shards
            if shard.live
        )

    @property
    def wrong(self) -> int:
        """Shards whose bytes were wrong: rot, or a liar."""
        return sum(s.trouble.startswith("wrong") for g in self.segments for s in g.shards)


async def examine(
    session: Session,
    segments: Sequence[SegmentRef],
    *,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Health:
    """Ask all holders of all segments; `progress` is called with the number of segments done."""
    gate = asyncio.Semaphore(SEGMENTS_AT_ONCE)
    prove = _Deep(session) if deep else _Sampled(session)
    done = 0

    async def one(name: SegmentRef) -> SegmentHealth:
        nonlocal done
        async with gate:
            found = await _segment(session, name, prove)
        done += 1
        if progress is not None:
            progress(done)
        return found

    found = await asyncio.gather(*(one(name) for name in segments))
    return Health(tuple(found), int(session.env.utc()), deep)


async def _segment(session: Session, name: SegmentRef, prove: _Prover) -> SegmentHealth:
    reader = SegmentReader(session, name.segment_id, name.placement_key)
    try:
        await reader.locate()
    except NotFoundError:
        return SegmentHealth(name.segment_id, name.k, name.n, 0, 0, ())
    if len(reader.holders) < name.n:
        with suppress(PotsherdError):  # one roster may be short
            await reader.ask_others()
    d, troubles = reader.descriptor, await prove(reader)
    if any(isinstance(error, NotFoundError) for error in troubles.values()):
        # Who says that it has let go of its piece may have told others than the one whose roster was read.
        known = set(troubles)
        with suppress(PotsherdError):
            await reader.ask_others()
        if known != {holder for found in reader.holders.values() for holder in found}:
            troubles = await prove(reader)
    found = [
        ShardHealth(holder.index, holder.key, holder.address, error is None, _trouble(error))
        for holder, error in troubles.items()
    ]
    shards = await _date(session, reader, found)
    shards.sort(key=lambda shard: (shard.index, shard.key))
    return SegmentHealth(name.segment_id, d.k, d.n, d.r, d.stream_length, tuple(shards), d.rows)


async def _date(
    session: Session, reader: SegmentReader, shards: Sequence[ShardHealth]
) -> list[ShardHealth]:
    """Ask some holders that answered when they have seen those that did not."""
    silent = [s.key for s in shards if not s.live and not s.trouble.startswith("wrong")]
    asked = list(dict.fromkeys(s.key for s in shards if s.live))[:SIGHTINGS_ASKED]
    silent = list(dict.fromkeys(silent))[:LAST_SEEN_MAX]
    if not silent or not asked:
        return list(shards)
    near = reader.descriptor.placement_key

    async def ask(key: bytes) -> list[int | None]:
        async with asyncio.timeout(SIGHTINGS_TIMEOUT_S):
            return await (await session.peer(key, near=near)).last_seen(silent)

    ages: dict[bytes, int] = {}
    for told in await asyncio.gather(*map(ask, asked), return_exceptions=True):
        if isinstance(told, (PotsherdError, TimeoutError)):
            continue
        if isinstance(told, BaseException):
            raise told
        for key, age in zip(silent, told, strict=True):
            if age is not None:
                ages[key] = min(age, ages.get(key, age))
    return [replace(s, seen_ago_s=ages.get(s.key)) if not s.live else s for s in shards]


class _Sampled:
    """Every holder proves one random cell."""

    def __init__(self, session: Session) -> None:
        self._rng = session.env.rng
        self._probes = asyncio.Semaphore(PROBES_AT_ONCE)

    async def __call__(self, reader: SegmentReader) -> Troubles:
        """See Troubles."""
        holders = [holder for found in reader.holders.values() for holder in found]
        found = await asyncio.gather(*(self._one(reader, holder) for holder in holders))
        return dict(zip(holders, found, strict=True))

    async def _one(self, reader: SegmentReader, holder: Holder) -> PotsherdError | None:
        async with self._probes:
            try:
                await probe(reader, holder, [self._rng.randrange(reader.descriptor.rows)])
            except PotsherdError as error:
                return error
        return None


class _Deep:
    """Every holder proves every cell."""

    def __init__(self, session: Session) -> None:
        self._env = session.env
        self._windows = asyncio.Semaphore(WINDOWS_AT_ONCE)

    async def __call__(self, reader: SegmentReader) -> Troubles:
        """See Troubles."""
        return await prove_all(self._env, reader, self._windows)


def _trouble(error: PotsherdError | None) -> str:
    """See ShardHealth.trouble."""
    if error is None:
        return ""
    return f"wrong bytes: {error}" if isinstance(error, IntegrityError) else f"no answer: {error}"
