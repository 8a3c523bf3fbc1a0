"""What turns plaintext blocks into ciphertext blocks and back, many at a time.

`PlainBackend` is always there and stays the reference: a faster one (potsherd.kernels) must give the
same bytes for every batch. All buffers are whole numbers of blocks that lie one behind the other.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from potsherd.ports import Buffer

__all__ = ["Backend", "PlainBackend", "default_backend"]

_COUNTER_AND_NONCE = 16  # bytes that `cryptography` wants: 4 of block counter, 12 of nonce


class Backend(Protocol):
    """Contract: m blocks in, m results out, in order; inputs are not kept, outputs are new buffers.

    Callers have checked sizes; a backend may assert them.
    """

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """Keys from the bytes themselves and the 32-byte convergence secret.

        Gives the ciphertext and the pairs, m times reference (32) ‖ key (32).
        """

    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        """The same for inner nodes of one level, whose keys do not depend on the secret."""

    def decrypt(self, ciphertext: Buffer, keys: Buffer, block_size: int, level: int) -> Buffer:
        """Plaintext of m blocks of one level; `keys` are m times 32 bytes."""

    def references(self, blocks: Buffer, block_size: int) -> bytes:
        """m times the BLAKE2b-256 of a block: references of ciphertext, keys of plain inner nodes."""


class PlainBackend:
    """hashlib's BLAKE2b and `cryptography`'s ChaCha20, one block after the other."""

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend."""
        view = memoryview(plain)
        keyed = blake2b(key=secret, digest_size=32)
        keys = []
        for at in range(0, len(view), block_size):
            state = keyed.copy()
            state.update(view[at : at + block_size])
            keys.append(state.digest())
        return _encrypt(view, keys, block_size, 0)

    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        """See Backend."""
        view = memoryview(nodes)
        keys = [
            blake2b(view[at : at + block_size], digest_size=32).digest()
            for at in range(0, len(view), block_size)
        ]
        return _encrypt(view, keys, block_size, level)

    def decrypt(self, ciphertext: Buffer, keys: Buffer, block_size: int, level: int) -> Buffer:
        """See Backend."""
        source, all_keys = memoryview(ciphertext), bytes(keys)
        plain = bytearray(len(source))
        target = memoryview(plain)
        nonce = _nonce(level)
        for number, at in enumerate(range(0, len(source), block_size)):
            key = all_keys[32 * number : 32 * number + 32]
            stream = Cipher(ChaCha20(key, nonce), None).encryptor()
            stream.update_into(source[at : at + block_size], target[at : at + block_size])
        return plain

    def references(self, blocks: Buffer, block_size: int) -> bytes:
        """See Backend."""
        view = memoryview(blocks)
        return b"".join(
            [
                blake2b(view[at : at + block_size], digest_size=32).digest()
                for at in range(0, len(view), block_size)
            ]
        )


def _nonce(level: int) -> bytes:
    """Block counter 0, then the 12-byte nonce: the level and eleven zeros."""
    return b"\0\0\0\0" + bytes((level,)) + bytes(_COUNTER_AND_NONCE - 5)


def _encrypt(
    source: memoryview, keys: list[bytes], block_size: int, level: int
) -> tuple[Buffer, Buffer]:
    ciphertext = bytearray(len(source))
    target = memoryview(ciphertext)
    nonce = _nonce(level)
    pairs = []
    at = 0
    for key in keys:
        block = target[at : at + block_size]
        stream = Cipher(ChaCha20(key, nonce), None).encryptor()
        stream.update_into(source[at : at + block_size], block)
        pairs.append(blake2b(block, digest_size=32).digest())
        pairs.append(key)
        at += block_size
    return ciphertext, b"".join(pairs)


_PLAIN = PlainBackend()


def default_backend() -> Backend:
    """The backend used where the caller names none."""
    return _PLAIN
