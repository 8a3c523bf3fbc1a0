"""A node gives back what it no longer needs."""

from __future__ import annotations

import asyncio
import gc
import mmap
import sys
import weakref

import pytest

from potsherd.node.real import memory


class _Ended:
    """What ended and refers to itself, as a connection does."""

    def __init__(self) -> None:
        self.me = self
        self.buffer = bytearray(2**20)


@pytest.mark.skipif(sys.platform != "linux", reason="what is resident is read from /proc")
def test_what_is_resident_counts_pages_in_use() -> None:
    """Pages of our own: a large buffer might get memory that is resident already."""
    size = 64 * 2**20
    before = memory.resident_bytes()
    with mmap.mmap(-1, size) as pages:
        pages.write(bytes(size))
        assert memory.resident_bytes() - before > size // 2


async def test_ended_connections_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.01)
    monkeypatch.setattr(memory, "SMALL_BYTES", -1)
    gc.disable()
    try:
        ended = weakref.ref(_Ended())
        assert ended() is not None
        beside = asyncio.create_task(memory.stay_small())
        async with asyncio.timeout(30):
            while ended() is not None:
                await asyncio.sleep(0.01)
        assert not beside.done()
        beside.cancel()
    finally:
        gc.enable()
