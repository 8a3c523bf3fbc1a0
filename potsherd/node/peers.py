"""Who shares segments with this node, and whether they are there: one heartbeat per pair of nodes.

`PeerTable` decides and is pure: it is given `now`. `Heartbeats` asks those that are due. Any other
traffic counts as a sign of life. Away is what this page says; lost is decided elsewhere and much later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from potsherd.errors import PotsherdError
from potsherd.ports import Address, Env

__all__ = ["HOURS_PER_WEEK", "Heartbeats", "PeerCounts", "PeerTable"]

HOURS_PER_WEEK = 168
COUNT_MAX = 255
"""Signs of life counted per hour of the week; then both counts are halved, so old habits fade."""


class PeerCounts(NamedTuple):
    """How many peers are watched, and how many of them count as away."""

    watched: int
    away: int


@dataclass
class _Watched:
    seen: float
    """When it last gave a sign of life; at first when watching began: nobody starts as away."""
    asked: float
    """When a heartbeat was last sent or saved by other traffic."""
    counted: float
    """When `up` and `tries` last changed; traffic in between says nothing new about habits."""
    near: bytes
    """Placement key of a segment that we share: in its pool the node's presence is found."""
    address: Address | None = None
    answered: bool = False
    """Whether it ever gave a sign of life; what others say of it costs them nothing."""
    up: bytearray = field(default_factory=lambda: bytearray(HOURS_PER_WEEK))
    tries: bytearray = field(default_factory=lambda: bytearray(HOURS_PER_WEEK))


class PeerTable:
    """At most `peers_max` nodes. Times: `now` in seconds of the loop's clock, `utc` for hours of the week."""

    def __init__(self, *, interval_s: float, away_after_s: float, peers_max: int) -> None:
        self._interval_s = interval_s
        self._away_after_s = away_after_s
        self._peers_max = peers_max
        self._peers: dict[bytes, _Watched] = {}

    def watch(
        self, key: bytes, now: float, *, near: bytes = b"", address: Address | None = None
    ) -> bool:
        """Begin to watch a node, or learn more of it; False when the table is full.

        In a full table a newcomer takes the place of one that is away and has never answered.
        """
        known = self._peers.get(key)
        if known is None:
            if len(self._peers) >= self._peers_max and not self._forget_one(now):
                return False
            # due at once: an address given by somebody else is worth nothing before it answered
            due = now - self._interval_s
            known = self._peers[key] = _Watched(seen=now, asked=due, counted=due, near=near)
        known.near = near or known.near
        known.address = known.address or address
        return True

    def _forget_one(self, now: float) -> bool:
        for key, peer in self._peers.items():
            if not peer.answered and self._is_away(peer, now):
                del self._peers[key]
                return True
        return False

    def keep_only(self, keys: Iterable[bytes]) -> None:
        """Forget all others."""
        wanted = set(keys)
        for key in [key for key in self._peers if key not in wanted]:
            del self._peers[key]

    def seen(self, key: bytes, now: float, utc: float, address: Address | None = None) -> bool:
        """A sign of life; True if it is the first one, or the node had counted as away.

        Nodes not watched are ignored.
        """
        peer = self._peers.get(key)
        if peer is None:
            return False
        news = self._is_away(peer, now) or not peer.answered
        peer.seen = peer.asked = now
        peer.answered = True
        peer.address = address or peer.address
        if now - peer.counted >= self._interval_s:
            _count(peer, now, utc, 1)
        return news

    def failed(self, key: bytes, now: float, utc: float) -> None:
        """A heartbeat without an answer; its address is not trusted any more."""
        peer = self._peers.get(key)
        if peer is not None:
            peer.asked, peer.address = now, None
            _count(peer, now, utc, 0)

    def due(self, now: float, count: int) -> list[bytes]:
        """Up to `count` nodes without a sign of life for one interval, the longest silent first."""
        late = [k for k, p in self._peers.items() if p.asked + self._interval_s <= now]
        return sorted(late, key=lambda key: self._peers[key].asked)[:count]

    def alive(self, key: bytes, now: float) -> bool:
        """Whether the node is not away; one that is not watched (yet) gets the benefit of the doubt."""
        peer = self._peers.get(key)
        return peer is None or not self._is_away(peer, now)

    def away(self, now: float) -> frozenset[bytes]:
        """All nodes that count as away."""
        return frozenset(key for key, peer in self._peers.items() if self._is_away(peer, now))

    def proven(self, key: bytes) -> bool:
        """Whether a node of this key has ever given a sign of life: only members can."""
        peer = self._peers.get(key)
        return peer is not None and peer.answered

    def address_of(self, key: bytes) -> Address | None:
        """Where the node was last met, or is said to be."""
        peer = self._peers.get(key)
        return peer.address if peer else None

    def near(self, key: bytes) -> bytes:
        """Placement key of a segment that we share with the node; empty when unknown."""
        peer = self._peers.get(key)
        return peer.near if peer else b""

    def availability(self, key: bytes) -> float:
        """Share of heartbeats answered, over all hours of the week; 1.0 for a node never asked."""
        peer = self._peers.get(key)
        return (sum(peer.up) + 1) / (sum(peer.tries) + 1) if peer else 1.0

    def counts(self, now: float) -> PeerCounts:
        """For people and tests."""
        return PeerCounts(len(self._peers), len(self.away(now)))

    def _is_away(self, peer: _Watched, now: float) -> bool:
        return now - peer.seen >= self._away_after_s


