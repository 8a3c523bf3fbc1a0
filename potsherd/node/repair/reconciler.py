"""Every holder of a segment comes to know the whole roster (docs/design/rosters.md).

Digests are compared with one other live holder of every segment once in a *round*, and at once with a
node that is met for the first time or came back; entries are exchanged only where digests differ. So news
spreads as gossip does, in a number of rounds that grows with the logarithm of the holders. No memory
grows with the number of shards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError
from potsherd.node.client import Dial, Peer
from potsherd.node.records import ROSTER_DIFFERS, ROSTER_NOT_HERE, RosterEntry
from potsherd.node.rosters import Rosters, roster_digest
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Address, Env

__all__ = ["Reconciler", "ReconcilerStatistics"]

FRESH_MAX = 4096
"""Nodes that wait for a first comparison; beyond it they wait for the round."""
PARTNERS_PARALLEL = 4
"""Nodes asked at a time."""
FRESH_PAUSE_S = 0.05
"""Seconds between two pages when fresh partners are compared with: others get their turn."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconcilerStatistics:
    """Counts since start."""

    compared: int = 0
    """Rosters compared by digest."""
    exchanged: int = 0
    """Rosters that differed and were exchanged."""
    learned: int = 0
    """Entries learned."""
    released: int = 0
    """Holders that turned out not to hold any more."""
    rounds: int = 0


class _Item(NamedTuple):
    held: Held
    digest: bytes


@dataclass
class _Plan:
    """Whom to compare which rosters with."""

    by_node: dict[bytes, list[_Item]] = field(default_factory=dict)

    def add(self, node: bytes, item: _Item) -> None:
        self.by_node.setdefault(node, []).append(item)


