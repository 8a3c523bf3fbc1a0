"""Which segments need repair, whether it is this node that acts, and what becomes of it.

The health of all segments is looked at once in a round, page by page; those that need repair are looked
at in every step, until somebody has repaired them. Rank decides who acts, a claim tells the others, and
each next rank waits a little longer (docs/design/repair.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.crypto.signing import SigningKey
from potsherd.errors import PotsherdError, RefusedError
from potsherd.node.audit.encodings import Encodings
from potsherd.node.client import Dial
from potsherd.node.handover import hand_statements
from potsherd.node.liveness import PeerTable
from potsherd.node.reader import Holder
from potsherd.node.records import RosterEntry
from potsherd.node.repair.checks import Checker
from potsherd.node.repair.claiming import Claiming, Gossip, Overtaken
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.places import Places
from potsherd.node.repair.plan import PlaceView, Standing
from potsherd.node.repair.reconciler import Reconciler
from potsherd.node.repair.records import LAST_SEEN_MAX
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.repair.trimming import Trimmer
from potsherd.node.repair.view import Seen, View
from potsherd.node.repair.worker import Inconsistent, Repaired, RepairWork, WorkTools
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Address, Env

__all__ = ["Plight", "Repairer", "RepairerStatistics"]

NEEDS_MAX = 4096
"""Segments known to need repair; further ones are found again in the next round."""
UNFINISHED_PASSES = 4
"""Passes in which a repair that was begun is finished; then it waits for the threshold again."""
NEEDS_PER_STEP = 64
"""Segments in need looked at in one step, those with the fewest indices first."""
NAMES_MAX = 12
"""Sources named in one line of the journal."""
ASKED_PAUSE_S = 60.0
"""Seconds within which a second request for the same segment changes nothing."""
LOOKS_PER_RANK = 4
"""Times that a segment in need is looked at while one rank waits for the one before it."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairerStatistics:
    """Counts since start, and what waits now."""

    needing: int = 0
    """Segments that need repair now, as far as this node has looked."""
    running: int = 0
    repaired: int = 0
    """Indices brought to new holders."""
    passes: int = 0
    """Repairs begun."""
    failed: int = 0
    """Repairs that did not complete the segment."""
    bytes_in: int = 0
    bytes_out: int = 0
    rounds: int = 0
    trimmed: int = 0
    """Second copies dropped."""
    inconsistent: tuple[bytes, ...] = ()
    """Segments whose owner has coded them wrongly, as this node has found; they are not repaired."""


@dataclass
class _Need:
    """A segment that needs repair."""

    since: float
    not_before: float
    distinct: int
    look_at: float = 0.0
    backoff_s: float = 0.0
    unfinished: int = 0
    """Passes that left indices on their way: they are finished, whatever the threshold says."""
    urgent: bool = False
    """Begun when few were left: those who were given up then, before their frozen time was over, stay so until it
    is finished; else each new shard would make the others seem less missing."""
    task: asyncio.Task[None] | None = None
    asked: float = float("-inf")
    """When somebody asked for it last."""
    trouble: str = ""
    """Why the last pass did not complete it."""


class Plight(NamedTuple):
    """How the repair of one segment stands at this node."""

    running: bool
    trouble: str
    """Why the last try did not complete it; empty when there was none."""
    rests_s: float
    """Seconds until this node may try again."""


