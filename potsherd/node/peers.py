"""Heartbeats: one for each node that shares segments with us, and what is known of it across restarts.

`liveness.PeerTable` decides; `Heartbeats` asks those that are due, `PeerBook` writes the table down. Any
other traffic counts as a sign of life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from potsherd.errors import PotsherdError
from potsherd.node.churn import ChurnCounts
from potsherd.node.liveness import PeerTable
from potsherd.node.liveness_state import PeerState, state_of, watched_of
from potsherd.node.store.care import Care
from potsherd.ports import Address, Env

__all__ = ["Heartbeats", "PeerBook"]

STEP_TICKS_MAX = 3.0
"""Ticks that may count as observed time between two steps; longer means that the process stood still."""

_LOG = logging.getLogger(__name__)

DUE_MAX = 512
"""Heartbeats begun in one step."""

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
        contacts: Callable[[], Iterable[bytes]],
        tick_s: float,
        timeout_s: float,
        parallel: int,
    ) -> None:
        """`ping(key, address)`; `find(key, near)` gives a node's present address; `changed` is called
        when nodes have gone away, are given up or came back, `met(key)` at the first sign of life and at a return.
        `contacts()`: keys of the nodes that the DHT knows to answer."""
        self._env = env
        self._table = table
        self._ping = ping
        self._find = find
        self._changed = changed
        self._met = met
        self._contacts = contacts
        self._tick_s = tick_s
        self._timeout_s = timeout_s
        self._limit = asyncio.Semaphore(parallel)
        self._asking: set[bytes] = set()
        self._news = False

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._tick_s * self._env.rng.uniform(0.5, 1.5))
                for key in self.advance():
                    tasks.create_task(self._ask(key))

    async def step(self) -> None:
        """Ask all who are due now, and wait for them."""
        async with asyncio.TaskGroup() as tasks:
            for key in self.advance():
                tasks.create_task(self._ask(key))

    def advance(self) -> list[bytes]:
        """Count the time, tell of changes; who is to be asked now."""
        now, utc = self._env.monotonic(), self._env.utc()
        self._table.acquaint(self._contacts(), now)
        longest = STEP_TICKS_MAX * self._tick_s
        if self._table.advance(now, utc, step_max_s=longest) or self._news:
            self._news = False
            self._changed()
        due = [key for key in self._table.due(now, DUE_MAX) if key not in self._asking]
        self._asking.update(due)
        return due

    async def _ask(self, key: bytes) -> None:
        try:
            async with self._limit:
                await self._ask_once(key)
        finally:
            self._asking.discard(key)

    async def _ask_once(self, key: bytes) -> None:
        address = self._table.address_of(key)
        if address is not None and await self._answers(key, address):
            return
        self._table.failed(key, self._env.monotonic(), self._env.utc())
        try:
            found = await self._find(key, self._table.near(key))
        except PotsherdError:
            found = None
        if found is not None and found != address and await self._answers(key, found):
            return
        # the DHT may be torn, or ours be empty: heartbeats are what knits two halves together again
        last = self._table.met_at(key)
        if last is not None and last not in (address, found):
            await self._answers(key, last)

    async def _answers(self, key: bytes, address: Address) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ping(key, address)
        except (PotsherdError, TimeoutError):
            return False
        now = self._env.monotonic()
        self._news |= not self._table.alive(key, now)
        if self._table.seen(key, now, self._env.utc(), address):
            self._met(key)
        return True


class PeerBook:
    """Keeps the table's knowledge in the index: read once at the start, then written as it changes."""

    def __init__(self, env: Env, table: PeerTable, care: Care, *, interval_s: float) -> None:
        self._env = env
        self._table = table
        self._care = care
        self._interval_s = interval_s
        self._written: dict[bytes, bytes] = {}
        self._counts = b""

    async def load(self) -> None:
        """Go on with what was known before the restart. Raises StorageError."""
        now, utc = self._env.monotonic(), self._env.utc()
        for key, data in await self._care.watched():
            try:
                peer = watched_of(PeerState.decode(data), now, utc, self._interval_s)
            except PotsherdError as error:  # of another version: learned anew
                _LOG.warning("what was known of a peer is not readable: %s", error)
                continue
            self._table.restore(key, peer)
            self._written[key] = data
        self._counts = await self._care.churn()
        if not self._counts:
            return
        try:
            self._table.go_on(ChurnCounts.decode(self._counts))
        except PotsherdError as error:  # of another version: counted anew
            _LOG.warning("what was counted of coming and going is not readable: %s", error)

    async def save_new(self) -> None:
        """Write down who has come to be known since: a crash must not forget where they are."""
        fresh = {
            key: state_of(peer).encode()
            for key, peer in self._table.items()
            if key not in self._written and peer.answered
        }
        await self._care.keep_watched(list(fresh.items()))
        self._written.update(fresh)

    async def save(self) -> None:
        """Write down what has changed, forget who is not watched any more. Raises StorageError, QuotaError."""
        states = {key: state_of(peer).encode() for key, peer in self._table.items()}
        changed = [(key, data) for key, data in states.items() if self._written.get(key) != data]
        await self._care.keep_watched(changed)
        await self._care.forget_watched([key for key in self._written if key not in states])
        self._written = states
        counts = self._table.churn.encode()
        if counts != self._counts:
            await self._care.keep_churn(counts)
            self._counts = counts
