"""Requests and replies over datagrams: sessions, limits, retransmission. Sans-IO.

Driven by three things: `request`, `receive` and `tick`; asked for two: `drain` (what to send now) and
`wakeup_at`. Time and randomness are arguments. Nothing that a peer sends raises an exception here: it
is dropped and counted.

The order of checks of an incoming datagram is part of the design: address, size and version, rate of
the prefix, rate of strangers, and only then public-key work (opening the box, verifying a chain).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact, Scope, canonical, host_of, prefix_of, scope_of
from potsherd.dht.config import DhtConfig
from potsherd.dht.limits import TokenBuckets
from potsherd.dht.membrane import Membrane, Peer
from potsherd.dht.records import Admissions
from potsherd.dht.statistics import Counters, Drop
from potsherd.dht.wire import (
    DATAGRAM_MAX,
    DATAGRAM_MIN,
    OVERHEAD,
    REFUSAL_TYPE,
    REPLIES,
    REQUESTS,
    SUITE,
    TYPES,
    VERSION,
    Find,
    Flag,
    Frame,
    Ping,
    Presences,
    Reason,
    Refusal,
    Sealed,
    build_datagram,
    build_frame,
    parse_datagram,
    parse_frame,
)
from potsherd.errors import MalformedError, PotsherdError
from potsherd.ports import Address, Rng
from potsherd.wire import Record

__all__ = ["Answer", "Exchange", "Failure", "Handler", "Request", "Target"]

NONCE_SIZE = 24
REQUEST_ID_SIZE = 16
_STRANGERS = "strangers"

Failure = Literal["timeout", "refused", "membership", "busy", "address"]


class Target(NamedTuple):
    """Whom to ask."""

    key: bytes
    address: Address


class Answer(NamedTuple):
    """A reply to a request of ours, from a peer whose chain is verified."""

    peer: Peer
    message: Record
    rtt_s: float
    """Since the last transmission."""


class Request(NamedTuple):
    """A request from a peer whose chain is verified."""

    peer: Peer
    key: bytes
    address: Address
    chain: bytes
    message: Record
    room: int
    """Bytes that the reply's body may have."""


OnEnd = Callable[[Answer | Failure], None]


class Handler(Protocol):
    """Who answers requests."""

    def answer(self, request: Request, now: float, utc: float) -> Record | None:
        """The reply, its body at most `request.room` bytes; None drops the request."""

    def heard(self, contact: Contact, now: float, *, greets: bool) -> None:
        """A donor has sent a request; its address is not proven. `greets`: its chain came along."""


@dataclass(slots=True)
class _Session:
    peer: Peer
    chain: bytes
    knows_me: bool = False
    proven: Address | None = None
    """The address at which it has answered a request of ours."""


@dataclass(slots=True, eq=False)
class _Pending:
    request_id: bytes
    target: Target
    message: Record
    on_end: OnEnd
    on_silent: Callable[[], None] | None
    data: bytes = b""
    tries: int = 0
    sent_at: float = 0.0
    introduced: bool = False
    """The peer asked who we are, and was told."""


