"""What a store keeps, gives back and refuses; on virtual and on real disks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from store_cases import (
    BENCHES,
    DATE,
    ME,
    MEMBER,
    Bench,
    Specimen,
    check_readable,
    commit,
    large_segment,
    open_bench,
    push,
    put,
    sign,
    small_segment,
)

from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import (
    IntegrityError,
    LimitError,
    MalformedError,
    NotFoundError,
    QuotaError,
    RefusedError,
    StorageError,
)
from potsherd.node.records import PAYLOAD_MAX, ProvisionalLease, RosterEntry
from potsherd.node.store import ShardStore, StoreConfig

QUOTA = 64 * 2**20


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A machine of either kind."""
    yield from open_bench(request.param, tmp_path)


def test_shards_of_all_sizes_read_back_with_proofs_and_survive_a_restart(bench: Bench) -> None:
    rng = random.Random(1)
    cases = [
        small_segment(rng, length=0),
        small_segment(rng, length=6144),
        small_segment(rng, k=1, n=2, length=CELL_SIZE - 1),
        large_segment(rng, rows=1),
        large_segment(rng, rows=2),
        large_segment(rng, rows=3),
        large_segment(rng, rows=33),
    ]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        for specimen in cases:
            await put(store, specimen, 1)
        for _ in range(2):
            for specimen in cases:
                await check_readable(store, specimen, 1)
                held = await store.held(specimen.id)
                assert held is not None and held.descriptor == specimen.descriptor
            await store.close()
            store = await ShardStore.open(bench.env, QUOTA)
        assert store.recovery.lost == () and store.recovery.orphans_removed == 0
        assert [h.segment_id for h in await store.segments()] == sorted(s.id for s in cases)
        await store.close()

    bench.run(scenario())


def test_small_shards_live_in_the_index_and_large_ones_in_files(bench: Bench) -> None:
    rng = random.Random(2)
    below, above = large_segment(rng, rows=1), large_segment(rng, rows=2)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, below, 0)
        await put(store, below, 0, size_max=2**20)
        assert list(bench.env.disk.walk("shards")) == []
        assert list(bench.env.disk.walk("staging")) == []
        await put(store, above, 0)
        ((path, size, _),) = bench.env.disk.walk("shards")
        assert path == f"shards/{above.id.hex()[:2]}/{above.id.hex()}"
        assert size == 2 * CELL_SIZE + 2 * 32
        assert bench.env.disk.read(path, 2 * CELL_SIZE, 64) == above.leaves(0)
        await store.close()

    bench.run(scenario())


def test_a_small_shard_pushed_with_a_large_ticket_ends_in_the_index(bench: Bench) -> None:
    specimen = small_segment(random.Random(3))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 2, size_max=2**20)
        await check_readable(store, specimen, 2)
        assert [*bench.env.disk.walk("shards"), *bench.env.disk.walk("staging")] == []
        assert store.usage().staged == 0
        await store.close()

    bench.run(scenario())


