"""Telling the other holders of a segment that it is being repaired, and hearing them say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from potsherd.crypto.signing import SigningKey, open_signed
from potsherd.errors import PotsherdError, RefusedError
from potsherd.node.client import Dial
from potsherd.node.liveness import PeerTable
from potsherd.node.repair.claims import ClaimBook, ClaimPolicy
from potsherd.node.repair.plan import Standing, repair_ranks
from potsherd.node.repair.records import RepairClaim, mask_of
from potsherd.node.repair.view import Seen, View
from potsherd.node.rosters import next_counter
from potsherd.node.store import ShardStore
from potsherd.ports import Env, Identity

__all__ = ["Claiming", "Gossip", "Overtaken"]

ASK_TIMEOUT_S = 30.0
"""Seconds for one holder to answer."""
ASK_PARALLEL = 8
"""Holders asked at a time."""
RENEWALS = 4
"""Times that a claim is told anew while it would lapse once."""

_LOG = logging.getLogger(__name__)


class Overtaken(RefusedError):  # noqa: N818 (names what happened)
    """Another holder repairs the segment."""


class Gossip:
    """Asks the other live holders of a segment, several at a time."""

    def __init__(self, node_key: bytes) -> None:
        self._me = node_key
        self._limit = asyncio.Semaphore(ASK_PARALLEL)

    async def ask_all(self, seen: Seen, ask: Callable[[bytes], Awaitable[object]]) -> None:
        """Who does not answer is passed over."""

        async def one(node: bytes) -> None:
            async with self._limit:
                try:
                    async with asyncio.timeout(ASK_TIMEOUT_S):
                        await ask(node)
                except (PotsherdError, TimeoutError) as error:
                    _LOG.debug("%s does not answer: %s", node.hex()[:12], error)

        others = {e.node for e in seen.holding(Standing.LIVE)} - {self._me}
        await asyncio.gather(*(one(node) for node in sorted(others)))


class Claiming:
    """The book of claims, and this node's own ones."""

    def __init__(
        self,
        env: Env,
        identity: Identity,
        store: ShardStore,
        view: View,
        peers: PeerTable,
        gossip: Gossip,
        *,
        dial: Dial,
        policy: ClaimPolicy,
        passed_over: Callable[[bytes, bytes], None],
    ) -> None:
        """`passed_over(segment id, repairer)`: a claim has lapsed."""
        self._env = env
        self._identity = identity
        self._store = store
        self._view = view
        self._gossip = gossip
        self._dial = dial
        self._policy = policy
        self._key = SigningKey(identity.seed)
        self._book = ClaimBook(policy, frozen=peers.frozen, lapsed=passed_over)
        self._numbers: dict[bytes, int] = {}

    def standing(self, segment_id: bytes) -> RepairClaim | None:
        """The claim that stands, as far as this node has heard."""
        return self._book.standing(segment_id, self._env.monotonic())

    def pass_over(self, segment_id: bytes, repairer: bytes) -> None:
        """This repairer has failed at this segment: it comes last for a while."""
        self._book.pass_over(segment_id, repairer, self._env.monotonic())

    def rank(self, seen: Seen) -> Callable[[bytes], int]:
        """Order of those that may repair: who let a claim lapse comes last."""
        segment_id, now = seen.held.segment_id, self._env.monotonic()
        live = [e.node for e in seen.holding(Standing.LIVE)]
        ranks = repair_ranks(segment_id, live)
        ranks.sort(key=lambda node: self._book.is_passed_over(segment_id, node, now))
        places = {node: place for place, node in enumerate(ranks)}
        return lambda node: places.get(node, len(places))

    async def claim(self, seen: Seen, indices: Sequence[int], rows: int) -> None:
        """Tell all other holders. Raises Overtaken when another repairer stands before us."""
        segment_id = seen.held.segment_id
        number = next_counter(self._numbers.get(segment_id), self._env.utc())
        self._numbers[segment_id] = number
        own = self._identity.key
        claim = RepairClaim(segment_id, own, number, mask_of(tuple(indices)), rows)
        signed = claim.signed(self._key.sign, self._identity.network_id)
        self._offer(seen, claim, signed)
        await self._gossip.ask_all(seen, partial(self._tell, seen, signed))
        if indices:
            self._check_standing(segment_id)

    def _check_standing(self, segment_id: bytes) -> None:
        standing = self.standing(segment_id)
        if standing is not None and standing.repairer != self._identity.key:
            raise Overtaken(f"{standing.repairer.hex()[:16]} repairs this segment")

    async def end(self, seen: Seen) -> None:
        """Our claim has ended, well or not."""
        try:
            await self.claim(seen, (), seen.held.descriptor.rows)
        finally:
            self._numbers.pop(seen.held.segment_id, None)

    def progress(self, seen: Seen) -> Callable[[Sequence[int], int], Awaitable[None]]:
        """What is told how far a repair has come; renews the claim no more often than needed.

        The first rows are told at once: who has begun to send is not pushed aside any more.
        """
        pause = self._policy.lapse_s / RENEWALS
        told_at, told_rows = self._env.monotonic(), 0

        async def told(indices: Sequence[int], rows: int) -> None:
            nonlocal told_at, told_rows
            self._check_standing(seen.held.segment_id)
            now = self._env.monotonic()
            if now - told_at >= pause or (rows and not told_rows):
                told_at, told_rows = now, rows
                await self.claim(seen, indices, rows)

        return told

    async def _tell(self, seen: Seen, signed: bytes, node: bytes) -> None:
        peer = await self._dial(node, seen.held.descriptor.placement_key)
        stands = await peer.claim(signed)
        if stands:
            self._offer(seen, self._open(stands), stands)

    def _open(self, signed: bytes) -> RepairClaim:
        network_id = self._identity.network_id
        return open_signed(RepairClaim, signed, network_id, lambda claim: claim.repairer)

    def _offer(self, seen: Seen, claim: RepairClaim, signed: bytes) -> bytes:
        if claim.segment_id != seen.held.segment_id:
            raise RefusedError("a claim on another segment")
        d = seen.held.descriptor
        size = (d.k + 1) * d.geometry.shard_size
        now = self._env.monotonic()
        return self._book.offer(claim, signed, now, segment_bytes=size, rank=self.rank(seen))

    async def claimed(self, signed: bytes, sender: bytes) -> bytes:
        """Another holder claims; the claim that stands here now, signed.

        Raises IntegrityError, RefusedError when it is not a holder of a segment of ours.
        """
        claim = self._open(signed)
        held = await self._store.held(claim.segment_id)
        if held is None or claim.repairer != sender:
            raise RefusedError("a claim by its repairer on a segment that is held here is expected")
        seen = await self._view.look(held)
        if claim.repairer not in {e.node for e in seen.holding(Standing.UNKNOWN)}:
            raise RefusedError("the repairer does not hold the segment")
        return self._offer(seen, claim, signed)
