"""Looking for oneself: another holder proves a cell, and stands where the index belongs.

Nothing that somebody else says about a holder counts before this node has looked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from potsherd.erasure.merkle import cell_leaves_light, verify_range
from potsherd.errors import IntegrityError, NotFoundError, PeerError, PotsherdError, QuotaError
from potsherd.node.audit.records import Evidence
from potsherd.node.client import CellAnswer, Dial
from potsherd.node.liveness import PeerTable
from potsherd.node.records import RosterEntry
from potsherd.node.repair.doubts import Doubt, Doubts, Reason
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.plan import PlaceView, Standing
from potsherd.node.repair.view import Seen, View
from potsherd.node.rosters import SIGNATURE_SIZE, Rosters
from potsherd.node.statements import open_read_answer
from potsherd.node.store import Held, ShardStore
from potsherd.node.store.audits import ProofRow
from potsherd.ports import Env

__all__ = ["Checker", "Outdated", "PlacesOf", "WrongAnswer"]

PROVE_TIMEOUT_S = 30.0
"""Seconds for a holder to prove one cell."""
CHECKS_PER_STEP = 16
"""Unchecked entries looked at in one step."""
PROOFS_OF_MENDED = 3
"""Random cells that a holder must prove which was wrong before."""

_LOG = logging.getLogger(__name__)

PlacesOf = Callable[[Seen, bytes], Awaitable[PlaceView]]
"""(segment, node to be judged) → the view in which its place is judged. Raises PotsherdError."""


class WrongAnswer(IntegrityError):  # noqa: N818 (names what was given)
    """A holder gave bytes that are not its shard's, or denied what it had signed."""

    def __init__(self, message: str, row: int, evidence: bytes = b"") -> None:
        """`row`: what was asked for; `evidence`: an encoded Evidence, empty where nothing was signed."""
        super().__init__(message)
        self.row = row
        self.evidence = evidence


