"""Reading one's own disk at a low rate, to find rot before it is needed, and mending what is found.

The scrub goes through all shards, row by row, and goes on after a restart where it was. A shard that is
found damaged is named in the status, its damaged rows are refused to readers, and it is mended at once,
or as soon as k others answer. Others who have got wrong bytes are shown a newer entry then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from potsherd.classes import dataclass
from potsherd.errors import IntegrityError, NotFoundError, PotsherdError, QuotaError
from potsherd.node.audit.mending import BATCH_ROWS, Mender
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.repair.journal import Journal
from potsherd.node.repair.limiter import Limiter
from potsherd.node.store import Held, ShardStore
from potsherd.node.store.audits import DAMAGED_MAX, ScrubRow
from potsherd.node.store.inspection import ShardVanished
from potsherd.node.troubles import Kind, Troubles
from potsherd.ports import Env

__all__ = ["ScrubStatistics", "Scrubber"]

SUSPECTS_MAX = 256
"""Shards that wait to be looked at because somebody has said something; further ones wait for the round."""
SAVE_STEPS = 64
"""Steps within one shard after which the place is written down."""
IDLE_S = 60.0
"""Seconds until it is looked again whether there is something to do."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScrubStatistics:
    """Dates in seconds UTC, 0 for never; counts since start unless said otherwise."""

    began: int = 0
    """When the round under way began."""
    finished: int = 0
    """When the last one ended."""
    bytes: int = 0
    """Read in the round under way, also before a restart."""
    found: int = 0
    """Damaged cells found."""
    mended: int = 0
    """Shards put right."""
    damaged: int = 0
    """Shards that are damaged now."""
    bytes_in: int = 0
    """From other holders, for mending."""


@dataclass
class _Damage:
    """A damaged shard. `rows`: those that are wrong; None: nobody can tell which."""

    since: int
    rows: frozenset[int] | None = frozenset()
    try_at: float = 0.0
    looked: bool = True
    """Whether this process has looked; else it is known from before the restart."""