def test_runs_are_answered_in_order_and_checked(bench: Bench) -> None:
    specimen = large_segment(random.Random(4), rows=9)
    cell, shard = CELL_SIZE, specimen.shards[0]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        data, proofs = await store.read(specimen.id, 0, [(7, 2), (0, 1), (8, 1)])
        assert data == shard[7 * cell :] + shard[:cell] + shard[8 * cell :] and len(proofs) == 3
        for runs in ([(9, 1)], [(8, 2)], [(0, 0)], [(-1, 1)]):
            with pytest.raises(RefusedError):
                await store.read(specimen.id, 0, runs)
        with pytest.raises(LimitError):
            await store.read(specimen.id, 0, [(0, 9)] * (PAYLOAD_MAX // (9 * cell) + 1))
        with pytest.raises(NotFoundError):
            await store.read(specimen.id, 1, [(0, 1)])
        with pytest.raises(NotFoundError):
            await store.read(b"?" * 32, 0, [(0, 1)])
        await store.close()

    bench.run(scenario())


@pytest.mark.parametrize("rows", [1, 40])
def test_an_open_stage_is_resumed_where_it_was(bench: Bench, rows: int) -> None:
    specimen = large_segment(random.Random(5), rows=rows)
    shard, ticket = specimen.shards[0], specimen.ticket()

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        first = await store.stage(ticket, 0, MEMBER)
        assert (first.size, first.digest) == (0, blake2b(digest_size=32).digest())
        await store.append(first.stage, 0, shard[:20_000])
        again = await store.stage(ticket, 0, b"another member".ljust(32))
        assert (again.stage, again.size) == (first.stage, 20_000)
        assert again.digest == blake2b(shard[:20_000], digest_size=32).digest()
        other = await store.stage(ticket, 1, MEMBER)
        assert other.stage != first.stage and other.size == 0
        await store.append(again.stage, 20_000, memoryview(bytearray(shard[20_000:])))
        await commit(store, specimen, 0, again.stage)
        await check_readable(store, specimen, 0)
        await store.close()

    bench.run(scenario())


def test_bytes_that_do_not_continue_a_stage_are_refused(bench: Bench) -> None:
    specimen = large_segment(random.Random(6), rows=2)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        number = (await store.stage(specimen.ticket(), 0, MEMBER)).stage
        with pytest.raises(RefusedError):
            await store.append(number, 1, b"gap")
        await store.append(number, 0, b"x" * CELL_SIZE * 2)
        with pytest.raises(RefusedError):
            await store.append(number, 2 * CELL_SIZE, b"more than the ticket allows")
        with pytest.raises(IntegrityError):
            await commit(store, specimen, 0, number)
        for call in (store.append(number, 0, b""), store.abort(number)):
            with pytest.raises(NotFoundError):
                await call
        assert list(bench.env.disk.walk("")) == [] and store.usage().staged == 0
        await store.close()

    bench.run(scenario())


def test_a_commit_whose_parts_do_not_fit_is_refused_and_may_be_repeated(bench: Bench) -> None:
    rng = random.Random(7)
    specimen, other = large_segment(rng, rows=2), large_segment(rng, rows=2)
    encoding, lease = specimen.descriptor.encode(), specimen.provisional()
    entry = specimen.entry(0)
    foreign_lease = sign(ProvisionalLease(other.owner, specimen.id, DATE))
    released = sign(RosterEntry(specimen.id, 0, ME, 1, False))
    cases = [
        (other.descriptor.encode(), lease, entry, RefusedError),
        (encoding, other.provisional(), entry, RefusedError),
        (encoding, foreign_lease, entry, RefusedError),
        (encoding, lease, specimen.entry(1), RefusedError),
        (encoding, lease, released, RefusedError),
        (encoding, lease, other.entry(0), RefusedError),
        (encoding + b"\0", lease, entry, MalformedError),
        (encoding, lease[:-1], entry, MalformedError),
        (encoding, lease, b"", MalformedError),
    ]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        number = await push(store, specimen, 0)
        for *arguments, error in cases:
            with pytest.raises(error):
                await store.commit(number, *arguments)
        assert await store.held(specimen.id) is None
        await store.commit(number, encoding, lease, entry)
        await check_readable(store, specimen, 0)
        await store.close()

    bench.run(scenario())


def test_a_short_stage_is_not_committed(bench: Bench) -> None:
    specimen = large_segment(random.Random(8), rows=2)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        number = (await store.stage(specimen.ticket(), 0, MEMBER)).stage
        await store.append(number, 0, specimen.shards[0][:-1])
        with pytest.raises(RefusedError):
            await commit(store, specimen, 0, number)
        await store.append(number, 2 * CELL_SIZE - 1, specimen.shards[0][-1:])
        await commit(store, specimen, 0, number)
        await store.close()

    bench.run(scenario())


@pytest.mark.parametrize("rows", [1, 2])
def test_a_node_keeps_one_index_of_a_segment(bench: Bench, rows: int) -> None:
    specimen = large_segment(random.Random(9), rows=rows)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        stages = [await push(store, specimen, index) for index in range(3)]
        outcomes = await asyncio.gather(
            *(commit(store, specimen, index, stage) for index, stage in enumerate(stages)),
            return_exceptions=True,
        )
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, RefusedError) for outcome in outcomes) == 2
        kept = outcomes.index(None)
        await check_readable(store, specimen, kept)
        with pytest.raises(RefusedError):
            await put(store, specimen, (kept + 1) % 3)
        await put(store, specimen, kept)  # its acknowledgement may have been lost
        await check_readable(store, specimen, kept)
        assert store.usage().shards == 1
        await store.close()

    bench.run(scenario())


