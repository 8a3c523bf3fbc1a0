"""Own shards: rot is located, mended in place, and remembered across restarts; tables stay bounded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_cases import (
    BENCHES,
    Bench,
    check_readable,
    large_segment,
    open_bench,
    put,
    small_segment,
)

from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import IntegrityError, NotFoundError
from potsherd.node.store import ShardStore, audits
from potsherd.node.store.audits import BadRow, ProofRow, ScrubRow
from potsherd.node.store.files import shard_path

QUOTA = 64 * 2**20
ROWS = 9


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A machine of either kind."""
    yield from open_bench(request.param, tmp_path)


def flip(bench: Bench, path: str, offset: int) -> None:
    """One bit of a file turns over."""
    disk = bench.env.disk
    (byte,) = disk.read(path, offset, 1)
    disk.write(path, offset, bytes([byte ^ 4]))
    disk.sync(path)


def test_rotten_cells_are_located_and_mended_in_place(bench: Bench) -> None:
    specimen = large_segment(random.Random(1), ROWS)
    path, shard = shard_path(specimen.id), specimen.shards[1]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 1)
        used = store.usage().used
        flip(bench, path, 3 * CELL_SIZE + 17)
        flip(bench, path, 8 * CELL_SIZE)
        look = store.inspection
        leaves, sealed = await look.leaves(specimen.id)
        assert leaves == specimen.leaves(1)
        assert not sealed
        assert await look.damaged(specimen.id, 0, ROWS, leaves) == [3, 8]
        with pytest.raises(IntegrityError):
            await look.mend(specimen.id, 3, shard[:CELL_SIZE], leaves)
        for row in (3, 8):
            cell = shard[row * CELL_SIZE : (row + 1) * CELL_SIZE]
            await look.mend(specimen.id, row, cell, leaves)
        assert await look.damaged(specimen.id, 0, ROWS, leaves) == []
        await check_readable(store, specimen, 1)
        assert store.usage().used == used
        await store.close()

    bench.run(scenario())


def test_rotten_leaf_hashes_are_made_anew_and_with_rotten_cells_everything_is_suspect(
    bench: Bench,
) -> None:
    specimen = large_segment(random.Random(2), ROWS)
    path, shard = shard_path(specimen.id), specimen.shards[0]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        look = store.inspection
        flip(bench, path, ROWS * CELL_SIZE + 33)
        assert await look.leaves(specimen.id) == (specimen.leaves(0), True)
        await check_readable(store, specimen, 0)
        flip(bench, path, ROWS * CELL_SIZE + 33)
        flip(bench, path, 5)
        assert await look.leaves(specimen.id) == (None, False)
        assert await look.damaged(specimen.id, 2, 3, None) == [2, 3, 4]
        assert not await look.seal(specimen.id)
        await look.mend(specimen.id, 0, shard, None)
        assert await look.seal(specimen.id)
        await check_readable(store, specimen, 0)
        await store.release(specimen.id)
        with pytest.raises(NotFoundError):
            await look.leaves(specimen.id)
        await store.close()

    bench.run(scenario())


def test_a_small_shard_is_replaced_whole(bench: Bench) -> None:
    specimen = small_segment(random.Random(3))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 2)
        await store._index.write(
            lambda c: c.execute("UPDATE shards SET data = zeroblob(length(data))") and None, pages=8
        )
        look = store.inspection
        assert await look.leaves(specimen.id) == (None, False)
        with pytest.raises(IntegrityError):
            await look.mend(specimen.id, 0, specimen.shards[1], None)
        await look.mend(specimen.id, 0, specimen.shards[2], None)
        assert await look.seal(specimen.id)
        await check_readable(store, specimen, 2)
        await store.close()

    bench.run(scenario())


def test_what_was_seen_survives_a_restart_and_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    specimen = small_segment(random.Random(4))
    monkeypatch.setattr(audits, "JOURNAL_MAX", 5)
    monkeypatch.setattr(audits, "PROOFS_MAX", 3)
    monkeypatch.setattr(audits, "DAMAGED_MAX", 2)
    monkeypatch.setattr(audits, "BAD_ENCODINGS_MAX", 2)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 2)
        kept = store.audits
        for i in range(8):
            await kept.note_proof(ProofRow(specimen.id, bytes([i]) * 32, i, 100 + i, 0))
            await kept.add_journal([(i, specimen.id, f"line {i}")])
            await kept.set_damaged(bytes([i]) * 32, 200 + i)
            await kept.note_bad(BadRow(bytes([i]) * 32, 300 + i, 1, 2, b"proof"))
        await kept.note_proof(ProofRow(b"not held" * 4, bytes(32), 0, 999, 0))
        await kept.prune_proofs(102)
        await kept.set_scrub(ScrubRow(specimen.id, 4, 5, 6, 7))
        await store.close()
        store = await ShardStore.open(bench.env, QUOTA)
        kept = store.audits
        assert [p.date for p in await kept.proofs(specimen.id)] == [105, 106, 107]
        assert await kept.proof_dates() == (3, 105, 107)
        assert [text for _, _, text in await kept.journal(3)] == ["line 5", "line 6", "line 7"]
        assert len(await kept.journal(99)) == 5
        assert await kept.damaged() == [(bytes([6]) * 32, 206), (bytes([7]) * 32, 207)]
        await kept.set_whole(bytes([6]) * 32)
        assert [key for key, _ in await kept.damaged()] == [bytes([7]) * 32]
        assert [bad.date for bad in await kept.bad_encodings()] == [306, 307]
        assert await kept.bad_proof(bytes([7]) * 32) == b"proof"
        assert await kept.scrub() == ScrubRow(specimen.id, 4, 5, 6, 7)
        await store.close()

    bench.run(scenario())
