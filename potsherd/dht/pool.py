"""The donors nearest to a place: a range query over presences (docs/spec/dht.md, "Pools").

`PoolScan` decides, `query_pool` does. The scan walks outwards from the target over all ids it knows.
Around each of them it needs answers from a few of the nodes nearest to it, who are that id's keepers:
a donor near there that was not known yet is then known. So no single node can hide donors, and the
cost grows with the size of the pool, not of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Sequence
from functools import partial

from potsherd.dht.addresses import Contact, Scope, diallable, prefix_of, scope_of
from potsherd.dht.config import DhtConfig
from potsherd.dht.engine import Engine
from potsherd.dht.exchange import Answer, Failure
from potsherd.dht.records import SIGNATURE_SIZE, Presence, PresenceRecord, open_presence
from potsherd.dht.routing import number
from potsherd.dht.statistics import Drop
from potsherd.dht.wire import TAG_SIZE, Presences, PresencesFound
from potsherd.errors import PotsherdError, RefusedError

__all__ = ["PoolScan", "query_pool"]

PAGES_MAX = 64
"""Pages asked of one node: enough for a neighbourhood of 20 to 60 presences of two or three a page."""


class PoolScan:
    """Which nodes to ask for presences, and what has been found. Sans-IO."""

    def __init__(self, target: bytes, count: int, config: DhtConfig) -> None:
        self.target = target
        self._target = number(target)
        self._count = count
        self._config = config
        self._presences: dict[bytes, Presence] = {}
        self._contacts: dict[int, Contact] = {}
        self._asked: dict[int, bool] = {}
        """True once it has answered, False while it has not."""
        self._failed: dict[int, None] = {}
        self._covered: dict[int, None] = {}
        self.asks = 0

    def add_contact(self, contact: Contact) -> None:
        """Somebody who may be asked; the first address known for an id stays."""
        self._contacts.setdefault(number(contact.dht_id), contact)

    def add(self, presence: Presence) -> None:
        """A verified presence; of two for one id the later one stays."""
        known = self._presences.get(presence.dht_id)
        if known is None or known.issued < presence.issued:
            self._presences[presence.dht_id] = presence

    def answered(self, dht_id: bytes) -> None:
        """The node has told all it knows, or all that is near enough."""
        self._asked[number(dht_id)] = True

    def failed(self, dht_id: bytes) -> None:
        """The node did not answer, or told what is not true."""
        self._asked.pop(number(dht_id), None)
        self._failed[number(dht_id)] = None

    def boundary(self) -> int | None:
        """Distance of the last presence of the pool, if there are enough already."""
        if len(self._presences) < self._count:
            return None
        return max(self._nearest_presences())

    def known_from(self, teller: bytes, last: bytes | None) -> tuple[bytes, bytes]:
        """(after, known) for the next request to the node `teller`, whose last presence was `last`.

        `after` is the distance from which on it is asked. `known` are tags not to be told again:
        of presences near the teller, because those are what it keeps.
        """
        after = 0 if last is None else number(last) ^ self._target
        near = number(teller)
        ids = [i for i in self._presences if number(i) ^ self._target >= after]
        ids = heapq.nsmallest(Presences.KNOWN_MAX, ids, key=lambda i: number(i) ^ near)
        return after.to_bytes(20, "big"), b"".join(i[-TAG_SIZE:] for i in ids)

    def next_asks(self, limit: int) -> list[Contact]:
        """Up to `limit` nodes to ask now; they count as asked."""
        limit = min(limit, self._config.pool_asks_max - self.asks)
        asks: list[Contact] = []
        for place in self._places():
            if len(asks) >= limit:
                break
            asks += self._asks_around(place, limit - len(asks))
        self.asks += len(asks)
        return asks

    def result(self) -> list[Presence]:
        """The nearest `count`, nearest first; capped per prefix in an open network."""
        found = [self._presences[i] for i in sorted(self._presences, key=self._distance)]
        return _capped(found, self._config.prefix_nodes_max)[: self._count]

    def _distance(self, dht_id: bytes) -> int:
        return number(dht_id) ^ self._target

    def _nearest_presences(self) -> list[int]:
        return heapq.nsmallest(self._count, (self._distance(i) for i in self._presences))

    def _places(self) -> list[int]:
        """Ids to be covered: all that are known, up to the boundary, nearest first."""
        boundary = self.boundary()
        ids = {**dict.fromkeys(number(i) for i in self._presences), **dict.fromkeys(self._contacts)}
        places = [
            i
            for i in ids
            if i not in self._covered and (boundary is None or i ^ self._target <= boundary)
        ]
        return sorted(places, key=self._target.__xor__)

    def _asks_around(self, place: int, limit: int) -> list[Contact]:
        """Nodes around `place` to ask; marks it as covered when enough have answered."""
        live = [i for i in self._contacts if i not in self._failed]
        near = heapq.nsmallest(self._config.keepers, live, key=place.__xor__)
        answered = sum(self._asked.get(i, False) for i in near)
        waiting = sum(not self._asked.get(i, True) for i in near)
        fresh = [i for i in near if i not in self._asked]
        missing = self._config.pool_cover - answered
        if missing <= 0 or not (fresh or waiting):
            self._covered[place] = None
            return []
        chosen = fresh[: max(0, min(limit, missing - waiting))]
        for i in chosen:
            self._asked[i] = False
        return [self._contacts[i] for i in chosen]


class _Query:
    """One pool query as it runs."""

    def __init__(self, engine: Engine, scan: PoolScan) -> None:
        self._engine = engine
        self._scan = scan
        self._in_flight = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        config = self._engine.config
        parallel = config.alpha * max(1, config.paths)
        while True:
            self._wake.clear()
            asks = self._scan.next_asks(parallel - self._in_flight)
            for contact in asks:
                self._in_flight += 1
                self._ask(contact, None, 0)
            if self._wake.is_set():
                continue
            if not self._in_flight:
                return
            await self._wake.wait()

    def _ask(self, contact: Contact, last: bytes | None, page: int) -> None:
        after, known = self._scan.known_from(contact.dht_id, last)
        self._engine.request(
            contact,
            Presences(self._scan.target, after, known),
            partial(self._ended, contact, page),
        )

    def _ended(self, contact: Contact, page: int, outcome: Answer | Failure) -> None:
        found = self._checked(contact, outcome)
        last = self._take(contact, found) if found is not None else None
        if found is not None and found.more and page + 1 < PAGES_MAX and self._goes_on(found, last):
            self._ask(contact, last, page + 1)
            return
        honest = found is not None and (last is not None or not found.records)
        (self._scan.answered if honest else self._scan.failed)(contact.dht_id)
        self._in_flight -= 1
        self._wake.set()

    def _checked(self, contact: Contact, outcome: Answer | Failure) -> PresencesFound | None:
        if not isinstance(outcome, Answer) or not isinstance(outcome.message, PresencesFound):
            return None
        if outcome.peer.role != "donor" or outcome.peer.dht_id != contact.dht_id:
            self._engine.counters.drop(Drop.LIAR)
            return None
        return outcome.message

    def _goes_on(self, found: PresencesFound, last: bytes | None) -> bool:
        """An empty page with more behind it comes when the teller's chain took the room."""
        if last is None:
            return not found.records
        boundary = self._scan.boundary()
        return boundary is None or number(last) ^ number(self._scan.target) <= boundary

    def _take(self, contact: Contact, found: PresencesFound) -> bytes | None:
        """Id of the last presence told; None when there is none, or one of them is forged."""
        engine, last = self._engine, None
        for data in found.records:
            try:
                last = PresenceRecord.decode(data[SIGNATURE_SIZE:]).dht_id
                presence = open_presence(data, engine.membrane, engine.admissions, engine.env.utc())
            except RefusedError:  # expired by our clock, or a member we know to be removed
                engine.counters.drop(Drop.RECORD)
                continue
            except PotsherdError:
                engine.counters.drop(Drop.RECORD)
                return None
            self._scan.add(presence)
            self._add_contact(presence, contact)
        return last

    def _add_contact(self, presence: Presence, teller: Contact) -> None:
        if (
            presence.address is not None
            and presence.key != self._engine.membrane.my_key
            and diallable(presence.address, teller.address)
        ):
            self._scan.add_contact(Contact(presence.dht_id, presence.key, presence.address))


async def query_pool(engine: Engine, target: bytes, count: int) -> list[Presence]:
    """The `count` donors nearest to `target` that have a presence, nearest first."""
    scan = PoolScan(target, count, engine.config)
    search = await engine.look_up(target)
    for candidate in search.nearest():
        scan.add_contact(candidate.contact)
    utc = engine.env.utc()
    for _, entry in list(engine.keeper.presences):
        with contextlib.suppress(RefusedError):  # expired, or removed since it was stored
            scan.add(open_presence(entry.data, engine.membrane, engine.admissions, utc))
    await _Query(engine, scan).run()
    return scan.result()


def _capped(presences: Sequence[Presence], cap: int | None) -> list[Presence]:
    if cap is None:
        return list(presences)
    count: dict[str, int] = {}
    kept = []
    for presence in presences:
        address = presence.address
        if address is not None and scope_of(address) is Scope.PUBLIC:
            prefix = prefix_of(address)
            count[prefix] = count.get(prefix, 0) + 1
            if count[prefix] > cap:
                continue
        kept.append(presence)
    return kept
