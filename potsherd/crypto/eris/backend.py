"""What turns plaintext blocks into ciphertext blocks and back, many at a time.

`PlainBackend` is always there and stays the reference: a faster one (potsherd.kernels) must give the
same bytes for every batch, and is compared with it before its first use. All buffers are whole numbers
of blocks that lie one behind the other.
"""

from __future__ import annotations

from hashlib import blake2b, shake_128
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from potsherd.ports import Buffer

__all__ = ["Backend", "Hashing", "LazyBackend", "PlainBackend", "default_backend", "self_check"]

KERNEL_BYTES_MIN = 64 * 1024
"""Smaller batches are for the plain backend: looking for a kernel and checking it takes some milliseconds."""

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

    def hashing(self, content_size: int) -> Hashing | None:
        """For who needs the BLAKE2b-256 of a content of that size too; None where it costs less by itself."""


class Hashing(Protocol):
    """Contract: leaves as of `Backend`, for one content from its start on, and the hash of that content."""

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend. Batches come in order; what fills the last leaf up is not hashed."""

    def digest(self) -> bytes:
        """BLAKE2b-256 of the content; raises UsageError before all of it has come."""


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

    def hashing(self, content_size: int) -> Hashing | None:
        """See Backend: hashlib does it as well on another thread."""
        return None


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


class LazyBackend:
    """The compiled kernel, where there is one, for batches worth it; `PlainBackend` for the others."""

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return _backend_for(len(plain)).encrypt_leaves(plain, block_size, secret)

    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return _backend_for(len(nodes)).encrypt_nodes(nodes, block_size, level)

    def decrypt(self, ciphertext: Buffer, keys: Buffer, block_size: int, level: int) -> Buffer:
        """See Backend."""
        return _backend_for(len(ciphertext)).decrypt(ciphertext, keys, block_size, level)

    def references(self, blocks: Buffer, block_size: int) -> bytes:
        """See Backend."""
        return _backend_for(len(blocks)).references(blocks, block_size)

    def hashing(self, content_size: int) -> Hashing | None:
        """See Backend."""
        return _backend_for(content_size, work=0).hashing(content_size)  # counted batch by batch


def _backend_for(size: int, *, work: int | None = None) -> Backend:
    """For so many bytes; `work` of them, all unless given, count for whether compiling a kernel is worth it."""
    if size < KERNEL_BYTES_MIN:
        return _PLAIN
    from potsherd.kernels.choice import eris_kernel  # not before there is something to do

    return eris_kernel(self_check).get(size if work is None else work) or _PLAIN


_LAZY = LazyBackend()


def default_backend() -> Backend:
    """The backend used where the caller names none."""
    return _LAZY


def self_check(candidate: Backend) -> bool:
    """Whether a backend gives the bytes of `PlainBackend`: both block sizes, odd numbers of blocks."""
    secret = blake2b(b"secret", digest_size=32).digest()
    return all(
        _same(candidate, blocks, block_size, level, secret)
        for block_size, blocks in ((1024, 1), (1024, 37), (32768, 3))
        for level in (0, 1, 2)
    ) and all(_hashes(candidate, size, secret) for size in (0, 8192, 21 * 1024, 37 * 1024 + 5))


def _hashes(candidate: Backend, size: int, secret: bytes) -> bool:
    """Whether what it hashes on the way is right, in batches of whole groups of lanes and of others."""
    hashing = candidate.hashing(size)
    if hashing is None:
        return True
    content = shake_128(b"%d" % size).digest(size)
    plain = content + bytes(1024 - size % 1024)
    for batch in (plain[:16384], plain[16384:24576], plain[24576:]):
        if _bytes(hashing.encrypt_leaves(batch, 1024, secret)) != _bytes(
            _PLAIN.encrypt_leaves(batch, 1024, secret)
        ):
            return False
    return hashing.digest() == blake2b(content, digest_size=32).digest()


def _bytes(found: tuple[Buffer, Buffer]) -> tuple[bytes, bytes]:
    return bytes(found[0]), bytes(found[1])


def _same(candidate: Backend, blocks: int, block_size: int, level: int, secret: bytes) -> bool:
    plain = shake_128(b"%d %d" % (blocks, level)).digest(blocks * block_size)
    if level:
        expected = _PLAIN.encrypt_nodes(plain, block_size, level)
        found = candidate.encrypt_nodes(plain, block_size, level)
    else:
        expected = _PLAIN.encrypt_leaves(plain, block_size, secret)
        found = candidate.encrypt_leaves(plain, block_size, secret)
    ciphertext, pairs = expected
    keys = b"".join([pairs[at + 32 : at + 64] for at in range(0, len(pairs), 64)])
    return (
        found == expected
        and candidate.references(ciphertext, block_size)
        == _PLAIN.references(ciphertext, block_size)
        and bytes(candidate.decrypt(ciphertext, keys, block_size, level)) == plain
    )
