"""Sealed records: what travels on a stream once TLS has proven both keys (docs/spec/streams.md).

TLS carries at most 16 KiB in a record, and Python hands over one record at a time. Here a record holds up to
256 KiB and goes with one call from the caller's buffer to the one that is sent, and from the one that was
received to the reader's. Keys are drawn anew for each connection and direction, and travel inside TLS, so they
are as secret and as short-lived as a session's own. As in QUIC (RFC 9001), TLS makes the connection and
something that knows its traffic better protects it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from potsherd.errors import PeerError

__all__ = [
    "GREETING_BYTES",
    "OVERHEAD",
    "PREFIX_BYTES",
    "RECORDS_A_KEY",
    "RECORD_MAX",
    "TAG_BYTES",
    "Opener",
    "Sealer",
    "greeted_key",
    "greeting",
    "record_size",
]

SUITE: Final = 1
"""AES-256-GCM (NIST SP 800-38D) with a 96-bit counter as nonce."""

KEY_BYTES: Final = 32
GREETING_BYTES: Final = 1 + KEY_BYTES
"""What each side says inside TLS: the suite, and the key of what it is going to send."""

PREFIX_BYTES: Final = 4
TAG_BYTES: Final = 16
OVERHEAD: Final = PREFIX_BYTES + TAG_BYTES
"""Bytes by which a record is longer than what it carries."""

RECORD_MAX: Final = 256 << 10
"""Bytes that one record carries at most. None at all says that nothing follows."""

RECORDS_A_KEY = 1 << 20
"""Then the next key is derived: no key seals more than 2^38 bytes, where GCM is still far from its bounds."""

_PERSON: Final = b"potsherd-stream"
_PREFIX = struct.Struct(">I")
_NONCE = struct.Struct(">IQ")


def greeting(connection: bytes) -> bytes:
    """A fresh key for what we send, as it is told to the other side inside TLS.

    `connection` is something of this connection that the other side has a part in (Finished of TLS): a copy
    of this machine that draws the same numbers must not seal two streams with one key.
    """
    drawn = os.urandom(KEY_BYTES)
    key = hashlib.blake2b(connection, key=drawn, digest_size=KEY_BYTES, person=_PERSON)
    return bytes([SUITE]) + key.digest()


def greeted_key(said: bytes) -> bytes:
    """The key in what the other side said inside TLS. Raises PeerError."""
    if len(said) != GREETING_BYTES or said[0] != SUITE:
        raise PeerError("the peer seals its stream in an unknown way")
    return said[1:]


def record_size(prefix: memoryview) -> int:
    """Bytes of the record that begins with these four. Raises PeerError when it would be too long."""
    (size,) = _PREFIX.unpack_from(prefix)
    if size > RECORD_MAX:
        raise PeerError("the peer sent a record that is too long")
    return int(size) + OVERHEAD


class _Direction:
    """The key of one direction, and how many records it has sealed."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self._records = 0

    def _next(self) -> tuple[AESGCM, bytes]:
        """Key and nonce of the next record: together, so that no nonce meets the key before or after."""
        if self._records == RECORDS_A_KEY:
            self._key = hashlib.blake2b(
                key=self._key, digest_size=KEY_BYTES, person=_PERSON
            ).digest()
            self._cipher = AESGCM(self._key)
            self._records = 0
        nonce = _NONCE.pack(0, self._records)
        self._records += 1
        return self._cipher, nonce


class Sealer(_Direction):
    """Makes the records of what we send."""

    def seal(self, plain: memoryview, out: memoryview) -> int:
        """Write the record of `plain` (at most RECORD_MAX bytes) to the start of `out`; its size."""
        end = plain.nbytes + OVERHEAD
        _PREFIX.pack_into(out, 0, plain.nbytes)
        cipher, nonce = self._next()
        cipher.encrypt_into(nonce, plain, out[:PREFIX_BYTES], out[PREFIX_BYTES:end])
        return end


class Opener(_Direction):
    """Opens the records that the other side sends, in their order."""

    def open_into(self, record: memoryview, plain: memoryview) -> None:
        """Write what a whole record carries to `plain`, which has just that size.

        Raises PeerError when the record is not the next one of the peer; then `plain` holds nothing of use.
        """
        cipher, nonce = self._next()
        try:
            cipher.decrypt_into(nonce, record[PREFIX_BYTES:], record[:PREFIX_BYTES], plain)
        except InvalidTag:
            raise PeerError("what came from the peer was changed on its way") from None
