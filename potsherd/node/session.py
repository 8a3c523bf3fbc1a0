"""Everything a data verb needs of the network: donors, announcements, connections to nodes.

A session belongs to a joined client (throw-away key; `open`), or is a running node's own view (made by
`Node`). Connections are kept and shared; a node is dialled by one task at a time, whoever asks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from potsherd.crypto.membership import NetworkConfig
from potsherd.dht import Announcement, Dht, DhtConfig
from potsherd.dht.addresses import Scope, scope_of
from potsherd.dht.records import Presence
from potsherd.errors import PeerError, UnreachableError
from potsherd.node.client import Peer
from potsherd.node.membrane import Gate, NodeMembrane
from potsherd.node.payloads import ANSWER_BYTES_MAX, AnswerBuffers
from potsherd.node.placement import Candidate
from potsherd.ports import Address, Datagrams, Env, Identity

__all__ = ["PEERS_MAX", "Session", "resolve_bootstrap"]

PEERS_MAX = 256
"""Connections kept open; beyond it the one used longest ago is closed, idle ones first."""
DIRECTORY_MAX = 8192
"""Nodes whose DHT id and address are remembered; the one met longest ago is forgotten first."""
COUNTED_DONORS_MAX = 200
"""Networks of fewer donors are counted, larger ones estimated, unless somebody needs it less exact."""
NEAR_DONORS = 64
"""Donors looked through for a node of which nothing but its key is known."""
COUNTED_FRESH_S = 30.0
"""Seconds for which those who were counted, when these were all, are all, and the donors near any key too."""
FAILED_DIALS_MAX = 16
"""Failed dials of one address in DIAL_WINDOW_S; then it is left alone until the window ends."""
DIAL_WINDOW_S = 60.0
ADDRESSES_MAX = 1024
"""Addresses whose failed dials are counted; the oldest count goes first."""
DEAD_MAX = 1024
"""Nodes remembered that could not be reached; the oldest goes first."""
RESOLVE_TIMEOUT_S = 5.0
"""Seconds to look up the name of a bootstrap node."""

_LOG = logging.getLogger(__name__)


class _Known(NamedTuple):
    dht_id: bytes
    address: Address | None


class _Directory:
    """What presences and announcements have said: DHT id and address by node key."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[bytes, _Known] = OrderedDict()

    def learn(self, key: bytes, dht_id: bytes, address: Address | None) -> None:
        known = self._nodes.get(key)
        if address is None and known is not None and known.dht_id == dht_id:
            address = known.address
        self._nodes[key] = _Known(dht_id, address)
        self._nodes.move_to_end(key)
        if len(self._nodes) > DIRECTORY_MAX:
            self._nodes.popitem(last=False)

    def get(self, key: bytes) -> _Known | None:
        return self._nodes.get(key)


class _DialBudget:
    """So many failed dials of one address in a window: nobody is hammered through us."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: OrderedDict[Address, tuple[float, int]] = OrderedDict()

    def allows(self, address: Address) -> bool:
        start, count = self._failures.get(address, (0.0, 0))
        return count < FAILED_DIALS_MAX or self._monotonic() - start >= DIAL_WINDOW_S

    def failed(self, address: Address) -> None:
        now = self._monotonic()
        start, count = self._failures.get(address, (now, 0))
        fresh = now - start >= DIAL_WINDOW_S
        self._failures[address] = (now, 1) if fresh else (start, count + 1)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def answered(self, address: Address) -> None:
        self._failures.pop(address, None)


class _Dead:
    """Who could not be reached a moment ago, and why."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._found: OrderedDict[bytes, tuple[float, UnreachableError]] = OrderedDict()
        self.remember_s = 0.0

    def check(self, key: bytes) -> None:
        """Raises UnreachableError as the last dial did, if that is not long ago."""
        when, error = self._found.get(key, (0.0, None))
        if error is not None and self._monotonic() - when < self.remember_s:
            raise UnreachableError(error.message, remedy=error.remedy)

    def note(self, key: bytes, error: BaseException | None) -> None:
        """How a dial ended."""
        self._found.pop(key, None)
        if isinstance(error, UnreachableError):
            self._found[key] = self._monotonic(), error
            if len(self._found) > DEAD_MAX:
                self._found.popitem(last=False)


