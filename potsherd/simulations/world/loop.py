"""An asyncio event loop whose clock jumps to the next timer.

Nothing waits: when no callback is ready, the clock is set to the earliest timer. There are no threads
and no file descriptors, so two runs that make the same decisions are equal event for event.

Traps that shaped this module:

- `_clock_resolution` must exceed one float step of the virtual time, or the loop hangs for ever once the
  clock is large: 1e-9 fails after a virtual year, 1e-6 is good for centuries.
- Sets of tasks are everywhere in asyncio (`TaskGroup`, `wait`, `as_completed`), and tasks hash by their
  address in memory, which differs from run to run. Tasks of this loop hash by a serial number.
  Coroutines still hash by address: give `asyncio.as_completed` tasks, not coroutines.
- Timers of one instant leave the heap in an order that is fixed but not that of their making: who needs an
  order (the bytes of a stream) keeps a queue of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar, TypeVarTuple

__all__ = ["DeadlockError", "VirtualLoop", "VirtualTask"]

CLOCK_RESOLUTION_S = 1e-6

ROUNDS_AT_ONE_INSTANT_MAX = 1_000_000
"""Turns of the loop without a tick of the clock; beyond it DeadlockError: somebody polls with sleep(0)."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Machine(Protocol):
    """Whose tasks may stand still while time passes."""

    asleep: bool
    parked: list[asyncio.Handle]


DatagramOpener = Callable[
    [asyncio.DatagramProtocol, tuple[str, int] | None, tuple[str, int] | None],
    tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol],
]


class DeadlockError(RuntimeError):
    """The virtual world would stand still for ever: nothing to do, or too much to do at one instant."""


class VirtualTask(asyncio.Task[T]):
    """A task that hashes by a serial number, so that sets of tasks have one order in every run."""

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: VirtualLoop,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        # before the constructor of the base, which puts the task into a set
        self.serial = loop.next_serial()
        self.machine: Machine | None = None
        super().__init__(coro, loop=loop, name=name or f"task-{self.serial}", context=context)

    def __hash__(self) -> int:
        return self.serial


class _JumpingSelector:
    """What BaseEventLoop asks for events: there are none, time passes instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._rounds = 0

    def select(self, timeout: float | None) -> tuple[()]:
        loop = self._loop
        self._rounds += 1
        if loop.sleepers and loop._ready:
            loop.park_steps()
            if not loop._ready and not timeout:
                timeout = math.inf if loop._scheduled else None
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        if timeout > 0:
            loop.jump()
            self._rounds = 0
        elif self._rounds > ROUNDS_AT_ONE_INSTANT_MAX:
            raise DeadlockError("a task runs for ever without waiting for time to pass")
        elif loop.shuffle_rng is not None and len(loop._ready) > 1:
            loop.shuffle_steps(loop.shuffle_rng)
        return ()


def _is_task_step(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]


class VirtualLoop(asyncio.BaseEventLoop):
    """`loop.time()` starts at 0 and only moves when everybody waits.

    With `shuffle_rng`, the steps of tasks that are ready together run in a seeded order. Plain callbacks
    keep their places, because protocols rely on the order of `call_soon`.
    """

    # Attributes of BaseEventLoop that are not in its public interface; 3.11 to 3.13 have them.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, shuffle_rng: random.Random | None = None) -> None:
        super().__init__()
        self._now = 0.0
        self._serial = 0
        self._clock_resolution = CLOCK_RESOLUTION_S
        self._selector = _JumpingSelector(self)
        self.shuffle_rng = shuffle_rng
        self.sleepers = 0
        """Machines asleep."""
        self.on_task: Callable[[VirtualTask[Any], contextvars.Context | None], None] | None = None
        self.on_datagram_endpoint: DatagramOpener | None = None
        self.set_debug(False)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def next_serial(self) -> int:
        """The next number of this loop's count, for hashes and names that are equal in every run."""
        self._serial += 1
        return self._serial

    def jump(self) -> None:
        """Set the clock to the earliest timer."""
        self._now = max(self._now, self._scheduled[0].when())

    def shuffle_steps(self, rng: random.Random) -> None:
        """Permute the task steps among the ready handles; every other handle keeps its place."""
        handles = list(self._ready)
        places = [i for i, handle in enumerate(handles) if _is_task_step(handle)]
        if len(places) < 2:
            return
        shuffled = places[:]
        rng.shuffle(shuffled)
        result = handles[:]
        for place, source in zip(places, shuffled, strict=True):
            result[place] = handles[source]
        self._ready.clear()
        self._ready.extend(result)

    def park_steps(self) -> None:
        """Set aside the task steps of machines that are asleep."""
        awake: list[asyncio.Handle] = []
        for handle in self._ready:
            task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            machine = task.machine if isinstance(task, VirtualTask) else None
            if machine is not None and machine.asleep:
                machine.parked.append(handle)
            else:
                awake.append(handle)
        self._ready.clear()
        self._ready.extend(awake)

    def unpark_steps(self, machine: Machine) -> None:
        """Go on with what was set aside."""
        self._ready.extend(machine.parked)
        machine.parked.clear()

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        context: contextvars.Context | None = None,
        name: str | None = None,
        **_: Any,
    ) -> VirtualTask[T]:
        task = VirtualTask(coro, loop=self, context=context, name=name)
        if self.on_task is not None:
            self.on_task(task, context)
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Inline: threads would bring the order of the operating system's scheduler."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_datagram_endpoint(  # type: ignore[override] # of sockets it knows addresses only
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **_: Any,
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        """A datagram socket of the machine whose task asks; only in a `World`."""
        if self.on_datagram_endpoint is None:
            raise NotImplementedError("this loop has no network")
        return self.on_datagram_endpoint(protocol_factory(), local_addr, remote_addr)

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """Only literal addresses exist here; nobody is asked."""
        family = socket.AF_INET6 if ":" in str(host) else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 0, "", (host, int(port)))]

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def __del__(self) -> None:
        pass  # holds nothing of the operating system: no ResourceWarning when it was not closed
