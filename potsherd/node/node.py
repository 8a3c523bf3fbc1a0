"""A donor's node: store, DHT, server, announcer and heartbeats, started and stopped together.

    node = await Node.start(env, identity, config, chain, NodeSettings(quota_bytes=50 * 10**9))
    ...
    await node.stop()

The node owns every task it starts. One that ends by a bug of ours is not restarted in the dark:
`wait_failed` raises what it ended with, so that the service can stop and say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

from potsherd.classes import dataclass
from potsherd.crypto.membership import Member, NetworkConfig
from potsherd.dht import Dht, DhtStatistics
from potsherd.dht.addresses import Scope, scope_of
from potsherd.errors import (
    MembershipError,
    PeerError,
    PotsherdError,
    StorageError,
    UnreachableError,
    UsageError,
)
from potsherd.node.announcer import Announcer, AnnouncerStatistics
from potsherd.node.churn import ChurnSeen
from potsherd.node.expiry import ExpiryStatistics
from potsherd.node.leaving import Leaving
from potsherd.node.liveness import PeerCounts, PeerTable
from potsherd.node.membrane import Gate, NodeMembrane
from potsherd.node.peers import Heartbeats, PeerBook
from potsherd.node.placement import Candidate, domains_of, free_class
from potsherd.node.records import RosterEntry
from potsherd.node.repair.journal import Line
from potsherd.node.repair.upkeep import Upkeep, UpkeepStatistics
from potsherd.node.rosters import Rosters
from potsherd.node.server import Server, ServerStatistics
from potsherd.node.session import Session, resolve_bootstrap
from potsherd.node.settings import NodeSettings
from potsherd.node.store import Held, ShardStore, Usage
from potsherd.node.tenure import Tenure
from potsherd.node.troubles import Trouble, Troubles, watched
from potsherd.ports import Address, Datagrams, Env, Identity, Listener, Stream

__all__ = ["Node", "NodeStatus"]

BIND_TRIES = 16
"""Ports tried when the system may choose: one must be free for UDP and TCP alike."""
PRESENCE_WAIT_S = 10.0
"""Seconds that starting waits for the first presence to be taken."""
HEARTBEAT_TICKS = 10
"""Steps of the heartbeats in one interval, at least."""

SURVEY_DONORS = 64
"""Presences looked at in one survey."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeStatus:
    """What a node says of itself: a snapshot."""

    key: bytes
    dht_id: bytes
    address: Address | None
    """Where others reach it; None when it does not know."""
    listen: Address
    operator: str
    site: str
    network: str
    joined: bool
    """Whether a node answered when joining, or there was none to ask."""
    trouble: str
    """Why joining or the presence failed last; empty when they did not."""
    since: int
    """Seconds UTC of its start."""
    usage: Usage
    peers: PeerCounts
    server: ServerStatistics
    announcer: AnnouncerStatistics
    upkeep: UpkeepStatistics
    retention: ExpiryStatistics
    troubles: tuple[Trouble, ...]
    """What is wrong with the machine, and what was since its start."""
    dht: DhtStatistics