class Reconciler:
    """`run` is a task of the node's; the other methods may be called at any time."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        rosters: Rosters,
        *,
        node_key: bytes,
        dial: Dial,
        alive: Callable[[bytes], bool],
        address_of: Callable[[bytes], Address | None],
        changed: Callable[[bytes], None],
        round_s: float,
        tick_s: float,
        batch: int,
    ) -> None:
        """`alive(node key)`: whether it is worth asking. `changed(segment id)`: its roster has changed."""
        self._env = env
        self._store = store
        self._rosters = rosters
        self._node_key = node_key
        self._dial = dial
        self._alive = alive
        self._address_of = address_of
        self._changed = changed
        self._round_s = round_s
        self._tick_s = tick_s
        self._batch = batch
        self._fresh: dict[bytes, None] = {}
        self._wake = asyncio.Event()
        self._cursor = b""
        self._limit = asyncio.Semaphore(PARTNERS_PARALLEL)
        self._counts = ReconcilerStatistics()

    def statistics(self) -> ReconcilerStatistics:
        """A snapshot."""
        return self._counts

    def met(self, key: bytes) -> None:
        """A node has been met for the first time, or came back: compare all that we share."""
        if len(self._fresh) < FRESH_MAX:
            self._fresh[key] = None
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self._fresh:
                    await self.compare_fresh()
                    pause = self._tick_s
                else:
                    pause = await self.step()
            except PotsherdError as error:
                _LOG.warning("reconciling rosters failed: %s", error)
                pause = self._tick_s
            await self._wait(pause * self._env.rng.uniform(0.5, 1.5))

    async def _wait(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        # several nodes tend to come back together: one pass for all of them
        await asyncio.sleep(min(self._tick_s, pause))

    async def step(self) -> float:
        """Compare one page of segments with a live holder each; seconds to wait before the next."""
        page = await self._store.segments(self._cursor, self._batch)
        plan = _Plan()
        for held in page:
            entries = await self._rosters.entries(held.segment_id)
            others = [e.node for e in entries if self._may_ask(e)]
            if others:
                item = _Item(held, roster_digest(entries))
                plan.add(self._env.rng.choice(others), item)
        await self._compare_all(plan)
        if len(page) < self._batch:
            self._cursor = b""
            self._counts = replace(self._counts, rounds=self._counts.rounds + 1)
        else:
            self._cursor = page[-1].segment_id
        pages = max(1, -(-self._store.usage().shards // self._batch))
        return max(self._tick_s, self._round_s / pages)

    def _may_ask(self, entry: RosterEntry) -> bool:
        return entry.held and entry.node != self._node_key and self._alive(entry.node)

    async def compare_fresh(self) -> None:
        """Compare everything that is shared with the nodes that were met lately."""
        self._wake.clear()
        fresh, self._fresh = self._fresh, {}
        cursor = b""
        while True:
            page = await self._store.segments(cursor, self._batch)
            plan = _Plan()
            for held in page:
                entries = await self._rosters.entries(held.segment_id)
                item = _Item(held, roster_digest(entries))
                for entry in entries:
                    if entry.node in fresh and entry.node != self._node_key:
                        plan.add(entry.node, item)
            await self._compare_all(plan)
            if len(page) < self._batch:
                return
            cursor = page[-1].segment_id
            await asyncio.sleep(FRESH_PAUSE_S)

    async def _compare_all(self, plan: _Plan) -> None:
        async with asyncio.TaskGroup() as tasks:
            for node, items in plan.by_node.items():
                tasks.create_task(self._compare_quietly(node, items))

    async def _compare_quietly(self, node: bytes, items: Sequence[_Item]) -> None:
        async with self._limit:
            try:
                await self.compare(node, [item.held for item in items], [i.digest for i in items])
            except PotsherdError as error:
                _LOG.debug("no comparison with %s: %s", node.hex()[:12], error)

    # with one node

    async def compare(
        self, node: bytes, held: Sequence[Held], digests: Sequence[bytes] | None = None
    ) -> None:
        """Compare the rosters of some segments with one node. Raises what dialling or the node raises."""
        if digests is None:
            digests = [await self._rosters.digest(h.segment_id) or b"" for h in held]
        asked = [(h, d) for h, d in zip(held, digests, strict=True) if d]
        if not asked:
            return
        peer = await self._dial(node, asked[0][0].descriptor.placement_key)
        states = await peer.roster_digests([(h.segment_id, d) for h, d in asked])
        self._count(compared=len(states))
        for (one, _), state in zip(asked, states, strict=True):
            if state == ROSTER_DIFFERS:
                await self.exchange(peer, one)
            elif state == ROSTER_NOT_HERE:
                await self._confirm(peer, one)

    async def exchange(self, peer: Peer, held: Held) -> None:
        """Give the node the entries it lacks, and take those that are missing here."""
        theirs = await peer.roster(held.segment_id)
        await self._merge(held, [(data, address) for _, data, address in theirs])
        known = {entry.node: entry for entry, _, _ in theirs}
        lacking: list[tuple[bytes, Address | None]] = []
        for data in await self._store.roster(held.segment_id):
            mine = RosterEntry.decode(data[64:])
            their = known.get(mine.node)
            if their is None or (their != mine and their.counter <= mine.counter):
                lacking.append((data, self._address_of(mine.node)))
        if lacking:
            await peer.merge_roster(held.segment_id, lacking)
        self._count(exchanged=1)

    async def _confirm(self, peer: Peer, held: Held) -> None:
        """The node says that it does not hold the segment; our roster may say that it does."""
        for data in await self._store.roster(held.segment_id):
            entry = RosterEntry.decode(data[64:])
            if entry.node == peer.key and entry.held:
                newest = await peer.confirm(data)
                if not RosterEntry.decode(newest[64:]).held:
                    self._count(released=1)
                await self._merge(held, [(newest, None)])

    async def _merge(self, held: Held, hints: Sequence[tuple[bytes, Address | None]]) -> None:
        changed = await self._rosters.merge(held, hints)
        if changed:
            self._count(learned=changed)
            self._changed(held.segment_id)

    def _count(self, **more: int) -> None:
        now = vars(self._counts)
        self._counts = replace(self._counts, **{name: now[name] + by for name, by in more.items()})
