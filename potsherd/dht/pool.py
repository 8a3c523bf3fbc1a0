"""The donors nearest to a place: a range query over presences (docs/spec/dht.md, "Pools").

`PoolScan` decides, `query_pool` does. The scan goes outwards from the target, block by block. A look-up
for the first id not covered yet gives the nodes nearest to it; the largest aligned block of ids around
it in which all nodes are among them has fewer than K nodes, so each of these nodes is a keeper of every
presence of the block. A few of them are asked, so that no single one can hide a donor. Then the scan
goes on behind the block. The cost grows with the size of the pool, not of the network.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Sequence

from potsherd.dht.addresses import Contact, Scope, prefix_of, scope_of
from potsherd.dht.config import DhtConfig
from potsherd.dht.engine import Engine
from potsherd.dht.records import SIGNATURE_SIZE, Presence, PresenceRecord, open_presence
from potsherd.dht.routing import ID_BITS, number
from potsherd.dht.statistics import Drop
from potsherd.dht.wire import TAG_SIZE, Presences, PresencesFound
from potsherd.errors import PotsherdError, RefusedError

__all__ = ["PoolScan", "query_pool"]

PAGES_MAX = 64
"""Pages asked of one node: enough for a neighbourhood of 20 to 60 presences of two or three a page."""


class PoolScan:
    """How far a pool query has come, and what it has found. Sans-IO."""

    def __init__(self, target: bytes, count: int, config: DhtConfig) -> None:
        self.target = target
        self._target = number(target)
        self._count = count
        self._config = config
        self._presences: dict[bytes, Presence] = {}
        self._frontier = 0
        self._end = 0
        self.blocks = 0

    def add(self, presence: Presence) -> None:
        """A verified presence; of two for one id the later one stays."""
        known = self._presences.get(presence.dht_id)
        if known is None or known.issued < presence.issued:
            self._presences[presence.dht_id] = presence

    def done(self) -> bool:
        """Whether the nearest `count` are known, or all, or it has cost enough."""
        if self._frontier >= 2**ID_BITS or self.blocks >= self._config.pool_blocks_max:
            return True
        covered = sum(self._distance(i) < self._frontier for i in self._presences)
        return covered >= self._count

    def point(self) -> bytes:
        """The nearest id not covered yet: what to look up now."""
        return (self._target ^ self._frontier).to_bytes(ID_BITS // 8, "big")

    def found_nodes(self, nearest: Sequence[Contact], known: int) -> None:
        """What the look-up for `point` gave: sets the block that is asked for now.

        `known` counts those too who were named and did not answer: only when all of them are fewer
        than K was nobody left out of the answers for the sake of one that is gone.
        """
        self.blocks += 1
        bits = ID_BITS
        if known >= self._config.keepers and nearest:
            point = self._target ^ self._frontier
            farthest = max(number(contact.dht_id) ^ point for contact in nearest)
            bits = max(0, farthest.bit_length() - 1)
        self._end = ((self._frontier >> bits) + 1) << bits

    def block_covered(self) -> None:
        """Enough nodes have told what they keep of the block."""
        self._frontier = self._end

    def wants_more(self, last: bytes) -> bool:
        """Whether a node whose last presence told was `last` may know others of the block."""
        return self._distance(last) < self._end

    def request_to(self, teller: bytes, last: bytes | None) -> Presences:
        """The next request to the node `teller`, whose last presence told was `last`.

        The tags of those not to be told again are of presences near it: those are what it keeps.
        """
        after = self._frontier if last is None else self._distance(last)
        near = number(teller)
        ids = [i for i in self._presences if self._distance(i) >= after]
        ids = heapq.nsmallest(Presences.KNOWN_MAX, ids, key=lambda i: number(i) ^ near)
        tags = b"".join(i[-TAG_SIZE:] for i in ids)
        return Presences(self.target, after.to_bytes(ID_BITS // 8, "big"), tags)

    def result(self) -> list[Presence]:
        """The nearest `count`, nearest first; capped per prefix in an open network."""
        found = [self._presences[i] for i in sorted(self._presences, key=self._distance)]
        return _capped(found, self._config.prefix_nodes_max)[: self._count]

    def _distance(self, dht_id: bytes) -> int:
        return number(dht_id) ^ self._target


async def query_pool(engine: Engine, target: bytes, count: int) -> list[Presence]:
    """The `count` donors nearest to `target` that have a presence, nearest first."""
    scan = PoolScan(target, count, engine.config)
    utc = engine.env.utc()
    for _, entry in list(engine.keeper.presences):
        with contextlib.suppress(RefusedError):  # expired, or removed since it was stored
            scan.add(open_presence(entry.data, engine.membrane, engine.admissions, utc))
    while not scan.done():
        search = await engine.look_up(scan.point())
        contacts = [candidate.contact for candidate in search.nearest()]
        scan.found_nodes(contacts, search.lookup.known)
        answered = 0
        for contact in contacts:
            if answered >= engine.config.pool_cover:
                break
            answered += await _ask(engine, scan, contact)
        scan.block_covered()
    return scan.result()


async def _ask(engine: Engine, scan: PoolScan, contact: Contact) -> bool:
    """Take all that a node keeps of the block; False if it did not answer or told a forgery."""
    last: bytes | None = None
    for _ in range(PAGES_MAX):
        found = await _page(engine, contact, scan.request_to(contact.dht_id, last))
        if found is None:
            return False
        try:
            last = _take(engine, scan, found) or last
        except PotsherdError:
            engine.counters.drop(Drop.RECORD)
            return False
        # An empty page with more behind it comes when the teller's chain took the room.
        if not found.more or (last is not None and not scan.wants_more(last)):
            return True
    return True


async def _page(engine: Engine, contact: Contact, asked: Presences) -> PresencesFound | None:
    try:
        answer = await engine.ask(contact, asked)
    except PotsherdError:
        return None
    if answer.peer.role != "donor" or answer.peer.dht_id != contact.dht_id:
        engine.counters.drop(Drop.LIAR)
        return None
    return answer.message if isinstance(answer.message, PresencesFound) else None


def _take(engine: Engine, scan: PoolScan, found: PresencesFound) -> bytes | None:
    """Id of the last presence told. Raises MalformedError, IntegrityError for a forged one."""
    last = None
    for data in found.records:
        last = PresenceRecord.decode(data[SIGNATURE_SIZE:]).dht_id
        try:
            utc = engine.env.utc()
            scan.add(open_presence(data, engine.membrane, engine.admissions, utc))
        except RefusedError:  # expired by our clock, or of a member we know to be removed
            engine.counters.drop(Drop.RECORD)
    return last


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
