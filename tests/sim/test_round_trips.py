"""How often a verb waits for an answer from far away: on a long line that is the time it takes.

Every line has the same delay, carries as much as one likes, and neither disk nor computing takes time. So the
virtual clock counts round trips, whatever the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from town import Town

from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.simulations.world import World

pytestmark = pytest.mark.slow

ONE_WAY_S = 0.05
NO_TIME_S = (1e-6, 2e-6)
UNLIMITED = 1e12
SETTLE_S = 60.0
"""Until all nodes know each other."""


class Trips:
    """A town of which every machine is as far from every other."""

    def __init__(self, folder: Path, world: World, town: Town) -> None:
        self._folder, self._world, self._town = folder, world, town
        self._clients = 0

    async def client(self) -> Context:
        """A person at a new machine, who knows the invitation and nothing else."""
        self._clients += 1
        home = Home(self._folder / f"home{self._clients}")
        home.networks.add(self._town.network.invitation.encode())
        session = await self._town.session(self._clients)
        return Context(session.env, home, home.networks.choose(None), session)

    async def of(self, doing: Awaitable[Any]) -> float:
        """Round trips that something takes, in tenths: what takes next to no time does not count."""
        start = self._world.loop.time()
        await doing
        return round((self._world.loop.time() - start) / (2 * ONE_WAY_S), 1)

    def source(self, size: int) -> Path:
        path = self._folder / f"file{size}"
        path.write_bytes(random.Random(size).randbytes(size))
        return path


def far_apart(
    folder: Path, donors: int, scenario: Callable[[Trips], Awaitable[None]], seed: int = 5
) -> None:
    print("seed", seed)
    with World(
        seed,
        latency_s=(ONE_WAY_S, ONE_WAY_S),
        bandwidth_bytes_s=UNLIMITED,
        offload_s=NO_TIME_S,
    ) as world:
        world.fabric.weather = replace(world.fabric.weather, jitter=0.0)
        town = Town(world, donors)

        async def play() -> None:
            await town.start()
            await asyncio.sleep(SETTLE_S)
            await scenario(Trips(folder, world, town))

        world.run(play())


async def stored(context: Context, source: Path) -> ReadCapability:
    report = await operations.put(context, [source], PutOptions(name=source.name, k=3, n=9))
    assert report.placed == 9
    with Library(context.home.library_path) as library:
        newest = library.dataset(source.name).newest
    assert newest is not None
    return newest.capability


async def drained(context: Context, capability: ReadCapability) -> None:
    async for _ in operations.ls(context, capability):
        pass


def test_a_put_waits_for_few_answers(tmp_path: Path) -> None:
    """Counting donors page after page was half of it, and pushes that grew by a clock a third of a larger one."""

    async def scenario(trips: Trips) -> None:
        person = await trips.client()
        first = await trips.of(stored(person, trips.source(1000)))
        small = await trips.of(stored(person, trips.source(2000)))
        large = await trips.of(stored(person, trips.source(5_000_000)))
        later = [await trips.of(stored(person, trips.source(5_100_000 + i))) for i in range(4)]
        print(f"{first=:.1f} {small=:.1f} {large=:.1f} {later=}")
        # look-up 3, presences 3, dial 3, open, push with commit, lease beside head, announce 2
        assert first <= 15
        assert small <= 9, "it knows the donors"
        assert large <= small + 3
        assert later[0] <= 8, "it need not count the donors again"
        assert later[-1] <= 6, "pushes to all of them have told what their lines carry"
        await person.session.close()

    far_apart(tmp_path, 12, scenario)


def test_reading_waits_for_few_answers(tmp_path: Path) -> None:
    async def scenario(trips: Trips) -> None:
        owner = await trips.client()
        capability = await stored(owner, trips.source(5_000_000))
        reader = await trips.client()
        listed = await trips.of(drained(reader, capability))
        again = await trips.of(drained(reader, capability))
        got = await trips.of(operations.get(reader, capability, tmp_path / "back"))
        looked = await trips.client()
        stat = await trips.of(operations.stat(looked, capability))
        prover = await trips.client()
        deep = await trips.of(operations.verify(prover, capability, deep=True))
        print(f"{listed=:.1f} {again=:.1f} {got=:.1f} {stat=:.1f} {deep=:.1f}")
        # look-up 2, dial 3, descriptor beside roster 1, root page 1
        assert listed <= 7.5
        assert again <= 3.5
        assert got <= 5.5
        assert stat <= 17
        assert deep <= 15
        for context in (owner, reader, looked, prover):
            await context.session.close()

    far_apart(tmp_path, 12, scenario)


def test_a_network_five_times_as_large_takes_hardly_longer(tmp_path: Path) -> None:
    """To count sixty donors one after the other had taken 69 round trips, seven seconds over a continent."""

    async def scenario(trips: Trips) -> None:
        person = await trips.client()
        put = await trips.of(stored(person, trips.source(1000)))
        capability = await stored(person, trips.source(2000))
        stat = await trips.of(operations.stat(person, capability))
        print(f"{put=:.1f} {stat=:.1f}")
        assert put <= 42
        assert stat <= 30
        await person.session.close()

    far_apart(tmp_path, 60, scenario)
