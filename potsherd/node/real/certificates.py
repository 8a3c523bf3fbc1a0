"""Certificates of node keys in DER (docs/spec/streams.md), made and known again without an X.509 library.

A certificate is a function of the key, so making it is joining a dozen pieces and a signature, and one that
equals what we would make for its key needs no parser. Importing the library costs 20 ms of CPU, as much as
reading a small file from the network: it reads only certificates that others have made in another way.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Final

from potsherd.crypto.signing import SigningKey
from potsherd.errors import PeerError

__all__ = [
    "AUTHORITY_SEED",
    "authority_certificate",
    "key_of",
    "node_certificate",
    "private_key_pem",
]

AUTHORITY_SEED: Final = hashlib.blake2b(
    b"potsherd/1 published TLS authority: adds no trust", digest_size=32
).digest()
"""The authority's Ed25519 private key. Published on purpose."""

AUTHORITY_NAME = "potsherd published authority (adds no trust)"
VALID_FROM, VALID_UNTIL = b"700102000000Z", b"99991231235959Z"

_INTEGER, _BITS, _OCTETS, _UTF8 = 0x02, 0x03, 0x04, 0x0C
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_SEQUENCE, _SET = 0x30, 0x31
_ED25519 = bytes.fromhex("300506032b6570")
_COMMON_NAME = bytes.fromhex("0603550403")
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d130101ff")
_KEY_USAGE = bytes.fromhex("0603551d0f0101ff")
_SUBJECT_KEY = bytes.fromhex("0603551d0e")
_AUTHORITY_KEY = bytes.fromhex("0603551d23")
_PRIVATE_KEY = bytes.fromhex("302e020100300506032b657004220420")
"""What comes before the seed in an unencrypted PKCS #8 key (RFC 8410)."""
_BEHIND_KEY = 172
"""Bytes of a node's certificate behind its public key: extensions, algorithm, signature."""


def node_certificate(key: bytes) -> bytes:
    """The certificate of a node key (32 bytes), in DER; the same bytes every time."""
    return _certificate(key, key.hex(), b"0\0", b"\7\x80")


def authority_certificate() -> bytes:
    """That of the published authority."""
    return _certificate(_authority().verify_key, AUTHORITY_NAME, b"0\3\1\1\xff", b"\2\4")


def key_of(certificate: bytes) -> bytes:
    """The node key in a certificate. Raises PeerError when there is none."""
    key = certificate[-_BEHIND_KEY - 32 : -_BEHIND_KEY]
    if len(key) == 32 and certificate == node_certificate(key):
        return key
    return _key_of_another(certificate)


def private_key_pem(seed: bytes) -> bytes:
    """A private key as TLS libraries read it. Secret."""
    text = base64.b64encode(_PRIVATE_KEY + seed)
    return b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n" % text


def _key_of_another(certificate: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except Exception as error:  # whatever a hostile certificate provokes
        raise PeerError("the peer's certificate cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise PeerError("the peer's key is not an Ed25519 key")
    return key.public_bytes_raw()


@functools.cache
def _authority() -> SigningKey:
    return SigningKey(AUTHORITY_SEED)


def _certificate(key: bytes, name: str, constraints: bytes, usage: bytes) -> bytes:
    """`constraints` is a basic constraint in DER, `usage` the bits of the key usage, with the count of unused ones."""
    authority = _authority()
    serial = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big") + 1
    subject_key, authority_key = _name_of(key), _name_of(authority.verify_key)
    facts = _der(
        _SEQUENCE,
        _der(0xA0, _der(_INTEGER, b"\2")),
        _der(_INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        _ED25519,
        _distinguished(AUTHORITY_NAME),
        _der(_SEQUENCE, _der(_UTC_TIME, VALID_FROM), _der(_GENERALIZED_TIME, VALID_UNTIL)),
        _distinguished(name),
        _der(_SEQUENCE, _ED25519, _der(_BITS, b"\0", key)),
        _der(
            0xA3,
            _der(
                _SEQUENCE,
                _extension(_BASIC_CONSTRAINTS, constraints),
                _extension(_KEY_USAGE, _der(_BITS, usage)),
                _extension(_SUBJECT_KEY, _der(_OCTETS, subject_key)),
                _extension(_AUTHORITY_KEY, _der(_SEQUENCE, _der(0x80, authority_key))),
            ),
        ),
    )
    return _der(_SEQUENCE, facts, _ED25519, _der(_BITS, b"\0", authority.sign(facts)))


def _name_of(key: bytes) -> bytes:
    return hashlib.sha1(key, usedforsecurity=False).digest()


def _distinguished(name: str) -> bytes:
    """A name that is a common name and nothing else."""
    return _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _COMMON_NAME, _der(_UTF8, name.encode()))))


def _extension(kind: bytes, value: bytes) -> bytes:
    return _der(_SEQUENCE, kind, _der(_OCTETS, value))


def _der(tag: int, *parts: bytes) -> bytes:
    """One element, of fewer than 65,536 bytes."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        length = bytes((size,))
    elif size < 0x100:
        length = bytes((0x81, size))
    else:
        length = bytes((0x82, size >> 8, size & 0xFF))
    return bytes((tag,)) + length + content
