"""What is wrong with this machine: its disk, its clock, a second node with its key. Noticed, said, and over again.

`Troubles` is the board that `node status` shows and the log repeats; `ClockWatch` decides; `Watch` looks around
every few minutes. Nothing here repairs anything: a person has to.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from potsherd.classes import dataclass
from potsherd.errors import PotsherdError, StorageError
from potsherd.ports import Env, Offload

__all__ = ["ClockWatch", "Kind", "Trouble", "Troubles", "Watch", "watched"]

T = TypeVar("T")
SAID_AGAIN_S = 3600.0
"""Seconds until a trouble that goes on is written into the log again."""
CLOCK_JUMP_S = 600.0
"""Seconds by which the calendar may move against the loop's clock unnoticed."""
CLOCK_OFF_S = 600
"""Seconds that the clock may differ from other nodes': what statements tolerate."""
QUIET_S = 600.0
"""Seconds without a new error after which a disk that takes a write counts as well again."""
TEXT_MAX = 300
"""Characters of a message."""

_LOG = logging.getLogger(__name__)


class Kind(StrEnum):
    """What kinds there are; of each the latest is kept."""

    DISK = "disk"
    ROOM = "room"
    CLOCK = "clock"
    CLOCK_JUMP = "clock-jump"
    COPY = "copy"
    ROT = "rot"


@dataclass(frozen=True)
class Trouble:
    """One thing that is, or was, wrong. Dates by this machine's calendar."""

    kind: str
    text: str
    remedy: str
    first: int
    last: int
    count: int
    now: bool
    """False: it is over, and shown because somebody may want to know."""


class Troubles:
    """The board: one trouble of each kind."""

    def __init__(self, utc: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._utc = utc
        self._monotonic = monotonic
        self._board: OrderedDict[str, Trouble] = OrderedDict()
        self._seen: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def note(self, kind: Kind, text: str, remedy: str, *, now: bool = True) -> None:
        """It is (again) so; said in the log when it begins, changes or has gone on for an hour."""
        date, moment = int(self._utc()), self._monotonic()
        known = self._board.get(kind)
        begins = known is None or not known.now
        first, count = (date, 0) if known is None or begins else (known.first, known.count)
        self._board[kind] = Trouble(
            kind.value, text[:TEXT_MAX], remedy, first, date, count + 1, now
        )
        self._seen[kind] = moment
        if begins or moment - self._said[kind] >= SAID_AGAIN_S:
            self._said[kind] = moment
            _LOG.warning("%s%s", text[:TEXT_MAX], f" ({remedy})" if remedy else "")

    def over(self, kind: Kind) -> None:
        """It is not so any more."""
        known = self._board.get(kind)
        if known is not None and known.now:
            self._board[kind] = replace(known, now=False)
            _LOG.warning("over: %s", known.text)

    def active(self, kind: Kind) -> bool:
        """Whether it is so now."""
        known = self._board.get(kind)
        return known is not None and known.now

    def quiet_s(self, kind: Kind) -> float:
        """Seconds since it was last noted; infinite when it never was."""
        return self._monotonic() - self._seen.get(kind, float("-inf"))

    def all(self) -> tuple[Trouble, ...]:
        """What is wrong now first, then what was, by kind."""
        return tuple(sorted(self._board.values(), key=lambda t: (not t.now, t.kind)))

    def disk(self, error: BaseException) -> None:
        """The disk refused something."""
        self.note(
            Kind.DISK,
            f"the disk refuses: {error}",
            "Look at the disk and its file system; pieces that are lost are repaired elsewhere.",
        )


class _WatchedOffload:
    """Runs as the port does, and notes what the disk refuses on the way."""

    def __init__(self, offload: Offload, troubles: Troubles) -> None:
        self._offload = offload
        self._troubles = troubles

    async def __call__(self, fn: Callable[..., T], /, *args: Any) -> T:
        try:
            return await self._offload(fn, *args)
        except (StorageError, sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            self._troubles.disk(error)
            raise


def watched(env: Env, troubles: Troubles) -> Env:
    """The same ports; what the disk refuses is noted."""
    return replace(env, offload=_WatchedOffload(env.offload, troubles))


class ClockWatch:
    """Whether the calendar moves as the loop's clock does. Pure: both are given."""

    def __init__(self, utc: float, monotonic: float) -> None:
        self._offset = utc - monotonic

    def jump_s(self, utc: float, monotonic: float) -> float:
        """By how much the calendar has jumped since it was last looked at; 0 when it did not."""
        offset = utc - monotonic
        jump = offset - self._offset
        self._offset = offset
        return jump if abs(jump) >= CLOCK_JUMP_S else 0.0


class Watch:
    """`step` is called every few minutes."""

    def __init__(
        self,
        env: Env,
        troubles: Troubles,
        *,
        probe: Callable[[], Awaitable[None]],
        promised: Callable[[], int],
        ahead_s: Callable[[], int | None],
        ask_clocks: Callable[[], None],
    ) -> None:
        """`probe` writes something small and durable. `promised`: bytes that the quota has free. `ahead_s`: our clock
        against the median of others'; `ask_clocks` has them asked soon."""
        self._env = env
        self._troubles = troubles
        self._probe = probe
        self._promised = promised
        self._ahead_s = ahead_s
        self._ask_clocks = ask_clocks
        self._clock = ClockWatch(env.utc(), env.monotonic())
        self.disk_free: int | None = None
        """Bytes that the disk had free at the last look; None before the first."""

    async def step(self) -> None:
        """Look at clock and disk."""
        self._look_at_clock()
        await self._look_at_disk()

    def _look_at_clock(self) -> None:
        jump = self._clock.jump_s(self._env.utc(), self._env.monotonic())
        if jump:
            how = "ahead" if jump > 0 else "back"
            self._troubles.note(
                Kind.CLOCK_JUMP,
                f"the calendar jumped {how} by {_span(abs(jump))}: set, or the machine slept",
                "",
                now=False,
            )
            self._ask_clocks()
            return  # what others said before the jump says nothing about the clock as it is now
        ahead = self._ahead_s()
        if ahead is not None and abs(ahead) > CLOCK_OFF_S:
            how = "ahead of" if ahead > 0 else "behind"
            self._troubles.note(
                Kind.CLOCK,
                f"this machine's clock is {_span(abs(ahead))} {how} other nodes': they refuse what it signs",
                "Set the clock, for example by NTP.",
            )
        elif ahead is not None:
            self._troubles.over(Kind.CLOCK)

    async def _look_at_disk(self) -> None:
        troubles = self._troubles
        try:
            free = self.disk_free = await self._env.offload(self._env.disk.free)
        except PotsherdError:
            return  # noted by the offload
        promised = self._promised()
        if free < promised:
            troubles.note(
                Kind.ROOM,
                f"the disk has {_size(free)} free, but the quota promises {_size(promised)} more",
                "Make room, or lower the quota: potsherd node quota SIZE",
            )
        else:
            troubles.over(Kind.ROOM)
        if troubles.active(Kind.DISK) and troubles.quiet_s(Kind.DISK) >= QUIET_S:
            await self._probe_disk()

    async def _probe_disk(self) -> None:
        try:
            await self._probe()
        except PotsherdError as error:
            self._troubles.disk(error)
        else:
            self._troubles.over(Kind.DISK)

    async def run(self, period_s: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(period_s * self._env.rng.uniform(0.9, 1.1))
            await self.step()


def _span(seconds: float) -> str:
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
