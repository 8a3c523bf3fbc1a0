"""What the DHT needs from membership and cryptography; the node gives it (no import upwards)."""

from __future__ import annotations

from typing import Literal, Protocol

from potsherd.classes import dataclass

__all__ = ["CHAIN_SIZE_MAX", "Membrane", "Peer", "Role"]

CHAIN_SIZE_MAX = 512
"""Bytes of a credential chain."""

Role = Literal["donor", "client"]


@dataclass(frozen=True)
class Peer:
    """What a verified credential chain says of a node key."""

    dht_id: bytes
    """20 bytes."""
    role: Role
    """A client uses the DHT but is never in tables, results or pools."""
    member: bytes | int
    """Caps per member count by this: the invitation's serial, in an open network the node key."""


class Membrane(Protocol):
    """Keys, boxes, signatures and membership of one node in one network."""

    @property
    def network_id(self) -> bytes:
        """32 bytes; its first 8 stand in every datagram."""

    @property
    def my_key(self) -> bytes:
        """The node's Ed25519 verify key, 32 bytes."""

    @property
    def my_chain(self) -> bytes:
        """The node's credential chain, at most 512 bytes; may be empty in an open network."""

    @property
    def my_id(self) -> bytes:
        """The node's DHT id, 20 bytes."""

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        """Box for `peer_key`: 16 bytes longer. Raises MalformedError for a key that is no key."""

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        """Open a box from `peer_key`; None when it is not authentic or the key is no key."""

    def sign(self, record_type: str, body: bytes) -> bytes:
        """Signature (64 bytes) of the node key over `potsherd.wire.signing_input`."""

    def verify(self, record_type: str, key: bytes, body: bytes, signature: bytes) -> bool:
        """Whether `signature` is by `key` over the same input; never raises."""

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Peer:
        """Verify a chain at `now` (seconds UTC). Raises MembershipError; MalformedError for garbage."""
