"""Datagrams and messages of the DHT (docs/spec/dht.md, "Datagrams" and "Messages").

    datagram  = version ‖ suite ‖ key of the sender (32) ‖ nonce (24) ‖ box
    plaintext = network (8) ‖ flags ‖ type ‖ request id (16) ‖ size of chain (2) ‖ size of body (2)
                ‖ chain ‖ body ‖ zeros

Bodies are strict msgpack records. This module has no state and no network.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, ClassVar, Final, NamedTuple

from potsherd.classes import dataclass
from potsherd.dht.addresses import Contact, ContactField
from potsherd.dht.membrane import CHAIN_SIZE_MAX
from potsherd.dht.records import ID_SIZE
from potsherd.dht.tokens import TOKEN_SIZE
from potsherd.errors import MalformedError
from potsherd.wire import Bytes, ListOf, Opt, Record, Uint

__all__ = [
    "BODY_MAX",
    "DATAGRAM_MAX",
    "DATAGRAM_MIN",
    "HEADER_SIZE",
    "OVERHEAD",
    "REPLIES",
    "REQUESTS",
    "TAG_SIZE",
    "Find",
    "Flag",
    "Found",
    "Frame",
    "Kind",
    "Ping",
    "Pong",
    "Presences",
    "PresencesFound",
    "Reason",
    "Refusal",
    "Sealed",
    "Store",
    "StoreCode",
    "Stored",
    "build_datagram",
    "build_frame",
    "parse_datagram",
    "parse_frame",
]

VERSION = 1
SUITE = 1
DATAGRAM_MAX = 1200
"""Bytes; passes any path with an IPv6 minimum MTU of 1,280."""
OUTER_SIZE = 58
BOX_SIZE = 16
HEADER_SIZE = 30
OVERHEAD = OUTER_SIZE + BOX_SIZE + HEADER_SIZE
BODY_MAX = DATAGRAM_MAX - OVERHEAD
"""Bytes for chain and body together."""
DATAGRAM_MIN = OVERHEAD + 24
"""Requests are padded to this at least, so that any refusal fits the reply."""
TAG_SIZE = 6
"""Bytes of a DHT id's tail in `Presences.known`."""
RECORDS_PER_STORE = 16
_HEADER = struct.Struct(">8sBB16sHH")
_SIGNED_MAX = 64 + 800


class Flag:
    """Bits of the flags byte; plain integers, because IntFlag costs a tenth of a datagram's time."""

    REPLY: Final = 1
    GREATER: Final = 2
    """The sender's key is the greater of the two: a datagram cannot be reflected to its sender."""
    CHAIN: Final = 4
    """A chain is in this datagram (it may be empty)."""
    WANTS_CHAIN: Final = 8
    """Requests only: the sender does not know the receiver's chain yet."""


class Kind(enum.IntEnum):
    """What a look-up looks for besides contacts."""

    NODES = 0
    ANNOUNCEMENTS = 1
    PRESENCE = 2


class Reason(enum.IntEnum):
    """Why a request was refused."""

    WHO_ARE_YOU = 1
    """No chain is known for the sender's key: send it."""
    NOT_A_MEMBER = 2
    BAD_TOKEN = 3
    NOT_FOR_CLIENTS = 4


class StoreCode(enum.IntEnum):
    """What became of one record of a `Store`."""

    STORED = 0
    OLDER = 1
    """A later one by the same node is kept already."""
    FULL = 2
    """A cap is reached; those who were there first stay."""
    REFUSED = 3
    """Not verifiable, expired, too far ahead, not a donor's."""
    TAKEN = 4
    """Another key holds this place of the network."""
    NOT_HERE = 5
    """Many nodes are nearer to the key."""
    STORED_RIVAL = 6
    """Stored; since the last time another key has asked for this place of the network."""


@dataclass(frozen=True)
class Ping(Record):
    """Are you there."""

    TYPE: ClassVar[str] = "dht-ping"


@dataclass(frozen=True)
class Pong(Record):
    """Yes."""

    TYPE: ClassVar[str] = "dht-pong"


@dataclass(frozen=True)
class Find(Record):
    """Records under `target`, then the nearest contacts: one sequence, from place `cursor` on."""

    TYPE: ClassVar[str] = "dht-find"
    kind: Annotated[int, Uint(2)]
    target: Annotated[bytes, Bytes(ID_SIZE)]
    cursor: Annotated[int, Uint(4095)]


@dataclass(frozen=True)
class Found(Record):
    """As much of the sequence as fits; `next` is where it goes on, nil at its end."""

    TYPE: ClassVar[str] = "dht-found"
    SIZE_MAX: ClassVar[int] = BODY_MAX
    token: Annotated[bytes, Bytes(TOKEN_SIZE)]
    records: Annotated[tuple[bytes, ...], ListOf(Bytes(max=_SIGNED_MAX), 64)]
    contacts: Annotated[tuple[Contact, ...], ListOf(ContactField(), 20)]
    next: Annotated[int | None, Opt(Uint(4095))]