class Outdated(PeerError):  # noqa: N818 (names what is the case)
    """The holder has let go of the index since: it was our roster that was wrong, and is right now."""


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
        rosters: Rosters,
        roster_changed: Callable[[bytes], None],
        network_id: bytes,
        reconsider_s: float,
    ) -> None:
        """`roster_changed(segment id)`: a newer entry has come in; `reconsider_s`: after so many seconds the
        place of a holder is judged once more."""
        self._rosters = rosters
        self._roster_changed = roster_changed
        self._reconsider_s = reconsider_s
        self._network_id = network_id
        self.condemned = 0
        """Holders found wrong since start."""
        self.wrong: Callable[[Held, RosterEntry, WrongAnswer], None] = lambda held, entry, error: (
            None
        )
        """Told of each wrong answer that this node has got itself."""
        self._env = env
        self._store = store
        self._view = view
        self._peers = peers
        self._doubts = doubts
        self._journal = journal
        self._dial = dial
        self._places = places

    async def prove(self, held: Held, entry: RosterEntry, row: int | None = None) -> int:
        """Have a holder prove a cell, a random one unless `row` says which; its row.

        Raises WrongAnswer when it gives wrong bytes or denies what it has signed, Outdated when it has let
        go and says so, PeerError when it does not answer.
        """
        d = held.descriptor
        row = self._env.rng.randrange(d.rows) if row is None else row
        try:
            async with asyncio.timeout(PROVE_TIMEOUT_S):
                peer = await self._dial(entry.node, d.placement_key)
                got = await peer.read_cell(held.segment_id, entry.index, row)
        except TimeoutError:
            raise PeerError("no proof in time") from None
        except NotFoundError:
            await self._hear_newest(held, entry)
            raise WrongAnswer("the node does not have what it has signed for", row) from None
        except IntegrityError as error:  # it says so itself, or its answer is no answer
            raise WrongAnswer(str(error), row) from None
        await self._judge(held, entry, got)
        return row

    async def _hear_newest(self, held: Held, entry: RosterEntry) -> None:
        """It denies what our roster says of it, and our roster may be old: what is its newest entry?

        Raises Outdated when that says otherwise, PeerError when it does not answer; returns when it stands
        by the entry or says nothing that counts.
        """
        known = await self._store.roster(held.segment_id)
        said = next((d for d in known if RosterEntry.decode(d[SIGNATURE_SIZE:]) == entry), None)
        if said is None:
            raise Outdated("the roster has changed meanwhile")
        try:
            async with asyncio.timeout(PROVE_TIMEOUT_S):
                peer = await self._dial(entry.node, held.descriptor.placement_key)
                data = await peer.confirm(said)
        except TimeoutError:
            raise PeerError("no answer in time") from None
        except (IntegrityError, NotFoundError):
            return
        newest = RosterEntry.decode(data[SIGNATURE_SIZE:])
        if newest.held and newest.index == entry.index:
            return
        text = f"index {entry.index} at {entry.node.hex()[:16]} is there no more, as it says itself"
        self._journal.note(self._env.utc(), held.segment_id, text)
        if await self._rosters.merge(held, [(data, None)]):
            self._roster_changed(held.segment_id)
        raise Outdated("the node has let go of the shard")

    async def _judge(self, held: Held, entry: RosterEntry, got: CellAnswer) -> None:
        """The bytes first, then the signature under them."""
        d, row = held.descriptor, got.expected.row
        try:
            if len(got.cell) != d.cell_size:
                raise IntegrityError("another number of bytes than asked for")
            leaves = await self._env.offload(cell_leaves_light, got.cell, d.cell_size)
            verify_range(d.roots[entry.index], d.rows, row, leaves, got.proof)
        except IntegrityError as error:
            raise WrongAnswer(str(error), row, self._evidence(got)) from None
        if not self._is_signed(got):
            raise PeerError("the right bytes, but not signed as they must be")

    def _is_signed(self, got: CellAnswer) -> bool:
        try:
            said = open_read_answer(got.signed, self._network_id, got.cell, got.proof)
        except PotsherdError:
            return False
        return said == got.expected

    def _evidence(self, got: CellAnswer) -> bytes:
        """What can be shown to others; nothing when the node has not signed it."""
        if not self._is_signed(got):
            return b""
        return Evidence(got.signed, bytes(got.cell), got.proof).encode()

    async def examine(self, held: Held, entry: RosterEntry, row: int | None = None) -> bool:
        """Have a holder prove a cell and remember the outcome; whether it did. Raises PeerError."""
        try:
            row = await self.prove(held, entry, row)
        except WrongAnswer as error:
            await self.condemn(held, entry, str(error), error.evidence)
            self.wrong(held, entry, error)
            return False
        self._peers.audited(entry.node, True)
        await self._remember(entry, row)
        return True

    async def _remember(self, entry: RosterEntry, row: int) -> None:
        date = int(self._env.utc())
        proof = ProofRow(entry.segment_id, entry.node, entry.index, date, row)
        try:
            await self._store.audits.note_proof(proof)
        except QuotaError as error:  # what was seen counts now, and is forgotten at the next start
            _LOG.debug("a proof is not written down: %s", error)

    async def condemn(
        self, held: Held, entry: RosterEntry, why: str, evidence: bytes = b""
    ) -> None:
        """Its shard counts as lost from now on."""
        self._peers.audited(entry.node, False)
        text = f"index {entry.index} at {entry.node.hex()[:16]} is wrong: {why}"
        self._journal.note(self._env.utc(), held.segment_id, text)
        await self._doubt(entry, Reason.WRONG, evidence)
        self.condemned += 1

    async def check(self, seen: Seen, entry: RosterEntry) -> None:
        """Judge an unchecked entry: proof, then place. Raises PeerError when its node does not answer.

        One that was wrong and is mended has kept its place.
        """
        mended = self._doubts.about(entry) is Reason.MENDED
        for _ in range(PROOFS_OF_MENDED if mended else 1):
            if not await self.examine(seen.held, entry):
                return
        if mended:
            text = f"index {entry.index} at {entry.node.hex()[:16]} is right again"
            self._journal.note(self._env.utc(), seen.held.segment_id, text)
        elif not await self._place_is_right(seen, entry):
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

    async def _doubt(self, entry: RosterEntry, reason: Reason, evidence: bytes = b"") -> None:
        date = int(self._env.utc())
        doubt = Doubt(entry.segment_id, entry.node, entry.counter, reason, date, evidence)
        await self._doubts.add(doubt)

    async def came_up(self, entry: RosterEntry) -> None:
        """An entry that was not in the settled roster, or a newer one of a holder that was wrong."""
        mended = self._doubts.about(entry) is Reason.MENDED
        await self._doubt(entry, Reason.MENDED if mended else Reason.UNCHECKED)

    async def renewed(self, entry: RosterEntry) -> None:
        """A newer entry that says what the one before said: of interest only where that was wrong."""
        if self._doubts.about(entry) is Reason.MENDED:
            await self._doubt(entry, Reason.MENDED)

    async def step(self) -> int:
        """Check some of those that wait; how many changed their standing."""
        waiting = [*self._doubts.of(Reason.MENDED), *self._doubts.of(Reason.UNCHECKED)]
        changed = 0
        for doubt in waiting[:CHECKS_PER_STEP]:
            changed += await self.check_one(doubt.segment_id, doubt.node)
        await self._reconsider()
        return changed

    async def _reconsider(self) -> None:
        """Pools change: a place that was wrong may be right by now."""
        before = self._env.utc() - self._reconsider_s
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
