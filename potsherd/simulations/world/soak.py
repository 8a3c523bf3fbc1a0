"""A network that is left to chance: nodes join, sleep, leave, crash and lie while datasets are put and read.

    report = run(SoakPlan(seed=7), folder)

Everything follows from the seed, so a failing run is a number. The experiment sees all disks (`Observer`)
and uses that for fairness alone: it destroys nothing that leaves a dataset with fewer than k + 1 good
indices, so whatever falls below k was lost by the nodes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.datasets.storing import Desk
from potsherd.errors import PotsherdError
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.repair.doubts import Reason
from potsherd.node.store import files
from potsherd.ports import Rng
from potsherd.simulations.world.deceit import Deceit
from potsherd.simulations.world.observer import BrokenPromise, Observer
from potsherd.simulations.world.town import FAST, NodeTown
from potsherd.simulations.world.world import World

__all__ = ["SoakPlan", "SoakReport", "run"]

HOUR = 3600.0
DATE_NS = 10**18
"""Modification time of what is stored, the same in every run."""
STEP_S = 60.0
"""Between two looks at whether a promise was broken."""
JOURNAL_MAX = 10_000
"""Lines kept of what was done."""
DATASET_BYTES_MAX = 600_000
AUDIT_ROUNDS = 12
"""Times in a period of audit that a node looks for audits that are due."""


@dataclass(frozen=True)
class SoakPlan:
    """One run. Times are virtual seconds."""

    seed: int
    until_s: float = 5 * HOUR
    """How long things happen; then everything that still exists is switched on."""
    calm_s: float = 10 * HOUR
    """How long the network may take to be whole again after that."""
    nodes: int = 12
    nodes_max: int = 16
    pause_s: float = 420.0
    """Between two happenings, on average."""
    k: int = 3
    n: int = 7
    quota_bytes: int = 6 * 2**20
    away_share: float = 0.3
    """At most this share of the nodes is asleep, down or unplugged at a time."""
    liars_max: int = 1
    audit_period_s: float = 3 * HOUR
    """Each shard is audited once in so long: a run of some hours has to see audits."""
    datasets_max: int = 8
    loss: float = 0.005
    duplication: float = 0.005
    reordering: float = 0.02
    late: float = 0.002

    @classmethod
    def quick(cls, seed: int) -> SoakPlan:
        """A small one, for tests that run often."""
        return cls(
            *(seed, 2.5 * HOUR), nodes=9, nodes_max=11, pause_s=150.0, k=2, n=6, datasets_max=5
        )

    @property
    def audit(self) -> AuditSettings:
        """The timers of audit that follow from its period."""
        return AuditSettings(
            period_s=self.audit_period_s, round_s=self.audit_period_s / AUDIT_ROUNDS
        )

    @property
    def command(self) -> str:
        """What runs it again."""
        quick = " --quick" if self.nodes == SoakPlan.quick(0).nodes else ""
        audits = f" --audits {self.audit_period_s:.0f}s"
        return (
            f"potsherd simulate world --seed {self.seed} --until {self.until_s:.0f}s{quick}{audits}"
        )


@dataclass
class SoakReport:
    """What happened."""

    seed: int
    digest: str = ""
    """Of the event log: equal for equal runs."""
    events: int = 0
    virtual_s: float = 0.0
    happenings: Counter[str] = field(default_factory=Counter)
    datasets: int = 0
    reads: int = 0
    reads_failed: int = 0
    """While too many were away; wrong bytes are never a failed read but a broken promise."""
    repaired: int = 0
    """Indices that repairs brought to new holders, by nodes that still ran at the end."""
    audits: int = 0
    """Audits passed, by nodes that still ran at the end."""
    audits_failed: int = 0
    """Audits that were answered wrongly, by the same."""
    least: int = 0
    """Fewest distinct good indices that an acknowledged segment ever had."""
    steps: int = 0
    """Times that the observer looked."""
    journal: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Dataset:
    name: str
    capability: ReadCapability
    content: bytes
    segments: tuple[bytes, ...]


def run(plan: SoakPlan, folder: Path, *, log_file: Path | None = None) -> SoakReport:
    """Run a plan; `folder` takes the publisher's home. Raises BrokenPromise, with seed and journal."""
    weather = {k: getattr(plan, k) for k in ("loss", "duplication", "reordering", "late")}
    report = SoakReport(plan.seed)
    with World(plan.seed, log_file=log_file, **weather) as world:
        soak = _Soak(world, plan, folder, report)
        try:
            world.run(soak.main())
        except Exception as error:
            lines = "\n".join(report.journal[-60:])
            again = f"run it again: {plan.command}"
            raise BrokenPromise(f"seed {plan.seed}: {error!r}\n{again}\n{lines}") from error
        report.digest, report.events = world.log.digest(), world.log.events
        report.virtual_s = world.loop.time()
    return report