class Exchange:
    """All requests and replies of one node."""

    def __init__(
        self,
        membrane: Membrane,
        config: DhtConfig,
        rng: Rng,
        admissions: Admissions,
        handler: Handler,
        counters: Counters,
    ) -> None:
        self._membrane = membrane
        self._network = membrane.network_id[:8]
        self._my_key = membrane.my_key
        self._config = config
        self._rng = rng
        self._admissions = admissions
        self._handler = handler
        self._counters = counters
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._pending: dict[bytes, _Pending] = {}
        self._deadlines: list[tuple[float, int, _Pending]] = []
        self._order = 0
        self._outgoing: list[tuple[bytes, Address]] = []
        self._rates = TokenBuckets(
            config.prefix_rate_per_s, config.prefix_burst, config.prefixes_max
        )
        self._strangers = TokenBuckets(config.strangers_per_s, config.strangers_burst, 1)
        self._dials = TokenBuckets(config.dial_rate_per_s, config.dial_burst, config.prefixes_max)
        self.last_heard = float("-inf")
        """When the last authentic datagram came in: silence of others counts only while we hear."""

    # What the shell asks for

    def drain(self) -> list[tuple[bytes, Address]]:
        """Datagrams to be sent now; empties the list."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def wakeup_at(self) -> float | None:
        """When `tick` is due."""
        while self._deadlines and self._ended(self._deadlines[0][2]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def session_count(self) -> int:
        """Peers whose verified chain is remembered."""
        return len(self._sessions)

    # Our requests

    def request(
        self,
        target: Target,
        message: Record,
        now: float,
        on_end: OnEnd,
        on_silent: Callable[[], None] | None = None,
    ) -> None:
        """Send; `on_end` is called once, perhaps at once; `on_silent` after the first waiting time."""
        target = Target(target.key, canonical(target.address))
        refusal = self._refuse_to_send(target, now)
        if refusal is not None:
            on_end(refusal)
            return
        request_id = self._rng.randbytes(REQUEST_ID_SIZE)
        pending = _Pending(request_id, target, message, on_end, on_silent)
        try:
            pending.data = self._encode_request(pending)
        except MalformedError:  # a key that is no key, or too much for one datagram
            on_end("address")
            return
        self._pending[request_id] = pending
        self._counters.requests += 1
        self._transmit(pending, now)

    def _refuse_to_send(self, target: Target, now: float) -> Failure | None:
        if scope_of(target.address) is Scope.UNUSABLE or target.key == self._my_key:
            return "address"
        if len(self._pending) >= self._config.requests_max:
            return "busy"
        session = self._sessions.get(target.key)
        proven = session is not None and session.proven == target.address
        if not proven and not self._dials.allow(host_of(target.address), now):
            self._counters.drop(Drop.DIAL)
            return "busy"
        return None

    def _encode_request(self, pending: _Pending) -> bytes:
        target, message = pending.target, pending.message
        session = self._sessions.get(target.key)
        flags = 0 if session is not None else Flag.WANTS_CHAIN
        knows_me = session is not None and session.knows_me
        chain = None if knows_me else self._membrane.my_chain
        long_reply = isinstance(message, (Find, Presences))
        short = session is not None and session.proven == target.address and not long_reply
        size = DATAGRAM_MIN if short else DATAGRAM_MAX
        frame = Frame(flags, TYPES[type(message)], pending.request_id, chain, message.encode())
        return self._seal(target.key, frame, size)

    def _seal(self, key: bytes, frame: Frame, size: int) -> bytes:
        flags = frame.flags | (Flag.GREATER if self._my_key > key else 0)
        flags |= Flag.CHAIN if frame.chain is not None else 0
        plain = build_frame(self._network, frame._replace(flags=flags), size)
        nonce = self._rng.randbytes(NONCE_SIZE)
        return build_datagram(self._my_key, nonce, self._membrane.seal(key, nonce, plain))

    def _transmit(self, pending: _Pending, now: float) -> None:
        deadline = now + self._config.retry_timeouts_s[pending.tries]
        pending.tries += 1
        pending.sent_at = now
        self._order += 1
        heapq.heappush(self._deadlines, (deadline, self._order, pending))
        self._send(pending.data, pending.target.address)

    def _send(self, data: bytes, to: Address) -> None:
        self._counters.datagrams_out += 1
        self._outgoing.append((data, to))

    def _ended(self, pending: _Pending) -> bool:
        return self._pending.get(pending.request_id) is not pending

    def tick(self, now: float) -> None:
        """Retransmit and give up what is due."""
        while self._deadlines and self._deadlines[0][0] <= now:
            pending = heapq.heappop(self._deadlines)[2]
            if self._ended(pending):
                continue
            if pending.tries == 1 and pending.on_silent is not None:
                pending.on_silent()
            if pending.tries < len(self._config.retry_timeouts_s):
                self._counters.retransmissions += 1
                self._transmit(pending, now)
            else:
                self._counters.timeouts += 1
                self._end(pending, "timeout")

    def _end(self, pending: _Pending, outcome: Answer | Failure) -> None:
        self._pending.pop(pending.request_id, None)
        pending.on_end(outcome)

    def deaf_since(self, sent_at: float) -> bool:
        """Whether nothing authentic came in since then: then silence says nothing about others."""
        return self.last_heard < sent_at

    def abandon(self) -> None:
        """End all requests; for closing down."""
        for pending in list(self._pending.values()):
            self._end(pending, "timeout")
        self._deadlines.clear()

    # Incoming datagrams

    def receive(self, data: bytes, sender: Address, now: float, utc: float) -> None:
        """Take one datagram; whatever is in it, this does not raise."""
        self._counters.datagrams_in += 1
        drop = self._receive(data, canonical(sender), now, utc)
        if drop is not None:
            self._counters.drop(drop)

    def _receive(self, data: bytes, sender: Address, now: float, utc: float) -> Drop | None:
        if scope_of(sender) is Scope.UNUSABLE:
            return Drop.ADDRESS
        if not self._rates.allow(prefix_of(sender), now):
            return Drop.RATE
        try:
            sealed = parse_datagram(data)
        except MalformedError:
            return Drop.VERSION if data[:2] != bytes((VERSION, SUITE)) else Drop.MALFORMED
        if sealed.key == self._my_key:
            return Drop.REFLECTED
        if sealed.key not in self._sessions and not self._strangers.allow(_STRANGERS, now):
            return Drop.STRANGERS
        plain = self._membrane.open(sealed.key, sealed.nonce, sealed.box)
        if plain is None:
            return Drop.BOX
        try:
            network, frame = parse_frame(plain)
        except MalformedError:
            return Drop.MALFORMED
        if network != self._network:
            return Drop.NETWORK
        if bool(frame.flags & Flag.GREATER) != (sealed.key > self._my_key):
            return Drop.REFLECTED
        self.last_heard = now
        if frame.flags & Flag.REPLY:
            return self._receive_reply(sealed, frame, sender, now, utc)
        return self._receive_request(sealed, frame, sender, len(data), now, utc)

    def _receive_reply(
        self, sealed: Sealed, frame: Frame, sender: Address, now: float, utc: float
    ) -> Drop | None:
        pending = self._pending.get(frame.request_id)
        if pending is None or pending.target != (sealed.key, sender):
            return Drop.UNSOLICITED
        expected = frame.type in (TYPES[type(pending.message)], REFUSAL_TYPE)
        try:
            message = REPLIES[frame.type].decode(frame.body) if expected else None
        except MalformedError:
            message = None
        if message is None:
            return Drop.MALFORMED
        if isinstance(message, Refusal) and message.reason == Reason.WHO_ARE_YOU:
            return self._introduce(pending, now)
        if isinstance(message, Refusal) and message.reason == Reason.NOT_A_MEMBER:
            self._end(pending, "membership")
            return None
        session = self._session(sealed.key, frame.chain, utc)
        if session is None:
            self._end(pending, "membership")
            return Drop.MEMBERSHIP
        session.proven, session.knows_me = sender, True
        if isinstance(message, Refusal):
            self._end(pending, "refused")
        else:
            self._end(pending, Answer(session.peer, message, now - pending.sent_at))
        return None

    def _introduce(self, pending: _Pending, now: float) -> Drop | None:
        """Send the request again with our chain, once; before it a ping when both do not fit."""
        if pending.introduced:
            return Drop.MEMBERSHIP
        pending.introduced = True
        session = self._sessions.get(pending.target.key)
        if session is not None:
            session.knows_me = False
        try:
            pending.data = self._encode_request(pending)
            self._send(pending.data, pending.target.address)
        except MalformedError:
            self.request(pending.target, Ping(), now, lambda _: self._again(pending))
        return None

    def _again(self, pending: _Pending) -> None:
        if self._ended(pending):
            return
        try:
            pending.data = self._encode_request(pending)
        except MalformedError:
            self._end(pending, "membership")
            return
        self._send(pending.data, pending.target.address)

    def _session(self, key: bytes, chain: bytes | None, utc: float) -> _Session | None:
        """The session of `key`, made or renewed from `chain`; None when it is not admitted."""
        session = self._sessions.get(key)
        if chain is None:
            if session is None:
                return None
            chain = session.chain
        try:
            peer = self._admissions.admit(chain, key, utc)
        except PotsherdError:
            self._sessions.pop(key, None)
            return None
        if session is None:
            session = self._sessions[key] = _Session(peer, chain)
            if len(self._sessions) > self._config.sessions_max:
                self._sessions.popitem(last=False)
        else:
            session.peer, session.chain = peer, chain
            self._sessions.move_to_end(key)
        return session

    def _receive_request(
        self, sealed: Sealed, frame: Frame, sender: Address, size: int, now: float, utc: float
    ) -> Drop | None:
        cls = REQUESTS.get(frame.type)
        try:
            message = cls.decode(frame.body) if cls is not None else None
        except MalformedError:
            message = None
        if message is None:
            return Drop.MALFORMED
        known = frame.chain is not None or sealed.key in self._sessions
        session = self._session(sealed.key, frame.chain, utc)
        if session is None:
            reason = Reason.NOT_A_MEMBER if known else Reason.WHO_ARE_YOU
            self._reply(sealed.key, frame, Refusal(int(reason)), None, sender, size)
            return Drop.MEMBERSHIP if known else None
        chain = self._membrane.my_chain if frame.flags & Flag.WANTS_CHAIN else None
        room = size - OVERHEAD - len(chain or b"")
        request = Request(session.peer, sealed.key, sender, session.chain, message, room)
        reply = self._handler.answer(request, now, utc)
        if session.peer.role == "donor":
            contact = Contact(session.peer.dht_id, sealed.key, sender)
            self._handler.heard(contact, now, greets=frame.chain is not None)
        if reply is None:
            return Drop.NOT_ANSWERED
        return self._reply(sealed.key, frame, reply, chain, sender, size)

    def _reply(
        self,
        key: bytes,
        asked: Frame,
        message: Record,
        chain: bytes | None,
        to: Address,
        size: int,
    ) -> Drop | None:
        """Send a reply unless it is longer than the request: nobody is worth being spoofed."""
        try:
            body = message.encode()
            frame = Frame(Flag.REPLY, TYPES[type(message)], asked.request_id, chain, body)
            data = self._seal(key, frame, 0)
        except MalformedError:
            return Drop.TOO_LONG
        if len(data) > size:
            return Drop.TOO_LONG
        self._send(data, to)
        return None
