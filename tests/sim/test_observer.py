"""The observer sees what it is there for: each promise, broken on purpose, is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from node_town import push_all

from potsherd.node.reader import SegmentReader
from potsherd.node.store import files
from potsherd.node.testing import HandMade
from potsherd.simulations.world import World
from potsherd.simulations.world.deceit import Deceit
from potsherd.simulations.world.observer import Observer
from potsherd.simulations.world.town import FAST, NodeTown

QUOTA = 2**24


class Case:
    """Six nodes that hold one segment, 2 of 4, in files."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.town = NodeTown(world, replace(FAST, quota_bytes=QUOTA))
        self.observer = Observer(world)
        self.made = HandMade(self.town.network.network_id, b"potsherd" * 40_000, 2, 4)

    async def prepare(self) -> None:
        for number in range(6):
            name = self.town.add(number)
            self.observer.watch(name, QUOTA)
            await self.town.start(name)
        session = await self.town.session()
        await push_all(session, self.made)
        self.observer.acknowledged(self.made.descriptor, 4)
        await session.close()

    @property
    def path(self) -> str:
        return files.shard_path(self.made.segment_id)

    def holders(self) -> list[str]:
        return list(self.observer.holders(self.made.segment_id))


def play(scenario: Callable[[Case], Awaitable[None]]) -> list[str]:
    """What the observer has to say afterwards."""
    with World(5) as world:
        case = Case(world)

        async def main() -> None:
            await case.prepare()
            assert case.observer.broken == []
            assert case.observer.distinct(case.made.segment_id) == 4
            await scenario(case)

        world.run(main())
        return case.observer.broken


def test_nothing_is_said_when_all_is_well() -> None:
    async def scenario(case: Case) -> None:
        case.observer.check_all()
        name = case.holders()[0]
        case.town.stop(name, power_cut=True)
        case.observer.stopped(name)
        await case.town.restart(name)
        case.observer.restarted(name)
        assert case.observer.margin() == 2
        assert case.observer.margin(besides=case.holders()[:2]) == 0

    assert play(scenario) == []


def test_a_shard_that_does_not_fit_its_root() -> None:
    async def scenario(case: Case) -> None:
        case.world.disk(case.holders()[0]).rot(case.path, 40_000)
        case.observer.check_all()

    (said,) = play(scenario)
    assert "fails its root" in said


def test_rot_that_the_experiment_owns_up_to_is_no_broken_promise() -> None:
    async def scenario(case: Case) -> None:
        name = case.holders()[0]
        case.world.disk(name).rot(case.path, 40_000)
        case.observer.rotted(name, case.path)
        assert case.observer.distinct(case.made.segment_id) == 3

    assert play(scenario) == []


def test_fewer_than_k() -> None:
    async def scenario(case: Case) -> None:
        for name in case.holders()[:3]:
            await case.town.node(name).store.release(case.made.segment_id)

    said = play(scenario)
    assert len(said) == 1 and "1 good indices left of k = 2" in said[0]


def test_liars_do_not_count() -> None:
    async def scenario(case: Case) -> None:
        name, second, third, _ = case.holders()
        case.town.stop(name)
        case.town.turn(name, Deceit.GARBAGE)
        case.observer.deceives(name)
        node = await case.town.restart(name)
        case.observer.restarted(name)
        assert case.observer.distinct(case.made.segment_id) == 3
        index = case.observer.holders(case.made.segment_id)[name]
        data, _ = await node.store.read(case.made.segment_id, index, [(0, 1)])
        assert data != case.made.shards[index][:32768]
        for other in (second, third):
            await case.town.node(other).store.release(case.made.segment_id)

    said = play(scenario)
    assert len(said) == 1 and "1 good indices left" in said[0]


def test_a_quota_that_is_not_kept() -> None:
    async def scenario(case: Case) -> None:
        name = case.holders()[0]
        case.world.env(name).disk.create("shards/hidden", QUOTA)

    (said,) = play(scenario)
    assert "of a quota of" in said


def test_a_shard_that_a_restart_has_lost() -> None:
    async def scenario(case: Case) -> None:
        name = case.holders()[0]
        case.world.env(name).disk.remove(case.path)
        case.town.stop(name)
        case.observer.stopped(name)
        await case.town.restart(name)
        case.observer.restarted(name)

    said = play(scenario)
    assert any("by a restart" in line for line in said)


def test_an_acknowledgement_with_too_few() -> None:
    async def scenario(case: Case) -> None:
        case.observer.acknowledged(case.made.descriptor, 5)

    (said,) = play(scenario)
    assert "acknowledged with 4 of 5" in said


@pytest.mark.parametrize("deceit", list(Deceit))
def test_a_reader_gets_the_right_bytes_in_spite_of_two_liars(deceit: Deceit) -> None:
    async def scenario(case: Case) -> None:
        for name in case.holders()[:2]:
            case.town.stop(name)
            case.town.turn(name, deceit)
            case.observer.deceives(name)
            await case.town.restart(name)
        session = await case.town.session()
        descriptor = case.made.descriptor
        reader = SegmentReader(session, case.made.segment_id, descriptor.placement_key)
        await reader.locate()
        data = await reader.read(0, len(case.made.stream))
        assert bytes(data) == case.made.stream
        await session.close()

    assert play(scenario) == []


def test_a_run_is_the_same_whether_it_is_observed_or_not() -> None:
    def digest(*, observed: bool) -> str:
        with World(5) as world:
            case = Case(world)
            if not observed:
                world.on_step = None

            async def main() -> None:
                for number in range(5):
                    name = case.town.add(number)
                    if observed:
                        case.observer.watch(name, QUOTA)
                    await case.town.start(name)
                session = await case.town.session()
                await push_all(session, case.made)
                await session.close()
                await asyncio.sleep(300)

            world.run(main())
            assert bool(case.observer.steps) is observed
            return world.log.digest()

    assert digest(observed=True) == digest(observed=False)
