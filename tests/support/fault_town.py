"""Whole nodes among which one call fails: which call, and what must be true afterwards.

A clean run counts the calls of a kind, over all machines; then each of them fails once, in a run of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from node_town import push_all

from potsherd.crypto.eris import ReadCapability
from potsherd.datasets import operations
from potsherd.datasets.home import Home
from potsherd.datasets.library import Library
from potsherd.datasets.operations import Context, PutOptions
from potsherd.errors import PeerError, PotsherdError, StorageError, UnreachableError
from potsherd.node.habits import LossPolicy
from potsherd.node.node import Node
from potsherd.node.testing import HandMade
from potsherd.simulations.world import World
from potsherd.simulations.world.observer import Observer
from potsherd.simulations.world.town import FAST, NodeTown

T = TypeVar("T")
KINDS = ("disk", "commit", "network", "power")
"""A disk call, a commit, a call of the network fails; the machine loses power at a disk call or commit."""
QUOTA = 2**25
SETTINGS = replace(
    FAST,
    quota_bytes=QUOTA,
    heartbeat_s=60.0,
    away_after_s=180.0,
    loss=LossPolicy(prior_s=600.0, learned_s=86_400, floor_s=600.0, missed_s=120.0),
    repair=replace(FAST.repair, round_s=120.0, tick_s=10.0, standby_s=60.0, settle_s=60.0),
    roster_period_s=60.0,
    reconcile_round_s=300.0,
    move_retry_s=20.0,
)


class Trouble:
    """Counts calls of one kind while it is armed; the call number `at`, from 0, fails."""

    def __init__(self, kind: str, at: int = -1) -> None:
        self.kind, self.at = kind, at
        self.calls = 0
        self.hit = ""
        """What was hit."""

    def _next(self, what: str) -> bool:
        number, self.calls = self.calls, self.calls + 1
        if number == self.at:
            self.hit = what
        return number == self.at

    def power(self, name: str, cut: Callable[[], None]) -> None:
        """Before a disk call or commit of a machine: nothing, or the end of its life."""
        if self._next(f"power of {name}"):
            cut()

    def disk(self, operation: str, path: str) -> Exception | None:
        return StorageError("input/output error") if self._next(f"{operation} {path}") else None

    def commit(self, name: str) -> Exception | None:
        return sqlite3.OperationalError("disk I/O error") if self._next(name) else None

    def network(self, operation: str, machine: str, host: str) -> Exception | None:
        if not self._next(f"{operation} {machine} {host}"):
            return None
        error = UnreachableError if operation == "dial" else PeerError
        return error("the network has failed")


class FaultTown:
    """Six nodes, an observer, and a trouble that can be armed."""

    def __init__(self, world: World, trouble: Trouble, folder: Path) -> None:
        self.world, self.trouble, self.folder = world, trouble, folder
        self._back: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()  # nobody's: a machine's tasks end with it
        self.town = NodeTown(world, SETTINGS)
        self.observer = Observer(world)

    async def prepare(self, nodes: int) -> None:
        for number in range(nodes):
            name = self.town.add(number)
            self.observer.watch(name, QUOTA)
            await self._guarded(name, self.town.start(name))

    async def _guarded(self, name: str, starting: Coroutine[None, None, Node]) -> None:
        """A bug in a task of the node's own ends the run."""
        node = await starting
        self.world.spawn(name, node.wait_failed())

    def _cut(self, name: str) -> None:
        """The machine loses power, with torn writes, and is back after a minute."""
        self.town.stop(name, power_cut=True)
        self.observer.stopped(name)
        back = self._return(name)
        self._back = self.world.loop.create_task(back, context=self._context.copy())

    async def _return(self, name: str) -> None:
        await asyncio.sleep(60)
        await self._guarded(name, self.town.restart(name))
        self.observer.restarted(name)

    async def node(self, name: str) -> Node:
        """The node of a machine, as soon as it is up."""
        await self.until(lambda: name in self.town.running(), 600)
        return self.town.node(name)

    def arm(self, *, on: bool = True) -> None:
        kind = self.trouble.kind
        for name in self.town.names():
            platter = self.world.disk(name)
            platter.fault = self.trouble.disk if on and kind == "disk" else None
            platter.commit_fault = self.trouble.commit if on and kind == "commit" else None
            if on and kind == "power":
                self._arm_power(name)
        self.world.net_fault = self.trouble.network if on and kind == "network" else None

    def _arm_power(self, name: str) -> None:
        platter, cut = self.world.disk(name), partial(self._cut, name)
        platter.fault = lambda *_: self.trouble.power(name, cut)
        platter.commit_fault = lambda _: self.trouble.power(name, cut)

    async def on(self, name: str, work: Coroutine[None, None, T]) -> T:
        """Run as the machine's, as whoever asks it over its local socket does. Raises UnreachableError."""
        task = self.world.spawn(name, work)
        await asyncio.wait([task])
        if task.cancelled():
            raise UnreachableError("the machine has lost power")
        return task.result()

    async def calm(self) -> None:
        """Nothing fails any more, and everybody is back."""
        self.arm(on=False)
        if self._back is not None:
            await self._back
        self.observer.check_all()

    def made(self, rows: int = 6) -> HandMade:
        """A segment whose shards lie in files, 2 of 4, repaired at the first loss."""
        stream = (b"potsherd" * 4096 * 2 * rows)[: 2 * rows * 32768 - 5]
        return HandMade(self.town.network.network_id, stream, 2, 4, r=4)

    async def place(self, made: HandMade) -> list[str]:
        """The machines that hold it."""
        async with await self.town.session() as session:
            await push_all(session, made)
        self.observer.acknowledged(made.descriptor, 4)
        return list(self.observer.holders(made.segment_id))

    async def until(self, true: Callable[[], bool], timeout_s: float) -> None:
        """Wait for it, or fail."""
        async with asyncio.timeout(timeout_s):
            while not true():
                await asyncio.sleep(5)

    def whole(self, made: HandMade) -> bool:
        """All indices are there and good, each once."""
        holders = self.observer.holders(made.segment_id)
        return self.observer.distinct(made.segment_id) == 4 == len(holders)