def _count(peer: _Watched, now: float, utc: float, up: int) -> None:
    peer.counted = now
    hour = int(utc // 3600) % HOURS_PER_WEEK
    if peer.tries[hour] == COUNT_MAX:
        peer.tries[hour] //= 2
        peer.up[hour] //= 2
    peer.tries[hour] += 1
    peer.up[hour] += up


Ping = Callable[[bytes, Address], Awaitable[float]]
Find = Callable[[bytes, bytes], Awaitable[Address | None]]


class Heartbeats:
    """Asks the nodes of a table for signs of life. `run` is a task of the node's."""

    def __init__(
        self,
        env: Env,
        table: PeerTable,
        *,
        ping: Ping,
        find: Find,
        changed: Callable[[], None],
        met: Callable[[bytes], None],
        tick_s: float,
        timeout_s: float,
        parallel: int,
    ) -> None:
        """`ping(key, address)`; `find(key, near)` gives a node's present address; `changed` is called
        when nodes have gone away or come back, `met(key)` at the first sign of life and at a return."""
        self._env = env
        self._table = table
        self._ping = ping
        self._find = find
        self._changed = changed
        self._met = met
        self._tick_s = tick_s
        self._timeout_s = timeout_s
        self._parallel = parallel
        self._was_away: frozenset[bytes] = frozenset()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s * self._env.rng.uniform(0.5, 1.5))
            await self.step()

    async def step(self) -> None:
        """Ask who is due, a few at a time."""
        due = self._table.due(self._env.monotonic(), self._parallel)
        async with asyncio.TaskGroup() as tasks:
            for key in due:
                tasks.create_task(self._ask(key))
        away = self._table.away(self._env.monotonic())
        if away != self._was_away:
            self._was_away = away
            self._changed()

    async def _ask(self, key: bytes) -> None:
        address = self._table.address_of(key)
        if address is not None and await self._answers(key, address):
            return
        self._table.failed(key, self._env.monotonic(), self._env.utc())
        try:
            found = await self._find(key, self._table.near(key))
        except PotsherdError:
            return
        if found is not None and found != address:
            await self._answers(key, found)

    async def _answers(self, key: bytes, address: Address) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ping(key, address)
        except (PotsherdError, TimeoutError):
            return False
        if self._table.seen(key, self._env.monotonic(), self._env.utc(), address):
            self._met(key)
        return True
