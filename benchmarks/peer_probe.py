"""Runs inside a peer's own environment (peers.py): one library alone, MB per CPU-second as JSON.

peer_probe.py zfec K N ROWS | eris BLOCK_SIZE BYTES
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable

CELL = 32768


def rate(size: int, work: Callable[[], object]) -> float:
    """The best of three after one to warm up."""
    work()
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(size / 1e6 / (time.process_time() - start))
    return max(found)


def zfec(k: int, n: int, rows: int) -> float:
    """Parity blocks only, as `Code.parity_rows` makes them."""
    encoder = importlib.import_module("zfec").Encoder(k, n)
    blocks = [bytes([i]) * CELL for i in range(k)]
    wanted = tuple(range(k, n))
    return rate(rows * k * CELL, lambda: [encoder.encode(blocks, wanted) for _ in range(rows)])


def eris(block_size: int, size: int) -> float:
    """Written in pieces of 32 KiB: larger ones make it slower."""
    package = importlib.import_module("eris")
    piece = bytes(range(256)) * (CELL // 256)

    async def encode() -> None:
        encoder = package.Encoder(bytes(32), package.NullStore(), block_size)
        for _ in range(size // CELL):
            await encoder.write(piece)
        await encoder.close()

    return rate(size, lambda: asyncio.run(encode()))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    found = zfec(*numbers) if sys.argv[1] == "zfec" else eris(*numbers)
    print(json.dumps({"rate": found}))
