"""What a small dataset costs all its holders together, SQLite's overhead included (design: 64 KiB)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_cases import Bench, RealBench, Specimen, head_of, lease_over, put, small_segment

from potsherd.node.store import ShardStore

K, N = 4, 12
STREAM_BYTES = 6144
"""A file of 1 KiB and its manifest page of 1 KiB: two leaves and a root each."""
COST_MAX = 64 * 1024
TOGETHER = 25
"""Datasets that are put at the same time."""
NODES = [bytes([i]) * 32 for i in range(N)]


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[list[Bench]]:
    """Twelve machines with one event loop."""
    first = RealBench(tmp_path / "0")
    rest = [first.sibling(tmp_path / str(i)) for i in range(1, N)]
    yield [first, *rest]
    for bench in rest:
        bench.close()
    first.close()


async def keep(stores: list[ShardStore], specimen: Specimen) -> None:
    """What twelve holders are told about a dataset of one small file."""
    for index, store in enumerate(stores):
        await put(store, specimen, index)
    roster = [specimen.entry(i, node, counter=1_800_000_000) for i, node in enumerate(NODES)]
    lease, paths = lease_over([specimen])
    _, genesis, head = head_of(specimen.owner)
    for store in stores:
        await store.merge_roster(specimen.id, roster)
        await store.put_lease(lease, paths)
        await store.put_head(specimen.id, genesis, head)


def index_bytes(folder: Path) -> int:
    """Bytes of the closed databases."""
    return sum(path.stat().st_size for path in folder.rglob("index.sqlite*"))


@pytest.mark.parametrize(
    "datasets",
    [pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.nightly)],
)
def test_a_dataset_of_one_small_file_costs_at_most_64_kib(
    benches: list[Bench], tmp_path: Path, datasets: int
) -> None:
    rng = random.Random(1)

    async def grow(count: int) -> int:
        stores = [await ShardStore.open(bench.env, 2**30) for bench in benches]
        for _ in range(count // TOGETHER):
            batch = [small_segment(rng, K, N, STREAM_BYTES) for _ in range(TOGETHER)]
            await asyncio.gather(*(keep(stores, specimen) for specimen in batch))
        reserved = sum(store.usage().index_bytes for store in stores)
        for store in stores:
            await store.close()
        assert index_bytes(tmp_path) <= reserved
        assert not list(tmp_path.rglob("shards/*/*"))
        return index_bytes(tmp_path)

    before = benches[0].run(grow(TOGETHER))
    after = benches[0].run(grow(datasets))
    cost = (after - before) / datasets
    print(f"{cost / 1024:.1f} KiB a dataset")
    assert N * STREAM_BYTES / K < cost <= COST_MAX