def test_a_released_segment_may_come_back_under_another_index(bench: Bench) -> None:
    specimen = large_segment(random.Random(25), rows=5)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        empty = store.usage()
        for index in (0, 2, 1):
            await put(store, specimen, index)
            await check_readable(store, specimen, index)
            await store.release(specimen.id)
            with pytest.raises(NotFoundError):
                await store.read(specimen.id, index, [(0, 1)])
            assert await store.held(specimen.id) is None
        assert list(bench.env.disk.walk("")) == []
        assert (store.usage().used, store.usage().shards) == (empty.used, 0)
        await store.close()

    bench.run(scenario())


def test_a_reservation_is_committed_before_the_first_byte_and_struck_off_at_the_end(
    bench: Bench,
) -> None:
    specimen = large_segment(random.Random(26), rows=5)

    async def reservations(store: ShardStore) -> list[tuple[int, bytes]]:
        return await store._index.read(
            lambda c: c.execute("SELECT reserved, member FROM stages").fetchall()
        )

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        state = await store.stage(specimen.ticket(), 0, MEMBER)
        ((reserved, member),) = await reservations(store)
        assert reserved == store.usage().staged > 5 * CELL_SIZE and member == MEMBER
        ((_, size, allocated),) = bench.env.disk.walk("staging")
        assert 5 * CELL_SIZE <= size <= allocated < reserved
        await store.append(state.stage, 0, specimen.shards[0])
        await commit(store, specimen, 0, state.stage)
        assert await reservations(store) == [] and store.usage().staged == 0
        await store.abort((await store.stage(specimen.ticket(), 1, MEMBER)).stage)
        assert await reservations(store) == [] and store.usage().staged == 0
        await store.close()

    bench.run(scenario())


def test_idle_stages_are_swept_and_busy_ones_are_not(bench: Bench) -> None:
    rng = random.Random(20)
    idle, busy = large_segment(rng, rows=2), small_segment(rng)
    config = StoreConfig(staging_idle_s=100.0)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA, config)
        empty = store.usage()
        stages = [(await store.stage(s.ticket(), 0, MEMBER)).stage for s in (idle, busy)]
        start = bench.env.monotonic()
        assert await store.sweep(start + 99) == 0
        assert await store.sweep(start + 200) == 2
        assert store.usage() == empty and list(bench.env.disk.walk("")) == []
        for number in stages:
            with pytest.raises(NotFoundError):
                await store.append(number, 0, b"x")
        await store.close()

    bench.run(scenario())


