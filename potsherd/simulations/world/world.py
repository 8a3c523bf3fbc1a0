"""A virtual world: many machines in one process, on one clock that jumps, with one seed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import random
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.ports import Env
from potsherd.simulations.world.disk import CAPACITY_BYTES_DEFAULT, Platter, WorldDisk
from potsherd.simulations.world.endpoints import open_datagram_endpoint
from potsherd.simulations.world.life import CURRENT_LIFE, Life
from potsherd.simulations.world.log import EventLog
from potsherd.simulations.world.loop import DeadlockError, VirtualLoop, VirtualTask
from potsherd.simulations.world.net import Fabric, NetFault, Weather, WorldNet

__all__ = ["World"]

EPOCH_UTC_S = 1_767_225_600.0
"""What the calendars of the world show at virtual time 0: 1 January 2026."""

CLOSE_TIMEOUT_S = 3600.0
"""Virtual time that cancelled tasks get for their cleanup when a world is closed."""

T = TypeVar("T")


@dataclass(eq=False)
class _Machine:
    name: str
    host: str
    platter: Platter
    clock_skew_s: float
    plugged: bool = True
    nat: bool = False
    group: int = 0
    lives: int = 0
    life: Life | None = None
    env: Env | None = None


class _WorldOffload:
    """Inline, plus a seeded delay before or after: a crash in between falls before or after the call."""

    def __init__(
        self,
        loop: VirtualLoop,
        life: Life,
        log: EventLog,
        rng: random.Random,
        delay_s: tuple[float, float],
        done: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._done = done
        self._life = life
        self._log = log
        self._rng = rng
        self._delay_s = delay_s

    async def __call__(self, fn: Callable[..., T], /, *args: Any) -> T:
        self._life.check_disk()
        delay = self._rng.uniform(*self._delay_s)
        future: asyncio.Future[T] = self._loop.create_future()
        if self._rng.random() < 0.5:
            done: asyncio.Future[T] = self._loop.create_future()
            self._run(done, fn, args)
            self._loop.call_later(delay, _copy_outcome, done, future)
        else:
            self._loop.call_later(delay, self._run, future, fn, args)
        return await future

    def _run(self, future: asyncio.Future[T], fn: Callable[..., T], args: tuple[Any, ...]) -> None:
        if not self._life.alive:
            future.cancel()
            return
        self._log.add("offload", self._life.name, getattr(fn, "__qualname__", type(fn).__name__))
        try:
            result = fn(*args)
        except Exception as error:
            self._done(self._life.name)
            if not future.done():
                future.set_exception(error)
        else:
            self._done(self._life.name)
            if not future.done():
                future.set_result(result)


def _copy_outcome(source: asyncio.Future[T], target: asyncio.Future[T]) -> None:
    if target.done():
        source.cancelled() or source.exception()  # seen: nobody waits any more
    elif (error := source.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())


class World:
    """Machines, their network and their disks; everything that happens follows from the seed.

    with World(7, loss=0.01) as world:
        env = world.env("a")
        world.spawn("a", serve(env))
        world.run(scenario(world))

    Exceptions that a machine's task ends with and that nobody asked for are raised at the end of `run`.
    """

    def __init__(
        self,
        seed: int,
        *,
        latency_s: tuple[float, float] = (0.005, 0.05),
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        late: float = 0.0,
        bandwidth_bytes_s: float = 12_500_000.0,
        offload_s: tuple[float, float] = (0.0001, 0.002),
        shuffle: bool = True,
        log_content: bool = True,
        log_file: Path | None = None,
    ) -> None:
        """`shuffle`: tasks that are ready together run in a seeded order instead of first come first."""
        self.seed = seed
        self.loop = VirtualLoop(self.rng("loop") if shuffle else None)
        self.loop.on_task = self._own_task
        self.log = EventLog(self.loop.time, content=log_content, file=log_file)
        weather = Weather(
            latency_s=latency_s,
            loss=loss,
            duplication=duplication,
            reordering=reordering,
            late=late,
            bandwidth_bytes_s=bandwidth_bytes_s,
        )
        self.fabric = Fabric(self.loop, self.rng("network"), self.log, weather)
        self.loop.on_datagram_endpoint = functools.partial(open_datagram_endpoint, self.fabric)
        self._offload_s = offload_s
        self.on_step: Callable[[str], None] | None = None
        """Called with a machine's name after each call that it ran off the loop: the disk is at rest then."""
        self._rot_rng = self.rng("rot")
        self._machines: dict[str, _Machine] = {}
        self._failed: list[asyncio.Task[Any]] = []
        self._complaints: list[BaseException] = []
        self._waiting_in_vain: list[asyncio.Task[Any]] = []
        """What runs that failed have left, one each, until `close`: else it is collected, and the loop complains."""
        self.loop.set_exception_handler(self._complain)

    # machines

    def env(
        self,
        name: str,
        host: str | None = None,
        *,
        clock_skew_s: float = 0.0,
        capacity_bytes: int = CAPACITY_BYTES_DEFAULT,
    ) -> Env:
        """The ports of a machine; made and started when first asked for.

        Without `host`, each machine has a /24 of its own within 10.0.0.0/8. Several machines may share a
        host. Asked again, gives the ports of the machine as it runs now.
        """
        machine = self._machines.get(name)
        if machine is None:
            number = len(self._machines)
            host = host or f"10.{number // 250}.{number % 250}.1"
            machine = _Machine(name, host, Platter(capacity_bytes), clock_skew_s)
            self._machines[name] = machine
            self._start(machine)
        if machine.env is None:
            raise UsageError(f"{name} is down: restart it")
        return machine.env

    def restart(self, name: str) -> Env:
        """Start a crashed or killed machine again, with the disk as the crash has left it."""
        machine = self._machines[name]
        if machine.life is not None:
            raise UsageError(f"{name} is running")
        return self._start(machine)

    def crash(self, name: str) -> None:
        """Cut the power: tasks end, unsynced writes are lost or torn, the network falls silent."""
        machine = self._end(name, power_cut=True)
        machine.platter.power_cut(self.rng("crash", name, machine.lives))

    def kill(self, name: str) -> None:
        """End the process (SIGKILL): tasks end, what was written stays, connections are reset."""
        self._end(name, power_cut=False)

    def spawn(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as the machine's: it, and all tasks it makes, are cancelled by a crash.

        Whoever awaits the task of a machine that crashes gets CancelledError.
        """
        life = self._life(name)
        context = contextvars.copy_context()
        context.run(CURRENT_LIFE.set, life)
        return self.loop.create_task(coro, context=context)

    def running(self, name: str) -> bool:
        """Whether the machine is up."""
        return self._machines[name].life is not None

    def names(self) -> list[str]:
        """All machines, in the order of their making."""
        return list(self._machines)

    def disk(self, name: str) -> Platter:
        """What survives crashes: for faults, bit rot and looking at what was stored."""
        return self._machines[name].platter

    def index(self, name: str) -> sqlite3.Connection | None:
        """The open database of a running machine, to look into; not to be changed."""
        life = self._machines[name].life
        return life.indexes[0] if life is not None and life.indexes else None

    def rot(self, name: str, folder: str = "") -> tuple[str, int]:
        """Flip a seeded bit of a file below `folder`; gives its path and the byte's offset."""
        platter = self._machines[name].platter
        prefix = f"{folder}/" if folder else ""
        found = [(p, len(i.live)) for p, i in platter.files() if p.startswith(prefix) and i.live]
        if not found:
            raise UsageError(f"{name} has no file with content below {folder!r}")
        path, size = self._rot_rng.choice(found)
        offset = self._rot_rng.randrange(size)
        platter.rot(path, offset, 1 << self._rot_rng.randrange(8))
        self.log.add("rot", name, f"{path} {offset}")
        return path, offset

    def skew(self, name: str, clock_skew_s: float) -> None:
        """Set by how much the machine's calendar is ahead: a jump, if it is running."""
        self._machines[name].clock_skew_s = clock_skew_s
        self.log.add("clock", name, repr(clock_skew_s))

    def fill_disk(self, name: str, free_bytes: int | None = 0) -> None:
        """Let others use the machine's disk up to so many free bytes; None: they give it all back."""
        platter = self._machines[name].platter
        if free_bytes is None:
            platter.capacity_bytes = CAPACITY_BYTES_DEFAULT
        else:
            platter.capacity_bytes = platter.allocated_bytes + free_bytes
        self.log.add("fill", name, repr(free_bytes))

    def sleep(self, name: str) -> None:
        """Suspend a machine: its tasks stand still and the network hears nothing of it.

        Its clocks go on, as those of a stopped process do: what came due meanwhile comes due when it wakes.
        Connections break after the silence that others bear. A call that runs off the loop ends.
        """
        life = self._life(name)
        if life.asleep:
            raise UsageError(f"{name} is asleep")
        life.asleep = True
        self.loop.sleepers += 1
        self.log.add("sleep", name, "")
        self.fabric.network_changed()

    def wake(self, name: str) -> None:
        """Go on where `sleep` has stopped."""
        life = self._life(name)
        if not life.asleep:
            raise UsageError(f"{name} is awake")
        self._rouse(life)
        self.log.add("wake", name, "")
        self.fabric.network_changed()

    def asleep(self, name: str) -> bool:
        """Whether the machine is suspended."""
        life = self._machines[name].life
        return life is not None and life.asleep

    def _rouse(self, life: Life) -> None:
        if life.asleep:
            life.asleep = False
            self.loop.sleepers -= 1
            self.loop.unpark_steps(life)

    # network

    def partition(self, groups: Sequence[Sequence[str]]) -> None:
        """Machines reach each other only within a group; those not named form one more."""
        numbers = {name: i for i, group in enumerate(groups, start=1) for name in group}
        for name, machine in self._machines.items():
            machine.group = numbers.get(name, 0)
            if machine.life is not None:
                machine.life.group = machine.group
        self.log.add("partition", "-", repr([list(group) for group in groups]))
        self.fabric.network_changed()

    def heal(self) -> None:
        """End all partitions."""
        self.partition([])

    def unplug(self, *names: str) -> None:
        """Take machines off the network; they keep running."""
        self._plug(names, False)

    def plug(self, *names: str) -> None:
        """Put machines back on the network."""
        self._plug(names, True)

    def nat(self, name: str, behind: bool = True) -> None:
        """Put a machine behind an address translator, or take it out.

        Nobody can dial it, and a datagram gets through only from a host to which it has sent one in the
        last NAT_HOLD_S seconds. Its address is its own: translation of ports is not modelled.
        """
        machine = self._machines[name]
        machine.nat = behind
        if machine.life is not None:
            machine.life.nat = behind
        self.log.add("nat", name, repr(behind))

    def bandwidth(
        self, name: str, *, up_bytes_s: float | None = None, down_bytes_s: float | None = None
    ) -> None:
        """Give a machine's host its own up- and downlink; None: that of the weather."""
        link = self.fabric.link(self._machines[name].host)
        link.up_bytes_s, link.down_bytes_s = up_bytes_s, down_bytes_s

    def weather(self, **changes: Any) -> None:
        """Change how the network behaves; names as in `Weather`."""
        self.fabric.weather = replace(self.fabric.weather, **changes)

    @property
    def net_fault(self) -> NetFault | None:
        """Called before each bind, listen, dial, read and write with (operation, machine, host).

        The exception it returns is raised; on reads and writes the stream is reset as well. `host` is
        that of the other side, or our own.
        """
        return self.fabric.fault

    @net_fault.setter
    def net_fault(self, fault: NetFault | None) -> None:
        self.fabric.fault = fault

    # time

    def run(self, coro: Coroutine[Any, Any, T], *, time_max_s: float | None = None) -> T:
        """Run until `coro` is done; machines' tasks go on between calls only while one runs.

        Raises TimeoutError after `time_max_s` virtual seconds, and what machines' tasks failed with.
        """
        task = self.loop.create_task(self._limited(coro, time_max_s))
        try:
            result = self.loop.run_until_complete(task)
        except (DeadlockError, TimeoutError):
            self._waiting_in_vain.append(task)
            self.check()  # the likely reason
            raise
        self.check()
        return result

    def check(self) -> None:
        """Raise what machines' tasks ended with and nobody has asked for."""
        failed, self._failed = self._failed, []
        for task in failed:
            if task._log_traceback:  # True until somebody asks
                error = task.exception()
                if error is not None:
                    raise error
        if self._complaints:
            complaints, self._complaints = self._complaints, []
            raise complaints[0]

    def rng(self, *purpose: object) -> random.Random:
        """A generator for one purpose: a function of the seed and the purpose alone."""
        text = repr((self.seed, *purpose)).encode()
        return random.Random(hashlib.blake2b(text, digest_size=32).digest())

    def close(self) -> None:
        """Cancel every task and close the loop. Nothing is logged any more."""
        if self.loop.is_closed():
            return
        self.log.close()
        for machine in self._machines.values():
            if machine.life is not None:
                self._rouse(machine.life)
        tasks = sorted(asyncio.all_tasks(self.loop), key=hash)
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(DeadlockError):  # somebody's cleanup waits for ever
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        for machine in self._machines.values():
            if machine.life is not None:
                machine.life.end(power_cut=False)
        self._failed.clear()
        self._waiting_in_vain.clear()
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # details

    def _life(self, name: str) -> Life:
        life = self._machines[name].life
        if life is None:
            raise UsageError(f"{name} is down")
        return life

    def _start(self, machine: _Machine) -> Env:
        machine.lives += 1
        life = machine.life = Life(machine.name, machine.host, machine.lives)
        life.plugged, life.group, life.nat = machine.plugged, machine.group, machine.nat
        self.fabric.join(life)
        self.log.add("start", machine.name, f"{machine.host} {machine.lives}")

        def utc() -> float:
            return EPOCH_UTC_S + self.loop.time() + machine.clock_skew_s

        who = (machine.name, machine.lives)
        machine.env = Env(
            monotonic=self.loop.time,
            utc=utc,
            rng=self.rng("env", *who),
            net=WorldNet(self.fabric, life),
            disk=WorldDisk(machine.platter, life, self.log),
            offload=_WorldOffload(
                self.loop, life, self.log, self.rng("offload", *who), self._offload_s, self._stepped
            ),
        )
        return machine.env

    def _stepped(self, name: str) -> None:
        if self.on_step is not None:
            self.on_step(name)

    def _end(self, name: str, *, power_cut: bool) -> _Machine:
        machine = self._machines[name]
        life = self._life(name)
        self.log.add("crash" if power_cut else "kill", name, str(machine.lives))
        machine.life = machine.env = None
        self.fabric.leave(life)
        life.end(power_cut=power_cut)
        self._rouse(life)  # its tasks end now
        return machine

    def _plug(self, names: Sequence[str], plugged: bool) -> None:
        for name in names:
            machine = self._machines[name]
            machine.plugged = plugged
            if machine.life is not None:
                machine.life.plugged = plugged
            self.log.add("plug" if plugged else "unplug", name, "")
        self.fabric.network_changed()

    def _own_task(self, task: VirtualTask[Any], context: contextvars.Context | None) -> None:
        life = context.get(CURRENT_LIFE) if context is not None else CURRENT_LIFE.get()
        if life is not None:
            task.machine = life
            life.tasks[task] = None
            task.add_done_callback(lambda done: self._task_done(life, done))
            if not life.alive:
                task.cancel()

    def _task_done(self, life: Life, task: asyncio.Task[Any]) -> None:
        life.tasks.pop(task, None)
        if task.cancelled() or task._exception is None:  # marks nothing as seen
            return
        if life.alive:
            self._failed.append(task)
        else:
            task.exception()  # the death throes of a crashed machine interest nobody

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = RuntimeError(context.get("message", "a callback failed"))
        self._complaints.append(error)

    async def _limited(self, coro: Coroutine[Any, Any, T], time_max_s: float | None) -> T:
        async with asyncio.timeout(time_max_s):
            return await coro