class Repairer:
    """`run` is a task of the node's; the other methods may be called at any time."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        session: Session,
        rosters: Rosters,
        peers: PeerTable,
        *,
        view: View,
        places: Places,
        checker: Checker,
        reconciler: Reconciler,
        claiming: Claiming,
        gossip: Gossip,
        trimmer: Trimmer,
        journal: Journal,
        dial: Dial,
        address_of: Callable[[bytes], Address | None],
        encodings: Encodings,
        limiter: Limiter,
        suspect: Callable[[bytes], None],
        settings: RepairSettings,
    ) -> None:
        """`suspect(segment id)`: our own shard did not fit its root."""
        self._encodings = encodings
        self._suspect = suspect
        self._env = env
        self._store = store
        self._session = session
        self._rosters = rosters
        self._peers = peers
        self._view = view
        self._places = places
        self._checker = checker
        self._reconciler = reconciler
        self._claiming = claiming
        self._gossip = gossip
        self._trimmer = trimmer
        self._journal = journal
        self._dial = dial
        self._address_of = address_of
        self._settings = settings
        self._me = session.identity.key
        self._key = SigningKey(session.identity.seed)
        self._limiter = limiter
        self._needs: dict[bytes, _Need] = {}
        self._slots = asyncio.Semaphore(settings.repairs_parallel)
        self._cursor = b""
        self._passes_due = 1
        self._wake = asyncio.Event()
        self._torn = (0, False)
        """Frozen peers, and whether this node is isolated, when last looked at."""
        self._torn_at = 0.0
        self._counts = RepairerStatistics()

    def statistics(self) -> RepairerStatistics:
        """A snapshot."""
        return replace(
            self._counts,
            needing=len(self._needs),
            trimmed=self._trimmer.trimmed,
            running=sum(need.task is not None for need in self._needs.values()),
            inconsistent=tuple(bad.segment_id for bad in self._encodings.all()),
        )

    def holders_changed(self) -> None:
        """Somebody was given up, or a roster changed: look at all segments soon."""
        # what the pass under way has left behind is looked at in one more
        self._passes_due = 2 if self._cursor else 1
        self._wake.set()

    def ask_for(self, segment_id: bytes) -> None:
        """Somebody wants what is missing of this segment repaired now, whatever the threshold says.

        Asked again within ASKED_PAUSE_S it changes nothing, nor beyond NEEDS_MAX segments in need.
        """
        now = self._env.monotonic()
        need = self._needs.get(segment_id)
        if need is None:
            if len(self._needs) >= NEEDS_MAX:
                return
            need = self._needs[segment_id] = _Need(now, now, 0)
        elif now - need.asked < ASKED_PAUSE_S:
            return
        need.asked = now
        need.not_before = min(need.not_before, now)
        need.look_at = now
        need.unfinished = max(need.unfinished, UNFINISHED_PASSES)
        self._wake.set()

    def plight(self, segment_id: bytes) -> Plight | None:
        """How the repair of a segment stands here; None when it is not known to need any."""
        need = self._needs.get(segment_id)
        if need is None:
            return None
        rests_s = need.not_before - self._env.monotonic()
        return Plight(need.task is not None, need.trouble, max(0.0, rests_s))

    # the round

    async def run(self) -> None:
        """Until cancelled; then repairs under way end too."""
        try:
            while True:
                try:
                    pause = await self.step()
                except PotsherdError as error:
                    _LOG.warning("looking at segments failed: %s", error)
                    pause = self._settings.tick_s
                await self._wait(pause * self._env.rng.uniform(0.5, 1.5))
        finally:
            tasks = [need.task for need in self._needs.values() if need.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
        await asyncio.sleep(min(pause, self._settings.tick_s) * self._env.rng.random())

    async def step(self) -> float:
        """Look at one page of segments, and at those in need; seconds to wait before the next step."""
        self._note_partition()
        page = await self._store.segments(self._cursor, self._settings.batch)
        for held in page:
            seen = await self._look(held)
            if await self._trimmer.look(seen, calm=self._calm()):
                self._needs.pop(held.segment_id, None)
        if len(page) < self._settings.batch:
            self._cursor, self._passes_due = b"", max(0, self._passes_due - 1)
            self._count(rounds=1)
        else:
            self._cursor = page[-1].segment_id
        await self._serve_needs()
        return self._pause_s()

    async def _look(self, held: Held) -> Seen:
        need = self._needs.get(held.segment_id)
        seen = await self._view.look(held, urgent=need is not None and need.urgent)
        rest = seen.health.missing or not self._calm()
        unfinished = need is not None and need.unfinished > 0 and rest
        hopeless = not seen.wanted or self._encodings.is_bad(held.segment_id)
        if not (seen.health.needs_repair or unfinished) or hopeless:
            if need is not None and need.task is None:
                del self._needs[held.segment_id]
        elif need is None and len(self._needs) < NEEDS_MAX:
            now = self._env.monotonic()
            self._needs[held.segment_id] = _Need(now, now, seen.health.distinct)
        elif need is not None:
            need.distinct = seen.health.distinct
        return seen

    def _pause_s(self) -> float:
        tick = self._settings.tick_s
        if self._passes_due or self._needs:
            return tick
        pages = max(1, -(-self._store.usage().shards // self._settings.batch))
        return max(tick, self._settings.round_s / pages)

    async def _serve_needs(self) -> None:
        """Begin with those that have the fewest indices left."""
        now = self._env.monotonic()
        due = [s for s, need in self._needs.items() if need.look_at <= now and need.task is None]
        due.sort(key=lambda s: self._needs[s].distinct)
        for segment_id in due[:NEEDS_PER_STEP]:
            held = await self._store.held(segment_id)
            need = self._needs.get(segment_id)
            if need is None or need.task is not None:
                continue
            if held is None:
                del self._needs[segment_id]
                continue
            seen = await self._look(held)
            if segment_id in self._needs and self._may_begin(seen, need):
                work = partial(self._repair_quietly, held, need)
                need.task = asyncio.get_running_loop().create_task(work())
            need.look_at = now + self._settings.standby_s / LOOKS_PER_RANK

    def _may_begin(self, seen: Seen, need: _Need) -> bool:
        now, segment_id = self._env.monotonic(), seen.held.segment_id
        if now < need.not_before or self._peers.isolated:
            return False
        if not seen.health.is_readable or self._waits_for_partition(seen):
            return False
        claim = self._claiming.standing(segment_id)
        if claim is not None and claim.repairer != self._me:
            need.since = now  # when it ends, the ranks wait for one another anew
            return False
        rank = 0 if claim is not None else self._claiming.rank(seen)(self._me)
        return now - need.since >= rank * self._settings.standby_s

    # partitions

    def _note_partition(self) -> None:
        """Remember when many vanished together last, or this node came to reach too few."""
        counts = self._peers.counts(self._env.monotonic())
        torn = counts.frozen, counts.isolated
        if torn[0] > self._torn[0] or torn[1] > self._torn[1]:
            self._torn_at = self._env.monotonic()
        self._torn = torn

    def _calm(self) -> bool:
        return not self._peers.isolated and not self._partitioned()

    def _partitioned(self) -> bool:
        """Whether many have vanished together, not too long ago, and are not back."""
        recent = self._env.monotonic() - self._torn_at < self._settings.partition_s
        return recent and self._torn != (0, False)

    def _waits_for_partition(self, seen: Seen) -> bool:
        return self._partitioned() and not seen.health.urgent

    def _patience_s(self, sources: Sequence[bytes], targets: int, silent: int) -> float:
        """How long a repair waits: `sources` were there when it began, `silent` of its targets do not answer.

        Heartbeats tell of a cut cable only when those watched count as away, and targets are not watched.
        """
        self._note_partition()
        vanished = silent + sum(map(self._peers.silent, sources))
        torn = self._partitioned() or self._peers.together(vanished, len(sources) + targets)
        return self._settings.partition_s if torn else self._settings.patience_s

    # one segment

    async def _repair_quietly(self, held: Held, need: _Need) -> None:
        try:
            async with self._slots:
                done = await self._repair(held, need)
        except Inconsistent as error:
            need.trouble = error.message
            await self._encodings.contradicted(held, error.index)
            done = False
        except Overtaken:
            return  # its claim keeps us away as long as it stands
        except PotsherdError as error:
            need.trouble = str(error)
            self._note(held, f"repair ended: {error}")
            done = False
        finally:
            need.task = None
        if not done:
            self._count(failed=1)
            need.backoff_s = min(
                2 * need.backoff_s or self._settings.standby_s, self._settings.retry_s
            )
            need.not_before = self._env.monotonic() + need.backoff_s
        self._wake.set()

    async def _repair(self, held: Held, need: _Need) -> bool:
        """Ask the others, claim, rebuild, tell; whether nothing is missing any more."""
        seen = await self._prepare(held, urgent=need.urgent)
        begin = seen.health.needs_repair or (need.unfinished > 0 and bool(seen.health.missing))
        if not begin or not seen.wanted:
            return True
        view = await self._places.view(seen)
        missing = tuple(sorted(view.choose(seen.health.missing)))
        if not missing:
            need.trouble = f"{len(seen.health.missing)} indices missing, and no node to take one"
            self._note(held, need.trouble)
            return False
        claim = self._claiming.standing(held.segment_id)
        if claim is not None and claim.repairer != self._me:
            raise Overtaken("somebody else has begun meanwhile")
        self._count(passes=1)
        try:
            await self._claiming.claim(seen, missing, 0)
            need.urgent |= seen.health.urgent
            need.unfinished = need.unfinished - 1 if need.unfinished else UNFINISHED_PASSES
            result = await self._work(seen, view, missing)
            await self._finish(seen, result)
        except PotsherdError:
            await self._claiming.end(seen)
            raise
        await self._claiming.end(seen)
        return not result.failed and len(missing) == len(seen.health.missing)

    async def _prepare(self, held: Held, *, urgent: bool) -> Seen:
        """What the other holders know: their rosters, when they last saw those that seem lost."""
        seen = await self._view.look(held, urgent=urgent)
        lost = [e.node for e in seen.entries if e.held and self._peers.lost(e.node, urgent=True)]
        await self._gossip.ask_all(seen, partial(self._ask_about, held, lost[:LAST_SEEN_MAX]))
        seen = await self._view.look(held, urgent=urgent)
        for entry in seen.holding(Standing.UNKNOWN):
            if seen.standings[entry.node] is Standing.UNKNOWN:
                await self._checker.check_one(held.segment_id, entry.node)
        return await self._view.look(held, urgent=urgent)

    async def _ask_about(self, held: Held, lost: Sequence[bytes], node: bytes) -> None:
        await self._reconciler.compare(node, [held])
        if not lost:
            return
        peer = await self._dial(node, held.descriptor.placement_key)
        for key, age in zip(lost, await peer.last_seen(lost), strict=True):
            if age is not None and self._peers.vouched(key, age):
                self._note(held, f"{key.hex()[:16]} was seen {age} s ago by {node.hex()[:16]}")

    async def _work(self, seen: Seen, view: PlaceView, missing: Sequence[int]) -> Repaired:
        held = seen.held
        own = await self._rosters.own(held.segment_id)
        if own is None:
            raise RefusedError("the shard is not in the roster")
        entries = [e for e in seen.holding(Standing.AWAY) if e.node != self._me]
        sources = [Holder(e.index, e.node, self._address_of(e.node)) for e in entries]
        last = [e.node for e in seen.entries if seen.standings.get(e.node) is Standing.AWAY]
        there = [e.node for e in seen.holding(Standing.LIVE) if e.node != self._me]
        patience_s = partial(self._patience_s, there, len(missing))
        tools = WorkTools(
            self._env, self._session, self._store, self._limiter, self._key, patience_s
        )
        work = RepairWork(
            tools,
            held,
            own_entry=own[1],
            holders=sources,
            avoid=last,
            missing=missing,
            view=view,
            progress=self._claiming.progress(seen),
        )
        text = (
            f"repair of indices {_list(missing)} begun by us, rank {self._claiming.rank(seen)(self._me)}, "
            f"from {seen.health.distinct} that are left: {_names(entries)}"
        )
        self._note(held, text)
        try:
            return await work.run()
        finally:
            if not work.own_is_good:
                self._suspect(held.segment_id)
            bytes_in, bytes_out = work.moved
            self._count(bytes_in=bytes_in, bytes_out=bytes_out)

    async def _finish(self, seen: Seen, result: Repaired) -> None:
        """Hand over statements, tell everybody."""
        held = seen.held
        for node, index in result.wrong.items():
            entry = next((e for e in seen.entries if e.node == node and e.index == index), None)
            if entry is not None:
                await self._checker.condemn(held, entry, "cells that do not fit the shard root")
        if not result.entries:
            return
        receipts = [data for data, _ in result.entries]
        await self._store.merge_roster(held.segment_id, receipts)
        fresh = {RosterEntry.decode(data[64:]).node for data in receipts}
        everything = [
            (data, self._address_of(RosterEntry.decode(data[64:]).node))
            for data in await self._store.roster(held.segment_id)
        ]
        hints = [*result.entries, *(h for h in everything if h[0] not in receipts)]
        await asyncio.gather(*(self._introduce(held, node, hints) for node in sorted(fresh)))
        await self._gossip.ask_all(seen, partial(self._tell, held, result.entries))
        self._count(repaired=len(receipts))
        brought = sorted((e.index, e.node) for e in map(_entry, receipts))
        where = ", ".join(f"{index} to {node.hex()[:16]}" for index, node in brought)
        self._note(held, f"repaired indices: {where}")

    async def _introduce(
        self, held: Held, node: bytes, hints: Sequence[tuple[bytes, Address | None]]
    ) -> None:
        """A new holder gets all that is kept beside the segment, and the roster."""
        try:
            peer = await self._dial(node, held.descriptor.placement_key)
            await hand_statements(self._store, peer, held)
            await peer.merge_roster(held.segment_id, hints)
        except PotsherdError as error:  # it asks for them by itself later
            _LOG.warning("statements not handed to %s: %s", node.hex()[:12], error)

    async def _tell(
        self, held: Held, hints: Sequence[tuple[bytes, Address | None]], node: bytes
    ) -> None:
        peer = await self._dial(node, held.descriptor.placement_key)
        await peer.merge_roster(held.segment_id, hints)

    # details

    def _note(self, held: Held, text: str) -> None:
        self._journal.note(self._env.utc(), held.segment_id, text)

    def _count(self, **more: int) -> None:
        now = vars(self._counts)
        self._counts = replace(self._counts, **{name: now[name] + by for name, by in more.items()})


def _entry(signed: bytes) -> RosterEntry:
    return RosterEntry.decode(signed[64:])


def _list(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))


def _names(entries: Sequence[RosterEntry]) -> str:
    """The first few of the sources, by index."""
    shown = sorted((entry.index, entry.node) for entry in entries)
    text = ", ".join(f"{index} at {node.hex()[:8]}" for index, node in shown[:NAMES_MAX])
    return text + (" …" if len(shown) > NAMES_MAX else "")
