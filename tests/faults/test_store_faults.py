"""Each disk call fails once; the power goes at each disk call. Nothing acknowledged is missing (promise 6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from store_cases import (
    MEMBER,
    Specimen,
    check_readable,
    commit,
    large_segment,
    push,
    put,
    small_segment,
)

from potsherd.errors import PotsherdError, StorageError
from potsherd.node.store import ShardStore
from potsherd.simulations.world import World

QUOTA = 64 * 2**20
CALLS_MAX = 100
"""More disk calls than the scenario makes."""


def material() -> list[Specimen]:
    rng = random.Random(3)
    return [large_segment(rng, rows=3), small_segment(rng), large_segment(rng, rows=2)]


class Trouble:
    """Something happens at the n-th disk call of a kind of call."""

    def __init__(self, at: int, action: Any) -> None:
        self.left = at
        self.action = action
        self.happened = False

    def __call__(self, operation: str, path: str) -> Exception | None:
        self.left -= 1
        if self.left != 0:
            return None
        self.happened = True
        error = self.action()
        return error if isinstance(error, Exception) else None


def on_machine(world: World, work: Coroutine[Any, Any, Any]) -> Any:
    task = world.spawn("a", work)

    async def finished() -> Any:
        return await task

    return world.run(finished(), time_max_s=1000)


async def use(store: ShardStore, specimens: list[Specimen], acknowledged: list[Specimen]) -> None:
    """Put all and release the last; what succeeds is written down, what fails is given up."""
    for specimen in specimens:
        try:
            await put(store, specimen, 1, size_max=150_000)
        except PotsherdError:
            continue
        acknowledged.append(specimen)
    if specimens[-1] in acknowledged:
        acknowledged.remove(specimens[-1])
        await store.release(specimens[-1].id)


async def check(store: ShardStore, acknowledged: list[Specimen], specimens: list[Specimen]) -> None:
    for specimen in specimens:
        if specimen in acknowledged:
            await check_readable(store, specimen, 1)
        elif await store.held(specimen.id) is not None:
            await check_readable(store, specimen, 1)  # served, so it must be whole


def numbers() -> Iterator[int]:
    """1, 2, 3 … until the trouble comes too late to happen; the test stops it."""
    yield from range(1, CALLS_MAX)


def test_each_disk_call_fails_once_and_the_store_goes_on() -> None:
    specimens = material()
    for number in numbers():
        with World(number) as world:
            acknowledged: list[Specimen] = []
            store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
            trouble = Trouble(number, lambda: StorageError("input/output error"))
            world.disk("a").fault = trouble
            on_machine(world, use(store, specimens, acknowledged))
            world.disk("a").fault = None
            assert len(acknowledged) >= 1
            on_machine(world, check(store, acknowledged, specimens))
            on_machine(world, store.sweep(1e9))
            files = list(world.env("a").disk.walk(""))
            assert len(files) == (specimens[0] in acknowledged)
            assert store.usage().staged == 0
            assert store._ledger.files == sum(size + 512 for _, _, size in files)
            on_machine(world, put(store, specimens[2], 0))  # and takes in more
            on_machine(world, store.close())
        if not trouble.happened:
            assert number > 15
            return
    raise AssertionError("the scenario makes more calls than were tried")


@pytest.mark.parametrize("power_cut", [True, False])
def test_the_machine_stops_at_each_disk_call(power_cut: bool) -> None:
    specimens = material()
    for number in numbers():
        with World(number) as world:
            acknowledged: list[Specimen] = []
            store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
            trouble = Trouble(number, lambda: world.crash("a") if power_cut else world.kill("a"))
            world.disk("a").fault = trouble
            world.spawn("a", use(store, specimens, acknowledged))
            world.run(pause())
            world.disk("a").fault = None
            if world.running("a"):
                world.crash("a")
            world.restart("a")
            store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
            assert store.recovery.lost == ()
            on_machine(world, check(store, acknowledged, specimens))
            assert list(world.env("a").disk.walk("staging")) == []
            on_machine(world, store.close())
        if not trouble.happened:
            assert number > 15
            return
    raise AssertionError("the scenario makes more calls than were tried")


async def pause() -> None:
    await asyncio.sleep(10)


def test_a_file_that_the_disk_has_lost_is_reported_and_not_served() -> None:
    specimens = material()
    with World(1) as world:
        store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
        for specimen in specimens:
            on_machine(world, put(store, specimen, 1))
        on_machine(world, store.close())
        disk = world.env("a").disk
        (first, _, _), (second, size, _) = disk.walk("shards")
        disk.remove(first)
        disk.truncate(second, size - 1)
        disk.create("shards/ab/notes.txt", 10)
        store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
        assert set(store.recovery.lost) == {specimens[0].id, specimens[2].id}
        assert store.recovery.foreign == ("shards/ab/notes.txt",)
        assert [h.segment_id for h in on_machine(world, store.segments())] == [specimens[1].id]
        assert [path for path, _, _ in disk.walk("")] == ["shards/ab/notes.txt"]
        assert store._ledger.files == 4096 + 512  # not ours, but it takes room
        for specimen in (specimens[0], specimens[2]):
            on_machine(world, put(store, specimen, 0))  # repaired
        on_machine(world, store.close())


def test_a_full_disk_refuses_at_the_stage_and_leaves_nothing() -> None:
    """The room is taken when the push begins: nobody sends a gigabyte to learn that it does not fit."""
    specimen = material()[0]
    with World(1) as world:
        world.env("a", capacity_bytes=100_000)
        store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
        used = store.usage().used
        with pytest.raises(StorageError):
            on_machine(world, store.stage(specimen.ticket(2**20), 1, MEMBER))
        assert store.usage().used == used and list(world.env("a").disk.walk("")) == []
        on_machine(world, store.close())


def test_rot_in_a_shard_does_not_stop_the_store_and_does_not_pass_the_check() -> None:
    specimen = material()[0]
    with World(1) as world:
        store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
        on_machine(world, put(store, specimen, 1))
        ((path, _, _),) = world.env("a").disk.walk("shards")
        world.disk("a").rot(path, 40_000)
        on_machine(world, store.read(specimen.id, 1, [(0, 1)]))
        with pytest.raises(AssertionError):
            on_machine(world, check_readable(store, specimen, 1))
        on_machine(world, store.close())


def test_an_index_that_fails_at_the_commit_leaves_no_file_behind() -> None:
    specimen = material()[0]
    with World(1) as world:
        store = on_machine(world, ShardStore.open(world.env("a"), QUOTA))
        before = store.usage()
        stage = on_machine(world, push(store, specimen, 1))
        connection = store._index._connection
        connection.execute("ALTER TABLE segments RENAME TO elsewhere")
        connection.execute("CREATE VIEW segments AS SELECT * FROM elsewhere")
        with pytest.raises(StorageError):
            on_machine(world, commit(store, specimen, 1, stage))
        connection.execute("DROP VIEW segments")
        connection.execute("ALTER TABLE elsewhere RENAME TO segments")
        assert list(world.env("a").disk.walk("")) == []
        assert store.usage().staged == 0 and store.usage().shards == before.shards
        assert store._ledger.files == 0
        on_machine(world, put(store, specimen, 1))
        on_machine(world, check_readable(store, specimen, 1))
        on_machine(world, store.close())
