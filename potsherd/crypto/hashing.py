"""Hashes and ids (docs/spec/keys.md): BLAKE2b with a personalisation for each purpose.

Two purposes never share an input space, so an id of one kind can never be passed off as another.
Integers enter as big-endian numbers of fixed width.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from potsherd.errors import UsageError
from potsherd.ports import Buffer

__all__ = [
    "DHT_ID_BYTES",
    "DIGEST_BYTES",
    "dataset_id",
    "digest",
    "entry_locator",
    "head_locator",
    "member_dht_id",
    "network_id",
    "open_dht_id",
    "placement_key",
]

DIGEST_BYTES: Final = 32
DHT_ID_BYTES: Final = 20
"""DHT ids, placement keys and locators."""

PERSON_NETWORK: Final = b"psh network"
PERSON_MEMBER: Final = b"psh member"
PERSON_OPEN_NODE: Final = b"psh open node"
PERSON_ENTRY: Final = b"psh entry"
PERSON_PLACEMENT: Final = b"psh placement"
PERSON_DATASET: Final = b"psh dataset"
PERSON_HEAD: Final = b"psh head"

SERIAL_BYTES: Final = 4
NUMBER_BYTES: Final = 2
ARCHIVE_BYTES: Final = 8
SEGMENT_BYTES: Final = 4


def digest(data: Buffer) -> bytes:
    """Plain BLAKE2b-256: what ERIS references and the leaves of cells are made of."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def network_id(verify_key: bytes) -> bytes:
    """32 bytes that name a network, from its Ed25519 verify key."""
    return _hash(verify_key, PERSON_NETWORK, DIGEST_BYTES)


def member_dht_id(network: bytes, serial: int, number: int) -> bytes:
    """20 bytes: the DHT id of node `number` of invitation `serial`; it cannot be chosen."""
    data = network + _uint(serial, SERIAL_BYTES) + _uint(number, NUMBER_BYTES)
    return _hash(data, PERSON_MEMBER, DHT_ID_BYTES)


def open_dht_id(node_key: bytes) -> bytes:
    """20 bytes: the DHT id of a node of an open network, and of every client."""
    return _hash(node_key, PERSON_OPEN_NODE, DHT_ID_BYTES)


def entry_locator(root_reference: bytes, root_key: bytes) -> bytes:
    """20 bytes under which the entry segment of an encoding is announced.

    Keyed with the root key: who has the capability computes it, who sees it learns no reference.
    """
    return _hash(root_reference, PERSON_ENTRY, DHT_ID_BYTES, key=root_key)


def placement_key(placement_secret: bytes, archive: int, segment: int) -> bytes:
    """20 bytes: where in the DHT a segment lives; known before the segment's content is."""
    data = _uint(archive, ARCHIVE_BYTES) + _uint(segment, SEGMENT_BYTES)
    return _hash(data, PERSON_PLACEMENT, DHT_ID_BYTES, key=placement_secret)


def dataset_id(genesis: bytes) -> bytes:
    """32 bytes that name a dataset, from the encoding of its genesis record."""
    return _hash(genesis, PERSON_DATASET, DIGEST_BYTES)


def head_locator(dataset: bytes) -> bytes:
    """20 bytes under which the heads of a dataset are announced."""
    return _hash(dataset, PERSON_HEAD, DHT_ID_BYTES)


def _hash(data: bytes, person: bytes, size: int, *, key: bytes = b"") -> bytes:
    return blake2b(data, digest_size=size, key=key, person=person).digest()


def _uint(value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise UsageError(f"not a number of {8 * size} bits") from None
