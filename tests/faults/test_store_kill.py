"""SIGKILL at random moments, and torn logs, on real files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import store_child
from store_cases import Bench, Specimen, check_readable, open_bench, put, small_segment

import potsherd
from potsherd.node.store import ShardStore
from potsherd.node.store.ledger import INODE_BYTES

START_S_MAX = 60.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A real folder."""
    yield from open_bench("real", tmp_path)


def run_and_kill(folder: Path, seed: int, log: Path, after_s: float) -> None:
    """Let a child fill the store and kill it some time after its first acknowledgement."""
    paths = [str(Path(store_child.__file__).parent), str(Path(potsherd.__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, store_child.__file__, str(folder), str(seed), str(log)]
    with subprocess.Popen(command, env=environment) as child:
        limit = time.monotonic() + START_S_MAX
        while not (log.exists() and log.stat().st_size) and time.monotonic() < limit:
            assert child.poll() is None, "the child has ended by itself"
            time.sleep(0.005)
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)


def read_log(log: Path) -> tuple[set[int], set[int]]:
    """(acknowledged and kept, perhaps released). The last line may be cut off."""
    lines = log.read_text().split("\n")[:-1]
    kept = {int(line[1:]) for line in lines if line[0] == "+"}
    released = {int(line[1:]) for line in lines if line[0] == "-"}
    return kept - released, released


async def check(bench: Bench, must: set[int], may: set[int]) -> None:
    store = await ShardStore.open(bench.env, store_child.QUOTA)
    assert store.recovery.lost == ()
    for number in must:
        await check_readable(store, store_child.specimen(number), 0)
    for number in may:
        specimen = store_child.specimen(number)
        if await store.held(specimen.id) is not None:
            await check_readable(store, specimen, 0)
    files = list(bench.env.disk.walk(""))
    assert store._ledger.files == sum(allocated + INODE_BYTES for _, _, allocated in files)
    assert all(path.startswith("shards/") for path, _, _ in files)
    assert store.usage().staged == 0
    await store.close()


@pytest.mark.slow
def test_what_was_acknowledged_survives_sigkill(bench: Bench, tmp_path: Path) -> None:
    folder, rng = tmp_path / "store", random.Random(1)
    must: set[int] = set()
    may: set[int] = set()
    for seed in range(4):
        log = tmp_path / f"log{seed}"
        run_and_kill(folder, seed, log, rng.uniform(0.0, 0.5))
        kept, released = read_log(log)
        must, may = must | kept, may | released
        bench.run(check(bench, must, may))
    assert len(must) > 20


def index_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("index.sqlite*"))


def test_a_log_cut_off_anywhere_gives_an_earlier_state_and_nothing_half(
    bench: Bench, tmp_path: Path
) -> None:
    """Torn writes of the index: SQLite's checksums end the log at the last whole transaction."""
    rng = random.Random(2)
    cases = [store_child.specimen(number) for number in range(8)]

    async def fill() -> None:
        store = await ShardStore.open(bench.env, store_child.QUOTA)
        for specimen in cases:
            await put(store, specimen, 0)
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        await store.close()

    bench.run(fill())
    log = next(path for path in index_files(tmp_path / "copy") if path.name.endswith("-wal"))
    whole = log.read_bytes()
    assert len(whole) > 100_000
    seen = set()
    for _ in range(12):
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "copy", tmp_path / "store")
        torn = tmp_path / "store" / log.relative_to(tmp_path / "copy")
        cut = rng.randrange(len(whole))
        torn.write_bytes(whole[:cut] + rng.randbytes(rng.randrange(20_000)))
        seen.add(bench.run(look(bench, cases)))
    assert len(seen) > 3


async def look(bench: Bench, cases: list[Specimen]) -> int:
    """The first so many commits are there, no others, and nothing half."""
    store = await ShardStore.open(bench.env, store_child.QUOTA)
    held = [await store.held(specimen.id) is not None for specimen in cases]
    assert held == sorted(held, reverse=True)  # the first so many commits, no others
    assert store.recovery.lost == ()
    for specimen in cases[: sum(held)]:
        await check_readable(store, specimen, 0)
    files = list(bench.env.disk.walk(""))
    large = [s for s in cases[: sum(held)] if len(s.shards[0]) >= 65536]
    assert len(files) == len(large)
    await put(store, small_segment(random.Random(9)), 0)
    await store.close()
    return sum(held)