class _Soak:
    def __init__(self, world: World, plan: SoakPlan, folder: Path, report: SoakReport) -> None:
        self.world, self.plan, self.folder, self.report = world, plan, folder, report
        settings = replace(FAST, quota_bytes=plan.quota_bytes, audit=plan.audit)
        self.town = NodeTown(world, settings, sites=plan.nodes_max // 2)
        self.observer = Observer(world)
        self.rng: Rng = world.rng("soak")
        self.datasets: list[_Dataset] = []
        self._number = 0
        self._away: dict[str, None] = {}
        """Nodes that something is being done to, or that are not there for others."""
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._failed: asyncio.Future[None] = world.loop.create_future()
        self._home: Home
        self._skewed: Counter[str] = Counter()
        """Nodes whose calendar is off: nobody has to believe their dates, or they those of others."""
        self._torn = False
        self._rotted: set[tuple[str, bytes]] = set()
        """(node, segment) whose shard was damaged once: it may be found wrong until it is proven again."""

    # --- the run -----------------------------------------------------------------------------------

    async def main(self) -> None:
        """Start, let things happen, calm down, look."""
        self._home = Home(self.folder / "home")
        self._home.networks.add(self.town.network.invitation.encode())
        self._home.make_master(self.world.rng("master"))
        for _ in range(self.plan.nodes):
            await self._join()
        await self._put()
        ends = self.world.loop.time() + self.plan.until_s
        while self.world.loop.time() < ends:
            await self._pause(self.rng.expovariate(1 / self.plan.pause_s))
            await self._happen()
        await self._calm_down()
        self._sum_up()

    async def _pause(self, seconds: float) -> None:
        """Wait, and raise as soon as something is wrong."""
        ends = self.world.loop.time() + seconds
        while (left := ends - self.world.loop.time()) > 0:
            await asyncio.sleep(min(STEP_S, left))
            self._check()

    def _check(self) -> None:
        if self.observer.broken:
            raise BrokenPromise("; ".join(self.observer.broken))
        if self._failed.done():
            self._failed.result()
        for wrong in self._wronged():
            raise BrokenPromise(wrong)

    def _wronged(self) -> Iterator[str]:
        """Right shards that an honest node has found wrong."""
        for judge in self.town.running():
            if self.town.lies(judge):
                continue
            for doubt in self.town.node(judge).caretaker.doubts.of(Reason.WRONG):
                name = self.town.name_of(doubt.node)
                if name is None or self.town.lies(name) or (name, doubt.segment_id) in self._rotted:
                    continue
                short = doubt.segment_id.hex()[:12]
                yield f"{judge} has found the right shard of {short} at {name} wrong"

    async def _happen(self) -> None:
        weights = self._possible()
        names = list(weights)
        (name,) = self.rng.choices(names, [weights[n] for n in names])
        action: Callable[[], Awaitable[None]] = getattr(self, f"_{name}")
        self.report.happenings[name] += 1
        await action()
        self._check()

    def _possible(self) -> dict[str, float]:
        """What may happen now, with its weight."""
        weights: dict[str, float] = {"get": 3, "rot": 0.3, "clock": 0.5, "fill": 0.5}
        if len(self.datasets) < self.plan.datasets_max:
            weights["put"] = 3
        if len(self._away) < self.plan.away_share * len(self.town.names()):
            weights |= {"nap": 3, "stop": 2, "cut": 2, "unplug": 1, "destroy": 4, "leave": 1}
            weights |= {"lie": 0.7} if self._liars() < self.plan.liars_max else {}
            weights |= {} if self._torn else {"tear": 0.7}
        if len(self.town.names()) < self.plan.nodes_max:
            weights["join"] = 4
        return weights

    def _liars(self) -> int:
        return sum(map(self.town.lies, self.town.names()))

    def _note(self, text: str) -> None:
        if len(self.report.journal) < JOURNAL_MAX:
            self.report.journal.append(f"{self.world.loop.time():9.1f} {text}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that takes its time while other things happen."""
        task = self.world.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    # --- nodes -------------------------------------------------------------------------------------

    def _there(self) -> list[str]:
        """Nodes that run undisturbed."""
        return [n for n in self.town.running() if n not in self._away and not self._skewed[n]]

    def _victim(self) -> str | None:
        there = self._there()
        return self.rng.choice(there) if there else None

    async def _join(self) -> None:
        name = self.town.add(self._number)
        self._number += 1
        self.observer.watch(name, self.plan.quota_bytes)
        if self.rng.random() < 0.2:
            slow = 10 ** self.rng.uniform(4.7, 6)
            self.world.bandwidth(name, up_bytes_s=slow, down_bytes_s=8 * slow)
        await self._start(name, again=False)
        self._note(f"{name} joins")

    async def _start(self, name: str, *, again: bool) -> None:
        """Start a node; a bug in one of its tasks ends the run."""
        node = await (self.town.restart(name) if again else self.town.start(name))
        if again:
            self.observer.restarted(name)

        async def guard() -> None:
            await node.wait_failed()

        self.world.spawn(name, guard())

    async def _nap(self) -> None:
        name = self._victim()
        if name is not None:
            self._spawn(self._nap_of(name, self.rng.uniform(300, 2.5 * HOUR)))

    async def _nap_of(self, name: str, seconds: float) -> None:
        self._away[name] = None
        self._note(f"{name} sleeps for {seconds:.0f} s")
        self.world.sleep(name)
        await asyncio.sleep(seconds)
        self.world.wake(name)
        del self._away[name]

    async def _stop(self) -> None:
        self._down(power_cut=False)

    async def _cut(self) -> None:
        self._down(power_cut=True)

    def _down(self, *, power_cut: bool) -> None:
        name = self._victim()
        if name is not None:
            pause = self.rng.uniform(30, HOUR)
            self._spawn(self._down_for(name, pause, power_cut))

    async def _down_for(self, name: str, seconds: float, power_cut: bool) -> None:
        self._away[name] = None
        self._note(f"{name} {'loses power' if power_cut else 'is killed'} for {seconds:.0f} s")
        self.town.stop(name, power_cut=power_cut)
        self.observer.stopped(name)
        await asyncio.sleep(seconds)
        await self._start(name, again=True)
        del self._away[name]

    async def _unplug(self) -> None:
        name = self._victim()
        if name is not None:
            self._spawn(self._unplugged(name, self.rng.uniform(60, 1.5 * HOUR)))

    async def _unplugged(self, name: str, seconds: float) -> None:
        self._away[name] = None
        self._note(f"{name} is unplugged for {seconds:.0f} s")
        self.world.unplug(name)
        await asyncio.sleep(seconds)
        self.world.plug(name)
        del self._away[name]

    async def _tear(self) -> None:
        """Two halves that do not reach each other."""
        names = self.town.names()
        half = self.rng.sample(names, len(names) // 2)
        self._torn = True
        seconds = self.rng.uniform(60, HOUR)
        self._note(f"the network is torn for {seconds:.0f} s: {' '.join(sorted(half))}")
        self._spawn(self._torn_for(half, seconds))

    async def _torn_for(self, half: list[str], seconds: float) -> None:
        self.world.partition([half])
        await asyncio.sleep(seconds)
        self.world.heal()
        self._torn = False

    async def _destroy(self) -> None:
        name = self._victim()
        if name is None or not self._may_lose(name):
            return
        self._note(f"{name} is destroyed")
        self.town.remove(name)
        self.observer.destroyed(name)

    def _may_lose(self, name: str) -> bool:
        """Fairness: k + 1 good indices of everything are left, and enough nodes to hold n."""
        enough = len(self.town.names()) - self._liars() > self.plan.n
        return enough and self.observer.margin(besides=[name]) >= 1

    async def _lie(self) -> None:
        name = self._victim()
        if name is not None and self._may_lose(name):
            self._away[name] = None
            self.town.stop(name)
            self.observer.stopped(name)
            deceit = self.rng.choice(list(Deceit))
            self._spawn(self._turned(name, deceit))

    async def _turned(self, name: str, deceit: Deceit) -> None:
        self._note(f"{name} lies from now on: {deceit}")
        self.town.turn(name, deceit)
        self.observer.deceives(name)
        await self._start(name, again=True)
        del self._away[name]

    async def _leave(self) -> None:
        name = self._victim()
        if name is not None and len(self.town.names()) > self.plan.n + 2:
            self._spawn(self._leaving(name))

    async def _leaving(self, name: str) -> None:
        self._away[name] = None
        self._note(f"{name} wants to leave")
        leaving = self.town.node(name).leaving
        await leaving.leave()
        for _ in range(60):
            await asyncio.sleep(STEP_S)
            if (await leaving.status()).safe:
                break
        else:
            self._note(f"{name} could not move everything, and stays")
            await leaving.resume()
            del self._away[name]
            return
        self._note(f"{name} is safe to unplug")
        self.town.remove(name)
        self.observer.destroyed(name)
        del self._away[name]

    # --- disks and clocks --------------------------------------------------------------------------

    async def _rot(self) -> None:
        """A bit of a shard file, where that can be afforded."""
        name = self._victim()
        if name is None or self.town.lies(name) or self.observer.margin(besides=[name]) < 1:
            return
        if not any(path.startswith("shards/") for path, _ in self.world.disk(name).files()):
            return
        path, offset = self.world.rot(name, "shards")
        self._note(f"{name} rots: {path} at {offset}")
        self.observer.rotted(name, path)
        segment_id = files.segment_of(path)
        if segment_id is not None:
            self._rotted.add((name, segment_id))

    async def _clock(self) -> None:
        name = self._victim()
        if name is not None:
            jump = self.rng.choice([-1, 1]) * 10 ** self.rng.uniform(1, 5)
            self._note(f"the calendar of {name} is {jump:.0f} s off")
            self._spawn(self._off_by(name, jump, self.rng.uniform(60, 2 * HOUR)))

    async def _off_by(self, name: str, jump: float, seconds: float) -> None:
        self._skewed[name] += 1
        self.world.skew(name, jump)
        await asyncio.sleep(seconds)
        self.world.skew(name, 0.0)
        self._skewed[name] -= 1

    async def _fill(self) -> None:
        name = self._victim()
        if name is not None:
            self._note(f"the disk of {name} is full")
            self._spawn(self._full(name, self.rng.uniform(60, HOUR)))

    async def _full(self, name: str, seconds: float) -> None:
        self.world.fill_disk(name, self.rng.randrange(100_000))
        await asyncio.sleep(seconds)
        self.world.fill_disk(name, None)

    # --- data --------------------------------------------------------------------------------------

    def _source(self, number: int) -> tuple[Path, bytes]:
        size = int(2 ** self.rng.uniform(6, 19.2))
        content = hashlib.shake_256(f"{self.plan.seed} {number}".encode()).digest(size)
        source = self.folder / f"source{number}"
        source.mkdir()
        (source / "data").write_bytes(content)
        for path in (source / "data", source):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, ns=(DATE_NS, DATE_NS))
        return source, content

    async def _put(self) -> None:
        """Put a dataset from a client of its own; one that is refused leaves nothing to be kept."""
        number = len(list(self.folder.glob("source*")))
        name = f"set{number}"
        source, content = self._source(number)
        options = PutOptions(name=name, k=self.plan.k, n=self.plan.n)
        try:
            session = await self.town.session(self._there())
        except PotsherdError as error:
            self._note(f"no node lets a client in: {error}")
            return
        context = Context(session.env, self._home, self._home.networks.choose(None), session)
        self._alias_spool(context, source, options)
        try:
            async with asyncio.timeout(2 * HOUR):
                report = await operations.put(context, [source], options)
        except (PotsherdError, TimeoutError) as error:
            self._note(f"{name} ({len(content)} bytes) is not put: {error!r}")
        else:
            self._note(f"{name} ({len(content)} bytes) is put on {report.placed} nodes")
            self._acknowledged(name, content, report.w)
        finally:
            await session.close()

    def _alias_spool(self, context: Context, source: Path, options: PutOptions) -> None:
        """A put names its spool by the absolute path of what it puts: not a fact of this world."""
        desk = Desk.open(self._home, context.network, [source], options)
        self.world.log.aliases[desk.identity] = f"spool-{options.name}"
        desk.remove()

    def _acknowledged(self, name: str, content: bytes, least: int) -> None:
        with Library(self._home.library_path) as library:
            found = library.dataset(name)
            stored = library.segments(found.number, 0)
        for segment in stored:
            self.observer.acknowledged(self.observer.descriptor(segment.segment_id), least)
        ids = tuple(segment.segment_id for segment in stored)
        self.datasets.append(_Dataset(name, found.newest.capability, content, ids))

    async def _get(self) -> None:
        if self.datasets:
            await self._read(self.rng.choice(self.datasets))

    async def _read(self, dataset: _Dataset) -> bool:
        """Read it whole with a new client; wrong bytes are a broken promise, none are not always."""
        self.report.reads += 1
        before = self._spare(dataset)
        try:
            async with asyncio.timeout(HOUR):
                found = await self._fetch(dataset.capability)
        except (PotsherdError, TimeoutError) as error:
            self._note(f"{dataset.name} cannot be read: {error!r}")
            if min(before, self._spare(dataset)) > 0:
                raise BrokenPromise(f"{dataset.name} has {self._reach(dataset)}") from error
            self.report.reads_failed += 1
            return False
        if found != dataset.content:
            raise BrokenPromise(f"{dataset.name} came back different")
        return True

    def _spare(self, dataset: _Dataset) -> int:
        """Good indices within reach beyond the k that are needed; -1 while the network is torn."""
        if self._torn:
            return -1
        there = self._there()
        found = [self.observer.distinct(s, among=there) for s in dataset.segments]
        return min(found, default=0) - self.plan.k

    def _reach(self, dataset: _Dataset) -> str:
        """Who holds what of it, for a message."""
        names = [self.observer.holders(s) for s in dataset.segments]
        return f"enough good indices within reach of {names}, away {list(self._away)}"

    async def _fetch(self, capability: ReadCapability) -> bytes:
        session = await self.town.session(self._there())
        try:
            context = Context(session.env, self._home, self._home.networks.choose(None), session)
            pieces = [piece async for piece in operations.cat(context, capability, b"data")]
        finally:
            await session.close()
        return b"".join(pieces)

    # --- the end -----------------------------------------------------------------------------------

    async def _calm_down(self) -> None:
        """Nothing happens any more; what is away comes back; then everything has to become whole."""
        self.world.weather(loss=0.0, duplication=0.0, reordering=0.0, late=0.0)
        while self._tasks:
            await asyncio.wait(list(self._tasks), timeout=STEP_S)
            self._check()
        self._note("calm")
        ends = self.world.loop.time() + self.plan.calm_s
        while (missing := self._missing()) and self.world.loop.time() < ends:
            await self._pause(600)
        if missing:
            raise BrokenPromise(f"not repaired after {self.plan.calm_s:.0f} s of calm: {missing}")
        self.observer.check_all()
        self._check()
        for dataset in self.datasets:
            if not await self._read(dataset) and not await self._read(dataset):
                raise BrokenPromise(f"{dataset.name} cannot be read in calm weather")

    def _missing(self) -> list[str]:
        """Segments with fewer indices than repair starts at. A liar's count, until it is found out."""
        return [
            f"{segment_id.hex()[:12]}: {count} of {descriptor.r}"
            for segment_id, descriptor in self.observer.segments()
            if (count := self.observer.distinct(segment_id, lies_count=True)) < descriptor.r
        ]

    def _sum_up(self) -> None:
        report, observer = self.report, self.observer
        report.datasets = len(self.datasets)
        report.steps = observer.steps
        report.least = min(observer.least.values(), default=0)
        nodes = [self.town.node(name) for name in self.town.running()]
        upkeeps = [node.status().upkeep for node in nodes]
        report.repaired = sum(upkeep.repairer.repaired for upkeep in upkeeps)
        report.audits = sum(upkeep.auditing.audits.passed for upkeep in upkeeps)
        report.audits_failed = sum(upkeep.auditing.audits.failed for upkeep in upkeeps)
