"""NaCl boxes with explicit seeds and nonces (docs/spec/keys.md).

A datagram between two nodes is boxed under the shared key of their Ed25519 keys, converted to X25519 by
libsodium; the shared keys are cached, because computing one costs as much as verifying a signature.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from nacl.bindings import (
    crypto_box_beforenm,
    crypto_box_easy_afternm,
    crypto_box_open_easy_afternm,
    crypto_secretbox_easy,
    crypto_secretbox_open_easy,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from potsherd.errors import MalformedError, UsageError

__all__ = [
    "BOX_OVERHEAD_BYTES",
    "NONCE_BYTES",
    "SHARED_KEYS_MAX",
    "DatagramBox",
    "secret_open",
    "secret_seal",
]

NONCE_BYTES: Final = 24
BOX_OVERHEAD_BYTES: Final = 16
KEY_BYTES: Final = 32
SHARED_KEYS_MAX: Final = 4096
"""Shared keys kept; beyond it the one used longest ago is forgotten and made again when needed."""


class DatagramBox:
    """Seals to and opens from other nodes. Never use a nonce twice for one pair of nodes."""

    __slots__ = ("_secret", "_shared", "_shared_max", "node_key")

    def __init__(self, seed: bytes, *, shared_keys_max: int = SHARED_KEYS_MAX) -> None:
        """`seed` is the node's Ed25519 seed (32 bytes)."""
        if len(seed) != KEY_BYTES:
            raise UsageError("a node key is made from 32 bytes")
        self.node_key, secret = crypto_sign_seed_keypair(bytes(seed))
        self._secret: bytes = crypto_sign_ed25519_sk_to_curve25519(secret)
        self._shared: OrderedDict[bytes, bytes] = OrderedDict()
        self._shared_max = shared_keys_max

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        """16 bytes longer than the plaintext. Raises MalformedError for a key that is no key."""
        _check_nonce(nonce)
        sealed: bytes = crypto_box_easy_afternm(plaintext, nonce, self._shared_key(peer_key))
        return sealed

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        """The plaintext, or None for anything that this peer did not seal for us with this nonce."""
        if len(nonce) != NONCE_BYTES or len(ciphertext) < BOX_OVERHEAD_BYTES:
            return None
        try:
            shared = self._shared_key(peer_key)
            plain: bytes = crypto_box_open_easy_afternm(bytes(ciphertext), bytes(nonce), shared)
        except (CryptoError, MalformedError):
            return None
        return plain

    def _shared_key(self, peer_key: bytes) -> bytes:
        peer_key = bytes(peer_key)
        shared = self._shared.get(peer_key)
        if shared is not None:
            self._shared.move_to_end(peer_key)
            return shared
        shared = self._compute(peer_key)
        self._shared[peer_key] = shared
        if len(self._shared) > self._shared_max:
            self._shared.popitem(last=False)
        return shared

    def _compute(self, peer_key: bytes) -> bytes:
        """libsodium refuses points of low order, and those that are not in the main subgroup."""
        if len(peer_key) != KEY_BYTES:
            raise MalformedError("a node key has 32 bytes")
        try:
            public = crypto_sign_ed25519_pk_to_curve25519(peer_key)
            shared: bytes = crypto_box_beforenm(public, self._secret)
        except CryptoError:
            raise MalformedError("not a usable Ed25519 key") from None
        return shared

    def __repr__(self) -> str:
        return f"DatagramBox(node_key={self.node_key.hex()[:12]}…)"


def secret_seal(key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """XSalsa20-Poly1305 under a 32-byte key; 16 bytes longer. Never use a nonce twice with one key."""
    _check_nonce(nonce)
    if len(key) != KEY_BYTES:
        raise UsageError("a secret key has 32 bytes")
    sealed: bytes = crypto_secretbox_easy(plaintext, nonce, key)
    return sealed


def secret_open(key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
    """The plaintext, or None when key, nonce or bytes are not those of the sealing."""
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES or len(ciphertext) < BOX_OVERHEAD_BYTES:
        return None
    try:
        plain: bytes = crypto_secretbox_open_easy(bytes(ciphertext), bytes(nonce), bytes(key))
    except CryptoError:
        return None
    return plain


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise UsageError("a nonce has 24 bytes")
