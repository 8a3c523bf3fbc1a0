"""Store tokens: who wants to store must have looked up from the same address a short while ago."""

from __future__ import annotations

import hashlib
import hmac

from potsherd.dht.addresses import pack_address
from potsherd.ports import Address, Rng

__all__ = ["TOKEN_SIZE", "Tokens"]

TOKEN_SIZE = 8
"""Bytes of a token: a guess succeeds once in 2^64 datagrams."""


class Tokens:
    """Tokens bound to key and address, under a secret that changes every `period_s`."""

    def __init__(self, rng: Rng, period_s: float) -> None:
        self._rng = rng
        self._period_s = period_s
        self._period: int | None = None
        self._secrets: tuple[bytes, bytes | None] = (b"", None)

    def _rotate(self, now: float) -> None:
        period = int(now // self._period_s)
        if period == self._period:
            return
        follows = self._period is not None and period == self._period + 1
        self._secrets = (self._rng.randbytes(32), self._secrets[0] if follows else None)
        self._period = period

    def issue(self, key: bytes, address: Address, now: float) -> bytes:
        """The token for `key` at `address`, good for one to two periods."""
        self._rotate(now)
        return _token(self._secrets[0], key, address)

    def check(self, token: bytes, key: bytes, address: Address, now: float) -> bool:
        """Whether `token` was issued to `key` at `address` in this period or the one before."""
        self._rotate(now)
        current, previous = self._secrets
        if hmac.compare_digest(token, _token(current, key, address)):
            return True
        return previous is not None and hmac.compare_digest(token, _token(previous, key, address))


def _token(secret: bytes, key: bytes, address: Address) -> bytes:
    bound = key + pack_address(address)
    return hashlib.blake2b(
        bound, key=secret, digest_size=TOKEN_SIZE, person=b"potsherd token"
    ).digest()
