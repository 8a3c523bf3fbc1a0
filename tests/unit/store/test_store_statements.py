"""Rosters, leases and heads: what wins, what is bounded, what goes with its segment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_cases import (
    BENCHES,
    DATE,
    ME,
    Bench,
    head_of,
    lease_over,
    open_bench,
    put,
    small_segment,
)

from potsherd.errors import (
    LimitError,
    MalformedError,
    NotFoundError,
)
from potsherd.node.records import LeasePath
from potsherd.node.store import ShardStore

QUOTA = 64 * 2**20


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A machine of either kind."""
    yield from open_bench(request.param, tmp_path)


def test_rosters_keep_the_highest_counter_of_each_node(bench: Bench) -> None:
    specimen = small_segment(random.Random(10))
    nodes = [bytes([i]) * 32 for i in range(3)]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        new = [specimen.entry(i + 1, node, counter=5) for i, node in enumerate(nodes)]
        assert await store.merge_roster(specimen.id, new) == 3
        assert await store.merge_roster(specimen.id, new) == 0
        older = specimen.entry(1, nodes[0], counter=4, held=False)
        newer = specimen.entry(7, nodes[1], counter=2**32 - 1, held=False)
        assert await store.merge_roster(specimen.id, [older, newer]) == 1
        expected = [specimen.entry(0), new[0], new[2], newer]
        assert await store.roster(specimen.id) == expected
        assert await store.roster_nodes() == sorted([nodes[0], nodes[2], ME])
        with pytest.raises(NotFoundError):
            await store.merge_roster(b"?" * 32, [])
        with pytest.raises(MalformedError):
            await store.merge_roster(specimen.id, [small_segment(random.Random(0)).entry(0)])
        await store.release(specimen.id)
        assert await store.roster_nodes() == [] and await store.roster(specimen.id) == []
        await store.close()

    bench.run(scenario())


def test_equal_counters_end_the_same_whatever_comes_first(bench: Bench) -> None:
    """Rosters are compared by digest: holders that heard the same must keep the same."""
    specimen = small_segment(random.Random(11))
    liar = [specimen.entry(i, b"l" * 32, counter=3, held=bool(i % 2)) for i in range(1, 4)]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        seen = []
        for order in (liar, liar[::-1], [liar[1], liar[0], liar[2]]):
            await put(store, specimen, 0)
            for entry in order:
                await store.merge_roster(specimen.id, [entry])
            seen.append(await store.roster(specimen.id))
            await store.release(specimen.id)
        assert seen[0] == seen[1] == seen[2]
        await store.close()

    bench.run(scenario())


def test_a_roster_is_bounded(bench: Bench) -> None:
    specimen = small_segment(random.Random(12))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        crowd = [specimen.entry(1, i.to_bytes(32, "big")) for i in range(600)]
        assert await store.merge_roster(specimen.id, crowd) == 511
        assert await store.merge_roster(specimen.id, [specimen.entry(2, bytes(32), 2)]) == 1
        assert len(await store.roster(specimen.id)) == 512
        await store.close()

    bench.run(scenario())


def test_a_lease_replaces_provisional_ones_and_the_highest_sequence_wins(bench: Bench) -> None:
    rng = random.Random(13)
    archive = [small_segment(rng) for _ in range(5)]
    held, absent = archive[:4], archive[4]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        for specimen in held:
            await put(store, specimen, 0)
            assert await store.provisional_lease(specimen.id) == specimen.provisional()
        second, paths = lease_over(archive, sequence=2)
        await store.put_lease(second, paths[:2])
        assert await store.leases(held[0].id) == [(second, paths[0])]
        assert await store.provisional_lease(held[0].id) is None
        assert await store.provisional_lease(held[2].id) is not None
        first, _ = lease_over(archive, sequence=1)
        await store.put_lease(first, paths[2:3])  # older, of the same list: its path still holds
        assert await store.leases(held[2].id) == [(second, paths[2])]
        third, _ = lease_over(archive, sequence=3, until=DATE)
        await store.put_lease(third, paths[3:])
        for specimen, path in zip(held, paths[:4], strict=True):
            assert await store.leases(specimen.id) == [(third, path)]
        assert await store.leases(absent.id) == []
        await store.release(held[0].id)
        assert await store.leases(held[1].id) == [(third, paths[1])]
        await store.close()

    bench.run(scenario())


