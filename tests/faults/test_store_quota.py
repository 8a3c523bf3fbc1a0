"""Promise 4: a quota is a quota. The disk is measured before and after each call and SQL statement."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from store_cases import (
    MEMBER,
    Bench,
    MeasuringDisk,
    Specimen,
    check_readable,
    commit,
    head_of,
    large_segment,
    lease_over,
    open_bench,
    push,
    small_segment,
    with_disk,
)

from potsherd.errors import NotFoundError, QuotaError, StorageError
from potsherd.node.store import ShardStore, StoreConfig
from potsherd.ports import Env

QUOTA = 8 * 2**20
CONFIG = StoreConfig()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A real folder."""
    yield from open_bench("real", tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> MeasuringDisk:
    """The same folder, measured."""
    return MeasuringDisk(tmp_path / "store")


@dataclass
class Crowd:
    """Random use of a store by one greedy person; checks the promise after each step."""

    env: Env
    disk: MeasuringDisk
    store: ShardStore
    rng: random.Random
    held: list[Specimen] = field(default_factory=list)
    stages: list[tuple[Specimen, int]] = field(default_factory=list)
    refused: int = 0

    def check(self) -> None:
        usage = self.store.usage()
        assert self.disk.measure() <= usage.used <= usage.quota
        assert self.disk.peak <= QUOTA
        assert self.disk.log_peak <= CONFIG.wal_bytes_max

    def specimen(self) -> Specimen:
        if self.rng.random() < 0.6:
            return small_segment(self.rng, k=1, n=2, length=self.rng.randrange(32_000))
        return large_segment(self.rng, rows=self.rng.choice((1, 2, 5, 20)), k=1, n=2)

    async def open_stage(self) -> None:
        specimen = self.specimen()
        size_max = specimen.descriptor.geometry.shard_size * self.rng.choice((1, 1, 3))
        self.stages.append((specimen, await push(self.store, specimen, 0, size_max=size_max)))

    async def finish(self) -> None:
        if self.stages:
            specimen, stage = self.stages.pop(self.rng.randrange(len(self.stages)))
            await commit(self.store, specimen, 0, stage)
            self.held.append(specimen)

    async def give_up(self) -> None:
        if self.stages:
            await self.store.abort(self.stages.pop()[1])

    async def talk(self) -> None:
        if self.held:
            specimen = self.rng.choice(self.held)
            nodes = [self.rng.randbytes(32) for _ in range(self.rng.choice((3, 60)))]
            await self.store.merge_roster(specimen.id, [specimen.entry(1, n) for n in nodes])
            await self.store.put_lease(*lease_over([specimen]))
            await self.store.put_head(specimen.id, *head_of(specimen.owner)[1:])

    async def release(self) -> None:
        if self.held:
            await self.store.release(self.held.pop(self.rng.randrange(len(self.held))).id)

    async def sweep(self) -> None:
        await self.store.sweep(self.env.monotonic())

    async def reopen(self) -> None:
        before = self.store.usage()
        await self.store.close()
        self.stages.clear()
        self.store = await ShardStore.open(self.env, QUOTA, CONFIG)
        after = self.store.usage()
        assert after.staged == 0 and after.shards == before.shards
        assert after.used <= before.used
        assert self.store.recovery.moved_bytes == 0

    async def step(self) -> None:
        steps = {
            self.open_stage: 10,
            self.finish: 9,
            self.give_up: 1,
            self.talk: 6,
            self.release: 0.5,
            self.sweep: 1,
            self.reopen: 0.3,
        }
        choice = self.rng.choices(list(steps), list(steps.values()))[0]
        try:
            await choice()
        except QuotaError:
            self.refused += 1
            if self.rng.random() < 0.3:
                await self.release()
        self.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 8))]
)
def test_the_disk_never_carries_more_than_the_quota(
    bench: Bench, disk: MeasuringDisk, seed: int
) -> None:
    env = with_disk(bench.env, disk)

    async def scenario() -> None:
        store = await ShardStore.open(env, QUOTA, CONFIG)
        crowd = Crowd(env, disk, store, random.Random(seed))
        for _ in range(150):
            await crowd.step()
        assert crowd.refused >= 1 and len(crowd.held) > 10  # the quota was met, and used
        assert disk.peak > QUOTA // 4
        for specimen in crowd.held:
            await check_readable(crowd.store, specimen, 0)
        await crowd.store.close()

    bench.run(scenario())