class Session:
    """See the module's text. Use as an async context manager, or call `close`."""

    def __init__(
        self,
        env: Env,
        identity: Identity,
        dht: Dht,
        *,
        chain: bytes,
        gate: Gate,
        scope: Scope = Scope.LOOPBACK,
        is_donor: bool = False,
        peers_max: int = PEERS_MAX,
        availability: Callable[[bytes], float] | None = None,
        proven: Callable[[bytes], bool] | None = None,
        noted: Callable[[Candidate], None] | None = None,
    ) -> None:
        """`dht` must have been started; `close` leaves it alone. `scope`: addresses of less reach are not
        dialled. `availability(node key)`: expected share of time online, `proven(node key)`: whether it
        has a proven record, both for placement. `noted` is told of every donor that is met."""
        self.env = env
        self.identity = identity
        self.dht = dht
        self._chain = chain
        self._gate = gate
        self._scope = scope
        self._is_donor = is_donor
        self._peers_max = peers_max
        self._availability = availability or (lambda _: 1.0)
        self._proven = proven
        self._noted = noted
        self._owned: tuple[Dht, Datagrams] | None = None
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()
        self._dials: dict[bytes, asyncio.Task[Peer]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._directory = _Directory()
        self._budget = _DialBudget(env.monotonic)
        self._dead = _Dead(env.monotonic)
        # A client's life is short, and it reads much; a node reads little, and has to stay small.
        self._answers = AnswerBuffers(0 if is_donor else ANSWER_BYTES_MAX)
        self._counted: tuple[float, list[Presence]] = (float("-inf"), [])
        self._closed = False

    @classmethod
    async def open(
        cls,
        env: Env,
        config: NetworkConfig,
        chain: bytes,
        identity: Identity,
        *,
        bootstrap: Sequence[tuple[bytes, Address]] = (),
        listen: Address | None = None,
        dht: DhtConfig | None = None,
    ) -> Session:
        """Join as a client. `bootstrap` comes before the configuration's nodes.

        Raises MembershipError when the chain does not admit this key, UnreachableError when no node answers.
        """
        gate = Gate(config, env.utc)
        membrane = NodeMembrane(identity, chain, gate)
        known = await resolve_bootstrap(config, bootstrap, identity.key)
        if not known:
            raise UnreachableError("no node of the network is known to join by")
        scope = min((scope_of(address) for _, address in known), default=Scope.LOOPBACK)
        at = listen or Address("127.0.0.1" if scope is Scope.LOOPBACK else "0.0.0.0", 0)  # noqa: S104
        datagrams = await env.net.bind(at)
        table = Dht(env, datagrams, membrane, dht or DhtConfig())
        session = cls(env, identity, table, chain=chain, gate=gate, scope=scope)
        session._owned = table, datagrams
        try:
            await table.start(known)
        except BaseException:
            await session.close()
            raise
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def config(self) -> NetworkConfig:
        """The newest network configuration known."""
        return self._gate.config

    async def close(self) -> None:
        """Close all connections; of a session made by `open` also its DHT. May be called twice."""
        self._closed = True
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        for key in list(self._peers):
            self.drop(key)
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._owned is not None:
            (dht, datagrams), self._owned = self._owned, None
            await dht.close()
            datagrams.close()

    # --- what the DHT knows ------------------------------------------------------------------------

    async def donors(self, target: bytes, count: int) -> list[Candidate]:
        """Up to `count` donors nearest to `target` (20 bytes), this node not among them."""
        presences = self._counted_near(target, count) or await self.dht.pool(target, count)
        for presence in presences:
            self._directory.learn(presence.key, presence.dht_id, presence.address)
        found = [self._candidate(p) for p in presences if p.key != self.identity.key]
        if self._noted is not None:
            for candidate in found:
                self._noted(candidate)
        return found

    def _counted_near(self, target: bytes, count: int) -> list[Presence]:
        """The same out of all donors, when these have just been counted; none otherwise."""
        when, presences = self._counted
        if self.env.monotonic() - when > COUNTED_FRESH_S:
            return []
        middle = int.from_bytes(target, "big")
        presences.sort(key=lambda p: int.from_bytes(p.dht_id, "big") ^ middle)
        return presences[:count]

    def _candidate(self, presence: Presence) -> Candidate:
        return Candidate(
            key=presence.key,
            dht_id=presence.dht_id,
            address=presence.address,
            operator=presence.operator,
            site=presence.site,
            free_class=presence.free_class,
            availability=self._availability(presence.key),
            proven=self._proven(presence.key) if self._proven else None,
        )

    async def announcements(self, key: bytes, want: int = 8) -> list[Announcement]:
        """Verified announcements under a placement key or locator."""
        found = await self.dht.find_announcements(key, want=want)
        for announcement in found:
            self._directory.learn(announcement.node_key, announcement.node_id, None)
        return found

    async def network_size(self, exact_to: int = COUNTED_DONORS_MAX, *, anew: bool = True) -> int:
        """Live donors: exact up to `exact_to`, beyond it estimated from how dense ids lie.

        Not `anew`: those of a small network may have been counted a little before.
        """
        when, presences = self._counted
        if not anew and self.env.monotonic() - when <= COUNTED_FRESH_S:
            return self._size(presences)
        target = self.env.rng.randbytes(20)
        presences = await self.dht.pool(target, exact_to)
        if len(presences) < exact_to:
            self._counted = self.env.monotonic(), presences
            return self._size(presences)
        # the m-th nearest of N random ids lies at about m/N of the id space
        middle = int.from_bytes(target, "big")
        farthest = max(int.from_bytes(p.dht_id, "big") ^ middle for p in presences)
        return max(len(presences), (len(presences) - 1) * 2**160 // max(1, farthest))

    def _size(self, presences: Sequence[Presence]) -> int:
        """With these as all the others."""
        missed = self._is_donor and all(p.key != self.identity.key for p in presences)
        return len(presences) + missed

    # --- connections -------------------------------------------------------------------------------

    async def peer(
        self, key: bytes, address: Address | None = None, *, near: bytes | None = None
    ) -> Peer:
        """A connection to the node, new or kept: at `address`, then where its presence says.

        `near` is a key in whose pool the node is likely to stand, for when only its key is known.
        Raises UnreachableError, MembershipError, or what the node refuses the connection with.
        """
        peer = self._peers.get(key)
        if peer is not None and not peer.closed:
            self._peers.move_to_end(key)
            return peer
        if self._closed:
            raise UnreachableError("the session is closed")
        dial = self._dials.get(key)
        if dial is None:
            self._dead.check(key)
            dial = asyncio.get_running_loop().create_task(self._dial(key, address, near))
            self._dials[key] = dial
            dial.add_done_callback(lambda done: self._dialled(key, done))
        return await asyncio.shield(dial)

    def received(self, key: bytes) -> int:
        """Bytes that have come from the node on the connection that stands; 0 without one."""
        peer = self._peers.get(key)
        return 0 if peer is None else peer.received

    def remember_dead(self, seconds: float) -> None:
        """From now on a node that could not be reached is not dialled again for so long: for commands that only look,
        where it matters who is there now. 0: every call dials."""
        self._dead.remember_s = seconds

    def _dialled(self, key: bytes, dial: asyncio.Task[Peer]) -> None:
        self._dials.pop(key, None)
        if not dial.cancelled():  # seen, also when everybody who asked has gone
            self._dead.note(key, dial.exception())

    def drop(self, key: bytes) -> None:
        """Forget the connection to a node that misbehaved or is late; requests under way end."""
        peer = self._peers.pop(key, None)
        if peer is not None:
            peer.abort()
            task = asyncio.get_running_loop().create_task(peer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _dial(self, key: bytes, address: Address | None, near: bytes | None) -> Peer:
        error: PeerError | None = None
        tried: list[Address] = []
        async for at in self._addresses(key, address, near):
            if at in tried or not self._may_dial(key, at):
                continue
            tried.append(at)
            try:
                peer = await Peer.connect(
                    *(self.env, self.identity, key, at),
                    chain=self._chain,
                    admit=self._gate.admit,
                    buffers=self._answers,
                )
            except PeerError as failure:
                self._budget.failed(at)
                error = failure
                continue
            self._budget.answered(at)
            self._keep(peer)
            return peer
        raise error or UnreachableError(f"no address is known of node {key.hex()[:16]}")

    def _may_dial(self, key: bytes, address: Address) -> bool:
        """Private addresses are dialled only in local networks, and none too often in vain."""
        return (
            key != self.identity.key
            and self._scope <= scope_of(address) != Scope.UNUSABLE
            and self._budget.allows(address)
        )

    async def _addresses(
        self, key: bytes, address: Address | None, near: bytes | None
    ) -> AsyncIterator[Address]:
        """Where the node may be, cheapest first."""
        if address is not None:
            yield address
        known = self._directory.get(key)
        if known is not None and known.address is not None:
            yield known.address
        found = await self.locate(key, near)
        if found is not None:
            yield found

    async def locate(self, key: bytes, near: bytes | None = None) -> Address | None:
        """Where the node's presence says that it is now; None when there is none, or without an address."""
        known = self._directory.get(key)
        if known is None:
            await self.donors(near or key[:20], NEAR_DONORS)
            known = self._directory.get(key)
            return known.address if known else None
        presence = await self.dht.find_presence(known.dht_id)
        if presence is None or presence.key != key:
            return None
        self._directory.learn(key, presence.dht_id, presence.address)
        if self._noted is not None:
            self._noted(self._candidate(presence))
        return presence.address

    def _keep(self, peer: Peer) -> None:
        self.drop(peer.key)
        self._peers[peer.key] = peer
        self._directory.learn(peer.key, peer.member.dht_id, peer.address)
        while len(self._peers) > self._peers_max:
            others = [key for key in self._peers if key != peer.key]
            idle = (key for key in others if not self._peers[key].in_flight)
            self.drop(next(idle, others[0]))


async def resolve_bootstrap(
    config: NetworkConfig, first: Sequence[tuple[bytes, Address]], own_key: bytes
) -> list[tuple[bytes, Address]]:
    """(node key, address) of the nodes to join by: `first`, then the configuration's, names looked up.

    This node itself and names that cannot be resolved are left out.
    """
    named = [(key, Address(host, port)) for key, host, port in config.bootstrap]
    result: list[tuple[bytes, Address]] = []
    for key, address in [*first, *named]:
        if key == own_key:
            continue
        literal = address if _is_literal(address.host) else await _resolve(address)
        if literal is not None and (key, literal) not in result:
            result.append((key, literal))
    return result


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolve(address: Address) -> Address | None:
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError, UnicodeError):
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        for *_, where in found:
            return Address(str(where[0]), int(where[1]))
    _LOG.warning("the name of a bootstrap node cannot be resolved: %s", address.host)
    return None
