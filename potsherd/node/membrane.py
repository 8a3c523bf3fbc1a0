"""What the DHT and the data plane are given of membership and cryptography.

`Gate` says who a proven node key is; it holds the network's configuration, which may be replaced by a
newer one at any time (removed members are then no longer admitted). `NodeMembrane` is the
`dht.Membrane` made of potsherd.crypto.
"""

from __future__ import annotations

from collections.abc import Callable

from potsherd.crypto.boxes import DatagramBox
from potsherd.crypto.membership import Member, NetworkConfig, update_config, verify_chain
from potsherd.crypto.signing import SigningKey, verify
from potsherd.dht.membrane import Peer as DhtPeer
from potsherd.errors import MembershipError, UsageError
from potsherd.ports import Identity
from potsherd.wire import signing_input

__all__ = ["Gate", "NodeMembrane", "charge_of"]


def charge_of(member: Member) -> bytes:
    """What caps per member count by: the invitation's serial, in an open network the node key."""
    return member.node_key if member.serial is None else member.serial.to_bytes(4, "big")


class Gate:
    """Verifies credential chains against the newest configuration known."""

    def __init__(self, config: NetworkConfig, utc: Callable[[], float]) -> None:
        self.config = config
        self._utc = utc

    def admit(self, chain: bytes, node_key: bytes) -> Member:
        """Who a proven node key is. Raises MembershipError."""
        return verify_chain(chain, node_key, self.config, self._utc())

    def update(self, signed_config: bytes) -> bool:
        """Take a newer signed configuration; whether it was newer. Raises MembershipError and the like."""
        newest = update_config(self.config, signed_config)
        changed, self.config = newest is not self.config, newest
        return changed


class NodeMembrane:
    """See `potsherd.dht.membrane.Membrane`."""

    def __init__(self, identity: Identity, chain: bytes, gate: Gate) -> None:
        """Raises MembershipError when the network does not admit this very node."""
        if gate.config.network_id != identity.network_id:
            raise MembershipError("the configuration is that of another network")
        self._key = SigningKey(identity.seed)
        if self._key.verify_key != identity.key:
            raise UsageError("the node's key does not belong to its seed")
        self._box = DatagramBox(identity.seed)
        self._gate = gate
        self.network_id = identity.network_id
        self.my_key = identity.key
        self.my_chain = chain
        self.me = gate.admit(chain, identity.key)
        self.my_id = self.me.dht_id

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        """See `Membrane.seal`."""
        return self._box.seal(peer_key, nonce, plaintext)

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        """See `Membrane.open`."""
        return self._box.open(peer_key, nonce, ciphertext)

    def sign(self, record_type: str, body: bytes) -> bytes:
        """See `Membrane.sign`."""
        return self._key.sign(signing_input(record_type, self.network_id, body))

    def verify(self, record_type: str, key: bytes, body: bytes, signature: bytes) -> bool:
        """See `Membrane.verify`."""
        return verify(key, signing_input(record_type, self.network_id, body), signature)

    def admit(self, chain: bytes, node_key: bytes, now: float) -> DhtPeer:
        """See `Membrane.admit`."""
        member = verify_chain(chain, node_key, self._gate.config, now)
        return DhtPeer(member.dht_id, member.role.value, charge_of(member))
