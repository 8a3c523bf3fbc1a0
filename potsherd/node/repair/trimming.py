"""Second copies: a node lets go of its shard only before a proof of the one that stays.

Who was given up and came back, or was repaired twice in a partition: then two nodes hold one index. The
one with the higher score for it keeps it; the other drops its copy, but only after a signed receipt and
a fresh proof from the one that stays. Who sees that it is not where the index belongs, as happens in a
partition, drops its copy also in favour of an older one.
"""

from __future__ import annotations

import logging
from functools import partial

from potsherd.errors import PotsherdError
from potsherd.node.client import Dial
from potsherd.node.records import RosterEntry
from potsherd.node.repair.checks import Checker, PlacesOf
from potsherd.node.repair.claiming import Claiming, Gossip
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.plan import Standing, place_score
from potsherd.node.repair.view import Seen
from potsherd.node.rosters import Rosters
from potsherd.node.store import ShardStore
from potsherd.ports import Env

__all__ = ["Trimmer"]

SEEN_MAX = 4096
"""Second copies that are noted; further ones are found again later."""
PROOFS = 2
"""Random cells that the other holder must prove."""

_LOG = logging.getLogger(__name__)


class Trimmer:
    """`look` is called with every segment that is looked at."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        rosters: Rosters,
        checker: Checker,
        claiming: Claiming,
        gossip: Gossip,
        journal: Journal,
        *,
        node_key: bytes,
        dial: Dial,
        places: PlacesOf,
        settle_s: float,
    ) -> None:
        self._env = env
        self._store = store
        self._rosters = rosters
        self._checker = checker
        self._claiming = claiming
        self._gossip = gossip
        self._journal = journal
        self._me = node_key
        self._dial = dial
        self._places = places
        self._settle_s = settle_s
        self._since: dict[bytes, float] = {}
        self.trimmed = 0
        """Copies dropped since start."""

    async def look(self, seen: Seen, *, calm: bool) -> bool:
        """Drop our copy if another one stays; whether it was dropped. Not while the network is torn."""
        segment_id = seen.held.segment_id
        better = await self._better(seen)
        if not better or not calm or self._claiming.standing(segment_id) is not None:
            self._since.pop(segment_id, None)
            return False
        now = self._env.monotonic()
        if len(self._since) < SEEN_MAX:
            self._since.setdefault(segment_id, now)
        if now - self._since.get(segment_id, now) < self._settle_s:
            return False
        for entry in better:
            if await self._stays(seen, entry):
                await self._let_go(seen, entry)
                return True
        return False

    async def _better(self, seen: Seen) -> list[RosterEntry]:
        """Live holders of our index that keep it rather than we do, the best first."""
        held = seen.held

        def score(node: bytes) -> tuple[int, bytes]:
            return place_score(held.segment_id, held.index, node), node

        live = [e for e in seen.holding(Standing.LIVE) if e.index == held.index]
        own = next((e for e in live if e.node == self._me), None)
        others = [e for e in live if e.node != self._me]
        if own is None or not others:
            return []
        better = [e for e in others if score(e.node) > score(self._me)]
        older = [e for e in others if (e.counter, e.node) < (own.counter, own.node)]
        if older and not better and not await self._is_in_place(seen):
            better = older
        return sorted(better, key=lambda e: score(e.node), reverse=True)

    async def _is_in_place(self, seen: Seen) -> bool:
        try:
            view = await self._places(seen, self._me)
        except PotsherdError:
            return True
        return view.suits(seen.held.index, self._me)

    async def _stays(self, seen: Seen, entry: RosterEntry) -> bool:
        """Have it sign once more that it holds the index, and prove some cells."""
        held = seen.held
        try:
            said = next(
                data
                for data in await self._store.roster(held.segment_id)
                if RosterEntry.decode(data[64:]) == entry
            )
            peer = await self._dial(entry.node, held.descriptor.placement_key)
            newest = RosterEntry.decode((await peer.confirm(said))[64:])
            if not newest.held or newest.index != held.index:
                return False
            for _ in range(PROOFS):
                if not await self._checker.examine(held, newest):
                    return False
        except (PotsherdError, StopIteration) as error:
            _LOG.debug("a second copy stays for now: %s", error)
            return False
        return True

    async def _let_go(self, seen: Seen, entry: RosterEntry) -> None:
        held = seen.held
        self._since.pop(held.segment_id, None)
        released = await self._rosters.sign(held.segment_id, held.index, held=False)
        detail = f"index {held.index} is kept by {entry.node.hex()[:16]}"
        if not await self._store.drop(held.segment_id, "surplus", detail):
            return
        self.trimmed += 1
        self._journal.note(self._env.utc(), held.segment_id, f"surplus copy dropped: {detail}")
        await self._gossip.ask_all(seen, partial(self._tell, seen, released))

    async def _tell(self, seen: Seen, released: bytes, node: bytes) -> None:
        peer = await self._dial(node, seen.held.descriptor.placement_key)
        await peer.merge_roster(seen.held.segment_id, [(released, None)])