@dataclass(frozen=True)
class Store(Record):
    """Keep these records of one kind.

    Announcements are all by one publisher; `chain` is the publisher's when that is not the sender
    (handing over), else nil. Presences carry their chains themselves.
    """

    TYPE: ClassVar[str] = "dht-store"
    SIZE_MAX: ClassVar[int] = BODY_MAX
    token: Annotated[bytes, Bytes(TOKEN_SIZE)]
    kind: Annotated[int, Uint(2, min=1)]
    chain: Annotated[bytes | None, Opt(Bytes(max=CHAIN_SIZE_MAX))]
    records: Annotated[tuple[bytes, ...], ListOf(Bytes(max=_SIGNED_MAX), RECORDS_PER_STORE, 1)]


@dataclass(frozen=True)
class Stored(Record):
    """One StoreCode for each record of the request, in its order."""

    TYPE: ClassVar[str] = "dht-stored"
    codes: Annotated[tuple[int, ...], ListOf(Uint(255), RECORDS_PER_STORE, 1)]


@dataclass(frozen=True)
class Presences(Record):
    """Presences nearest to `target`, leaving out those whose tags are known."""

    TYPE: ClassVar[str] = "dht-presences"
    SIZE_MAX: ClassVar[int] = BODY_MAX
    KNOWN_MAX: ClassVar[int] = 150
    target: Annotated[bytes, Bytes(ID_SIZE)]
    after: Annotated[bytes, Bytes(ID_SIZE)]
    """Only those at this XOR distance from the target or farther."""
    known: Annotated[bytes, Bytes(max=KNOWN_MAX * TAG_SIZE)]
    """The last TAG_SIZE bytes of each id that the asker has."""

    def check(self) -> None:
        """Tags are whole."""
        if len(self.known) % TAG_SIZE:
            raise MalformedError("Presences: a tag is cut")


@dataclass(frozen=True)
class PresencesFound(Record):
    """As many as fit, by rising distance; `more` when others follow."""

    TYPE: ClassVar[str] = "dht-presences-found"
    SIZE_MAX: ClassVar[int] = BODY_MAX
    records: Annotated[tuple[bytes, ...], ListOf(Bytes(max=_SIGNED_MAX), 16)]
    more: Annotated[int, Uint(1)]


@dataclass(frozen=True)
class Refusal(Record):
    """The answer to a request of any type that is not answered otherwise."""

    TYPE: ClassVar[str] = "dht-refusal"
    reason: Annotated[int, Uint(255)]


REQUESTS: dict[int, type[Record]] = {1: Ping, 2: Find, 3: Store, 4: Presences}
REPLIES: dict[int, type[Record]] = {1: Pong, 2: Found, 3: Stored, 4: PresencesFound, 15: Refusal}
REFUSAL_TYPE = 15
TYPES: dict[type[Record], int] = {cls: n for t in (REQUESTS, REPLIES) for n, cls in t.items()}


class Frame(NamedTuple):
    """The plaintext of a datagram, its body still encoded."""

    flags: int
    type: int
    request_id: bytes
    chain: bytes | None
    body: bytes


class Sealed(NamedTuple):
    """The outside of a datagram."""

    key: bytes
    nonce: bytes
    box: bytes


def build_datagram(key: bytes, nonce: bytes, box: bytes) -> bytes:
    """Join; sizes are the caller's own values."""
    return b"".join((bytes((VERSION, SUITE)), key, nonce, box))


def parse_datagram(data: bytes) -> Sealed:
    """Split without opening. Raises MalformedError."""
    if not OVERHEAD <= len(data) <= DATAGRAM_MAX:
        raise MalformedError(f"a datagram of {len(data)} bytes")
    if data[0] != VERSION or data[1] != SUITE:
        raise MalformedError("a datagram of unknown version or suite")
    return Sealed(data[2:34], data[34:58], data[58:])


def build_frame(network: bytes, frame: Frame, datagram_size: int = 0) -> bytes:
    """Plaintext, padded so that the datagram has `datagram_size` bytes; longer if it must be.

    Raises MalformedError when chain and body do not fit one datagram.
    """
    chain = frame.chain or b""
    if len(chain) > CHAIN_SIZE_MAX or len(chain) + len(frame.body) > BODY_MAX:
        raise MalformedError("chain and body do not fit one datagram")
    header = _HEADER.pack(
        network[:8], frame.flags, frame.type, frame.request_id, len(chain), len(frame.body)
    )
    plain = b"".join((header, chain, frame.body))
    return plain.ljust(datagram_size - OUTER_SIZE - BOX_SIZE, b"\0")


def parse_frame(plain: bytes) -> tuple[bytes, Frame]:
    """(network's first 8 bytes, frame). Raises MalformedError."""
    if len(plain) < HEADER_SIZE:
        raise MalformedError("a frame without a whole header")
    network, flags, type_, request_id, chain_size, body_size = _HEADER.unpack_from(plain)
    if flags > 15 or (flags & Flag.REPLY and flags & Flag.WANTS_CHAIN):
        raise MalformedError("a frame with unknown flags")
    if chain_size > CHAIN_SIZE_MAX or (chain_size and not flags & Flag.CHAIN):
        raise MalformedError("a frame with a chain where there is none")
    middle, end = HEADER_SIZE + chain_size, HEADER_SIZE + chain_size + body_size
    if end > len(plain) or plain.count(0, end) != len(plain) - end:
        raise MalformedError("a frame with wrong sizes or padding")
    chain = plain[HEADER_SIZE:middle] if flags & Flag.CHAIN else None
    return network, Frame(flags, type_, request_id, chain, plain[middle:end])