def test_many_at_once_do_not_share_one_gap(bench: Bench, disk: MeasuringDisk) -> None:
    """Ten pushes that would each fit alone: the reservation comes before the first byte."""
    rng = random.Random(4)
    env = with_disk(bench.env, disk)
    specimens = [large_segment(rng, rows=5, k=1, n=1) for _ in range(10)]

    async def scenario() -> None:
        store = await ShardStore.open(env, QUOTA, CONFIG)
        outcomes = await asyncio.gather(
            *(store.stage(specimen.ticket(2**19), 0, MEMBER) for specimen in specimens),
            return_exceptions=True,
        )
        admitted = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert 1 <= len(admitted) <= 4 and disk.peak <= QUOTA
        assert {type(o) for o in outcomes if isinstance(o, BaseException)} == {QuotaError}
        assert disk.measure() >= len(admitted) * 2**19  # real blocks, not promises
        await store.close()

    bench.run(scenario())


def test_a_smaller_quota_stops_intake_and_keeps_what_is_there(
    bench: Bench, disk: MeasuringDisk
) -> None:
    rng = random.Random(5)
    one, two = large_segment(rng, rows=20, k=1, n=1), small_segment(rng)

    async def scenario() -> None:
        store = await ShardStore.open(bench.env, QUOTA, CONFIG)
        await commit(store, one, 0, await push(store, one, 0))
        await store.set_quota(store.usage().used - 1)
        assert store.usage().free == 0
        with pytest.raises(QuotaError):
            await push(store, two, 0)
        await check_readable(store, one, 0)
        await store.merge_roster(one.id, [one.entry(0, b"n" * 32)])
        await store.set_quota(QUOTA)
        await commit(store, two, 0, await push(store, two, 0))
        await store.close()
        tiny = await ShardStore.open(bench.env, 1000, CONFIG)
        await check_readable(tiny, one, 0)
        await tiny.close()

    bench.run(scenario())


def test_room_that_is_released_can_be_used_again(bench: Bench, disk: MeasuringDisk) -> None:
    """Small shards leave free pages in the database; the sweep gives them back to the file system."""
    rng = random.Random(6)
    env = with_disk(bench.env, disk)
    smalls = [large_segment(rng, rows=1, k=1, n=1) for _ in range(50)]
    large = large_segment(rng, rows=60, k=1, n=1)

    async def scenario() -> None:
        store = await ShardStore.open(env, QUOTA, CONFIG)
        empty = store.usage().used
        for specimen in smalls:
            await commit(store, specimen, 0, await push(store, specimen, 0))
        with pytest.raises(QuotaError):
            await push(store, large, 0)
        for specimen in smalls:
            await store.release(specimen.id)
        for _ in range(5):
            await store.sweep(env.monotonic())
        assert store.usage().used < empty + 2**20
        await commit(store, large, 0, await push(store, large, 0))
        await check_readable(store, large, 0)
        assert disk.peak <= QUOTA
        await store.close()

    bench.run(scenario())


def test_a_file_that_cannot_be_removed_stays_charged_until_it_is(
    bench: Bench, tmp_path: Path
) -> None:
    class Stubborn(MeasuringDisk):
        stuck = False

        def remove(self, path: str) -> None:
            if self.stuck:
                raise StorageError("input/output error")
            super().remove(path)

    rng = random.Random(7)
    disk = Stubborn(tmp_path / "store")
    env = with_disk(bench.env, disk)
    specimen = large_segment(rng, rows=20, k=1, n=1)

    async def scenario() -> None:
        store = await ShardStore.open(env, QUOTA, CONFIG)
        empty = store.usage().used
        await commit(store, specimen, 0, await push(store, specimen, 0))
        stage = await push(store, large := large_segment(rng, rows=10, k=1, n=1), 0)
        disk.stuck = True
        await store.release(specimen.id)
        await store.abort(stage)
        again, again_stage = specimen, await push(store, specimen, 0)
        assert disk.measure() <= store.usage().used and store.usage().used > empty + 900_000
        with pytest.raises(NotFoundError):
            await store.read(specimen.id, 0, [(0, 1)])
        await commit(store, again, 0, again_stage)  # the very segment comes back meanwhile
        disk.stuck = False
        await store.sweep(env.monotonic())
        await check_readable(store, again, 0)
        await store.release(again.id)
        assert store.usage().used < empty + 200_000 and list(disk.walk("")) == []
        await commit(store, large, 0, await push(store, large, 0))
        await store.close()

    bench.run(scenario())