def test_stages_are_charged_to_members_and_bounded(bench: Bench) -> None:
    rng = random.Random(21)
    config = StoreConfig(
        stages_max=5,
        stages_member_max=3,
        staging_member_bytes_max=2**20,
        staging_bytes_max=2**21,
    )
    other = b"o" * 32

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA, config)
        with pytest.raises(QuotaError):
            await store.stage(small_segment(rng).ticket(2**20), 0, MEMBER)
        for _ in range(3):
            last = await store.stage(small_segment(rng).ticket(), 0, MEMBER)
        with pytest.raises(QuotaError):
            await store.stage(small_segment(rng).ticket(), 0, MEMBER)
        for _ in range(2):
            await store.stage(small_segment(rng).ticket(), 0, other)
        with pytest.raises(QuotaError):
            await store.stage(small_segment(rng).ticket(), 0, b"third".ljust(32))
        await store.abort(last.stage)
        await store.stage(small_segment(rng).ticket(), 0, MEMBER)
        await store.close()

    bench.run(scenario())


@pytest.mark.parametrize("small", [True, False])
def test_what_one_member_keeps_is_bounded_by_its_share(bench: Bench, small: bool) -> None:
    """Committed or under way, before and after a restart; what holders bring counts for nobody."""
    rng = random.Random(31)
    config = StoreConfig(member_share=0.25)
    other = b"o" * 32
    quota = 16 * 2**20 if small else QUOTA

    def make() -> Specimen:
        return small_segment(rng) if small else large_segment(rng, rows=4)

    async def fill(store: ShardStore) -> list[Specimen]:
        done: list[Specimen] = []
        while True:
            specimen = make()
            try:
                stage = await push(store, specimen, 0)
            except QuotaError as error:
                assert "one member may" in error.message
                return done
            await commit(store, specimen, 0, stage)
            done.append(specimen)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, quota, config)
        empty = store.usage().used
        done = await fill(store)
        used = store.usage().used - empty
        assert 0.1 * quota < used <= 0.25 * quota
        await store.close()
        store = await ShardStore.open(bench.env, quota, config)
        with pytest.raises(QuotaError):
            await store.stage(make().ticket(), 0, MEMBER)
        await store.stage(make().ticket(), 0, other)
        await store.stage(make().ticket(), 0, MEMBER, by_holder=True)
        for specimen in done[:2]:
            await store.release(specimen.descriptor.segment_id)
        assert 1 <= len(await fill(store)) <= 2
        await store.close()

    bench.run(scenario())


def test_a_full_memory_makes_small_stages_files(bench: Bench) -> None:
    rng = random.Random(22)
    specimens = [large_segment(rng, rows=1) for _ in range(3)]
    config = StoreConfig(staging_memory_max=40_000)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA, config)
        stages = [await push(store, specimen, 0) for specimen in specimens]
        assert len(list(bench.env.disk.walk("staging"))) == 2
        for specimen, stage in zip(specimens, stages, strict=True):
            await commit(store, specimen, 0, stage)
            await check_readable(store, specimen, 0)
        assert list(bench.env.disk.walk("")) == []
        await store.close()

    bench.run(scenario())


def test_a_closed_store_answers_with_a_typed_error(bench: Bench) -> None:
    specimen = small_segment(random.Random(23))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        await store.close()
        for call in (
            store.stage(specimen.ticket(), 0, MEMBER),
            store.roster(specimen.id),
            store.release(specimen.id),
        ):
            with pytest.raises(StorageError):
                await call

    bench.run(scenario())


def test_a_cancelled_caller_leaves_no_half_step(bench: Bench) -> None:
    """The connection breaks while the node commits: the commit ends, the stage is not stuck."""
    rng = random.Random(24)
    specimens = [large_segment(rng, rows=2) for _ in range(4)]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        stages = [await push(store, specimen, 0) for specimen in specimens]
        calls = [
            asyncio.ensure_future(commit(store, specimen, 0, stage))
            for specimen, stage in zip(specimens, stages, strict=True)
        ]
        await asyncio.sleep(1e-5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await store.close()
        store = await ShardStore.open(bench.env, QUOTA)
        assert store.recovery.orphans_removed == 0 and store.recovery.stages_discarded == 0
        for specimen in specimens:
            await check_readable(store, specimen, 0)
        await store.close()

    bench.run(scenario())
