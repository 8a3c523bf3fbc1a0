"""The donors nearest to a place: a range query over presences (docs/spec/dht.md, "Pools").

`PoolScan` decides, `query_pool` does. The scan goes outwards from the target, block by block. A look-up
for the first id not covered yet gives the nodes nearest to it; the largest aligned block of ids around
it in which all nodes are among them has fewer than K nodes, so each of these nodes is a keeper of every
presence of the block. A few of them are asked, so that no single one can hide a donor. Then the scan
goes on behind the block, and since the next ones are likely to be as large, with several of them at the
same time. The cost grows with the size of the pool, not of the network; the time is that of a few rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from potsherd.dht.addresses import Contact, Scope, prefix_of, scope_of
from potsherd.dht.config import DhtConfig
from potsherd.dht.engine import Engine
from potsherd.dht.records import SIGNATURE_SIZE, Presence, PresenceRecord, open_presence
from potsherd.dht.routing import ID_BITS, number
from potsherd.dht.statistics import Drop
from potsherd.dht.wire import TAG_SIZE, Presences, PresencesFound
from potsherd.errors import PotsherdError, RefusedError

__all__ = ["Block", "PoolScan", "query_pool"]

PAGES_MAX = 64
"""Pages asked of one node: enough for a neighbourhood of 20 to 60 presences of two or three a page."""


class Block(NamedTuple):
    """Distances from the target, the end excluded."""

    start: int
    end: int

    def within(self, other: Block) -> bool:
        """Whether the other one has all of it."""
        return other.start <= self.start and self.end <= other.end

    def shares(self, count: int) -> list[Block]:
        """Cut into so many parts of about the same width."""
        width = self.end - self.start
        places = [self.start + width * i // max(1, count) for i in range(count + 1)]
        return [Block(*ends) for ends in itertools.pairwise(places)]


class PoolScan:
    """How far a pool query has come, and what it has found. Sans-IO."""

    def __init__(self, target: bytes, count: int, config: DhtConfig) -> None:
        self.target = target
        self._target = number(target)
        self._count = count
        self._config = config
        self._presences: dict[bytes, Presence] = {}
        self._frontier = 0
        self._covered: list[Block] = []
        """Behind the frontier, with gaps between them."""
        self._bits = ID_BITS
        """The next blocks are expected to be of 2^bits ids, as the smallest of the last round was."""
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
        return self._before_frontier() >= self._count

    def points(self) -> list[bytes]:
        """Begin a round: ids to look up now, the nearest not covered yet and where blocks behind it may begin."""
        points: list[bytes] = []
        place, wanted = self._frontier, self._blocks_missing()
        most = min(self._config.pool_parallel, self._config.pool_blocks_max - self.blocks)
        last = max((block.start for block in self._covered), default=0)
        while place < 2**ID_BITS and len(points) < most and (place < last or wanted > 0):
            block = next((b for b in self._covered if b.start <= place < b.end), None)
            if block is not None:
                place = block.end
                continue
            points.append((self._target ^ place).to_bytes(ID_BITS // 8, "big"))
            wanted -= place >= last
            place = ((place >> self._bits) + 1) << self._bits
        self._bits = ID_BITS  # until this round's blocks say how wide the next may be
        return points

    def _blocks_missing(self) -> int:
        """How many may be missing behind those that are covered; one while it is not known how wide a block is."""
        if not self.blocks:
            return 1
        covered = [Block(0, self._frontier), *self._covered]
        places = map(self._distance, self._presences)
        found = sum(any(b.start <= place < b.end for b in covered) for place in places)
        missing = self._count - found
        return max(1, -(-missing * self.blocks // found)) if found else self._count

    def block(self, point: bytes, nearest: Sequence[Contact], known: int) -> Block:
        """What the look-up for one of the `points` gave: the block around it, whose presences are asked for now.

        `known` counts those too who were named and did not answer: only when all of them are fewer
        than K was nobody left out of the answers for the sake of one that is gone.
        """
        self.blocks += 1
        bits, place = ID_BITS, number(point) ^ self._target
        if known >= self._config.keepers and nearest:
            farthest = max(number(contact.dht_id) ^ number(point) for contact in nearest)
            bits = max(0, farthest.bit_length() - 1)
        self._bits = min(self._bits, bits)
        start = (place >> bits) << bits
        return Block(max(start, self._frontier), start + (1 << bits))

    def cover(self, block: Block) -> None:
        """Enough nodes have told what they keep of the block."""
        self._covered.append(block)
        for known in sorted(self._covered):
            if known.start <= self._frontier:
                self._frontier = max(self._frontier, known.end)
        self._covered = [known for known in self._covered if known.end > self._frontier]

    def wants_more(self, block: Block, last: bytes) -> bool:
        """Whether a node whose last presence told was `last` may know others of the block."""
        return self._distance(last) < block.end

    def request_to(self, teller: bytes, block: Block, last: bytes | None) -> Presences:
        """The next request to the node `teller`, whose last presence told was `last`.

        The tags of those not to be told again are of presences near it: those are what it keeps.
        """
        after = block.start if last is None else self._distance(last)
        near = number(teller)
        ids = [i for i in self._presences if self._distance(i) >= after]
        ids = heapq.nsmallest(Presences.KNOWN_MAX, ids, key=lambda i: number(i) ^ near)
        tags = b"".join(i[-TAG_SIZE:] for i in ids)
        return Presences(self.target, after.to_bytes(ID_BITS // 8, "big"), tags)

    def result(self) -> list[Presence]:
        """The nearest `count`, nearest first; capped per prefix in an open network."""
        found = [self._presences[i] for i in sorted(self._presences, key=self._distance)]
        return _capped(found, self._config.prefix_nodes_max)[: self._count]

    def _before_frontier(self) -> int:
        return sum(self._distance(i) < self._frontier for i in self._presences)

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
        points = scan.points()
        searches = await asyncio.gather(*map(engine.look_up, points))
        told: dict[Block, list[Contact]] = {}
        for point, search in zip(points, searches, strict=True):
            contacts = [candidate.contact for candidate in search.nearest()]
            told[scan.block(point, contacts, search.lookup.known)] = contacts
        blocks = [b for b in told if not any(b.within(other) for other in told if other != b)]
        await asyncio.gather(*(_cover(engine, scan, block, told[block]) for block in blocks))
    return scan.result()


async def _cover(engine: Engine, scan: PoolScan, block: Block, contacts: Sequence[Contact]) -> None:
    """Have nodes tell of a block, each what the others have left out.

    For a client, who waits for it, several tell a share each before, and then all at the same time: twice the
    requests of a node, which asks one after the other.
    """
    config, hurried = engine.config, engine.role == "client"
    if hurried:
        tellers = contacts[: config.pool_shares]
        shares = zip(tellers, block.shares(len(tellers)), strict=True)
        await asyncio.gather(*(_ask(engine, scan, contact, share) for contact, share in shares))
    waiting, answered = deque(contacts), 0
    while waiting and answered < config.pool_cover:
        count = min(len(waiting), config.pool_cover - answered if hurried else 1)
        asked = [_ask(engine, scan, waiting.popleft(), block) for _ in range(count)]
        answered += sum(await asyncio.gather(*asked))
    scan.cover(block)


async def _ask(engine: Engine, scan: PoolScan, contact: Contact, block: Block) -> bool:
    """Take all that a node keeps of the block; False if it did not answer or told a forgery."""
    last: bytes | None = None
    for _ in range(PAGES_MAX):
        found = await _page(engine, contact, scan.request_to(contact.dht_id, block, last))
        if found is None:
            return False
        try:
            last = _take(engine, scan, found) or last
        except PotsherdError:
            engine.counters.drop(Drop.RECORD)
            return False
        # An empty page with more behind it comes when the teller's chain took the room.
        if not found.more or (last is not None and not scan.wants_more(block, last)):
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
