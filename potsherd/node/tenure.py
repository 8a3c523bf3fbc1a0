"""How long this node keeps what it keeps, and what it notices about itself: the parts, put together for `Node`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from potsherd.dht.records import Presence
from potsherd.node.expiry import Expiry
from potsherd.node.handover import Handover
from potsherd.node.lease_records import KeepingReply
from potsherd.node.leaving import Leaving
from potsherd.node.liveness import PeerTable
from potsherd.node.placement import Candidate
from potsherd.node.records import RosterEntry
from potsherd.node.repair.places import Places
from potsherd.node.repair.view import View
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.store import Held, ShardStore
from potsherd.node.troubles import Kind, Troubles, Watch
from potsherd.ports import Address, Env

__all__ = ["Tenure"]

COPY_QUIET_S = 86_400.0
"""Seconds without a sign of a second node with our key after which there is none any more."""
COPY_REMEDY = (
    "One key is one node: stop one of them and give it a home and an invitation of its own."
)


class Tenure:
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
        view: View,
        troubles: Troubles,
        address_of: Callable[[bytes], Address | None],
        room_changed: Callable[[], None],
    ) -> None:
        """`room_changed`: the node begins or ceases to take shards, or its room changes."""
        self._env = env
        self._settings = settings
        self._session = session
        self._peers = peers
        self._view = view
        self._troubles = troubles
        self._since = int(env.utc())
        self._places = Places(env, session, peers, life_s=settings.repair.pool_life_s)
        self.expiry = Expiry(
            env,
            store,
            network_id=session.identity.network_id,
            node_key=session.identity.key,
            ask=self._ask,
            donors=self._donors,
            alive=lambda key: peers.alive(key, env.monotonic()),
            round_s=settings.retention_round_s,
            tick_s=settings.retention_tick_s,
            batch=settings.retention_batch,
            grace_min_s=settings.grace_min_s,
        )
        self.leaving = Leaving(
            env,
            store,
            Handover(env, store, session, rosters, address_of),
            self._places_for,
            changed=room_changed,
            retry_s=settings.move_retry_s,
            parallel=settings.move_parallel,
        )
        self._watch = Watch(
            env,
            troubles,
            probe=self.leaving.remember,
            promised=lambda: store.usage().free,
            ahead_s=lambda: self.expiry.statistics().clock_ahead_s,
            ask_clocks=self.expiry.ask_again,
        )
        rosters.contradicted = self._contradicted

    async def load(self) -> None:
        """Take up again what the donor had asked for. Raises StorageError."""
        await self.leaving.restore()

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """(name, what runs until it is cancelled)."""
        yield "retention", self.expiry.run
        yield "leaving", self.leaving.run
        yield "watch", partial(self._watch.run, self._settings.watch_period_s)

    def room(self, free: int) -> int:
        """Bytes of shards that others should bring at most: the quota has `free`, the disk perhaps less.

        None at all while the donor does not want any, or the disk refuses.
        """
        if not self.leaving.takes or self._troubles.active(Kind.DISK):
            return 0
        disk = self._watch.disk_free
        return free if disk is None else min(free, disk)

    def look_for_copy(self, found: Presence | None, ours: Address | None) -> None:
        """Whether the newest presence with our id is ours: our key, our address, or from before our start."""
        if found is None or found.key != self._session.identity.key or found.issued <= self._since:
            return
        if found.address is not None and ours is not None and found.address != ours:
            at = f"{found.address.host}:{found.address.port}"
            text = f"another node runs with this node's key at {at}"
            self._troubles.note(Kind.COPY, text, COPY_REMEDY)
        elif self._troubles.quiet_s(Kind.COPY) > COPY_QUIET_S:
            self._troubles.over(Kind.COPY)

    def _contradicted(self, entry: RosterEntry) -> None:
        """An entry by our key that we do not know. Counters are dates (`rosters.next_counter`)."""
        text = "others know newer statements of this node than it does: an older copy of its home?"
        if entry.counter >= self._since:
            text = "another node signs with this node's key: its home was copied"
        self._troubles.note(Kind.COPY, text, COPY_REMEDY)

    async def _places_for(self, held: Held) -> list[Candidate]:
        """Who should get our shard: its place, as a repairer would choose it."""
        seen = await self._view.look(held)
        return (await self._places.view(seen)).order(held.index)

    async def _ask(self, key: bytes, near: bytes, segment_ids: Sequence[bytes]) -> KeepingReply:
        peer = await self._session.peer(key, self._peers.address_of(key), near=near)
        return await peer.keeping(segment_ids)

    async def _donors(self, near: bytes, count: int) -> list[bytes]:
        return [donor.key for donor in await self._session.donors(near, count)]
