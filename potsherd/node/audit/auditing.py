"""The parts of audit and scrub, put together for `Upkeep`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError
from potsherd.node.audit.accusations import Accusations, AccusationsStatistics
from potsherd.node.audit.auditor import Auditor, AuditorStatistics
from potsherd.node.audit.encodings import Encodings
from potsherd.node.audit.mending import Mender
from potsherd.node.audit.scrub import Scrubber, ScrubStatistics
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.client import Dial
from potsherd.node.repair.checks import Checker
from potsherd.node.repair.claiming import Gossip
from potsherd.node.repair.doubts import Doubts
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.limiter import Limiter
from potsherd.node.repair.view import Seen, View
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.store import Held, ShardStore
from potsherd.node.troubles import Troubles
from potsherd.ports import Env

__all__ = ["Auditing", "AuditingStatistics"]


@dataclass(frozen=True)
class AuditingStatistics:
    """A snapshot of all parts."""

    audits: AuditorStatistics
    accusations: AccusationsStatistics
    scrub: ScrubStatistics


class Auditing:
    """Made by `Upkeep`; `load` first, then `tasks` are run by the node."""

    def __init__(
        self,
        env: Env,
        settings: AuditSettings,
        *,
        store: ShardStore,
        session: Session,
        rosters: Rosters,
        view: View,
        checker: Checker,
        doubts: Doubts,
        gossip: Gossip,
        journal: Journal,
        limiter: Limiter,
        troubles: Troubles,
        dial: Dial,
        changed: Callable[[], None],
    ) -> None:
        """`limiter`: of repairs, mending keeps to it too. `changed`: a shard of somebody was found wrong."""
        me = session.identity.key
        self._store = store
        self._rosters = rosters
        self._view = view
        self._gossip = gossip
        self._dial = dial
        self.encodings = Encodings(env, store, session, view, gossip, journal, limiter, dial=dial)
        self.auditor = Auditor(
            env, store, view, checker, node_key=me, settings=settings, changed=changed
        )
        self.scrubber = Scrubber(
            env,
            store,
            Mender(session, store, view, limiter, node_key=me),
            journal,
            troubles,
            settings=settings,
            renew=self._renew,
            give_up=self._give_up,
        )
        self.accusations = Accusations(
            env,
            store,
            view,
            self.auditor,
            doubts,
            gossip,
            journal,
            node_key=me,
            network_id=session.identity.network_id,
            dial=dial,
            suspect=self.scrubber.suspect,
            settings=settings,
        )
        checker.wrong = self.accusations.found

    async def load(self) -> None:
        """Go on with what was known before the restart. Raises StorageError."""
        await self.encodings.load()
        await self.auditor.load()
        await self.scrubber.load()

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """(name, what runs until it is cancelled)."""
        yield "auditor", self.auditor.run
        yield "accusations", self.accusations.run
        yield "scrub", self.scrubber.run
        yield "mending", self.scrubber.run_mending

    def statistics(self) -> AuditingStatistics:
        """A snapshot."""
        return AuditingStatistics(
            self.auditor.statistics(),
            self.accusations.statistics(),
            self.scrubber.statistics(),
        )

    async def _renew(self, held: Held) -> None:
        """Say anew that we hold our shard: who had found it wrong looks again."""
        signed = await self._rosters.sign(held.segment_id, held.index)
        await self._store.merge_roster(held.segment_id, [signed])
        await self._tell_all(held, await self._view.look(held), signed)

    async def _give_up(self, held: Held, why: str) -> None:
        """Our shard is lost: a release, so that nobody waits for a time-out."""
        seen = await self._view.look(held)
        signed = await self._rosters.sign(held.segment_id, held.index, held=False)
        await self._store.drop(held.segment_id, "lost", why)
        await self._tell_all(held, seen, signed)

    async def _tell_all(self, held: Held, seen: Seen, signed: bytes) -> None:
        async def tell(node: bytes) -> None:
            peer = await self._dial(node, held.descriptor.placement_key)
            await peer.merge_roster(held.segment_id, [(signed, None)])

        try:
            await self._gossip.ask_all(seen, tell)
        except PotsherdError:
            return  # they learn it when rosters are compared