def test_a_lease_over_another_list_uncovers_what_it_leaves_out(bench: Bench) -> None:
    rng = random.Random(14)
    one, two = small_segment(rng), small_segment(rng)
    two = replace(two, descriptor=replace(two.descriptor, owner_key=one.owner))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        for specimen in (one, two):
            await put(store, specimen, 0)
        wide, paths = lease_over([one, two])
        await store.put_lease(wide, paths)
        narrow, narrow_paths = lease_over([one], sequence=2)
        await store.put_lease(narrow, narrow_paths)
        assert await store.leases(one.id) == [(narrow, narrow_paths[0])]
        assert await store.leases(two.id) == []
        await store.put_lease(wide, paths)
        forked, forked_paths = lease_over([two, one], sequence=2)
        await store.put_lease(forked, forked_paths)  # the same sequence once more: the first stays
        assert await store.leases(two.id) == []
        other_archive, other_paths = lease_over([one, two], archive=1)
        await store.put_lease(other_archive, other_paths)
        assert len(await store.leases(one.id)) == 2
        await store.close()

    bench.run(scenario())


def test_leases_of_a_segment_are_bounded(bench: Bench) -> None:
    specimen = small_segment(random.Random(15))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        for archive in range(64):
            await store.put_lease(*lease_over([specimen], archive=archive))
        with pytest.raises(LimitError):
            await store.put_lease(*lease_over([specimen], archive=64))
        assert len(await store.leases(specimen.id)) == 64
        await store.put_lease(*lease_over([specimen], archive=7, sequence=2))
        await store.close()

    bench.run(scenario())


def test_a_lease_for_segments_that_are_not_here_leaves_nothing(bench: Bench) -> None:
    specimen = small_segment(random.Random(16))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await store.put_lease(*lease_over([specimen]))
        await put(store, specimen, 0)
        assert await store.leases(specimen.id) == []
        with pytest.raises(MalformedError):
            await store.put_lease(b"garbage", [LeasePath(specimen.id, 0, ())])
        await store.close()

    bench.run(scenario())


def test_heads_are_kept_beside_a_segment_as_long_as_it_is_held(bench: Bench) -> None:
    rng = random.Random(17)
    one, two = small_segment(rng), small_segment(rng)
    dataset, genesis, head = head_of(one.owner)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        with pytest.raises(NotFoundError):
            await store.put_head(one.id, genesis, head)
        for specimen in (one, two):
            await put(store, specimen, 0)
            await store.put_head(specimen.id, genesis, head)
        assert await store.heads(dataset) == (genesis, [head])
        assert await store.datasets() in ([(dataset, one.id)], [(dataset, two.id)])
        await store.release(one.id)
        assert await store.heads(dataset) == (genesis, [head])
        assert await store.datasets() == [(dataset, two.id)]
        await store.release(two.id)
        assert await store.heads(dataset) == (b"", []) and await store.datasets() == []
        await store.close()

    bench.run(scenario())


def test_the_four_highest_heads_stay_and_two_of_a_number_prove_a_fork(bench: Bench) -> None:
    specimen = small_segment(random.Random(18))
    dataset, genesis, _ = head_of(specimen.owner)

    def numbered(number: int, salt: bytes = b"") -> bytes:
        return head_of(specimen.owner, number, salt)[2]

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        for number in (3, 1, 2, 5, 4, 5):
            await store.put_head(specimen.id, genesis, numbered(number))
        for salt in (b"fork", b"third"):
            await store.put_head(specimen.id, genesis, numbered(4, salt))
        await store.put_head(specimen.id, genesis, numbered(1))
        expected = [numbered(5), numbered(4), numbered(4, b"fork"), numbered(3), numbered(2)]
        assert await store.heads(dataset) == (genesis, expected)
        await store.close()

    bench.run(scenario())


def test_heads_of_many_datasets_at_one_segment_are_refused(bench: Bench) -> None:
    specimen = small_segment(random.Random(19))

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA)
        await put(store, specimen, 0)
        for i in range(4):
            await store.put_head(specimen.id, *head_of(bytes([i]) * 32)[1:])
        with pytest.raises(LimitError):
            await store.put_head(specimen.id, *head_of(b"five" * 8)[1:])
        assert len(await store.datasets()) == 4
        first = (await store.datasets(limit=1))[0]
        assert len(await store.datasets(after=first[0])) == 3
        await store.close()

    bench.run(scenario())
