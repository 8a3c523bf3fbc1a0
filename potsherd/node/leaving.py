"""Taking less, or nothing more: pausing, shrinking and leaving (docs/design/leaving.md).

Shards go away only by being moved: the quota is lowered, and "safe to unplug" said, when that is done. What the donor
has asked for survives a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from potsherd.classes import dataclass
from potsherd.errors import IntegrityError, PotsherdError, RefusedError, UsageError
from potsherd.node.handover import Handover
from potsherd.node.placement import Candidate
from potsherd.node.store import Held, ShardStore, Usage
from potsherd.ports import Env

__all__ = ["Intent", "Leaving", "LeavingStatus", "Mode", "Places", "estimate_s", "is_done"]

TRIES_MAX = 6
"""Nodes asked to take one shard in a row: others accept no place further behind (repair/plan.py)."""
QUEUE = 64
"""Segments looked up at a time."""
PUT_OFF_MAX = 512
"""Segments put off because nobody takes them; with more, the oldest is tried again earlier."""
RATE_AFTER_S = 1.0
"""Seconds of moving before a rate is told."""

_LOG = logging.getLogger(__name__)

Places = Callable[[Held], Awaitable[Sequence[Candidate]]]
"""A held shard → who should get it, the first choice first; none that holds an index of the segment."""


class Mode(StrEnum):
    """What the donor has asked for."""

    STAY = ""
    PAUSED = "paused"
    """Nothing new is taken; what is here stays and is served."""
    SHRINKING = "shrinking"
    """Shards are moved until what is left fits the smaller quota."""
    LEAVING = "leaving"
    """All shards are moved."""
    LEFT = "left"
    """All shards have been moved: safe to unplug."""


@dataclass(frozen=True)
class Intent:
    """A mode, and for shrinking the quota to come."""

    mode: Mode = Mode.STAY
    quota: int = 0

    @property
    def moves(self) -> bool:
        """Whether shards are to go."""
        return self.mode in (Mode.SHRINKING, Mode.LEAVING)


@dataclass(frozen=True)
class LeavingStatus:
    """For people: how far it is."""

    mode: str
    quota: int
    """To come, when shrinking; else 0."""
    moved: int
    """Shards since this was asked for, or since the last start."""
    moved_bytes: int
    left_bytes: int
    """Still to be moved, roughly when shrinking."""
    left_shards: int
    """Still here."""
    stuck: int
    """Shards that no other node takes at present."""
    reason: str
    """Why, the last time."""
    rate_bytes_s: float
    """Measured; 0 while nothing is known."""
    estimate_s: float | None
    """Until it is done, at that rate; None while nothing is known."""
    safe: bool
    """Safe to unplug: no shard is here any more, and none will come."""


def is_done(intent: Intent, usage: Usage) -> bool:
    """Whether nothing (more) has to be moved."""
    if intent.mode is Mode.LEAVING:
        return usage.shards == 0
    fits = usage.used <= intent.quota or usage.shards == 0  # the index alone may be too large
    return intent.mode is not Mode.SHRINKING or fits


def left_bytes(intent: Intent, usage: Usage, shard_bytes: int) -> int:
    """Bytes that have to be sent yet."""
    if intent.mode is Mode.LEAVING:
        return shard_bytes
    return max(0, min(shard_bytes, usage.used - intent.quota)) if intent.moves else 0


def estimate_s(left: int, moved: int, seconds: float) -> float | None:
    """Seconds until `left` bytes have gone, at the rate at which `moved` did."""
    if left == 0:
        return 0.0
    return left * seconds / moved if moved and seconds >= RATE_AFTER_S else None


class Leaving:
    """`run` is a task of the node's; the other methods may be called at any time after `restore`."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        handover: Handover,
        places: Places,
        *,
        changed: Callable[[], None],
        retry_s: float,
        parallel: int,
    ) -> None:
        """`changed`: called when the node begins or ceases to take shards, or its room changes."""
        self._env = env
        self._store = store
        self._handover = handover
        self._places = places
        self._changed = changed
        self._retry_s = retry_s
        self._parallel = parallel
        self._intent = Intent()
        self._wake = asyncio.Event()
        self._put_off: OrderedDict[bytes, float] = OrderedDict()
        self._queue: deque[Held] = deque()
        self._moved = self._moved_bytes = 0
        self._busy_s = 0.0
        self._reason = ""

    async def restore(self) -> None:
        """Take up again what was asked for before a restart."""
        mode, quota = await self._store.intent()
        self._intent = Intent(Mode(mode) if mode in set(Mode) else Mode.STAY, quota)
        usage = self._store.usage()
        if self.intent.mode in (Mode.STAY, Mode.PAUSED) and usage.used > usage.quota:
            self._intent = Intent(Mode.SHRINKING, usage.quota)  # made smaller while nobody ran

    # --- what is asked -----------------------------------------------------------------------------

    @property
    def intent(self) -> Intent:
        """What the donor has asked for."""
        return self._intent

    @property
    def takes(self) -> bool:
        """Whether shards that are not on their way yet may come."""
        return self._intent.mode is Mode.STAY

    def check_intake(self, *, commit: bool = False) -> None:
        """Raises RefusedError while nothing new is taken; with `commit`, what is on its way may still come."""
        if self.takes or (commit and self._intent.mode is Mode.PAUSED):
            return
        raise RefusedError(f"this node takes no new pieces: it is {self._intent.mode}")

    async def set_quota(self, quota: int) -> None:
        """A larger quota holds at once, a smaller one when what is left fits it."""
        if quota < 0:
            raise UsageError(f"a quota of {quota} bytes")
        if self._intent.mode in (Mode.LEAVING, Mode.LEFT):
            raise RefusedError("the node is leaving", remedy="To stay after all: node resume")
        if self._store.usage().used <= quota:
            await self._store.set_quota(quota)
            await self._set(Intent(self._kept_mode()))
        else:
            await self._set(Intent(Mode.SHRINKING, quota))

    def _kept_mode(self) -> Mode:
        return Mode.PAUSED if self._intent.mode is Mode.PAUSED else Mode.STAY

    async def leave(self) -> None:
        """Move everything away."""
        if self._intent.mode is not Mode.LEFT:
            await self._set(Intent(Mode.LEAVING))

    async def pause(self) -> None:
        """Take nothing new. Raises RefusedError while the node shrinks or leaves, which is more."""
        if self._intent.moves or self._intent.mode is Mode.LEFT:
            raise RefusedError(f"the node is {self._intent.mode} already")
        await self._set(Intent(Mode.PAUSED))

    async def resume(self) -> None:
        """Take shards again, and stop shrinking or leaving; what has been moved stays where it is."""
        await self._set(Intent())

    async def _set(self, intent: Intent) -> None:
        await self._store.set_intent(intent.mode, intent.quota)
        if intent != self._intent:
            self._moved = self._moved_bytes = 0
            self._busy_s = 0.0
            self._reason = ""
            self._put_off.clear()
            self._queue.clear()
        self._intent = intent
        self._wake.set()
        self._changed()

    async def remember(self) -> None:
        """Write down again what is asked: a small durable write, which shows whether the disk takes one."""
        await self._store.set_intent(self._intent.mode, self._intent.quota)

    async def status(self) -> LeavingStatus:
        """A snapshot."""
        usage, intent = self._store.usage(), self._intent
        size = await self._store.shard_bytes() if intent.moves else 0
        left = left_bytes(intent, usage, size)
        known = self._busy_s >= RATE_AFTER_S
        return LeavingStatus(
            mode=intent.mode.value,
            quota=intent.quota,
            moved=self._moved,
            moved_bytes=self._moved_bytes,
            left_bytes=left,
            left_shards=usage.shards,
            stuck=len(self._put_off),
            reason=self._reason,
            rate_bytes_s=self._moved_bytes / self._busy_s if known else 0.0,
            estimate_s=estimate_s(left, self._moved_bytes, self._busy_s) if intent.moves else None,
            safe=intent.mode is Mode.LEFT,
        )

    # --- moving ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            pause: float | None = None
            if self._intent.moves:
                try:
                    pause = await self._step()
                except PotsherdError as error:
                    _LOG.warning("moving shards away failed: %s", error)
                    self._reason, pause = str(error), self._retry_s
            if pause is None or pause > 0:
                await self._sleep(pause)

    async def _sleep(self, pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _step(self) -> float | None:
        """Move some shards; how long to pause then, None: until something is asked."""
        intent = self._intent
        if is_done(intent, self._store.usage()):
            await self._finish(intent)
            return None
        now = self._env.monotonic()
        for segment_id in [s for s, until in self._put_off.items() if until <= now]:
            del self._put_off[segment_id]
        if not self._queue:
            self._queue.extend(await self._store.largest(QUEUE, list(self._put_off)))
        batch = [self._queue.popleft() for _ in range(min(self._parallel, len(self._queue)))]
        if not batch:
            return max(1.0, min(self._put_off.values(), default=now + self._retry_s) - now)
        start = self._env.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for held in batch:
                tasks.create_task(self._move(held))
        self._busy_s += self._env.monotonic() - start
        self._changed()
        return 0.0

    async def _finish(self, intent: Intent) -> None:
        if intent.mode is Mode.LEAVING:
            await self._set_done(Intent(Mode.LEFT))
            _LOG.info("all shards have been moved: safe to unplug")
        else:
            await self._store.set_quota(intent.quota)
            await self._set_done(Intent())
            _LOG.info("the smaller quota holds")

    async def _set_done(self, intent: Intent) -> None:
        """As `_set`, but what was moved stays to be read."""
        await self._store.set_intent(intent.mode, intent.quota)
        self._intent = intent
        self._changed()

    async def _move(self, held: Held) -> None:
        """Move one shard to the first that takes it, or put it off."""
        if await self._store.held(held.segment_id) is None:
            return
        try:
            found = await self._handover.elsewhere(held)
            if found is not None:
                await self._handover.settle(held, *found)
                self._moved += 1
                return
            await self._move_to_one(held)
        except PotsherdError as error:
            self._reason = str(error)
            self._put_off[held.segment_id] = self._env.monotonic() + self._retry_s
            if len(self._put_off) > PUT_OFF_MAX:
                self._put_off.popitem(last=False)

    async def _move_to_one(self, held: Held) -> None:
        failure: PotsherdError = RefusedError("no other node is there that could take it")
        for target in (await self._places(held))[:TRIES_MAX]:
            try:
                await self._handover.move(held, target, self._progress)
            except IntegrityError:
                raise  # the shard is damaged here: nobody would take it
            except PotsherdError as error:
                failure = error
            else:
                self._moved += 1
                return
        raise failure

    def _progress(self, sent: int) -> None:
        self._moved_bytes += sent
