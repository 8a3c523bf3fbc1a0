"""Rows that lengthen and end leases: what survives a restart, what is bounded, what goes with what."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_cases import (
    BENCHES,
    Bench,
    RealBench,
    Specimen,
    WorldBench,
    lease_over,
    open_bench,
    put,
    sign,
    small_segment,
)

from potsherd.errors import NotFoundError, RefusedError
from potsherd.node.lease_records import Withdrawal
from potsherd.node.records import Lease
from potsherd.node.store import ShardStore, keeping

QUOTA = 64 * 2**20


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A machine of either kind."""
    yield from open_bench(request.param, tmp_path)


def withdrawal(specimen: Specimen, lease: bytes, number: int, *, active: bool = True) -> bytes:
    key = Lease.decode(lease[64:]).withdraw_key
    return sign(Withdrawal(specimen.owner, 0, number, 1000, active, key))


def test_a_dropped_segment_leaves_a_line_and_a_tombstone_that_survive_a_restart(
    bench: Bench,
) -> None:
    specimen = small_segment(random.Random(1))
    lease, paths = lease_over([specimen])

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 4)
        await store.put_lease(lease, paths)
        await store.put_withdrawal(withdrawal(specimen, lease, 1))
        used = store.usage().used
        scope = (specimen.owner, 0)
        assert await store.drop(specimen.id, "withdrawn", "because", scope)
        assert not await store.drop(specimen.id, "withdrawn", "because", scope)
        assert store.usage().used < used
        assert store.usage().shards == 0
        await store.close()
        store = await ShardStore.open(bench.env, QUOTA)
        [line] = await store.dropped()
        assert (line.segment_id, line.index, line.reason) == (specimen.id, 4, "withdrawn")
        assert line.bytes == len(specimen.shards[4])
        assert await store.tombstone(specimen.id) is not None
        await store.sweep(0)
        assert await store.tombstone(specimen.id) is not None
        cancelled = await store.put_withdrawal(withdrawal(specimen, lease, 2, active=False))
        assert not cancelled.active
        assert await store.tombstone(specimen.id) is None
        await store.close()

    bench.run(scenario())


def test_the_highest_withdrawal_wins_and_keeps_when_it_was_first_seen(bench: Bench) -> None:
    specimen, stranger = small_segment(random.Random(2)), small_segment(random.Random(3))
    lease, paths = lease_over([specimen])
    other, _ = lease_over([stranger])

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        with pytest.raises(NotFoundError):
            await store.put_withdrawal(withdrawal(specimen, lease, 1))
        await store.put_lease(lease, paths)
        with pytest.raises(RefusedError):
            await store.put_withdrawal(withdrawal(specimen, other, 1))
        first = await store.put_withdrawal(withdrawal(specimen, lease, 5))
        again = await store.put_withdrawal(withdrawal(specimen, lease, 4, active=False))
        assert again == first
        kept = await store.kept(specimen.id)
        assert kept is not None
        assert kept.leases[0].seen == first.seen
        await store.close()

    bench.run(scenario())


def test_journal_and_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "DROPPED_MAX", 3)
    monkeypatch.setattr(keeping, "TOMBSTONES_MAX", 2)
    rng = random.Random(4)
    specimens = [small_segment(rng) for _ in range(6)]
    bench = WorldBench()

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        for specimen in specimens:
            lease, paths = lease_over([specimen])
            await put(store, specimen, 0)
            await store.put_lease(lease, paths)
            await store.put_withdrawal(withdrawal(specimen, lease, 1))
            await store.drop(specimen.id, "withdrawn", "x" * 1000, (specimen.owner, 0))
        await store.sweep(0)
        lines = await store.dropped()
        assert [line.segment_id for line in lines] == [s.id for s in specimens[:-4:-1]]
        assert all(len(line.detail) == keeping.DETAIL_MAX for line in lines)
        graves = [await store.tombstone(s.id) is not None for s in specimens]
        assert graves == [False] * 4 + [True] * 2
        left = await store._index.read(
            lambda c: c.execute("SELECT count(*) FROM withdrawals").fetchone()[0]
        )
        assert left == 2
        await store.close()

    bench.run(scenario())
    bench.close()


def test_an_index_from_before_gets_the_tables(tmp_path: Path) -> None:
    bench = RealBench(tmp_path)
    specimen = small_segment(random.Random(5))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        await store.close()
        database = sqlite3.connect(next(tmp_path.rglob("index.sqlite")))
        for table in ("dropped", "extensions", "withdrawals", "tombstones", "replaced"):
            database.execute(f"DROP TABLE {table}")
        database.execute("DROP TABLE uncovered")
        database.commit()
        database.close()
        store = await ShardStore.open(bench.env, QUOTA)
        assert await store.dropped() == []
        assert await store.drop(specimen.id, "expired", "")
        await store.close()

    bench.run(scenario())
    bench.close()


def test_a_list_without_the_segment_uncovers_it_from_now_on(bench: Bench) -> None:
    rng = random.Random(6)
    both = [small_segment(rng), small_segment(rng)]
    same_owner = replace(both[1].descriptor, owner_key=both[0].owner)
    second = Specimen(same_owner, both[1].shards)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        for specimen in (both[0], second):
            await put(store, specimen, 0)
        await store.put_lease(*lease_over([both[0], second]))
        await store.put_lease(*lease_over([second], sequence=2))
        left, covered = await store.kept(both[0].id), await store.kept(second.id)
        assert left is not None and covered is not None
        assert left.leases == ()
        assert left.unleased_until >= bench.env.utc() - 60
        assert len(covered.leases) == 1
        await store.close()

    bench.run(scenario())
