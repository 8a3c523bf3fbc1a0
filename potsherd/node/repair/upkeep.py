"""What a node does by itself to keep segments alive: the parts, put together for `Node`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError, QuotaError
from potsherd.node.audit.asking import Asking
from potsherd.node.audit.auditing import Auditing, AuditingStatistics
from potsherd.node.audit.records import Accusation, RepairState
from potsherd.node.client import Peer
from potsherd.node.liveness import PeerTable
from potsherd.node.records import RosterEntry
from potsherd.node.repair.checks import Checker
from potsherd.node.repair.claiming import Claiming, Gossip
from potsherd.node.repair.doubts import Doubts
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.places import Places
from potsherd.node.repair.reconciler import Reconciler, ReconcilerStatistics
from potsherd.node.repair.repairer import Repairer, RepairerStatistics
from potsherd.node.repair.trimming import Trimmer
from potsherd.node.repair.view import View
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.store import Held, ShardStore
from potsherd.node.troubles import Troubles
from potsherd.ports import Address, Buffer, Env

__all__ = ["Upkeep", "UpkeepStatistics"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpkeepStatistics:
    """A snapshot of all parts."""

    reconciler: ReconcilerStatistics
    repairer: RepairerStatistics
    doubted: int
    """Entries of rosters that do not count as they stand."""
    auditing: AuditingStatistics


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
        troubles: Troubles,
    ) -> None:
        """`holders_changed`: other holders of some segments have become known."""
        self._troubles = troubles
        self._flush_s = settings.audit.journal_flush_s
        self._env = env
        self._settings = settings.repair
        self._session = session
        self._peers = peers
        self._holders_changed = holders_changed
        me = session.identity.key
        self.journal = Journal(store.audits)
        self.doubts = Doubts(store.care)
        self.view = View(
            env,
            store,
            rosters,
            peers,
            self.doubts,
            node_key=me,
            readable_target=settings.repair.readable_target,
        )
        self.reconciler = self._make_reconciler(settings, store, rosters, address_of)
        self.places = Places(env, session, peers, life_s=settings.repair.pool_life_s)
        self.checker = Checker(
            env,
            store,
            self.view,
            peers,
            self.doubts,
            self.journal,
            dial=self._dial,
            places=self.places.view,
            network_id=session.identity.network_id,
            rosters=rosters,
            roster_changed=self._roster_changed,
            reconsider_s=settings.repair.reconsider_s,
        )
        gossip = Gossip(me)
        limiter = Limiter(env, settings.repair.bytes_per_s)
        self.auditing = self._make_auditing(settings, store, rosters, gossip, limiter)
        rosters.renewed = self.checker.renewed
        self.claiming = self._make_claiming(store, gossip)
        self.repairer = self._make_repairer(store, rosters, gossip, limiter, address_of)
        self._asking = Asking(
            store,
            self.view,
            peers,
            self.repairer,
            self.claiming,
            self.auditing.encodings,
            node_key=me,
        )

    def _make_claiming(self, store: ShardStore, gossip: Gossip) -> Claiming:
        return Claiming(
            self._env,
            self._session.identity,
            store,
            self.view,
            self._peers,
            gossip,
            dial=self._dial,
            policy=self._settings.claims,
            passed_over=self._passed_over,
        )

    def _make_repairer(
        self,
        store: ShardStore,
        rosters: Rosters,
        gossip: Gossip,
        limiter: Limiter,
        address_of: Callable[[bytes], Address | None],
    ) -> Repairer:
        trimmer = self._make_trimmer(store, rosters, gossip)
        return Repairer(
            self._env,
            store,
            self._session,
            rosters,
            self._peers,
            view=self.view,
            places=self.places,
            checker=self.checker,
            reconciler=self.reconciler,
            claiming=self.claiming,
            gossip=gossip,
            trimmer=trimmer,
            journal=self.journal,
            dial=self._dial,
            address_of=address_of,
            encodings=self.auditing.encodings,
            limiter=limiter,
            suspect=self.auditing.scrubber.suspect,
            settings=self._settings,
        )

    def _make_auditing(
        self,
        settings: NodeSettings,
        store: ShardStore,
        rosters: Rosters,
        gossip: Gossip,
        limiter: Limiter,
    ) -> Auditing:
        return Auditing(
            self._env,
            settings.audit,
            store=store,
            session=self._session,
            rosters=rosters,
            view=self.view,
            checker=self.checker,
            doubts=self.doubts,
            gossip=gossip,
            journal=self.journal,
            limiter=limiter,
            troubles=self._troubles,
            dial=self._dial,
            changed=lambda: self.repairer.holders_changed(),
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
            places=self.places.view,
            settle_s=self._settings.settle_s,
        )

    async def load(self) -> None:
        """Go on with what was known before the restart. Raises StorageError."""
        await self.doubts.load()
        await self.journal.load()
        await self.auditing.load()

    async def flush(self) -> None:
        """Write down what is only in memory yet; what the disk refuses waits, and is lost at the end."""
        try:
            await self.journal.flush()
        except QuotaError as error:
            _LOG.debug("the journal is not written down: %s", error)
        except PotsherdError as error:
            _LOG.warning("the journal could not be written down: %s", error)

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """(name, what runs until it is cancelled)."""
        yield "reconciler", self.reconciler.run
        yield "checker", self._check
        yield "repairer", self.repairer.run
        yield "journal", self._keep_journal
        yield from self.auditing.tasks()

    def statistics(self) -> UpkeepStatistics:
        """A snapshot."""
        return UpkeepStatistics(
            self.reconciler.statistics(),
            self.repairer.statistics(),
            len(self.doubts),
            self.auditing.statistics(),
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

    # what others ask (audit.requests.Caretaker)

    def seen_ago(self, key: bytes) -> int | None:
        """See `Caretaker.seen_ago`."""
        if key == self._session.identity.key:
            return 0
        age = self._peers.age_s(key, self._env.monotonic())
        return None if age is None else min(2**32 - 1, int(age))

    async def claimed(self, claim: bytes, sender: bytes) -> bytes:
        """See `Caretaker.claimed`."""
        return await self.claiming.claimed(claim, sender)

    def check_read(self, segment_id: bytes, runs: Sequence[tuple[int, int]]) -> None:
        """See `Caretaker.check_read`."""
        self.auditing.scrubber.check_read(segment_id, runs)

    async def accused(self, accusation: Accusation, accuser: bytes) -> None:
        """See `Caretaker.accused`."""
        await self.auditing.accusations.hear(accusation, accuser)

    async def bad_encoding(self, data: bytes, cells: Buffer) -> None:
        """See `Caretaker.bad_encoding`."""
        await self.auditing.encodings.receive(data, cells)

    async def repair_asked(self, segment_ids: Sequence[bytes]) -> list[RepairState]:
        """See `Caretaker.repair_asked`."""
        states = [await self._asking.ask(segment_id) for segment_id in segment_ids]
        return [state for state in states if state is not None]

    def fed(self, segment_id: bytes, index: int, feeder: bytes, error: str) -> None:
        """See `Caretaker.fed`: who brings garbage repairs this segment last for a while."""
        self._peers.audited(feeder, False)
        self.claiming.pass_over(segment_id, feeder)
        text = f"{feeder.hex()[:16]} brought index {index}, and it is refused: {error}"
        self.journal.note(self._env.utc(), segment_id, text)

    def came(self, segment_id: bytes, index: int, bringer: bytes, *, repaired: bool) -> None:
        """See `Caretaker.came`."""
        how = "by another holder" if repaired else "with its owner's ticket"
        text = f"index {index} was brought here {how}: {bringer.hex()[:16]}"
        self.journal.note(self._env.utc(), segment_id, text)

    # details

    def _passed_over(self, segment_id: bytes, repairer: bytes) -> None:
        text = f"{repairer.hex()[:16]} let its claim to repair lapse: it comes last for a while"
        self.journal.note(self._env.utc(), segment_id, text)

    async def _keep_journal(self) -> None:
        while True:
            await self.journal.wait()
            await asyncio.sleep(self._flush_s)
            await self.flush()

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
