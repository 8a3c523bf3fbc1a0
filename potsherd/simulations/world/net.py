"""The network of the virtual world: datagrams, and who reaches whom.

Streams are in `streams`. All chance comes from one generator, drawn in the order of the events.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from potsherd.classes import dataclass
from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError, UnreachableError, UsageError
from potsherd.ports import Address, Buffer, Identity, Stream
from potsherd.simulations.world.life import Life
from potsherd.simulations.world.log import EventLog
from potsherd.simulations.world.loop import VirtualLoop
from potsherd.simulations.world.streams import Link, WorldListener, WorldStream, dial

__all__ = ["Fabric", "NetFault", "Weather", "WorldDatagrams", "WorldNet"]

DATAGRAM_QUEUE_MAX = 1024
"""Datagrams waiting for `receive`; beyond it new ones are dropped and counted."""

DATAGRAM_BYTES_MAX = 1472
"""Larger ones need IP fragments, which many real paths drop; here all of them do."""

IDENTITIES_MAX = 65536
"""Node keys remembered as checked; beyond it the oldest is checked anew."""

PORT_EPHEMERAL_MIN = 49152
PORT_MAX = 65535
ANY_HOSTS = ("0.0.0.0", "::")  # noqa: S104 (names them, binds nothing)
LOOPBACK_HOSTS = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Weather:
    """How the network behaves; may be replaced while the world runs."""

    latency_s: tuple[float, float] = (0.005, 0.05)
    """One-way delay: each pair of machines has its own, between these bounds."""
    jitter: float = 0.1
    """Each packet takes up to this share longer."""
    loss: float = 0.0
    """Share of datagrams that vanish. Streams only lose whole connections."""
    duplication: float = 0.0
    """Share of datagrams that arrive twice."""
    late: float = 0.0
    """Share of datagrams that arrive after whoever asked has given up."""
    late_s: tuple[float, float] = (1.0, 60.0)
    """How much later those arrive."""
    reordering: float = 0.0
    """Share of datagrams that take up to four times as long, so that later ones overtake them."""
    bandwidth_bytes_s: float = 12_500_000.0
    """Of each machine's uplink and of its downlink, shared by its streams; `World.bandwidth` sets one's own."""
    break_s: tuple[float, float] = (5.0, 30.0)
    """How long an established stream stalls before it breaks, when the other side has gone silent."""


NetFault = Callable[[str, str, str], Exception | None]
"""(operation, machine, host of the other side or our own) to the error that it meets, or None."""


class Fabric:
    """The wires between all machines."""

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, log: EventLog, weather: Weather
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.log = log
        self.weather = weather
        self.sockets: dict[tuple[str, int], WorldDatagrams] = {}
        self.listeners: dict[tuple[str, int], WorldListener] = {}
        self.stalled: dict[WorldStream, None] = {}
        self.links: dict[str, Link] = {}
        self.drops: Counter[str] = Counter()
        """Datagrams that did not arrive, by reason."""
        self.fault: NetFault | None = None
        self._mix: dict[str, int] = {}
        self._lives: dict[str, dict[Life, None]] = {}
        self._port = PORT_EPHEMERAL_MIN

    def join(self, life: Life) -> None:
        """A machine has started."""
        self._lives.setdefault(life.host, {})[life] = None

    def leave(self, life: Life) -> None:
        """A machine has ended."""
        self._lives[life.host].pop(life, None)

    def answers(self, life: Life, host: str) -> bool:
        """Whether a machine with this address is up and within reach."""
        others = self._lives.get(host, ())
        return any(life.reaches(other) and other.lets_dial(life) for other in others)

    def next_port(self) -> int:
        """A port number for the dialling end of a stream."""
        self._port = self._port + 1 if self._port < PORT_MAX else PORT_EPHEMERAL_MIN
        return self._port

    def begin(self, operation: str, life: Life, host: str) -> None:
        """Before each call: raise what the injected fault wants, or that the machine is down."""
        life.check_network()
        error = self.fault(operation, life.name, host) if self.fault is not None else None
        if error is not None:
            raise error
        life.check_network()  # the fault may have been a crash

    def base_latency(self, one: str, other: str) -> float:
        """Seconds from host to host: symmetric, fixed for a pair, independent of the order of events."""
        if one == other:
            return 0.00005
        low, high = self.weather.latency_s
        mixed = ((self._host_mix(one) ^ self._host_mix(other)) * 0x9E3779B97F4A7C15) >> 32
        return low + (high - low) * (mixed & 0xFFFFFFFF) / 0x100000000

    def latency(self, one: str, other: str) -> float:
        """The delay of one packet now, with jitter."""
        return self.base_latency(one, other) * (1.0 + self.weather.jitter * self.rng.random())

    def link(self, host: str) -> Link:
        """The uplink and downlink of a host."""
        link = self.links.get(host)
        if link is None:
            link = self.links[host] = Link()
        return link

    def send(self, sender: WorldDatagrams, data: Buffer, to: Address) -> None:
        """Decide the fate of a datagram, and note it."""
        weather, rng, loop = self.weather, self.rng, self.loop
        payload = bytes(data)
        life = sender.life
        host = life.host if to[0] in LOOPBACK_HOSTS else to[0]
        fate = "sent"
        if len(payload) > DATAGRAM_BYTES_MAX:
            fate = "too-large"
        elif weather.loss and rng.random() < weather.loss:
            fate = "lost"
        self.log.add("datagram", life.name, f"{sender.port}>{host}:{to[1]} {fate}", payload)
        if life.nat:
            life.holes[host] = loop.time()  # one for each machine of the world, at most
        if fate != "sent":
            self.drops[fate] += 1
            return
        delay = self.latency(life.host, host)
        if weather.reordering and rng.random() < weather.reordering:
            delay *= 1.0 + 3.0 * rng.random()
        if weather.late and rng.random() < weather.late:
            delay += rng.uniform(*weather.late_s)
        loop.call_later(delay, self._arrive, sender, payload, host, to[1])
        if weather.duplication and rng.random() < weather.duplication:
            delay = self.latency(life.host, host) * 2
            loop.call_later(delay, self._arrive, sender, payload, host, to[1])

    def _arrive(self, sender: WorldDatagrams, payload: bytes, host: str, port: int) -> None:
        target = self.sockets.get((host, port))
        if target is None or not sender.came_from_reach(target.life):
            self.drops["unreachable"] += 1
            return
        if not target.put(payload, sender.source):
            self.drops["queue-full"] += 1

    def bind(self, life: Life, at: Address, table: dict[tuple[str, int], object]) -> int:
        """The port that is free for this, or PeerError."""
        if at.host not in (life.host, *ANY_HOSTS, *LOOPBACK_HOSTS):
            raise PeerError(f"{at.host} is not an address of {life.name}")
        if at.port == 0:
            for port in range(PORT_EPHEMERAL_MIN, PORT_MAX + 1):
                if (life.host, port) not in table:
                    return port
            raise PeerError("no free port")
        if (life.host, at.port) in table:
            raise PeerError(f"port {at.port} of {life.host} is taken")
        return at.port

    def network_changed(self) -> None:
        """Give stalled streams another try."""
        for stream in list(self.stalled):
            stream.retry()

    def _host_mix(self, host: str) -> int:
        mix = self._mix.get(host)
        if mix is None:
            digest = hashlib.blake2b(host.encode(), digest_size=8).digest()
            mix = self._mix[host] = int.from_bytes(digest, "big")
        return mix


class WorldDatagrams:
    """A UDP socket of a virtual machine (`potsherd.ports.Datagrams`)."""

    def __init__(self, fabric: Fabric, life: Life, host: str, port: int) -> None:
        self.fabric = fabric
        self.life = life
        self.port = port
        self.dropped = 0
        self.source = Address(life.host, port)
        self._address = Address(host, port)
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        life.at_end[self._end] = None

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: Buffer, to: Address) -> None:
        if not self._closed and self.life.alive:
            self.fabric.send(self, data, to)

    async def receive(self) -> tuple[bytes, Address]:
        while not self._queue:
            if self._closed:
                raise UnreachableError("the datagram socket is closed")
            waiter = self.fabric.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # our turn goes to the next
                raise
        return self._queue.popleft()

    def close(self) -> None:
        self._end(False)

    def came_from_reach(self, target: Life) -> bool:
        """Whether a datagram on its way gets through; what a machine sent before it died still does."""
        sender = self.life
        if not target.alive or not sender.has_path_to(target):
            return False
        return sender.host == target.host or target.has_hole_for(
            sender.host, self.fabric.loop.time()
        )

    def put(self, payload: bytes, source: Address) -> bool:
        """Queue an arrived datagram; False when the queue is full."""
        if len(self._queue) >= DATAGRAM_QUEUE_MAX:
            self.dropped += 1
            return False
        self._queue.append((payload, source))
        self._wake()
        return True

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _end(self, power_cut: bool) -> None:
        self._closed = True
        self.fabric.sockets.pop((self.life.host, self.port), None)
        self.life.at_end.pop(self._end, None)
        self._queue.clear()
        while self._waiters:
            self._wake()


class WorldNet:
    """The network of one machine (`potsherd.ports.Net`)."""

    def __init__(self, fabric: Fabric, life: Life) -> None:
        self._fabric = fabric
        self._life = life

    async def bind(self, at: Address) -> WorldDatagrams:
        fabric = self._fabric
        fabric.begin("bind", self._life, at.host)
        port = fabric.bind(self._life, at, fabric.sockets)  # type: ignore[arg-type] # reads keys only
        socket = WorldDatagrams(fabric, self._life, at.host, port)
        fabric.sockets[self._life.host, port] = socket
        return socket

    async def listen(
        self, at: Address, identity: Identity, accept: Callable[[Stream], Awaitable[None]]
    ) -> WorldListener:
        fabric = self._fabric
        fabric.begin("listen", self._life, at.host)
        _check_identity(identity)
        port = fabric.bind(self._life, at, fabric.listeners)  # type: ignore[arg-type] # reads keys only
        context = contextvars.copy_context()
        listener = WorldListener(
            fabric, self._life, Address(at.host, port), identity, accept, context
        )
        fabric.listeners[self._life.host, port] = listener
        return listener

    async def dial(
        self, to: Address, identity: Identity, peer_key: bytes, *, timeout_s: float
    ) -> WorldStream:
        self._fabric.begin("dial", self._life, to.host)
        _check_identity(identity)
        host = self._life.host if to.host in LOOPBACK_HOSTS else to.host
        return await dial(
            self._fabric, self._life, Address(host, to.port), identity, peer_key, timeout_s
        )


@functools.lru_cache(IDENTITIES_MAX)
def _check_identity(identity: Identity) -> None:
    """What TLS proves with a signature: nobody shows a key whose seed is not theirs."""
    if SigningKey(identity.seed).verify_key != identity.key:
        raise UsageError("the identity's key does not belong to its seed")
