"""Workstations that sleep at night and at the weekend, for months: whole nodes, and now and then one is gone for good.

    report = run(OfficePlan(seed=5, nodes=30, weeks=12), said=print)

Loss is noticed by the service's own rules. Heartbeats, and with them everything else that is done again and
again, come as seldom as the plan says: months of them are what such a run costs. An observer sees all disks.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import field

from potsherd.classes import dataclass
from potsherd.dht import DhtConfig
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.liveness import FreezePolicy
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.settings import NodeSettings
from potsherd.node.testing import HandMade, lasting_lease, push_all
from potsherd.simulations.world.observer import Observer
from potsherd.simulations.world.town import NodeTown
from potsherd.simulations.world.world import World

__all__ = ["DAY", "HOUR", "STREAM_BYTES", "WEEK", "Office", "OfficePlan", "OfficeReport", "run"]

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
QUOTA = 2**25
STREAM_BYTES = 320_000
"""Content of a segment."""
LOOK_S = 6 * HOUR
"""Between two looks at whom the nodes have given up."""


@dataclass(frozen=True)
class OfficePlan:
    """One run; everything follows from it."""

    seed: int = 5
    nodes: int = 30
    servers: int = 3
    """The first nodes: always on, and never gone."""
    weeks: float = 12.0
    departures_per_week: float = 1.5
    """Machines gone for good, with their disks; each is replaced at once by a new one."""
    segments: int = 6
    k: int = 4
    n: int = 9
    r: int = 7
    heartbeat_s: float = HOUR

    def settings(self) -> NodeSettings:
        """The service's own time-outs of loss; all else as seldom as that allows."""
        beat = self.heartbeat_s
        return NodeSettings(
            quota_bytes=QUOTA,
            heartbeat_s=beat,
            heartbeat_tick_s=beat / 10,
            away_after_s=2 * beat,
            freeze=FreezePolicy(window_s=max(HOUR, beat)),
            presence_period_s=6 * beat,
            roster_period_s=6 * beat,
            reconcile_round_s=max(2 * DAY, 24 * beat),
            reconcile_tick_s=beat / 2,
            announce_period_s=22 * HOUR,
            announce_tick_s=beat / 2,
            retention_tick_s=4 * beat,
            watch_period_s=4 * beat,
            survey_period_s=24 * beat,
            sweep_period_s=24 * beat,
            repair=RepairSettings(
                round_s=6 * beat, tick_s=beat / 2, standby_s=beat, pool_life_s=beat
            ),
            audit=AuditSettings(tick_s=beat / 2, round_s=6 * beat),
            dht=DhtConfig(
                tick_s=beat / 2,
                contact_ping_s=12 * beat,
                bucket_refresh_s=24 * beat,
                presence_lifetime_s=DAY,
                presence_period_s=20 * HOUR,
                restore_period_s=7 * DAY,
                admission_s=24 * beat,
                keepers=6,
            ),
        )


@dataclass
class OfficeReport:
    """What happened so far."""

    weeks: float = 0.0
    departures: int = 0
    rebuilt: int = 0
    """Shards brought to new holders by repairs."""
    passes: int = 0
    """Repairs begun."""
    trimmed: int = 0
    """Second copies dropped."""
    moved_bytes: int = 0
    """Read and sent by repairs."""
    least: int = 0
    """Fewest good indices that any segment ever had."""
    lost: int = 0
    """Segments that ever had fewer than k."""
    given_up: int = 0
    """Pairs of a node and a machine that is gone, which the node has given up."""
    given_up_days: float = 0.0
    """From its end to that, median over these pairs; looked at four times a day."""
    told_days: float = 0.0
    """After how long nodes say, for forecasts, that a loss is repaired: the median over all that run."""
    false: int = 0
    """Pairs of a node and a machine that was asleep, which the node had given up."""
    broken: tuple[str, ...] = ()
    """Promises that were not kept."""
    looks: int = 0
    """Times that the observer has looked at a disk."""
    datagrams: int = 0
    """Sent by all nodes that still run."""
    cpu_s: float = 0.0
    digest: str = ""
    """Of all events; equal for equal plans."""

    def __str__(self) -> str:
        return (
            f"{self.weeks:.1f} weeks: {self.departures} departures, {self.rebuilt} rebuilt in {self.passes} passes, "
            f"{self.trimmed} trimmed, {self.moved_bytes} bytes moved; least {self.least}, lost {self.lost}; "
            f"given up {self.given_up} after {self.given_up_days:.1f} d (told: {self.told_days:.1f}), "
            f"falsely {self.false}; "
            f"broken {list(self.broken)} at {self.looks} looks; {self.datagrams} datagrams, {self.cpu_s:.0f} CPU-s"
        )


