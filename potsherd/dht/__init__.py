"""Finds nodes and records: Kademlia over boxed UDP datagrams (docs/spec/dht.md)."""

from __future__ import annotations

from potsherd.dht.addresses import Contact
from potsherd.dht.config import DhtConfig
from potsherd.dht.dht import Dht
from potsherd.dht.membrane import Membrane, Peer
from potsherd.dht.records import Announcement, Presence, PresenceRecord
from potsherd.dht.statistics import DhtStatistics

__all__ = [
    "Announcement",
    "Contact",
    "Dht",
    "DhtConfig",
    "DhtStatistics",
    "Membrane",
    "Peer",
    "Presence",
    "PresenceRecord",
]
