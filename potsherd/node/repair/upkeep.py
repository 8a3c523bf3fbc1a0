"""What a node does by itself to keep segments alive: the parts, put together for `Node`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from potsherd.errors import PotsherdError
from potsherd.node.client import Peer
from potsherd.node.liveness import PeerTable
from potsherd.node.records import RosterEntry
from potsherd.node.repair.checks import Checker
from potsherd.node.repair.claiming import Claiming, Gossip
from potsherd.node.repair.doubts import Doubts
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.places import Places
from potsherd.node.repair.reconciler import Reconciler, ReconcilerStatistics
from potsherd.node.repair.repairer import Repairer, RepairerStatistics
from potsherd.node.repair.trimming import Trimmer
from potsherd.node.repair.view import View
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Address, Env

__all__ = ["Upkeep", "UpkeepStatistics"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpkeepStatistics:
    """A snapshot of all parts."""

    reconciler: ReconcilerStatistics
    repairer: RepairerStatistics
    doubted: int
    """Entries of rosters that do not count as they stand."""


class Upkeep:
    """Made by `Node` once its session stands; `load` first, then `tasks` are run by the node."""

    def __init__(
        self,
        env: Env,
        settings: NodeSettings,
        *,
        store: ShardStore,
        session: Session,
        rosters: Rosters,
        peers: PeerTable,
        address_of: Callable[[bytes], Address | None],
        holders_changed: Callable[[], None],
    ) -> None:
        """`holders_changed`: other holders of some segments have become known."""
        self._env = env
        self._settings = settings.repair
        self._session = session
        self._peers = peers
        self._holders_changed = holders_changed
        me = session.identity.key
        self.journal = Journal()
        self.doubts = Doubts(store.care)
        self.view = View(env, store, rosters, peers, self.doubts, node_key=me)
        self.reconciler = self._make_reconciler(settings, store, rosters, address_of)
        self._places = Places(env, session, peers, life_s=settings.repair.pool_life_s)
        self.checker = Checker(
            env,
            store,
            self.view,
            peers,
            self.doubts,
            self.journal,
            dial=self._dial,
            places=self._places.view,
        )
        gossip = Gossip(me)
        self.claiming = Claiming(
            env,
            session.identity,
            store,
            self.view,
            peers,
            gossip,
            dial=self._dial,
            policy=settings.repair.claims,
        )
        trimmer = self._make_trimmer(store, rosters, gossip)
        self.repairer = Repairer(
            env,
            store,
            session,
            rosters,
            peers,
            view=self.view,
            places=self._places,
            checker=self.checker,
            reconciler=self.reconciler,
            claiming=self.claiming,
            gossip=gossip,
            trimmer=trimmer,
            journal=self.journal,
            dial=self._dial,
            address_of=address_of,
            settings=settings.repair,
        )

    def _make_reconciler(
        self,
        settings: NodeSettings,
        store: ShardStore,
        rosters: Rosters,
        address_of: Callable[[bytes], Address | None],
    ) -> Reconciler:
        return Reconciler(
            self._env,
            store,
            rosters,
            node_key=self._session.identity.key,
            dial=self._dial,
            alive=lambda key: self._peers.alive(key, self._env.monotonic()),
            address_of=address_of,
            changed=self._roster_changed,
            round_s=settings.reconcile_round_s,
            tick_s=settings.reconcile_tick_s,
            batch=settings.reconcile_batch,
        )

    def _make_trimmer(self, store: ShardStore, rosters: Rosters, gossip: Gossip) -> Trimmer:
        return Trimmer(
            self._env,
            store,
            rosters,
            self.checker,
            self.claiming,
            gossip,
            self.journal,
            node_key=self._session.identity.key,
            dial=self._dial,
            places=self._places.view,
            settle_s=self._settings.settle_s,
        )

    async def load(self) -> None:
        """Go on with what was known before the restart. Raises StorageError."""
        await self.doubts.load()

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """(name, what runs until it is cancelled)."""
        yield "reconciler", self.reconciler.run
        yield "checker", self._check
        yield "repairer", self.repairer.run

    def statistics(self) -> UpkeepStatistics:
        """A snapshot."""
        return UpkeepStatistics(
            self.reconciler.statistics(), self.repairer.statistics(), len(self.doubts)
        )

    # what the node tells

    def met(self, key: bytes) -> None:
        """A node gave its first sign of life, or came back."""
        self.reconciler.met(key)

    def peers_changed(self) -> None:
        """Nodes have gone away, are given up or came back."""
        self.repairer.holders_changed()

    async def came_up(self, held: Held, entries: Sequence[RosterEntry]) -> None:
        """Entries that say something new: of a settled segment they count only once they are checked."""
        if self._env.utc() - held.committed >= self._settings.settle_s:
            for entry in entries:
                await self.checker.came_up(entry)

    # details

    async def _dial(self, key: bytes, near: bytes) -> Peer:
        return await self._session.peer(key, self._peers.address_of(key), near=near)

    def _roster_changed(self, segment_id: bytes) -> None:
        self._holders_changed()
        self.repairer.holders_changed()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s * self._env.rng.uniform(0.5, 1.5))
            try:
                if await self.checker.step():
                    self.repairer.holders_changed()
            except PotsherdError as error:
                _LOG.warning("checking entries failed: %s", error)
