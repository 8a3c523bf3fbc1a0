"""So many bytes a second and no more."""

from __future__ import annotations

import asyncio

from potsherd.ports import Env

__all__ = ["Limiter"]

BURST_S = 1.0
"""Seconds' worth of bytes that may go at once after a pause."""


class Limiter:
    """A token bucket that lets its callers wait, in the order in which they come."""

    def __init__(self, env: Env, bytes_per_s: float) -> None:
        self._env = env
        self._rate = bytes_per_s
        self._free_at = env.monotonic()

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may go."""
        now = self._env.monotonic()
        start = max(self._free_at, now - BURST_S)
        self._free_at = start + size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
