"""The ports of a real node."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from potsherd.node.real.disk import RealDisk
from potsherd.node.real.net import RealNet
from potsherd.ports import Env

__all__ = ["ThreadOffload", "real_env", "utc"]

T = TypeVar("T")

THREADS_DEFAULT = 4

OFFLOADS_WAITING_MAX = 64
"""Calls handed to the pool beyond its threads; further callers wait their turn on the event loop."""


class ThreadOffload:
    """Run blocking calls on a bounded pool of threads (`potsherd.ports.Offload`)."""

    def __init__(self, threads: int = THREADS_DEFAULT) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="potsherd")
        self._places = asyncio.Semaphore(threads + OFFLOADS_WAITING_MAX)

    async def __call__(self, fn: Callable[..., T], /, *args: Any) -> T:
        await self._places.acquire()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(self._finished)
        # shielded: a cancelled caller must not take back a call that waits for a thread
        return await asyncio.shield(future)

    def _finished(self, future: asyncio.Future[Any]) -> None:
        self._places.release()
        if not future.cancelled():
            future.exception()  # the awaiter may be gone; then nobody else looks at it

    def close(self) -> None:
        """Let the threads end after what they have; further calls raise RuntimeError."""
        self._pool.shutdown(wait=False)


def utc() -> float:
    """Seconds since 1970: `Env.utc`, for who needs no other port."""
    return time.time()


def real_env(folder: Path, *, threads: int = THREADS_DEFAULT) -> Env:
    """The ports of a node that keeps its files below `folder`, which is made if needed.

    Raises StorageError when it cannot be made. Belongs to one event loop.
    """
    return Env(
        monotonic=time.monotonic,
        utc=utc,
        rng=random.SystemRandom(),
        net=RealNet(),
        disk=RealDisk(folder),
        offload=ThreadOffload(threads),
    )
