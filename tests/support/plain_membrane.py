"""A membrane that costs little: for tests and for simulations of many nodes. It protects nothing.

It behaves like the real one (a wrong key, nonce, byte, chain or signature is refused), but whoever
knows the network's id can make any of them.
"""

from __future__ import annotations

import hashlib
import hmac

from potsherd.dht.membrane import Peer, Role
from potsherd.errors import MembershipError

__all__ = ["PlainMembrane"]

CHAIN_SIZE = 25


class PlainMembrane:
    """Node `number` of member `serial` in a network; see `potsherd.dht.membrane.Membrane`."""

    def __init__(
        self, network_id: bytes, serial: int, number: int = 0, role: Role = "donor"
    ) -> None:
        self.network_id = network_id
        place = serial.to_bytes(4, "big") + number.to_bytes(4, "big")
        self.my_key = hashlib.blake2b(network_id + place + role.encode(), digest_size=32).digest()
        self.my_chain = self._chain(place + role[:1].encode(), self.my_key)
        self.my_id = self._id(self.my_chain, self.my_key)

    def _chain(self, claims: bytes, key: bytes) -> bytes:
        proof = hashlib.blake2b(claims + key, key=self.network_id, digest_size=16).digest()
        return claims + proof

    def _id(self, chain: bytes, key: bytes) -> bytes:
        what = key if chain[8:9] == b"c" else chain[:8]
        return hashlib.blake2b(self.network_id + what, digest_size=20).digest()

    def _tag(self, a: bytes, b: bytes, nonce: bytes, text: bytes) -> bytes:
        keys = min(a, b) + max(a, b)
        return hashlib.blake2b(keys + nonce + text, key=self.network_id, digest_size=16).digest()

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        """See `Membrane.seal`."""
        return self._tag(self.my_key, peer_key, nonce, plaintext) + plaintext

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        """See `Membrane.open`."""
        tag, text = ciphertext[:16], ciphertext[16:]
        good = hmac.compare_digest(tag, self._tag(self.my_key, peer_key, nonce, text))
        return text if good else None

    def sign(self, record_type: str, body: bytes) -> bytes:
        """See `Membrane.sign`."""
        return self._signature(record_type, self.my_key, body)

    def verify(self, record_type: str, key: bytes, body: bytes, signature: bytes) -> bool:
        """See `Membrane.verify`."""
        return hmac.compare_digest(signature, self._signature(record_type, key, body))

    def _signature(self, record_type: str, key: bytes, body: bytes) -> bytes:
        text = record_type.encode() + b"\0" + key + body
        return hashlib.blake2b(text, key=self.network_id, digest_size=64).digest()

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Peer:
        """See `Membrane.admit`."""
        if len(chain) != CHAIN_SIZE or chain != self._chain(chain[:9], node_key):
            raise MembershipError("not a credential of this network")
        role: Role = "client" if chain[8:9] == b"c" else "donor"
        return Peer(self._id(chain, node_key), role, int.from_bytes(chain[:4], "big"))
