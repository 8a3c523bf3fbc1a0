"""The DHT of one node, as the node uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.engine import Engine
from potsherd.dht.exchange import Answer
from potsherd.dht.maintenance import Maintenance, OwnPresence
from potsherd.dht.membrane import Membrane
from potsherd.dht.pool import query_pool
from potsherd.dht.publisher import Publisher
from potsherd.dht.records import Announcement, Presence
from potsherd.dht.routing import ID_BITS, number
from potsherd.dht.statistics import DhtStatistics
from potsherd.dht.wire import Kind, Ping
from potsherd.errors import (
    MembershipError,
    PotsherdError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from potsherd.ports import Address, Datagrams, Env

__all__ = ["Dht"]

_NO_ID = bytes(20)
"""Stands for an id that is not known yet; a claim that is never believed."""

CLIENT_WAIT_MIN_S = 0.05
"""That a client waits for further known nodes at least, when enough have answered."""


class Dht:
    """Joins, finds, announces. A node with a client's credential only finds.

    All methods belong to the event loop on which `start` was called.
    """

    def __init__(
        self, env: Env, datagrams: Datagrams, membrane: Membrane, config: DhtConfig | None = None
    ) -> None:
        """`datagrams` is the Dht's from now on: it alone receives from it, and closes it."""
        self._engine = Engine(env, datagrams, membrane, config or DhtConfig())
        self._publisher = Publisher(self._engine)
        self._maintenance = Maintenance(self._engine, self._publisher)
        self._around: asyncio.Task[None] | None = None

    async def start(self, bootstrap: Sequence[tuple[bytes, Address]]) -> None:
        """Join through nodes known by (node key, address); with an empty list be the first.

        Raises UnreachableError when none of a non-empty list answers, MembershipError when they
        answer but do not admit us, or when our own chain is not valid.
        """
        try:
            self._engine.start()
            await self.join(bootstrap)
        except BaseException:
            await self._engine.close()
            raise
        self._maintenance.start()

    async def join(self, bootstrap: Sequence[tuple[bytes, Address]]) -> None:
        """Greet nodes known by (node key, address), then look around; may be called again.

        Raises as `start`, but goes on running: for a node that keeps trying.
        """
        own_key = self._engine.membrane.my_key
        others = [(key, address) for key, address in bootstrap if key != own_key]
        if not others:
            return
        await self._greet_some(others)
        if self._may_hurry() and self._around is None:
            # What it came for is looked up at the same time.
            self._around = asyncio.create_task(self._look_around())
        else:
            await self._look_around()

    def _may_hurry(self) -> bool:
        """Whether a client, whose every command waits for it, knows enough nodes to begin.

        With fewer than disjoint paths need, its first look-up would follow whoever of them lies.
        """
        config, table = self._engine.config, self._engine.table
        return self._engine.role == "client" and len(table) >= config.paths * config.path_seeds_min

    async def _greet_some(self, others: Sequence[tuple[bytes, Address]]) -> None:
        """Greet all; once one has answered, the others get `join_wait_s` more: some may be gone.

        Less for a client that knows enough then: as long again as it has waited for those.
        """
        clock, longest = self._engine.env.monotonic, self._engine.config.join_wait_s
        start = clock()
        tasks = [asyncio.create_task(self._greet(key, address)) for key, address in others]
        pending = set(tasks)
        answered, wait_s = False, None  # seconds
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                if answered and not done:
                    break
                answered = answered or any(task.exception() is None for task in done)
                if answered:
                    short = max(CLIENT_WAIT_MIN_S, clock() - start)
                    wait_s = min(longest, short) if self._may_hurry() else longest
        finally:
            for task in pending:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        _judge_greetings([o for o in outcomes if not isinstance(o, asyncio.CancelledError)])

    async def close(self) -> None:
        """End all that is under way and free the socket; records kept for others are gone."""
        if self._around is not None:
            self._around.cancel()
            await asyncio.gather(self._around, return_exceptions=True)
        await self._maintenance.close()
        await self._engine.close()

    async def ping(self, key: bytes, address: Address) -> float:
        """Round trip in seconds. Raises PeerError when the node is silent."""
        answer = await self._greet(key, address)
        return answer.rtt_s

    async def find_nodes(self, target: bytes) -> list[Contact]:
        """Up to 20 live, verified nodes nearest to `target`, nearest first, without ourselves."""
        _check_id(target)
        return [candidate.contact for candidate in (await self._engine.look_up(target)).nearest()]

    async def announce(self, announcements: Sequence[Announcement]) -> int:
        """As `announce_each`; the least number of keepers reached, 0 for none at all."""
        return min(await self.announce_each(announcements), default=0)

    async def announce_each(self, announcements: Sequence[Announcement]) -> list[int]:
        """Sign with the node key and store each at the 20 nearest nodes of its key.

        Returns how many keepers each has reached (ourselves count when we are among the nearest). They
        are stored again from time to time until they expire; making new ones before that is the
        caller's part. Raises UsageError for another node's announcement, RefusedError for a client's.
        """
        membrane = self._engine.membrane
        for record in announcements:
            if (record.node_key, record.node_id) != (membrane.my_key, membrane.my_id):
                raise UsageError("a node announces only what it holds itself")
        self._check_donor()
        return [outcome.keepers for outcome in await self._maintenance.announce(announcements)]

    async def find_announcements(self, key: bytes, *, want: int = 8) -> list[Announcement]:
        """Verified announcements under `key`; asks on until `want` distinct ones are found.

        More may come than wanted. The signature is verified here, the announcer's membership by the
        keepers and again when the node is dialled.
        """
        _check_id(key)
        search = await self._engine.look_up(key, kind=Kind.ANNOUNCEMENTS, want=want)
        return [r for r in search.records.values() if isinstance(r, Announcement)]

    async def publish_presence(
        self,
        *,
        address: Address | None,
        operator: str,
        site: str,
        free_class: int,
        relay: bytes | None = None,
    ) -> int:
        """Store the own presence now and periodically from now on; the number of keepers reached.

        Raises MembershipError when most keepers know another key in this place of the network,
        MalformedError for texts over 64 bytes or a free class over 63, RefusedError for a client.
        """
        self._check_donor()
        own = OwnPresence(address, relay, operator, site, free_class)
        reached = await self._maintenance.publish_presence(own)
        if reached.taken > reached.keepers:
            raise MembershipError(
                "another node uses this place of the invitation already",
                remedy="Join with an invitation of its own.",
            )
        return reached.keepers

    async def find_presence(self, dht_id: bytes, *, newest: bool = False) -> Presence | None:
        """The verified presence under a DHT id; None when no keeper has one.

        With `newest` all its keepers are asked and the latest counts, not the first that is told.
        """
        _check_id(dht_id)
        # two of one id are never found, so a wish for two ends with the last keeper
        want = 2 if newest else 1
        search = await self._engine.look_up(dht_id, kind=Kind.PRESENCE, want=want)
        found = [r for r in search.records.values() if isinstance(r, Presence)]
        return max(found, key=lambda presence: presence.issued, default=None)

    async def pool(self, target: bytes, count: int) -> list[Presence]:
        """The `count` donors nearest to `target`, verified, one of each, nearest first."""
        _check_id(target)
        return await query_pool(self._engine, target, count)

    def contacts(self) -> list[Contact]:
        """The routing table's contacts that answer, nearest to ourselves first."""
        return self._engine.table.contacts()

    def peer_cache(self) -> list[tuple[bytes, Address]]:
        """(node key, address) of contacts, the longest known first: for `start` next time."""
        return [(n.contact.key, n.contact.address) for n in self._engine.table.elders()]

    def statistics(self) -> DhtStatistics:
        """A snapshot of the counters."""
        engine, counters = self._engine, self._engine.counters
        return DhtStatistics(
            datagrams_in=counters.datagrams_in,
            datagrams_out=counters.datagrams_out,
            dropped=tuple(sorted(counters.dropped.items())),
            requests=counters.requests,
            retransmissions=counters.retransmissions,
            rpc_timeouts=counters.timeouts,
            lookups=counters.lookups,
            lookup_asks=counters.lookup_asks,
            lookup_hops=counters.lookup_hops,
            rivals=counters.rivals,
            table_size=len(engine.table),
            sessions=engine.exchange.session_count,
            announcements=len(engine.keeper.announcements),
            presences=len(engine.keeper.presences),
        )

    # Details

    def _check_donor(self) -> None:
        if self._engine.role != "donor":
            raise RefusedError("a client stores no records in the DHT")

    async def _greet(self, key: bytes, address: Address) -> Answer:
        if len(key) != 32:
            raise UsageError("a node key has 32 bytes")
        return await self._engine.ask(Contact(_NO_ID, key, address), Ping())

    async def _look_around(self) -> None:
        """Get to know the own neighbourhood, then parts of the id space that are far from it."""
        engine, own = self._engine, number(self._engine.membrane.my_id)
        if engine.role == "client":
            width = engine.config.client_width
            await engine.look_up(engine.membrane.my_id, width=width, patient=False)
            return
        await engine.look_up(engine.membrane.my_id)
        for bit in range(engine.config.join_lookups):
            if len(engine.table) < engine.config.keepers:
                return  # everybody is known already
            far = own ^ (1 << (ID_BITS - 1 - bit)) ^ engine.env.rng.getrandbits(ID_BITS - 1 - bit)
            await engine.look_up(far.to_bytes(ID_BITS // 8, "big"))


def _judge_greetings(outcomes: Sequence[Answer | BaseException]) -> None:
    """Raises when nobody answered."""
    if any(isinstance(outcome, Answer) for outcome in outcomes):
        return
    for outcome in outcomes:
        if not isinstance(outcome, (Answer, PotsherdError)):
            raise outcome
        if isinstance(outcome, MembershipError):
            raise outcome
    raise UnreachableError(
        "none of the known nodes of this network answers",
        remedy="Check the connection, or ask for a newer network file.",
    )


def _check_id(dht_id: bytes) -> None:
    if len(dht_id) != 20:
        raise UsageError("a DHT id or key has 20 bytes")
