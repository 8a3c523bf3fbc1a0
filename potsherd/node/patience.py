"""How long to wait for a peer that may be slow: as long as enough comes from it; and when to ask others besides.

A fixed time for an answer of a given size is a least speed that nobody has stated: 20 s for 4 MiB were
200 kB/s, more than a home line gives to each of ten readers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from potsherd.errors import PotsherdError

__all__ = ["SLOWEST_BYTES_S", "both", "one_succeeds", "time_for", "while_it_comes"]

T = TypeVar("T")
U = TypeVar("U")

SLOWEST_BYTES_S = 8 << 10
"""From a peer that sends less than this, on an average over the time one waits in silence, one expects nothing."""
LOOKS = 4
"""How often in that time one looks whether more has come: silence is noticed a quarter of it late at most."""


def time_for(size: int, seconds: float) -> float:
    """Seconds that a message with `size` bytes of payload may take, if one without may take `seconds`."""
    return seconds + size / SLOWEST_BYTES_S


@contextlib.asynccontextmanager
async def while_it_comes(received: Callable[[], int], silence_s: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout(silence_s)`, begun anew whenever more bytes have come: SLOWEST_BYTES_S are enough.

    `received` tells how many have come so far; a smaller number than before is that of a new connection.
    Raises TimeoutError.
    """
    watch = _Watch(received, silence_s)
    try:
        async with asyncio.timeout(silence_s) as watch.limit:
            watch.later()
            yield
    finally:
        watch.end()


class _Watch:
    """Looks now and then whether enough has come.

    Refers to nothing for longer than needed: the limit knows its task, and the task its result, which may be
    megabytes; in a cycle they would stay until somebody collects garbage.
    """

    def __init__(self, received: Callable[[], int], silence_s: float) -> None:
        self.limit: asyncio.Timeout | None = None
        self._received = received
        self._before = received()
        self._silence_s = silence_s
        # not all of it: what comes between the last look and the end has not been seen
        self._enough = SLOWEST_BYTES_S * silence_s * (LOOKS - 1) / LOOKS
        self._pause = silence_s / (LOOKS + 0.5)  # the last look is not at the very end
        self._timer: asyncio.TimerHandle | None = None

    def later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)

    def _look(self) -> None:
        if self.limit is None or self.limit.expired():
            return
        now = self._received()
        self._before = min(self._before, now)
        if now - self._before >= self._enough:
            self._before = now
            self.limit.reschedule(asyncio.get_running_loop().time() + self._silence_s)
        self.later()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.limit = self._timer = None


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """What both give, at the same time. The first error is raised when both have ended; the other one is cancelled."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def one_succeeds(
    attempts: Iterable[Callable[[], Coroutine[Any, Any, None]]], *, at_once: int, pause_s: float
) -> bool:
    """Whether one of the attempts ends without PotsherdError or TimeoutError; the others are ended then.

    `at_once` of them are begun, one more for each that fails, and all when none has succeeded for `pause_s`.
    """
    waiting = deque(attempts)
    running: set[asyncio.Future[None]] = set()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.add(asyncio.ensure_future(waiting.popleft()()))
            done, _ = await asyncio.wait(
                running,
                timeout=pause_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                at_once = len(waiting) + len(running)
            for task in done:
                running.remove(task)
                error = task.exception()
                if error is None:
                    return True
                if not isinstance(error, (PotsherdError, TimeoutError)):
                    raise error
        return False
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
