"""One bit of one stored file is another, of shards and of the index: nobody gets a wrong byte, and no node dies.

A node whose index is damaged may refuse to start, and says so; one that starts serves what can be proved.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fault_town import FaultTown, Trouble

from potsherd.errors import PotsherdError, StorageError
from potsherd.node.reader import SegmentReader
from potsherd.node.store import ShardStore
from potsherd.node.store.schema import INDEX_NAME
from potsherd.node.testing import HandMade
from potsherd.simulations.world import World

SEED = 7


def small(case: FaultTown) -> HandMade:
    """A segment whose shards lie in the index."""
    return HandMade(case.town.network.network_id, b"potsherd" * 700, 2, 4, number=1, r=4)


async def read(case: FaultTown, made: HandMade) -> None:
    """A new client gets every byte."""
    async with await case.town.session() as session:
        reader = SegmentReader(session, made.segment_id, made.descriptor.placement_key)
        assert bytes(await reader.read(0, len(made.stream))) == made.stream


async def flip(case: FaultTown, name: str, clean: bytes, at: int, mask: int) -> bool:
    """Start a stopped node whose index has one bit flipped; whether it runs."""
    image = bytearray(clean)
    image[at] ^= mask
    case.world.disk(name).images[INDEX_NAME] = bytes(image)
    try:
        node = await case.town.restart(name)
    except PotsherdError:
        return False  # it says that its index is damaged
    case.world.spawn(name, node.wait_failed())
    return True


def play(flips: int, seed: int) -> None:
    print("seed", seed)
    with World(seed) as world:
        case = FaultTown(world, Trouble("none"), Path())

        async def main() -> None:
            await case.prepare(6)
            segments = [case.made(3), small(case)]
            for made in segments:
                await case.place(made)
            world.on_step = None  # what the index says is not to be believed from here on
            await index_flips(case, segments, flips)

        world.run(main(), time_max_s=30 * 86_400)


async def index_flips(case: FaultTown, segments: list[HandMade], flips: int) -> None:
    rng, name = case.world.rng("flips"), case.town.names()[1]
    case.town.stop(name)
    clean = case.world.disk(name).images[INDEX_NAME]
    assert clean
    for _ in range(flips):
        at, mask = rng.randrange(len(clean)), 1 << rng.randrange(8)
        print("byte", at, "mask", mask)
        if await flip(case, name, clean, at, mask):
            await asyncio.sleep(120)
            for made in segments:
                await read(case, made)
            case.world.check()
            case.town.stop(name)


@pytest.mark.slow
def test_each_shard_file_with_a_flipped_bit() -> None:
    with World(SEED) as world:
        case = FaultTown(world, Trouble("none"), Path())

        async def main() -> None:
            await case.prepare(6)
            made = case.made(3)
            holders = await case.place(made)
            for name in holders:
                (path,) = [p for p, _ in world.disk(name).files() if p.startswith("shards/")]
                offset = world.rng(name).randrange(world.disk(name).find(path).allocated // 2)
                world.disk(name).rot(path, offset)
                case.observer.rotted(name, path)
                await read(case, made)
                world.disk(name).rot(path, offset)  # and it is as it was

        world.run(main(), time_max_s=86_400)


@pytest.mark.slow
def test_bits_of_the_index() -> None:
    play(6, SEED)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_many_bits_of_the_index() -> None:
    for seed in range(8):
        play(60, seed)


def test_a_schema_that_is_no_text_any_more_is_a_damaged_index() -> None:
    """SQLite's message quotes the byte, and Python cannot decode the message."""

    async def scenario(world: World) -> None:
        store = await ShardStore.open(world.env("a"), 2**26)
        await store.close()
        images = world.disk("a").images
        clean = images[INDEX_NAME] or b""
        assert clean.count(b"CREATE TABLE stages") == 1
        images[INDEX_NAME] = clean.replace(b"CREATE TABLE stages", b"CREATE \xd4ABLE stages")
        with pytest.raises(StorageError, match=r"damaged|malformed"):
            await ShardStore.open(world.env("a"), 2**26)
        images[INDEX_NAME] = clean
        await (await ShardStore.open(world.env("a"), 2**26)).close()

    with World(SEED) as world:
        world.env("a")
        world.run(scenario(world))
