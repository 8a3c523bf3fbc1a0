"""What one node's DHT has done, for people, metrics and tests."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import field

from potsherd.classes import dataclass

__all__ = ["Counters", "DhtStatistics", "Drop"]


class Drop(enum.StrEnum):
    """Why a datagram, a contact or a record was not used."""

    ADDRESS = "address"
    RATE = "rate"
    MALFORMED = "malformed"
    VERSION = "version"
    STRANGERS = "strangers"
    BOX = "box"
    NETWORK = "network"
    REFLECTED = "reflected"
    UNSOLICITED = "unsolicited"
    MEMBERSHIP = "membership"
    TOO_LONG = "too long for the request"
    NOT_ANSWERED = "not answered"
    RECORD = "record"
    LIAR = "wrong id claimed"
    DIAL = "dial budget"
    RECEIVE = "receive"


@dataclass
class Counters:
    """Running counts; `DhtStatistics` is their snapshot."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    requests: int = 0
    retransmissions: int = 0
    timeouts: int = 0
    lookups: int = 0
    lookup_asks: int = 0
    lookup_hops: int = 0
    rivals: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, why: Drop) -> None:
        """Count one thing not used."""
        self.dropped[why.value] += 1


@dataclass(frozen=True)
class DhtStatistics:
    """A snapshot; counts since the start."""

    datagrams_in: int
    datagrams_out: int
    dropped: tuple[tuple[str, int], ...]
    """(reason, count), sorted by reason."""
    requests: int
    retransmissions: int
    rpc_timeouts: int
    """Requests that were not answered in spite of all retransmissions."""
    lookups: int
    lookup_asks: int
    """Contacts asked in all look-ups together."""
    lookup_hops: int
    """Over all look-ups: how many contacts led, one to the next, to the nearest one found."""
    rivals: int
    """How often a keeper knew another key in our place of the network."""
    table_size: int
    sessions: int
    announcements: int
    """Kept for others, with our own."""
    presences: int
