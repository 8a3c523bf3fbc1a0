"""What the DHT keeps: presences and announcements (docs/spec/dht.md, "Records").

A record travels as `signature (64) ‖ encoding`, signed by the node key that it names. A presence
carries its credential chain, so that anybody can verify it who never met the node; an announcement
does not, its keeper has verified the chain when it was stored.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.dht.addresses import AddressField, Scope, scope_of
from potsherd.dht.membrane import CHAIN_SIZE_MAX, Membrane, Peer
from potsherd.errors import IntegrityError, MalformedError, RefusedError
from potsherd.ports import Address
from potsherd.wire import Bytes, Opt, Record, Text, Uint

__all__ = [
    "CLOCK_AHEAD_MAX_S",
    "ID_SIZE",
    "RECORD_LIFETIME_MAX_S",
    "SIGNATURE_SIZE",
    "Admissions",
    "Announcement",
    "Presence",
    "PresenceRecord",
    "open_announcement",
    "open_presence",
    "sign_record",
]

ID_SIZE = 20
"""Bytes of DHT ids, placement keys and locators."""
RECORD_LIFETIME_MAX_S = 86_400
"""A record expires at most this long after it was signed."""
CLOCK_AHEAD_MAX_S = 600
"""A date further ahead of the keeper's clock is refused."""
SIGNATURE_SIZE = 64
_DATE_MAX = 2**40


@dataclass(frozen=True)
class Announcement(Record):
    """A holder's statement that it keeps index `index` of a segment."""

    TYPE: ClassVar[str] = "announcement"
    SIZE_MAX: ClassVar[int] = 160

    key: Annotated[bytes, Bytes(ID_SIZE)]
    """Where it is kept: a placement key, an entry's locator or a dataset's head locator."""
    segment: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    node_id: Annotated[bytes, Bytes(ID_SIZE)]
    node_key: Annotated[bytes, Bytes(32)]
    expires: Annotated[int, Uint(_DATE_MAX)]
    """Seconds UTC, at most RECORD_LIFETIME_MAX_S ahead."""


@dataclass(frozen=True)
class PresenceRecord(Record):
    """A presence as it is signed; kept under its own `dht_id`."""

    TYPE: ClassVar[str] = "presence"
    SIZE_MAX: ClassVar[int] = 800

    dht_id: Annotated[bytes, Bytes(ID_SIZE)]
    key: Annotated[bytes, Bytes(32)]
    address: Annotated[Address | None, Opt(AddressField())]
    relay: Annotated[bytes | None, Opt(Bytes(32))]
    """Key of the node that relays for it; nil without one."""
    operator: Annotated[str, Text(64)]
    site: Annotated[str, Text(64)]
    free_class: Annotated[int, Uint(63)]
    """c: at least 2^c bytes are free; 0: nothing is."""
    issued: Annotated[int, Uint(_DATE_MAX)]
    """Seconds UTC; of two presences of one node the later one counts."""
    expires: Annotated[int, Uint(_DATE_MAX)]
    chain: Annotated[bytes, Bytes(max=CHAIN_SIZE_MAX)]

    def check(self) -> None:
        """The lifetime is positive and within RECORD_LIFETIME_MAX_S."""
        if not 0 < self.expires - self.issued <= RECORD_LIFETIME_MAX_S:
            raise MalformedError("PresenceRecord: expires more than 24 h after issued, or before")


@dataclass(frozen=True)
class Presence:
    """A presence whose signature, chain, id and dates have been verified."""

    dht_id: bytes
    key: bytes
    address: Address | None
    operator: str
    site: str
    free_class: int
    issued: int
    expires: int
    member: bytes | int
    """Caps per member count by this; from the chain, not on the wire."""
    chain: bytes
    relay: bytes | None = None


class Admissions:
    """Verifies chains and remembers the outcome for a while: `entries_max` chains, each `ttl_s`."""

    def __init__(self, membrane: Membrane, *, entries_max: int, ttl_s: float) -> None:
        self._membrane = membrane
        self._entries_max = entries_max
        self._ttl_s = ttl_s
        self._known: OrderedDict[bytes, tuple[Peer, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, chain: bytes, key: bytes, utc: float) -> Peer:
        """As `Membrane.admit`; only success is remembered."""
        name = hashlib.blake2b(key + chain, digest_size=20).digest()
        known = self._known.get(name)
        if known is not None and 0 <= utc - known[1] < self._ttl_s:
            self._known.move_to_end(name)
            return known[0]
        self._known.pop(name, None)
        peer = self._membrane.admit(chain, key, utc)
        self._known[name] = (peer, utc)
        if len(self._known) > self._entries_max:
            self._known.popitem(last=False)
        return peer


def sign_record(record: Announcement | PresenceRecord, membrane: Membrane) -> bytes:
    """`signature (64) ‖ encoding`, signed by the own node key."""
    body = record.encode()
    return membrane.sign(record.TYPE, body) + body


def _split(data: bytes, cls: type[Record]) -> tuple[bytes, bytes]:
    if not SIGNATURE_SIZE < len(data) <= SIGNATURE_SIZE + cls.SIZE_MAX:
        raise MalformedError(f"{cls.__name__}: wrong size for a signed record")
    return data[:SIGNATURE_SIZE], data[SIGNATURE_SIZE:]


def _judge_dates(issued: int, expires: int, utc: float) -> None:
    if issued > utc + CLOCK_AHEAD_MAX_S:
        raise RefusedError("the record is dated more than 10 minutes ahead")
    if expires <= utc:
        raise RefusedError("the record has expired")


def open_announcement(data: bytes, membrane: Membrane, utc: float) -> Announcement:
    """Parse and verify. Raises MalformedError, RefusedError (dates), IntegrityError (signature).

    Whether `node_id` belongs to `node_key` needs the chain, which the caller has or has not.
    """
    signature, body = _split(data, Announcement)
    record = Announcement.decode(body)
    # It has no date of issue: the earliest possible one stands in.
    _judge_dates(record.expires - RECORD_LIFETIME_MAX_S, record.expires, utc)
    if not membrane.verify(Announcement.TYPE, record.node_key, body, signature):
        raise IntegrityError("an announcement is not signed by the node it names")
    return record


def open_presence(data: bytes, membrane: Membrane, admissions: Admissions, utc: float) -> Presence:
    """Parse and verify all. Raises MalformedError, RefusedError or IntegrityError."""
    signature, body = _split(data, PresenceRecord)
    record = PresenceRecord.decode(body)
    _judge_dates(record.issued, record.expires, utc)
    if record.address is not None and scope_of(record.address) is Scope.UNUSABLE:
        raise RefusedError("a presence names an address that nobody can dial")
    peer = admissions.admit(record.chain, record.key, utc)
    if peer.role != "donor" or peer.dht_id != record.dht_id:
        raise RefusedError("a presence is not that of the donor its chain names")
    if not membrane.verify(PresenceRecord.TYPE, record.key, body, signature):
        raise IntegrityError("a presence is not signed by the node it names")
    return Presence(
        dht_id=record.dht_id,
        key=record.key,
        address=record.address,
        operator=record.operator,
        site=record.site,
        free_class=record.free_class,
        issued=record.issued,
        expires=record.expires,
        member=peer.member,
        chain=record.chain,
        relay=record.relay,
    )