class Scrubber:
    """`run` and `run_mending` are tasks of the node's."""

    def __init__(
        self,
        env: Env,
        store: ShardStore,
        mender: Mender,
        journal: Journal,
        troubles: Troubles,
        *,
        settings: AuditSettings,
        renew: Callable[[Held], Awaitable[None]],
        give_up: Callable[[Held, str], Awaitable[None]],
    ) -> None:
        """`renew(held)` signs anew that the shard is held, and tells the other holders; `give_up(held, why)`
        lets go of it, and tells them that."""
        self._give_up = give_up
        self._env = env
        self._store = store
        self._mender = mender
        self._journal = journal
        self._troubles = troubles
        self._settings = settings
        self._renew = renew
        self._limiter = Limiter(env, settings.scrub_bytes_per_s)
        self._state = ScrubRow()
        self._damage: dict[bytes, _Damage] = {}
        self._suspects: dict[bytes, None] = {}
        self._looked: dict[bytes, float] = {}
        self._wake = asyncio.Event()
        self._counts = ScrubStatistics()

    async def load(self) -> None:
        """Go on where the last run was. Raises StorageError."""
        self._state = await self._store.audits.scrub()
        for segment_id, since in await self._store.audits.damaged():
            self._damage[segment_id] = _Damage(since, None, looked=False)
        self._say()

    def statistics(self) -> ScrubStatistics:
        """A snapshot."""
        state = self._state
        return replace(
            self._counts,
            began=state.began,
            finished=state.finished,
            bytes=state.bytes,
            damaged=len(self._damage),
            bytes_in=self._mender.bytes_in,
        )

    # what others ask

    def check_read(self, segment_id: bytes, runs: Sequence[tuple[int, int]]) -> None:
        """Raises IntegrityError for rows that are known to be damaged here: what is wrong is not served."""
        damage = self._damage.get(segment_id)
        if damage is None or damage.rows is None:
            return  # of a shard with unknown damage the reader's check decides
        if any(row in damage.rows for first, count in runs for row in range(first, first + count)):
            raise IntegrityError("these cells are damaged here, and are being rebuilt")

    def suspect(self, segment_id: bytes) -> None:
        """Somebody got wrong bytes, or says so: look at the whole shard soon, but not again and again."""
        now = self._env.monotonic()
        before = self._looked.get(segment_id)
        if before is not None and now - before < self._settings.recheck_s:
            return
        if len(self._suspects) < SUSPECTS_MAX:
            self._suspects[segment_id] = None
            self._wake.set()

    # the round

    async def run(self) -> None:
        """Until cancelled: the round over all shards."""
        await asyncio.sleep(IDLE_S * self._env.rng.random())
        while True:
            try:
                await self._round()
            except PotsherdError as error:
                _LOG.warning("scrubbing failed: %s", error)
                await asyncio.sleep(IDLE_S)

    async def _round(self) -> None:
        """From where it is to the end, then wait until the next one is due."""
        await self._begin()
        while page := await self._store.segments(self._state.after, 1):
            held = page[0]
            await self.look_at(held, counts=True)
            self._state = self._state._replace(after=held.segment_id, row=0)
            await self._save()
        self._state = self._state._replace(after=b"", row=0, began=0, finished=int(self._env.utc()))
        await self._save()

    async def _begin(self) -> None:
        now = int(self._env.utc())
        if not self._state.began:
            due = self._state.finished + self._settings.scrub_round_s
            await asyncio.sleep(max(0.0, min(due - now, self._settings.scrub_round_s)))
            self._state = self._state._replace(began=int(self._env.utc()), bytes=0)
            await self._save()

    async def _save(self) -> None:
        try:
            await self._store.audits.set_scrub(self._state)
        except QuotaError as error:  # then a restart begins a little earlier
            _LOG.debug("the place of the scrub is not written down: %s", error)

    async def look_at(self, held: Held, *, counts: bool = False) -> list[int] | None:
        """All rows of one shard; the damaged ones, None if all are suspect. Damage is noted for mending.

        `counts`: it is part of the round, and begins at the row where that was.
        """
        inspection, d = self._store.inspection, held.descriptor
        try:
            leaves, sealed = await inspection.leaves(held.segment_id)
            if sealed:
                self._note(held, "the leaf hashes of our shard had rotted and were written anew")
            if leaves is None:
                await self._damaged(held, None)
                return None
            bad: list[int] = []
            start = self._state.row if counts else 0
            for step, first in enumerate(range(min(start, d.rows), d.rows, BATCH_ROWS)):
                count = min(BATCH_ROWS, d.rows - first)
                await self._limiter.take(count * d.cell_size)
                bad += await inspection.damaged(held.segment_id, first, count, leaves)
                if counts:
                    await self._passed(first + count, count * d.cell_size, step)
        except NotFoundError:
            return []  # released meanwhile
        except ShardVanished as error:
            await self._vanished(held, error)
            return []
        if bad:
            await self._damaged(held, frozenset(bad))
        return bad

    async def _vanished(self, held: Held, error: ShardVanished) -> None:
        """Nothing is left to mend: others are told now, and rebuild it like any other loss."""
        if await self._store.held(held.segment_id) is None:
            return
        self._note(held, f"our shard of index {held.index} is lost: {error}")
        await self._give_up(held, str(error))
        await self._whole(held.segment_id)

    async def _passed(self, row: int, size: int, step: int) -> None:
        self._state = self._state._replace(row=row, bytes=self._state.bytes + size)
        if (step + 1) % SAVE_STEPS == 0:
            await self._save()

    # damage

    async def _damaged(self, held: Held, rows: frozenset[int] | None) -> None:
        known = self._damage.get(held.segment_id)
        since = known.since if known else int(self._env.utc())
        if known is None and len(self._damage) >= DAMAGED_MAX:
            return  # found again in the next round
        before = known.rows if known else frozenset()
        merged = None if rows is None or before is None else rows | before
        try_at = known.try_at if known else 0.0
        self._damage[held.segment_id] = _Damage(since, rows if before is None else merged, try_at)
        count = held.descriptor.rows if rows is None else len(rows)
        self._counts = replace(self._counts, found=self._counts.found + count)
        what = "cells and leaf hashes" if rows is None else f"{count} cells"
        self._note(held, f"our shard of index {held.index} is damaged: {what}")
        await self._store.audits.set_damaged(held.segment_id, since)
        self._say()
        self._wake.set()

    def _say(self) -> None:
        if self._damage:
            self._troubles.note(
                Kind.ROT,
                f"{len(self._damage)} pieces on this disk are damaged; they are being rebuilt from others",
                "If it comes again, the disk is failing: potsherd node leave moves everything away.",
            )
        else:
            self._troubles.over(Kind.ROT)

    async def run_mending(self) -> None:
        """Until cancelled: look at suspects, mend what is damaged; at first what was so before the restart."""
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(self._settings.mend_retry_s if self._damage else None):
                    await self._wake.wait()
            except TimeoutError:
                _LOG.debug("another try to mend what is damaged")
            self._wake.clear()
            try:
                await self.step()
            except PotsherdError as error:
                _LOG.warning("mending failed: %s", error)

    async def step(self) -> None:
        """One try for each suspect and each damaged shard whose time has come."""
        while self._suspects:
            segment_id = next(iter(self._suspects))
            del self._suspects[segment_id]
            await self._look_at_suspect(segment_id)
        now = self._env.monotonic()
        for segment_id, damage in list(self._damage.items()):
            if damage.try_at <= now:
                await self._try(segment_id, damage)

    async def _look_at_suspect(self, segment_id: bytes) -> None:
        self._looked[segment_id] = self._env.monotonic()
        while len(self._looked) > SUSPECTS_MAX:
            del self._looked[next(iter(self._looked))]
        held = await self._store.held(segment_id)
        if held is None or segment_id in self._damage:
            return
        if await self.look_at(held) == []:
            self._note(held, "somebody says that our shard is wrong: all of it is right")
            await self._renew(held)

    async def _try(self, segment_id: bytes, damage: _Damage) -> None:
        held = await self._store.held(segment_id)
        if held is None:
            await self._whole(segment_id)
            return
        damage.try_at = self._env.monotonic() + self._settings.mend_retry_s
        if not damage.looked and await self.look_at(held) == []:
            done = True
        else:
            try:
                done = await self._mend(held)
            except PotsherdError as error:
                self._note(held, f"not mended yet: {error}")
                return
        if done:
            await self._whole(segment_id)
            self._counts = replace(self._counts, mended=self._counts.mended + 1)
            self._note(held, f"our shard of index {held.index} is whole again")
            await self._renew(held)

    async def _mend(self, held: Held) -> bool:
        leaves, _ = await self._store.inspection.leaves(held.segment_id)
        damage = self._damage[held.segment_id]
        all_rows = range(held.descriptor.rows)
        rows = all_rows if leaves is None or damage.rows is None else sorted(damage.rows)
        return await self._mender.mend(held, rows, leaves)

    async def _whole(self, segment_id: bytes) -> None:
        self._damage.pop(segment_id, None)
        await self._store.audits.set_whole(segment_id)
        self._say()

    def _note(self, held: Held, text: str) -> None:
        self._journal.note(self._env.utc(), held.segment_id, text)
