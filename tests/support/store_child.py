"""A process that fills a store until it is killed: `python store_child.py FOLDER SEED LOG`.

A line of the log, `+NUMBER` or `-NUMBER`, says that a shard was acknowledged or its release begun.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from store_cases import Specimen, head_of, large_segment, lease_over, put, small_segment

from potsherd.errors import QuotaError
from potsherd.node.real.env import real_env
from potsherd.node.store import ShardStore

QUOTA = 64 * 2**20
WORKERS = 6


def specimen(number: int) -> Specimen:
    """The same in parent and child."""
    rng = random.Random(number)
    if rng.random() < 0.5:
        return small_segment(rng, k=1, n=2, length=rng.randrange(32_000))
    return large_segment(rng, rows=rng.randrange(1, 12), k=1, n=2)


async def work(store: ShardStore, numbers: list[int], log: Path) -> None:
    """Put shards, talk about them, release some."""
    with log.open("a", buffering=1) as lines:
        for number in numbers:
            shard = specimen(number)
            try:
                await put(store, shard, 0, size_max=400_000 if number % 3 == 0 else None)
            except QuotaError:
                continue
            lines.write(f"+{number}\n")
            await store.put_lease(*lease_over([shard]))
            await store.put_head(shard.id, *head_of(shard.owner)[1:])
            if number % 4 == 0:
                lines.write(f"-{number}\n")
                await store.release(shard.id)


async def main(folder: Path, seed: int, log: Path) -> None:
    """Run until killed."""
    store = await ShardStore.open(real_env(folder), QUOTA)
    log.touch()
    first = seed * 1_000_000
    await asyncio.gather(
        *(
            work(store, list(range(first + i, first + 1_000_000, WORKERS)), log)
            for i in range(WORKERS)
        )
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
