"""The first eight live holders of a segment announce it in the DHT (docs/design/announcing.md).

Every holder decides for itself, from the roster and from who is away: it announces while fewer than
eight live holders have lower indices. So those that follow take over by themselves when others go away.
Records live for 24 h; all segments are gone through once in half that time, a page of them a step, in
the order of their ids: no memory grows with the number of shards, except a bounded note of what was
announced lately. After a start, and when holders went away or came back, a *quick pass* goes through
them without the long pauses and leaves out what was announced lately.

Nodes that sleep take nothing, so that nobody takes an announcement now and then is normal. It is tried again
after pauses that double up to RETRY_MAX_S, and when holders come back; a segment that nobody takes keeps no
other one waiting. It is a warning when it has gone on for half a record's life.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from potsherd.classes import dataclass
from potsherd.crypto.hashing import head_locator
from potsherd.crypto.keys import Genesis
from potsherd.dht import Announcement, Dht
from potsherd.errors import PeerError, PotsherdError
from potsherd.node.records import RosterEntry
from potsherd.node.store import Held, ShardStore
from potsherd.ports import Env

__all__ = ["ANNOUNCERS", "Announcer", "AnnouncerStatistics", "locators_of", "rank_of"]

ANNOUNCERS = 8
"""Live holders of a segment that announce it; one is enough to find the others."""
RECORD_LIFE_S = 86_400 - 600
"""Seconds until an announcement expires: 24 h, less what clocks may differ."""
NEW_MAX = 4096
"""Segments committed and not yet announced; beyond it they wait for a quick pass."""
LATELY_MAX = 65_536
"""Segments noted as announced lately; the oldest note goes first, its segment is announced once more."""
ASKED_PAUSE_S = 60.0
"""Seconds for which a segment announced at somebody's request is not announced at another's."""
RETRY_MAX_S = 600.0
"""Seconds between two tries to announce what nobody takes, at most; at least a tick."""
DOUBLINGS_MAX = 16
"""Of the pause between tries; RETRY_MAX_S is reached before."""
WARN_AFTER_S = RECORD_LIFE_S / 2
"""Seconds of failures after which they are a warning."""
GATHER_S = 0.5
"""Seconds to wait after a commit at least, and twice that at most, so that several are announced in one go; and a
`put` that is soon done asks for it itself, when the head is there as well."""

_LOG = logging.getLogger(__name__)


def rank_of(held: Held, entries: Iterable[RosterEntry], alive: Callable[[bytes], bool]) -> int:
    """How many distinct lower indices have a holder that is alive."""
    lower = {e.index for e in entries if e.held and e.index < held.index and alive(e.node)}
    return len(lower)


def locators_of(held: Held, dataset_ids: Sequence[bytes]) -> list[bytes]:
    """Keys (20 bytes) under which a holder of this segment announces itself."""
    keys = [held.descriptor.placement_key]
    if held.descriptor.entry is not None:
        keys.append(held.descriptor.entry.locator)
    return keys + [head_locator(dataset_id) for dataset_id in dataset_ids]


@dataclass(frozen=True)
class AnnouncerStatistics:
    """Counts since start."""

    announced: int
    failed: int
    passes: int


class Announcer:
    """`run` is a task of the node's; the other methods may be called at any time."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        dht: Dht,
        *,
        node_id: bytes,
        node_key: bytes,
        alive: Callable[[bytes], bool],
        met: Callable[[RosterEntry, bytes], None],
        period_s: float,
        tick_s: float,
        batch: int,
    ) -> None:
        """`alive(node key)`: whether it counts as a live holder. `met(entry, placement key)` is told of
        every holder that a pass comes across."""
        self._env = env
        self._store = store
        self._dht = dht
        self._node_id = node_id
        self._node_key = node_key
        self._alive = alive
        self._met = met
        self._period_s = period_s
        self._tick_s = tick_s
        self._batch = batch
        self._new: OrderedDict[bytes, Held] = OrderedDict()
        self._lately: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._cursor = b""
        self._quick = True
        self._changed = False
        self._again = False
        self._failures = 0
        self._failing_since: float | None = None
        self._warned = False
        self._wake = asyncio.Event()
        self._announced = self._failed = self._passes = 0

    def statistics(self) -> AnnouncerStatistics:
        """A snapshot."""
        return AnnouncerStatistics(self._announced, self._failed, self._passes)

    def committed(self, held: Held) -> None:
        """A new shard, or a new head beside it: announced soon if its index is among the first eight.

        Others hold the lower indices, or soon will: the roster that says so is still on its way.
        """
        self._lately.pop(held.segment_id, None)
        if held.index >= ANNOUNCERS:
            return
        if len(self._new) >= NEW_MAX:
            self.holders_changed()
        else:
            self._new[held.segment_id] = held
            self._wake.set()

    def holders_changed(self) -> None:
        """Nodes have gone away or come back: go through all segments soon."""
        self._changed = True
        self._wake.set()

    def start_over(self) -> None:
        """The network is there at last: what was announced so far has reached nobody else."""
        self._lately.clear()
        self.holders_changed()

    async def announce_asked(self, held: Sequence[Held]) -> int:
        """Announce at a peer's request, whatever the rank, but no segment twice within ASKED_PAUSE_S.

        The least number of record keepers that took a record, now or lately. Raises PeerError when nobody
        takes one.
        """
        now = self._env.monotonic()
        fresh = []
        for one in held:
            done = self._lately.get(one.segment_id)
            if done is None or now - done[0] >= ASKED_PAUSE_S:
                fresh.append(one)
        await self._announce(fresh)
        notes = [self._lately.get(one.segment_id, (0.0, 0)) for one in held]
        return min((keepers for _, keepers in notes), default=0)

    async def _announce(self, held: Sequence[Held]) -> None:
        """Raises PeerError when nobody takes one of them; the others are announced all the same."""
        if not held:
            return
        waiting = {one.segment_id for one in held if self._new.pop(one.segment_id, None)}
        keepers = [0] * len(held)
        try:
            keepers = await self._keepers(held)
        finally:
            left = [one for one, count in zip(held, keepers, strict=True) if not count]
            self._failed += len(left)
            self._new.update((one.segment_id, one) for one in left if one.segment_id in waiting)
        self._note(held, keepers)
        if left:
            raise PeerError(f"no record keeper took {len(left)} of {len(held)} announcements")

    async def _keepers(self, held: Sequence[Held]) -> list[int]:
        """Announce; how many keepers each segment has now, under the locator that has the fewest."""
        made = [await self._announcements(one) for one in held]
        counts = iter(await self._dht.announce_each([a for some in made for a in some]))
        return [min(next(counts) for _ in some) for some in made]

    def _note(self, held: Sequence[Held], keepers: Sequence[int]) -> None:
        now = self._env.monotonic()
        for one, count in zip(held, keepers, strict=True):
            if count:
                self._announced += 1
                self._lately[one.segment_id] = now, count
                self._lately.move_to_end(one.segment_id)
        while len(self._lately) > LATELY_MAX:
            self._lately.popitem(last=False)

    async def run(self) -> None:
        """Until cancelled."""
        pause = 0.0
        while True:
            await self._wait(pause)
            with self._patience():
                await self._announce_new()
            pause = self._put_off(self._tick_s)
            with self._patience():  # a disk that cannot be read is tried again too
                pause = await self.step()
            pause *= self._env.rng.uniform(0.5, 1.5)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """What nobody takes is tried again later."""
        try:
            yield
        except PotsherdError as error:
            now = self._env.monotonic()
            if self._failing_since is None:
                self._failing_since = now
            self._failures += 1
            long = now - self._failing_since >= WARN_AFTER_S and not self._warned
            self._warned |= long
            alarm = long or not isinstance(error, PeerError)
            _LOG.log(logging.WARNING if alarm else logging.INFO, "announcing failed: %s", error)

    def _put_off(self, pause: float) -> float:
        """`pause`, but after failures one that grows with them: what failed is not to wait for hours."""
        if not self._failures:
            return pause
        longest = max(self._tick_s, RETRY_MAX_S)
        return min(longest, self._tick_s * 2.0 ** min(self._failures, DOUBLINGS_MAX))

    async def _wait(self, pause: float) -> None:
        """Sleep until the next step is due; announce new segments meanwhile as they come."""
        end = self._env.monotonic() + pause
        while not self._changed and (left := end - self._env.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return
            await asyncio.sleep(GATHER_S * self._env.rng.uniform(1.0, 2.0))
            with self._patience():
                await self._announce_new()
            end = min(end, self._env.monotonic() + self._put_off(pause))

    async def _announce_new(self) -> None:
        """All that wait; what nobody takes waits on, for the next step."""
        self._wake.clear()
        failure: PotsherdError | None = None
        tried: set[bytes] = set()
        while batch := [h for s, h in self._new.items() if s not in tried][: self._batch]:
            tried.update(held.segment_id for held in batch)
            try:
                await self._announce(batch)
            except PotsherdError as error:
                failure = error
                if all(held.segment_id in self._new for held in batch):
                    break  # it is the network, not they
        if failure is not None:
            raise failure

    async def step(self) -> float:
        """Go through one page of segments; how many seconds to wait before the next."""
        if self._changed:
            # What this pass has left behind already is gone through in one more.
            self._changed, self._quick, self._again = False, True, self._cursor != b""
        page = await self._store.segments(self._cursor, self._batch)
        failures = self._failures
        with self._patience():
            await self._announce([held for held in page if await self._is_due(held)])
        failed = self._failures > failures
        self._quick |= failed
        self._again |= failed
        if len(page) < self._batch:
            self._end_pass()
        else:
            self._cursor = page[-1].segment_id
        return self._put_off(self._pause()) if failed else self._pause()

    def _end_pass(self) -> None:
        """What failed in it is gone through in one more."""
        if not self._again and not self._new:
            self._failures, self._failing_since, self._warned = 0, None, False
        self._cursor, self._quick, self._again = b"", self._again, False
        self._passes += 1

    def _pause(self) -> float:
        if self._quick:
            return self._tick_s
        pages = max(1, -(-self._store.usage().shards // self._batch))
        return max(self._tick_s, self._period_s / pages)

    async def _is_due(self, held: Held) -> bool:
        entries = [RosterEntry.decode(e[64:]) for e in await self._store.roster(held.segment_id)]
        for entry in entries:
            if entry.held and entry.node != self._node_key:
                self._met(entry, held.descriptor.placement_key)
        if rank_of(held, entries, self._alive) >= ANNOUNCERS:
            return False
        done = self._lately.get(held.segment_id)
        lately = done is not None and self._env.monotonic() - done[0] < self._period_s / 2
        return not (self._quick and lately)

    async def _announcements(self, held: Held) -> list[Announcement]:
        expires = int(self._env.utc()) + RECORD_LIFE_S
        return [
            Announcement(key, held.segment_id, held.index, self._node_id, self._node_key, expires)
            for key in locators_of(held, await self._datasets(held))
        ]

    async def _datasets(self, held: Held) -> list[bytes]:
        """The dataset whose heads are kept beside this segment. Its id follows from the owner's key."""
        dataset_id = Genesis(held.descriptor.owner_key).dataset_id
        before = (int.from_bytes(dataset_id, "big") - 1) % 2**256
        rows = await self._store.datasets(before.to_bytes(32, "big"), 1)
        return [dataset_id] if (dataset_id, held.segment_id) in rows else []