class Node:
    """See the module's text. Made by `start`."""

    def __init__(
        self,
        env: Env,
        identity: Identity,
        gate: Gate,
        membrane: NodeMembrane,
        settings: NodeSettings,
    ) -> None:
        self.env = env
        self.identity = identity
        self.settings = settings
        self.member: Member = membrane.me
        self.gate = gate
        self.store: ShardStore
        self.dht: Dht
        self.session: Session
        self.peers = PeerTable(
            interval_s=settings.heartbeat_s,
            away_after_s=settings.away_after_s,
            peers_max=settings.peers_max,
            loss=settings.loss,
            freeze=settings.freeze,
        )
        self._membrane = membrane
        self._stack = AsyncExitStack()
        self._datagrams: Datagrams
        self._listener: Listener
        self._server: Server
        self._announcer: Announcer
        self._peer_book: PeerBook
        self._tenure: Tenure
        self.troubles = Troubles(env.utc, env.monotonic)
        self._room_changed = asyncio.Event()
        self._rosters: Rosters
        self._upkeep: Upkeep
        self._assembled = asyncio.Event()
        self._scope = Scope.LOOPBACK
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._joined = False
        self._trouble = ""
        self._published: int | None = None

    @classmethod
    async def start(
        cls,
        env: Env,
        identity: Identity,
        config: NetworkConfig,
        chain: bytes,
        settings: NodeSettings,
    ) -> Node:
        """Open the store, listen, join. A network that does not answer is no error: joining goes on.

        Raises MembershipError when the chain does not admit this key as a donor, StorageError, PeerError
        when the address is taken.
        """
        gate = Gate(config, env.utc)
        membrane = NodeMembrane(identity, chain, gate)
        if not membrane.me.is_donor:
            raise UsageError("a node needs a donor's credential, not a client's")
        troubles = Troubles(env.utc, env.monotonic)
        node = cls(watched(env, troubles), identity, gate, membrane, settings)
        node.troubles = troubles
        try:
            await node._open(chain)
        except BaseException:
            await node.stop()
            raise
        return node

    async def stop(self) -> None:
        """End every task and connection, close the store. May be called twice."""
        await self._stack.aclose()
        if not self._failed.done():
            self._failed.set_result(None)

    async def wait_failed(self) -> None:
        """Wait until the node is stopped, or raise what a bug has ended one of its tasks with."""
        await asyncio.shield(self._failed)

    # --- assembling --------------------------------------------------------------------------------

    async def _open(self, chain: bytes) -> None:
        env, settings = self.env, self.settings
        stack = self._stack
        self.store = await ShardStore.open(env, settings.quota_bytes, settings.store)
        stack.push_async_callback(self.store.close)
        self._peer_book = PeerBook(
            env, self.peers, self.store.care, interval_s=settings.heartbeat_s
        )
        await self._peer_book.load()
        stack.push_async_callback(self._save_peers)
        self._rosters = Rosters(
            env,
            self.store,
            self.identity,
            told=self._told,
            proven=self.peers.proven,
            lost=self.peers.lost,
            came_up=lambda held, entries: self._upkeep.came_up(held, entries),
        )
        self._server = Server(
            env,
            self.identity,
            self.store,
            self,
            chain=chain,
            admit=self.gate.admit,
            limits=settings.server,
            rosters=self._rosters,
        )
        self._datagrams, self._listener = await self._bind()
        stack.callback(self._datagrams.close)
        bootstrap = await resolve_bootstrap(self.gate.config, settings.bootstrap, self.identity.key)
        self._scope = self._reach(bootstrap)
        self.dht = Dht(env, self._datagrams, self._membrane, settings.dht)
        stack.push_async_callback(self.dht.close)
        self.session = self._make_session(chain)
        stack.push_async_callback(self.session.close)
        # accepted connections end before what they stand on
        stack.push_async_callback(self._listener.close)
        self._announcer = self._make_announcer()
        self._upkeep = self._make_upkeep()
        await self._upkeep.load()
        stack.push_async_callback(self._upkeep.flush)
        self._tenure = self._make_tenure()
        await self._tenure.load()
        self._assembled.set()
        await self.dht.start([])
        await self._join(bootstrap)
        await self._publish_first()
        self._run_all(bootstrap)

    async def _bind(self) -> tuple[Datagrams, Listener]:
        """UDP and TCP on one port."""
        net, at = self.env.net, self.settings.listen
        for last in range(BIND_TRIES - 1, -1, -1):
            datagrams = await net.bind(at)
            both = Address(at.host, datagrams.address.port)
            try:
                return datagrams, await net.listen(both, self.identity, self._accept)
            except PeerError:
                datagrams.close()
                if at.port or not last:
                    raise
        raise PeerError("no port is free for UDP and TCP alike")

    async def _accept(self, stream: Stream) -> None:
        await self._assembled.wait()
        await self._server.accept(stream)

    def _reach(self, bootstrap: Sequence[tuple[bytes, Address]]) -> Scope:
        """The least scope that may be dialled: that of the network's own nodes, or of this one."""
        scopes = [scope_of(address) for _, address in bootstrap]
        scopes += [scope_of(self.address)] if self.address else []
        return min((s for s in scopes if s is not Scope.UNUSABLE), default=Scope.PUBLIC)

    def _make_session(self, chain: bytes) -> Session:
        return Session(
            self.env,
            self.identity,
            self.dht,
            chain=chain,
            gate=self.gate,
            scope=self._scope,
            is_donor=True,
            peers_max=self.settings.sessions_max,
            availability=self.peers.availability,
            proven=self.peers.has_record,
            noted=self._note_presence,
        )

    def _make_announcer(self) -> Announcer:
        settings = self.settings
        return Announcer(
            self.env,
            self.store,
            self.dht,
            node_id=self.member.dht_id,
            node_key=self.identity.key,
            alive=lambda key: self.peers.alive(key, self.env.monotonic()),
            met=self._watch,
            period_s=settings.announce_period_s,
            tick_s=settings.announce_tick_s,
            batch=settings.announce_batch,
        )

    def _make_upkeep(self) -> Upkeep:
        return Upkeep(
            self.env,
            self.settings,
            store=self.store,
            session=self.session,
            rosters=self._rosters,
            peers=self.peers,
            address_of=self.address_of,
            holders_changed=self._announcer.holders_changed,
            troubles=self.troubles,
        )

    def _make_tenure(self) -> Tenure:
        return Tenure(
            self.env,
            self.settings,
            store=self.store,
            session=self.session,
            rosters=self._rosters,
            peers=self.peers,
            view=self._upkeep.view,
            troubles=self.troubles,
            address_of=self.address_of,
            room_changed=self._room_changed.set,
        )

    def _make_heartbeats(self) -> Heartbeats:
        settings = self.settings
        return Heartbeats(
            self.env,
            self.peers,
            ping=self.dht.ping,
            find=lambda key, near: self.session.locate(key, near or None),
            changed=self._holders_changed,
            met=self._upkeep.met,
            contacts=lambda: [contact.key for contact in self.dht.contacts()],
            tick_s=min(settings.heartbeat_tick_s, settings.heartbeat_s / HEARTBEAT_TICKS),
            timeout_s=settings.heartbeat_timeout_s,
            parallel=settings.heartbeats_parallel,
        )

    def _run_all(self, bootstrap: Sequence[tuple[bytes, Address]]) -> None:
        settings = self.settings
        self._spawn("announcer", self._announcer.run)
        self._spawn("heartbeats", self._make_heartbeats().run)
        self._spawn("presence", self._keep_presence)
        self._spawn("watch list", partial(self._every, settings.roster_period_s, self._prune_peers))
        self._spawn("peer book", partial(self._every, settings.peers_save_s, self._save_peers))
        self._spawn("survey", partial(self._every, settings.survey_period_s, self._survey))
        self._spawn("sweep", partial(self._every, settings.sweep_period_s, self._sweep))
        for name, work in (*self._upkeep.tasks(), *self._tenure.tasks()):
            self._spawn(name, work)
        if not self._joined:
            self._spawn("join", partial(self._keep_joining, bootstrap))

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(name, work))

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)

    async def _guard(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            _LOG.exception("the node's task %r failed", name)
            if not self._failed.done():
                self._failed.set_exception(error)
                self._failed.exception()  # seen: who wants it calls wait_failed

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Now, and then again and again; what a peer or the disk refuses is tried again next time."""
        while True:
            try:
                await work()
            except PotsherdError as error:
                if isinstance(error, StorageError):
                    self.troubles.disk(error)
                _LOG.warning("%s; trying again later", error)
            await asyncio.sleep(period_s * self.env.rng.uniform(0.9, 1.1))

    # --- joining and presence ----------------------------------------------------------------------

    @property
    def listening(self) -> Address:
        """The bound address, for UDP and TCP."""
        return self._datagrams.address

    @property
    def address(self) -> Address | None:
        """Where others reach the node; None when it listens on a wildcard and was told nothing."""
        if self.settings.public_address is not None:
            return self.settings.public_address
        bound = self._datagrams.address
        return None if scope_of(bound) is Scope.UNUSABLE else bound

    async def _join(self, bootstrap: Sequence[tuple[bytes, Address]]) -> None:
        """Greet the known nodes and look around. Raises MembershipError when they do not admit us.

        When none answers, nothing is raised: this node keeps trying.
        """
        try:
            await self.dht.join([(key, at) for key, at in bootstrap if at != self.address])
        except UnreachableError:
            self._joined = False
            _LOG.warning("none of the known nodes of the network answers yet")
        else:
            self._joined = True

    async def _keep_joining(self, bootstrap: Sequence[tuple[bytes, Address]]) -> None:
        pause = self.settings.join_retry_s
        while not self._joined:
            await asyncio.sleep(pause * self.env.rng.uniform(0.5, 1.0))
            try:
                await self._join(bootstrap)
            except PotsherdError as error:
                self._trouble = str(error)
            pause = min(2 * pause, self.settings.join_retry_max_s)
        self._trouble, self._published = "", None
        with suppress(PotsherdError):
            await self._publish()
        self._announcer.start_over()

    async def _publish_first(self) -> None:
        """Be known before `start` returns, unless that takes long; then it goes on in the background.

        Raises MembershipError when another node has this place in the network.
        """
        try:
            async with asyncio.timeout(PRESENCE_WAIT_S):
                if self._joined:
                    await self._publish()
        except MembershipError:
            raise
        except (PotsherdError, TimeoutError) as error:
            _LOG.warning("the presence is not published yet: %s", error)

    async def _keep_presence(self) -> None:
        """Publish again from time to time, and soon after the node begins or ceases to take shards."""
        while True:
            self._room_changed.clear()
            try:
                newest = await self.dht.find_presence(self.member.dht_id, newest=True)
                self._tenure.look_for_copy(newest, self.address)
                await self._publish()
            except PotsherdError as error:
                _LOG.warning("%s; trying again later", error)
            pause = self.settings.presence_period_s * self.env.rng.uniform(0.9, 1.1)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._room_changed.wait()

    async def _publish(self) -> None:
        """Say where the node is and how much room it has; the DHT repeats it until that changes."""
        room = free_class(self._tenure.room(self.store.usage().free))
        if room == self._published:
            return
        try:
            keepers = await self.dht.publish_presence(
                address=self.address,
                operator=self.settings.operator or self.member.operator,
                site=self.settings.site,
                free_class=room,
            )
        except PotsherdError as error:
            self._trouble = str(error)
            raise
        self._published = room if keepers else None

    async def _prune_peers(self) -> None:
        keys = await self.store.roster_nodes()
        self.peers.keep_only(keys)
        now = self.env.monotonic()
        for key in keys:
            if key != self.identity.key:
                self.peers.watch(key, now)
        await self._peer_book.save_new()

    async def _save_peers(self) -> None:
        try:
            await self._peer_book.save()
        except PotsherdError as error:  # a full disk must not keep a node from stopping
            _LOG.warning("what is known of peers could not be written down: %s", error)

    async def _survey(self) -> None:
        """Look at the presences around one of our segments."""
        after = self.env.rng.randbytes(32)
        found = await self.store.segments(after, 1) or await self.store.segments(b"", 1)
        for held in found:
            await self.session.donors(held.descriptor.placement_key, SURVEY_DONORS)

    def _note_presence(self, donor: Candidate) -> None:
        self.peers.describe(donor.key, donor.address, domains_of(donor))

    async def _sweep(self) -> None:
        await self.store.sweep(self.env.monotonic())

    def _watch(self, entry: RosterEntry, near: bytes) -> None:
        self.peers.watch(entry.node, self.env.monotonic(), near=near)

    # --- what the server tells (server.Neighbours) -------------------------------------------------

    def met(self, member: Member) -> None:
        """See `Neighbours.met`."""
        key = member.node_key
        if member.is_donor and self.peers.seen(key, self.env.monotonic(), self.env.utc()):
            self._upkeep.met(key)

    def _told(self, key: bytes, near: bytes, address: Address | None) -> None:
        """Somebody says that the node holds a shard of a segment of ours; `near`: its placement key."""
        if address is not None and not self._scope <= scope_of(address) != Scope.UNUSABLE:
            address = None
        self.peers.watch(key, self.env.monotonic(), near=near, address=address)

    def address_of(self, key: bytes) -> Address | None:
        """See `Neighbours.address_of`."""
        return self.address if key == self.identity.key else self.peers.address_of(key)

    @property
    def leaving(self) -> Leaving:
        """What the donor has asked for: pausing, shrinking, leaving."""
        return self._tenure.leaving

    def check_intake(self, *, commit: bool = False) -> None:
        """See `Neighbours.check_intake`."""
        self.leaving.check_intake(commit=commit)

    def committed(self, held: Held) -> None:
        """See `Neighbours.committed`."""
        self._announcer.committed(held)

    @property
    def caretaker(self) -> Upkeep:
        """See `Neighbours.caretaker`."""
        return self._upkeep

    def churn_seen(self, nodes: Sequence[bytes]) -> ChurnSeen:
        """See `Neighbours.churn_seen`."""
        return self.peers.report(nodes, self.env.utc(), self.settings.repair.round_s)

    def _holders_changed(self) -> None:
        self._announcer.holders_changed()
        self._upkeep.peers_changed()

    async def announce_asked(self, held: Sequence[Held]) -> int:
        """See `Neighbours.announce_asked`."""
        return await self._announcer.announce_asked(held)

    def why(self, segment_id: bytes | None = None) -> list[Line]:
        """What this node did about segments lately and why, the oldest first."""
        return self._upkeep.journal.lines(segment_id)

    # --- for people --------------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        """A snapshot."""
        return NodeStatus(
            key=self.identity.key,
            dht_id=self.member.dht_id,
            address=self.address,
            listen=self.listening,
            operator=self.settings.operator or self.member.operator,
            site=self.settings.site,
            network=self.gate.config.name,
            joined=self._joined,
            trouble=self._trouble,
            since=self._server.since,
            usage=self.store.usage(),
            peers=self.peers.counts(self.env.monotonic()),
            server=self._server.statistics(),
            announcer=self._announcer.statistics(),
            upkeep=self._upkeep.statistics(),
            retention=self._tenure.expiry.statistics(),
            troubles=self.troubles.all(),
            dht=self.dht.statistics(),
        )
