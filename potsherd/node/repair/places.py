"""The pool of a segment, and where in it indices belong, as this node sees it."""

from __future__ import annotations

from potsherd.errors import NotFoundError
from potsherd.node.liveness import PeerTable
from potsherd.node.placement import Candidate
from potsherd.node.repair.plan import PlaceView
from potsherd.node.repair.view import Seen
from potsherd.node.session import Session
from potsherd.ports import Env

__all__ = ["Places"]

POOL_FACTOR = 4
"""Donors looked at: n times this."""
POOLS_MAX = 64
"""Pools remembered for a while."""


class Places:
    """Pools by placement key, remembered for a while, and the views that follow from them."""

    def __init__(self, env: Env, session: Session, peers: PeerTable, *, life_s: float) -> None:
        self._env = env
        self._session = session
        self._peers = peers
        self._life_s = life_s
        self._pools: dict[bytes, tuple[float, list[Candidate]]] = {}

    async def pool(self, key: bytes, count: int) -> list[Candidate]:
        """Donors nearest to a placement key, this node left out. Raises PotsherdError."""
        now = self._env.monotonic()
        found = self._pools.get(key)
        if found is None or now - found[0] >= self._life_s:
            found = now, await self._session.donors(key, count)
            self._pools.pop(key, None)
            self._pools[key] = found
            while len(self._pools) > POOLS_MAX:
                del self._pools[next(iter(self._pools))]
        return found[1]

    async def view(self, seen: Seen, judged: bytes | None = None) -> PlaceView:
        """Where indices belong now; with `judged`, whether that holder's place is right.

        Who has an entry in the roster gets none (who is lost may come back), nor who is away. Raises
        NotFoundError while this node knows too little of the network to say.
        """
        d = seen.held.descriptor
        pool = await self.pool(d.placement_key, POOL_FACTOR * d.n)
        if len(pool) < d.n and 2 * len(pool) < self._peers.reached(self._env.monotonic()):
            raise NotFoundError("the pool of the segment is not known well enough")
        now = self._env.monotonic()
        holding = {e.node for e in seen.entries if e.held and e.node != judged}
        away = {c.key for c in pool if not self._peers.alive(c.key, now) and c.key != judged}
        kept = seen.health.nodes() - {judged}
        return PlaceView(
            segment_id=seen.held.segment_id,
            n=d.n,
            r=d.r,
            shard_bytes=d.geometry.shard_size,
            pool=tuple(pool),
            taken=frozenset(holding | away),
            domains={key: self._peers.domains_of(key) for key in kept},
            judged=judged,
        )
