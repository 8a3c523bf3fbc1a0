"""Workstations that sleep at night and at the weekend, and now and then one is gone for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from node_town import push_all

from potsherd.dht import DhtConfig
from potsherd.durability import Chain
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade
from potsherd.simulations.world import World
from potsherd.simulations.world.observer import Observer
from potsherd.simulations.world.town import NodeTown

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
YEAR = 365.25 * DAY
QUOTA = 2**25
SETTINGS = NodeSettings(
    quota_bytes=QUOTA,
    heartbeat_s=HOUR,
    away_after_s=2 * HOUR,
    presence_period_s=2 * HOUR,
    roster_period_s=6 * HOUR,
    reconcile_round_s=2 * DAY,
    reconcile_tick_s=1800.0,
    announce_tick_s=1800.0,
    retention_tick_s=4 * HOUR,
    watch_period_s=4 * HOUR,
    survey_period_s=DAY,
    repair=RepairSettings(round_s=6 * HOUR, tick_s=1800.0, standby_s=HOUR, pool_life_s=HOUR),
    dht=DhtConfig(
        tick_s=1800.0,
        contact_ping_s=12 * HOUR,
        bucket_refresh_s=DAY,
        presence_lifetime_s=DAY,
        presence_period_s=6 * HOUR,
        admission_s=DAY,
    ),
)
"""The service's own time-outs of loss; all else as seldom as that allows."""


@dataclass
class Office:
    """Workstations with hours of their own; the first three are servers."""

    world: World
    nodes: int
    town: NodeTown = field(init=False)
    observer: Observer = field(init=False)
    moved: int = 0
    rebuilt: int = 0
    departures: int = 0
    number: int = 0

    def __post_init__(self) -> None:
        self.town = NodeTown(self.world, SETTINGS)
        self.observer = Observer(self.world)
        self.rng = self.world.rng("office")

    async def join(self) -> str:
        name = self.town.add(self.number)
        self.number += 1
        self.observer.watch(name, QUOTA)
        node = await self.town.start(name)
        self.world.spawn(name, node.wait_failed())
        if self.number > 3:
            self.world.loop.create_task(self.habits(name))
        return name

    async def habits(self, name: str) -> None:
        """On weekdays there from about eight to about seven; one night in five it is left running."""
        while name in self.town.names():
            now = self.world.loop.time()
            day = int(now // DAY)
            weekend = day % 7 >= 5
            begin = day * DAY + 8 * HOUR + self.rng.gauss(0, HOUR)
            end = day * DAY + 19 * HOUR + self.rng.gauss(0, HOUR)
            left_on = self.rng.random() < 0.2
            if weekend:
                self._rest(name, asleep=True)
            else:
                await asyncio.sleep(max(0.0, begin - now))
                self._rest(name, asleep=False)
                await asyncio.sleep(max(0.0, end - self.world.loop.time()))
                self._rest(name, asleep=not left_on)
            await asyncio.sleep(max(0.0, (day + 1) * DAY - self.world.loop.time()))

    def _rest(self, name: str, *, asleep: bool) -> None:
        if name in self.town.running() and self.world.asleep(name) != asleep:
            (self.world.sleep if asleep else self.world.wake)(name)

    def _collect(self, name: str) -> None:
        counts = self.town.node(name).status().upkeep.repairer
        self.moved += counts.bytes_in + counts.bytes_out
        self.rebuilt += counts.repaired

    def depart(self) -> None:
        """A machine that is not a server is gone for good."""
        name = self.rng.choice([n for n in self.town.running() if int(n[4:]) >= 3])
        self._collect(name)
        self.town.remove(name)
        self.observer.destroyed(name)
        self.departures += 1

    def collect_all(self) -> None:
        for name in self.town.running():
            self._collect(name)


async def weeks(office: Office, count: int, segments: list[HandMade], per_week: float) -> None:
    """Departures at a constant rate, each replaced the next day."""
    ends = office.world.loop.time() + count * WEEK
    while True:
        pause = office.rng.expovariate(per_week / WEEK)
        if office.world.loop.time() + pause > ends:
            break
        await asyncio.sleep(pause)
        office.depart()
        await office.join()
    await asyncio.sleep(max(0.0, ends - office.world.loop.time()))
    office.collect_all()


async def settle(office: Office, segments: list[HandMade]) -> None:
    for _ in range(office.nodes):
        await office.join()
    async with await office.town.session() as session:
        for made in segments:
            await push_all(session, made)
            office.observer.acknowledged(made.descriptor, made.n)


def predicted(office: Office, made: HandMade, count: int, per_week: float) -> tuple[float, float]:
    """(shards rebuilt, bytes moved) of one segment in so many weeks, by the chain."""
    life_years = office.nodes / per_week * WEEK / YEAR
    delay_years = (7 * DAY + 6 * HOUR) / YEAR  # a sleeper is waited for six to nine days
    d = made.descriptor
    chain = Chain(d.n, d.k, d.r, 1 / life_years, 1 / delay_years, repair="batch")
    _, shards, moved = chain.traffic()
    years = count * WEEK / YEAR
    return shards * years, moved * years * d.k * len(made.shards[0])


def in_office(scenario: Callable[[Office], Awaitable[None]], nodes: int, seed: int = 5) -> None:
    print("seed", seed)
    with World(seed, log_content=False) as world:
        office = Office(world, nodes)

        async def main() -> None:
            await scenario(office)

        world.run(main(), time_max_s=30 * WEEK)
        assert office.observer.broken == []
