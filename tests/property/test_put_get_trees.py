"""Any tree that a file system holds comes back, whatever k, the limits and where the segments end."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from datasets_bench import Bench, age, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.erasure.layout import Limits
from potsherd.errors import PeerError

names = st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, 47}
)
sizes = st.one_of(
    st.integers(0, 3000),
    st.sampled_from([1023, 1024, 16383, 16384, 32767, 32768, 65536]),
    st.integers(16_000, 200_000),
)
leaves = st.one_of(sizes, names.map(lambda name: b"->" + name))
trees = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=5)), max_size=8
)


def plant(folder: bytes, tree: dict[bytes, object]) -> None:
    os.makedirs(folder, exist_ok=True)
    for name, what in tree.items():
        path = folder + b"/" + name
        if isinstance(what, dict):
            plant(path, what)
        elif isinstance(what, bytes):
            os.symlink(what[2:], path)
        elif isinstance(what, int):
            with open(path, "wb") as file:
                file.write((name * (what // len(name) + 1))[:what])


async def there_and_back(
    folder: Path, tree: dict[bytes, object], k: int, cells: int, stop: int
) -> None:
    bench = Bench(folder, k, k + 1, Limits(data_cells=max(cells, k)))
    plant(os.fsencode(bench.source), tree)
    age(bench.source)
    bench.segments.fail_at = stop
    try:
        result = await bench.put()
    except PeerError:
        result = await bench.put()
    await bench.get(result)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert (await bench.get(result)).files == 0


@pytest.mark.slow
@settings(max_examples=40)
@given(trees, st.integers(1, 4), st.integers(3, 12), st.integers(0, 30))
def test_any_tree_comes_back(tree: dict[bytes, object], k: int, cells: int, stop: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(there_and_back(Path(folder), tree, k, cells, stop))
