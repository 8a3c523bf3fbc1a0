"""How long to wait for a peer that may be slow: as long as enough comes from it.

A fixed time for an answer of a given size is a least speed that nobody has stated: 20 s for 4 MiB were
200 kB/s, more than a home line gives to each of ten readers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

__all__ = ["SLOWEST_BYTES_S", "time_for", "while_it_comes"]

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
    loop = asyncio.get_running_loop()
    # not all of it: what comes between the last look and the end has not been seen
    enough = SLOWEST_BYTES_S * silence_s * (LOOKS - 1) / LOOKS
    pause = silence_s / (LOOKS + 0.5)  # the last look is not at the very end
    before = received()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal before, timer
        if limit.expired():
            return
        now = received()
        before = min(before, now)
        if now - before >= enough:
            before = now
            limit.reschedule(loop.time() + silence_s)
        timer = loop.call_later(pause, look)

    timer = loop.call_later(pause, look)
    try:
        async with asyncio.timeout(silence_s) as limit:
            yield
    finally:
        timer.cancel()
