"""How a segment stands, as this node sees it: roster, liveness and doubts put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from potsherd.classes import dataclass
from potsherd.node.liveness import PeerTable
from potsherd.node.records import RosterEntry
from potsherd.node.repair.doubts import Doubts, Reason
from potsherd.node.repair.plan import Health, Standing, assess, outlook_of
from potsherd.node.retention import is_wanted
from potsherd.node.rosters import Rosters
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Env

__all__ = ["Seen", "View"]


@dataclass(frozen=True)
class Seen:
    """One look at a segment."""

    held: Held
    health: Health
    entries: tuple[RosterEntry, ...]
    wanted: bool
    """Whether a lease, or its provisional lease, still wants it to live on."""
    standings: Mapping[bytes, Standing]
    """By node key, of all held entries."""

    def holding(self, least: Standing) -> list[RosterEntry]:
        """Held entries of nodes that stand at least so."""
        return [e for e in self.entries if e.held and self.standings[e.node] >= least]


class View:
    """Reads the store; decides by `plan.assess`."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        rosters: Rosters,
        peers: PeerTable,
        doubts: Doubts,
        *,
        node_key: bytes,
        readable_target: float = 0.0,
    ) -> None:
        self._env = env
        self._store = store
        self._rosters = rosters
        self._peers = peers
        self._doubts = doubts
        self._node_key = node_key
        self._readable_target = readable_target

    def standing(self, entry: RosterEntry, urgent: bool) -> Standing:
        """What an entry is worth now."""
        if entry.node == self._node_key:
            return Standing.LIVE
        reason = self._doubts.about(entry)
        if reason in (Reason.WRONG, Reason.MISPLACED) or self._peers.lost(
            entry.node, urgent=urgent
        ):
            return Standing.LOST
        if reason in (Reason.UNCHECKED, Reason.MENDED) or not self._peers.proven(entry.node):
            return Standing.UNKNOWN
        alive = self._peers.alive(entry.node, self._env.monotonic())
        return Standing.LIVE if alive else Standing.AWAY

    def _up(self, key: bytes) -> float:
        if key == self._node_key:
            return self._peers.attendance
        return self._peers.habitual(key)

    async def look(self, held: Held, *, urgent: bool = False) -> Seen:
        """Judge a segment that is held here; `urgent`: also against those whose timers stand still, as if few
        were left. Raises StorageError."""
        entries = tuple(await self._rosters.entries(held.segment_id))
        kept = await self._store.kept(held.segment_id)
        leases = kept.leases if kept is not None else ()
        descriptor = held.descriptor
        health = assess(
            entries,
            k=descriptor.k,
            n=descriptor.n,
            r=descriptor.r,
            raised=max((state.lease.repair_below for state in leases), default=0),
            urgent=urgent,
            standing=self.standing,
        )
        outlook = outlook_of(health, self._up, self._readable_target)
        health = dataclasses.replace(health, outlook=outlook)
        judged_so = urgent or health.urgent
        standings = {e.node: self.standing(e, judged_so) for e in entries if e.held}
        wanted = kept is not None and is_wanted(kept, self._env.utc())
        return Seen(held, health, entries, wanted, standings)
