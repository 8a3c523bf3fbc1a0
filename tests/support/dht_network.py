"""A network of DHT nodes in the virtual world, and two exchanges wired together without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from plain_membrane import PlainMembrane

from potsherd.dht import Announcement, Dht, DhtConfig
from potsherd.dht.addresses import Contact
from potsherd.dht.exchange import Answer, Exchange, Failure, Request, Target
from potsherd.dht.membrane import Membrane
from potsherd.dht.records import Admissions, PresenceRecord, sign_record
from potsherd.dht.routing import number
from potsherd.dht.statistics import Counters
from potsherd.dht.wire import Ping, Pong
from potsherd.ports import Address, Rng
from potsherd.simulations.world import World
from potsherd.wire import Record

NETWORK = bytes(range(32))
PORT = 4000
UTC = 1_800_000_000.0
JOINING_MAX = 100


def contact(serial: int, host: str = "", *, network: bytes = NETWORK) -> Contact:
    """What is known of a donor when its serial is."""
    membrane = PlainMembrane(network, serial)
    address = Address(host or f"10.{serial // 250}.{serial % 250}.1", PORT)
    return Contact(membrane.my_id, membrane.my_key, address)


def announcement(
    membrane: Membrane, key: bytes, *, segment: bytes = bytes(32), expires: float = UTC + 80_000
) -> Announcement:
    """Index 3 of a segment at `membrane`'s node."""
    return Announcement(key, segment, 3, membrane.my_id, membrane.my_key, int(expires))


def presence(
    membrane: Membrane, *, issued: float = UTC, address: Address | None = None
) -> PresenceRecord:
    """A donor's presence of three hours."""
    return PresenceRecord(
        dht_id=membrane.my_id,
        key=membrane.my_key,
        address=address,
        relay=None,
        operator="lab",
        site="cellar",
        free_class=40,
        issued=int(issued),
        expires=int(issued) + 10_800,
        chain=membrane.my_chain,
    )


def signed_presence(membrane: Membrane, *, issued: float = UTC) -> bytes:
    """The same, signed."""
    return sign_record(presence(membrane, issued=issued), membrane)


@dataclass
class Side:
    """One exchange and what came in there; answers every request with `reply`."""

    serial: int
    address: Address
    config: DhtConfig
    rng: Rng
    membrane: Membrane | None = None
    reply: Record | None = field(default_factory=Pong)
    requests: list[Request] = field(default_factory=list)
    met: list[Contact] = field(default_factory=list)
    outcomes: list[Answer | Failure] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        if self.membrane is None:
            self.membrane = PlainMembrane(NETWORK, self.serial)
        self.my_key = self.membrane.my_key
        admissions = Admissions(self.membrane, entries_max=self.config.sessions_max, ttl_s=3600.0)
        self.exchange = Exchange(
            self.membrane, self.config, self.rng, admissions, self, self.counters
        )

    def answer(self, request: Request, now: float, utc: float) -> Record | None:
        """See `exchange.Handler`."""
        self.requests.append(request)
        return Pong() if isinstance(request.message, Ping) else self.reply

    def heard(self, contact: Contact, now: float, *, greets: bool) -> None:
        """See `exchange.Handler`."""
        self.met.append(contact)

    def ask(self, other: Side, message: Record | None = None, now: float = 0.0) -> None:
        """Send a request; the outcome is appended to `outcomes`."""
        target = Target(other.my_key, other.address)
        self.exchange.request(target, message or Ping(), now, self.outcomes.append)

    def take(self, data: bytes, sender: Address, now: float = 0.0) -> None:
        """One datagram arrives."""
        self.exchange.receive(data, sender, now, UTC + now)


def deliver(sides: Sequence[Side], now: float = 0.0) -> list[bytes]:
    """Carry datagrams to and fro until all is quiet; returns them."""
    carried: list[bytes] = []
    by_address = {side.address: side for side in sides}
    moving = True
    while moving:
        moving = False
        for side in sides:
            for data, to in side.exchange.drain():
                carried.append(data)
                moving = True
                if to in by_address:
                    by_address[to].take(data, side.address, now)
    return carried