async def put_and_get(case: FaultTown) -> None:
    """A call of the network fails at the client too; what fails is simply done again."""
    await case.prepare(5)
    home = Home(case.folder / "home")
    home.networks.add(case.town.network.invitation.encode())
    home.make_master(case.world.rng("master"))
    source = case.folder / "data"
    source.write_bytes(bytes(range(256)) * 800)
    case.arm()
    for left in (1, 0):
        try:
            await _put(case, home, source)
            break
        except PotsherdError:
            assert left, "a second time nothing fails"
            await asyncio.sleep(90)  # who has lost power is back
    with Library(home.library_path) as library:
        found = library.dataset("set")
        for segment in library.segments(found.number, 0):
            case.observer.acknowledged(case.observer.descriptor(segment.segment_id), 4)
    for left in (1, 0):
        try:
            assert await _cat(case, home, found.newest.capability) == source.read_bytes()
            break
        except PotsherdError:
            assert left, "a second time nothing fails"
            await asyncio.sleep(90)
    await case.calm()


async def _put(case: FaultTown, home: Home, source: Path) -> None:
    async with await case.town.session() as session:
        context = Context(session.env, home, home.networks.choose(None), session)
        await operations.put(context, [source], PutOptions(name="set", k=2, n=4))


async def _cat(case: FaultTown, home: Home, capability: ReadCapability) -> bytes:
    async with await case.town.session() as session:
        context = Context(session.env, home, home.networks.choose(None), session)
        pieces = operations.cat(context, capability, b"data")
        return b"".join([piece async for piece in pieces])


async def repair(case: FaultTown) -> None:
    """One of four holders is destroyed; the others mend it."""
    await case.prepare(6)
    made = case.made()
    holders = await case.place(made)
    await asyncio.sleep(300)
    victim = holders[0]
    case.town.remove(victim)
    case.observer.destroyed(victim)
    case.arm()
    await case.until(lambda: case.whole(made), 4 * 3600)
    await case.calm()
    await case.until(lambda: case.whole(made), 4 * 3600)


async def leave(case: FaultTown) -> None:
    """A holder moves its shards away; never is one short of an index."""
    await case.prepare(6)
    made = case.made()
    holders = await case.place(made)
    name = holders[0]
    case.arm()
    for left in (1, 0):
        try:
            await case.on(name, (await case.node(name)).leaving.leave())
            break
        except PotsherdError:
            assert left, "a second time nothing fails"
            await asyncio.sleep(90)
    async with asyncio.timeout(3600):
        while not (await _status(case, name)):
            await asyncio.sleep(2)
    await case.calm()
    assert case.observer.least[made.segment_id] == 4
    case.town.remove(name)
    case.observer.destroyed(name)
    assert case.observer.distinct(made.segment_id) == 4


async def _status(case: FaultTown, name: str) -> bool:
    try:
        return (await case.on(name, (await case.node(name)).leaving.status())).safe
    except PotsherdError:
        return False


SCENARIOS: dict[str, Callable[[FaultTown], Coroutine[None, None, None]]] = {
    "put": put_and_get,
    "repair": repair,
    "leave": leave,
}


def play(scenario: str, trouble: Trouble, folder: Path, *, seed: int = 3, **weather: Any) -> None:
    """One run. Raises when anything that is promised is not true."""
    folder.mkdir(exist_ok=True)
    with World(seed, **weather) as world:
        case = FaultTown(world, trouble, folder)
        world.run(SCENARIOS[scenario](case), time_max_s=86_400)
        assert case.observer.broken == []


def calls(scenario: str, kind: str, folder: Path) -> int:
    """How many calls of the kind a clean run makes."""
    trouble = Trouble(kind)
    play(scenario, trouble, folder)
    return trouble.calls