@dataclass(eq=False)
class Office:
    """Workstations with hours of their own, beside a few servers."""

    world: World
    plan: OfficePlan
    town: NodeTown = field(init=False)
    observer: Observer = field(init=False)
    segments: list[HandMade] = field(init=False)
    departures: int = 0

    def __post_init__(self) -> None:
        self.town = NodeTown(self.world, self.plan.settings())
        self.observer = Observer(self.world)
        plan, network = self.plan, self.town.network.network_id
        self.segments = [
            HandMade(network, b"%8d" % i * (STREAM_BYTES // 8), plan.k, plan.n, number=i, r=plan.r)
            for i in range(plan.segments)
        ]
        self.rng = self.world.rng("office")
        self._number = 0
        self._here: dict[bytes, str] = {}
        self._gone: dict[bytes, float] = {}
        """Keys of machines that are gone for good, and since when."""
        self._noticed: dict[tuple[str, bytes], float] = {}
        self._false: set[tuple[str, bytes]] = set()
        self._false_ever = 0
        self._before = OfficeReport()
        """Counts of nodes that are gone."""

    # machines

    async def join(self) -> str:
        """One more machine, with a fresh node."""
        number, self._number = self._number, self._number + 1
        name = self.town.add(number)
        self.observer.watch(name, QUOTA)
        node = await self.town.start(name)
        self.world.spawn(name, node.wait_failed())
        self._here[node.identity.key] = name
        if number >= self.plan.servers:
            self.world.loop.create_task(self._habits(name))
        return name

    async def _habits(self, name: str) -> None:
        """On weekdays there from about eight to about seven; one night in five it is left running."""
        clock = self.world.loop.time
        while name in self.town.names():
            day = int(clock() // DAY)
            begin = day * DAY + 8 * HOUR + self.rng.gauss(0, HOUR)
            end = day * DAY + 19 * HOUR + self.rng.gauss(0, HOUR)
            left_on = self.rng.random() < 0.2
            if day % 7 >= 5:
                self._rest(name, asleep=True)
            else:
                await asyncio.sleep(max(0.0, begin - clock()))
                self._rest(name, asleep=False)
                await asyncio.sleep(max(0.0, end - clock()))
                self._rest(name, asleep=not left_on)
            await asyncio.sleep(max(0.0, (day + 1) * DAY - clock()))

    def _rest(self, name: str, *, asleep: bool) -> None:
        if name in self.town.running() and self.world.asleep(name) != asleep:
            (self.world.sleep if asleep else self.world.wake)(name)

    def depart(self) -> None:
        """A machine that is not a server is gone for good, asleep or not."""
        name = self.rng.choice([n for n in self.town.running() if int(n[4:]) >= self.plan.servers])
        self._count(self._before, name)
        key = self.town.node(name).identity.key
        self.town.remove(name)
        self.observer.destroyed(name)
        self._gone[key] = self.world.loop.time()
        del self._here[key]
        self.departures += 1

    # the run

    async def settle(self) -> None:
        """All machines join, and the segments are stored."""
        for _ in range(self.plan.nodes):
            await self.join()
        async with await self.town.session() as session:
            for made in self.segments:
                holders = await push_all(session, made)
                for key in holders.values():
                    await (await session.peer(key)).put_lease(*lasting_lease(made))
                self.observer.acknowledged(made.descriptor, made.n)

    async def live(self, weeks: float, said: Callable[[OfficeReport], None]) -> OfficeReport:
        """Departures at a constant rate; `said` is told once a week how it stands."""
        began = self.world.loop.time()
        leaving = self.world.loop.create_task(self._leave())
        for look in range(1, 1 + round(weeks * WEEK / LOOK_S)):
            await asyncio.sleep(max(0.0, began + look * LOOK_S - self.world.loop.time()))
            if leaving.done():
                leaving.result()
            self.look()
            if look * LOOK_S % WEEK == 0:
                said(self.report(look * LOOK_S / WEEK))
        leaving.cancel()
        return self.report(weeks)

    async def _leave(self) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(self.plan.departures_per_week / WEEK))
            self.depart()
            await self.join()

    # what is seen

    def look(self) -> None:
        """Whom the nodes have given up, rightly or not."""
        now, false = self.world.loop.time(), set()
        for name in self.town.running():
            for key in self.town.node(name).peers.gone():
                if key in self._here:
                    false.add((name, key))
                elif key in self._gone:
                    self._noticed.setdefault((name, key), now - self._gone[key])
        self._false_ever += len(false - self._false)
        self._false = false

    def _count(self, report: OfficeReport, name: str) -> None:
        status = self.town.node(name).status()
        repairs = status.upkeep.repairer
        report.moved_bytes += repairs.bytes_in + repairs.bytes_out
        report.rebuilt += repairs.repaired
        report.passes += repairs.passes
        report.trimmed += repairs.trimmed
        report.datagrams += status.dht.datagrams_out

    def report(self, weeks: float) -> OfficeReport:
        """How it stands."""
        before, least = self._before, self.observer.least
        report = OfficeReport(
            weeks=weeks,
            departures=self.departures,
            rebuilt=before.rebuilt,
            passes=before.passes,
            trimmed=before.trimmed,
            moved_bytes=before.moved_bytes,
            least=min(least.values(), default=0),
            lost=sum(least[made.segment_id] < made.k for made in self.segments),
            given_up=len(self._noticed),
            given_up_days=statistics.median(self._noticed.values() or [0.0]) / DAY,
            told_days=statistics.median(
                self.town.node(name).churn_seen([]).noticed for name in self.town.running()
            )
            / DAY,
            false=self._false_ever,
            broken=tuple(self.observer.broken),
            looks=self.observer.steps,
            datagrams=before.datagrams,
            cpu_s=time.process_time(),
        )
        for name in self.town.running():
            self._count(report, name)
        return report


def run(
    plan: OfficePlan, said: Callable[[OfficeReport], None] = lambda report: None
) -> OfficeReport:
    """Play it. A broken promise is in the report, a bug of a node is raised."""
    with World(plan.seed, log_content=False) as world:
        office = Office(world, plan)

        async def main() -> OfficeReport:
            await office.settle()
            return await office.live(plan.weeks, said)

        report = world.run(main(), time_max_s=(plan.weeks + 2) * WEEK)
        report.digest = world.log.digest()
    return report
