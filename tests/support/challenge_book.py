"""The answer to a challenge, from its definition alone."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB


def by_the_book(nonce: bytes, first: int, cells: bytes) -> bytes:
    """docs/spec/node-protocol.md, section 4, in one call."""
    return AESGCM(nonce).encrypt(first.to_bytes(12, "big"), b"", cells)


def by_hand(nonce: bytes, first: int, cells: bytes) -> bytes:
    """The same by the definition of GMAC (SP 800-38D, sections 6.3, 6.4 and 7.1), with AES alone for granted. Slow."""
    aes = Cipher(AES256(nonce), ECB()).encryptor()  # noqa: S305 (single blocks)
    point = int.from_bytes(aes.update(bytes(16)), "big")
    value = 0
    padded = cells + bytes(-len(cells) % 16) + (8 * len(cells)).to_bytes(8, "big") + bytes(8)
    for at in range(0, len(padded), 16):
        value = _product(value ^ int.from_bytes(padded[at : at + 16], "big"), point)
    mask = aes.update(first.to_bytes(12, "big") + b"\0\0\0\1")
    return (value ^ int.from_bytes(mask, "big")).to_bytes(16, "big")


def _product(x: int, y: int) -> int:
    """In GF(2^128), the highest bit being the coefficient of 1."""
    found = 0
    for place in range(127, -1, -1):
        if x >> place & 1:
            found ^= y
        y = y >> 1 ^ (0xE1 << 120) * (y & 1)
    return found
