"""The answer to a challenge, from its definition alone."""

from __future__ import annotations

from hashlib import blake2b


def by_the_book(nonce: bytes, cells: bytes, size: int) -> bytes:
    """docs/spec/node-protocol.md, section 4, with nothing but hashlib."""
    digests = b"".join(
        blake2b(cells[at : at + size], digest_size=32, salt=nonce[:16], person=nonce[16:]).digest()
        for at in range(0, len(cells), size)
    )
    return blake2b(digests, digest_size=32, key=nonce, person=b"potsherd holding").digest()
