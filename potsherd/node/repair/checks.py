"""Looking for oneself: another holder proves a cell, and stands where the index belongs.

Nothing that somebody else says about a holder counts before this node has looked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from potsherd.erasure.merkle import cell_leaves_fast, verify_range
from potsherd.errors import IntegrityError, NotFoundError, PeerError, PotsherdError
from potsherd.node.client import Peer
from potsherd.node.liveness import PeerTable
from potsherd.node.records import RosterEntry
from potsherd.node.repair.doubts import Doubt, Doubts, Reason
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.plan import PlaceView, Standing
from potsherd.node.repair.view import Seen, View
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Env

__all__ = ["Checker", "PlacesOf"]

PROVE_TIMEOUT_S = 30.0
"""Seconds for a holder to prove one cell."""
RECONSIDER_S = 86_400.0
"""Seconds after which the place of a holder is judged once more."""
CHECKS_PER_STEP = 16
"""Unchecked entries looked at in one step."""

_LOG = logging.getLogger(__name__)

Dial = Callable[[bytes, bytes], Awaitable[Peer]]
PlacesOf = Callable[[Seen, bytes], Awaitable[PlaceView]]
"""(segment, node to be judged) → the view in which its place is judged. Raises PotsherdError."""


class Checker:
    """Checks entries that came up after the segment was settled, and proofs of others."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        view: View,
        peers: PeerTable,
        doubts: Doubts,
        journal: Journal,
        *,
        dial: Dial,
        places: PlacesOf,
    ) -> None:
        self._env = env
        self._store = store
        self._view = view
        self._peers = peers
        self._doubts = doubts
        self._journal = journal
        self._dial = dial
        self._places = places

    async def prove(self, held: Held, entry: RosterEntry) -> None:
        """Have a holder prove a random cell.

        Raises IntegrityError when it gives wrong bytes or denies what it has signed, PeerError when it
        does not answer.
        """
        row = self._env.rng.randrange(held.descriptor.rows)
        try:
            async with asyncio.timeout(PROVE_TIMEOUT_S):
                peer = await self._dial(entry.node, held.descriptor.placement_key)
                data, proofs = await peer.read(held.segment_id, entry.index, [(row, 1)])
        except TimeoutError:
            raise PeerError("no proof in time") from None
        except NotFoundError:
            raise IntegrityError("the node does not have what it has signed for") from None
        d = held.descriptor
        if len(data) != d.cell_size or len(proofs) != 1:
            raise IntegrityError("another number of bytes than asked for")
        leaves = await self._env.offload(cell_leaves_fast, data, d.cell_size)
        verify_range(d.roots[entry.index], d.rows, row, leaves, proofs[0])

    async def examine(self, held: Held, entry: RosterEntry) -> bool:
        """Have a holder prove a cell and remember the outcome; whether it did. Raises PeerError."""
        try:
            await self.prove(held, entry)
        except IntegrityError as error:
            await self.condemn(held, entry, str(error))
            return False
        self._peers.audited(entry.node, True)
        return True

    async def condemn(self, held: Held, entry: RosterEntry, why: str) -> None:
        """Its shard counts as lost from now on."""
        self._peers.audited(entry.node, False)
        text = f"index {entry.index} at {entry.node.hex()[:16]} is wrong: {why}"
        self._journal.note(self._env.utc(), held.segment_id, text)
        await self._doubt(entry, Reason.WRONG)

    async def check(self, seen: Seen, entry: RosterEntry) -> None:
        """Judge an unchecked entry: proof, then place. Raises PeerError when its node does not answer."""
        if not await self.examine(seen.held, entry):
            return
        if not await self._place_is_right(seen, entry):
            await self._doubt(entry, Reason.MISPLACED)
            text = f"index {entry.index} does not belong to {entry.node.hex()[:16]}"
            self._journal.note(self._env.utc(), seen.held.segment_id, text)
            return
        await self._doubts.clear(entry.segment_id, entry.node)

    async def _place_is_right(self, seen: Seen, entry: RosterEntry) -> bool:
        """Where a repairer had to bring it, or where its former holder has brought it itself."""
        if any(e.index == entry.index and not e.held for e in seen.entries):
            return True
        view = await self._places(seen, entry.node)
        return view.agrees(entry.index, entry.node)

    async def _doubt(self, entry: RosterEntry, reason: Reason) -> None:
        date = int(self._env.utc())
        await self._doubts.add(Doubt(entry.segment_id, entry.node, entry.counter, reason, date))

    async def came_up(self, entry: RosterEntry) -> None:
        """An entry that was not in the settled roster."""
        await self._doubt(entry, Reason.UNCHECKED)

    async def step(self) -> int:
        """Check some of those that wait; how many changed their standing."""
        waiting = self._doubts.of(Reason.UNCHECKED)
        changed = 0
        for doubt in waiting[:CHECKS_PER_STEP]:
            changed += await self.check_one(doubt.segment_id, doubt.node)
        await self._reconsider()
        return changed

    async def _reconsider(self) -> None:
        """Pools change: a place that was wrong may be right by now."""
        before = self._env.utc() - RECONSIDER_S
        misplaced = [d for d in self._doubts.of(Reason.MISPLACED) if d.date <= before]
        for doubt in misplaced[:CHECKS_PER_STEP]:
            await self._doubts.add(
                replace(doubt, reason=Reason.UNCHECKED, date=int(self._env.utc()))
            )

    async def check_one(self, segment_id: bytes, node: bytes) -> bool:
        """Check one holder of a segment, if it waits for it and answers; whether it was judged."""
        held = await self._store.held(segment_id)
        seen = await self._view.look(held) if held is not None else None
        entry = next((e for e in seen.entries if e.node == node), None) if seen else None
        if seen is None or entry is None or not entry.held:
            await self._doubts.clear(segment_id, node)
            return False
        if seen.standings[node] is not Standing.UNKNOWN or not self._peers.proven(node):
            return False
        try:
            await self.check(seen, entry)
        except PotsherdError as error:
            _LOG.debug("not checked yet: %s", error)
            return False
        return True
