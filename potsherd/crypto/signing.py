"""Ed25519 signatures through libsodium, with explicit seeds (docs/spec/keys.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from potsherd.errors import IntegrityError, UsageError
from potsherd.wire import Record

__all__ = ["KEY_BYTES", "SEED_BYTES", "SIGNATURE_BYTES", "SigningKey", "open_signed", "verify"]

KEY_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64

R = TypeVar("R", bound=Record)


class SigningKey:
    """An Ed25519 key pair from a 32-byte seed. `repr` shows the public half only."""

    __slots__ = ("_secret", "seed", "verify_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise UsageError("a signing key is made from 32 bytes")
        self.seed = bytes(seed)
        self.verify_key, self._secret = crypto_sign_seed_keypair(self.seed)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature; the same for the same message."""
        signed: bytes = crypto_sign(message, self._secret)
        return signed[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(verify_key={self.verify_key.hex()[:12]}…)"


def verify(verify_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature holds; False, never an error, for keys and signatures of wrong length."""
    if len(verify_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(bytes(signature) + bytes(message), bytes(verify_key))
    except CryptoError:
        return False
    return True


def open_signed(
    record_cls: type[R],
    data: bytes | memoryview,
    network_id: bytes,
    key_of: Callable[[R], bytes],
) -> R:
    """Parse `signature ‖ encoding` and verify it with the key that `key_of(record)` names.

    Raises MalformedError for what our encoder would not write, IntegrityError for a wrong signature.
    """
    record, signature, message = record_cls.split_signed(data, network_id)
    if not verify(key_of(record), message, signature):
        raise IntegrityError(f"a {record_cls.TYPE} with a wrong signature")
    return record