class Network:
    """Donors and clients in one world; donor i has serial i."""

    def __init__(self, world: World, config: DhtConfig | None = None) -> None:
        self.world = world
        self.config = config or DhtConfig()
        self.donors: list[Dht] = []
        self.membranes: list[Membrane] = []
        self.addresses: list[Address] = []
        self.clients = 0

    def name(self, place: int) -> str:
        """The machine of a donor."""
        return f"donor{place}"

    @property
    def ids(self) -> list[int]:
        """All donors' ids as numbers."""
        return [number(membrane.my_id) for membrane in self.membranes]

    def ranked(self, key: bytes) -> list[int]:
        """Places of all donors, the nearest to `key` first."""
        ids, target = self.ids, number(key)
        return sorted(range(len(ids)), key=lambda place: ids[place] ^ target)

    async def _open(self, name: str, membrane: Membrane) -> tuple[Dht, Address]:
        env = self.world.env(name)
        host = self.world._machines[name].host
        datagrams = await env.net.bind(Address(host, PORT))
        return Dht(env, datagrams, membrane, self.config), Address(host, PORT)

    async def add_donor(self, membrane: Membrane | None = None) -> Dht:
        """One more; joins through the first."""
        place = len(self.donors)
        membrane = membrane or PlainMembrane(NETWORK, place)
        dht, address = await self._open(self.name(place), membrane)
        await dht.start(self.bootstrap([0]) if self.donors else [])
        self.donors.append(dht)
        self.membranes.append(membrane)
        self.addresses.append(address)
        return dht

    async def grow(self, count: int) -> None:
        """Add donors until there are `count`."""
        while len(self.donors) < count:
            await self.add_donor()

    async def grow_fast(self, count: int) -> None:
        """The same, up to a hundred at a time, but a tenth of the network; each knows three of those before."""
        rng = self.world.rng("grow")
        while len(self.donors) < count:
            there = len(self.donors)
            places = range(there, min(count, there + max(1, min(JOINING_MAX, there // 10))))
            opened = []
            for place in places:
                membrane = PlainMembrane(NETWORK, place)
                opened.append((membrane, *await self._open(self.name(place), membrane)))
            known = [self.bootstrap(rng.sample(range(there), min(3, there))) for _ in places]
            await asyncio.gather(
                *(dht.start(some) for (_, dht, _), some in zip(opened, known, strict=True))
            )
            for membrane, dht, address in opened:
                self.donors.append(dht)
                self.membranes.append(membrane)
                self.addresses.append(address)

    def bootstrap(self, places: Sequence[int]) -> list[tuple[bytes, Address]]:
        """(node key, address) of some donors."""
        return [(self.membranes[p].my_key, self.addresses[p]) for p in places]

    async def add_client(
        self, places: Sequence[int] = (0,), membrane: Membrane | None = None
    ) -> Dht:
        """A fresh client that knows these donors."""
        self.clients += 1
        membrane = membrane or PlainMembrane(NETWORK, 100_000 + self.clients, 0, "client")
        dht, _ = await self._open(f"client{self.clients}", membrane)
        await dht.start(self.bootstrap(places))
        return dht

    def announcement(
        self, place: int, key: bytes, segment: bytes = bytes(32), lifetime_s: float = 80_000
    ) -> Announcement:
        """By one donor, made now."""
        utc = self.world.env(self.name(place)).utc()
        return announcement(self.membranes[place], key, segment=segment, expires=utc + lifetime_s)

    def keepers(self, key: bytes) -> list[int]:
        """Places of the donors that keep announcements under `key`, the nearest first."""
        keeping = []
        for place in self.ranked(key):
            utc = self.world.env(self.name(place)).utc()
            if self.donors[place]._engine.keeper.announcements.get(key, utc):
                keeping.append(place)
        return keeping

    async def close(self) -> None:
        """Close all donors."""
        for dht in self.donors:
            await dht.close()
