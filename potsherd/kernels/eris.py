"""ERIS on compiled kernels: a batch of blocks a call, one SIMD lane a block (eris 1.0, sections 2.2–2.4).

`ErisKernel` has the methods of `potsherd.crypto.eris.backend.Backend` and gives the same bytes; whoever
loads it compares it with the plain backend first (`self_check` there).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from potsherd.kernels.buffers import held, unset
from potsherd.kernels.ir import BLAKE2B_IV, SIGMA, eris_module
from potsherd.kernels.llvm import Target, load
from potsherd.ports import Buffer

__all__ = ["PLAIN_STATE", "ErisKernel", "keyed_state"]

SECRETS_MAX = 64
"""Convergence secrets whose start state is remembered."""
_MASK = 2**64 - 1
_KEY_BLOCK = 128
_POINTER, _SIZE, _LEVEL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


def keyed_state(secret: bytes) -> bytes:
    """BLAKE2b's state (64 bytes) after the block that holds a 32-byte key: RFC 7693, section 3.3."""
    state = [BLAKE2B_IV[0] ^ 0x01012020, *BLAKE2B_IV[1:]]
    words = [int.from_bytes(secret.ljust(_KEY_BLOCK, b"\0")[i : i + 8], "little") for i in range(0, _KEY_BLOCK, 8)]  # fmt: skip
    return b"".join(word.to_bytes(8, "little") for word in _compress(state, words, _KEY_BLOCK))


def _compress(h: list[int], m: list[int], counted: int) -> list[int]:
    v = [*h, *BLAKE2B_IV]
    v[12] ^= counted

    def mix(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        for word, first, second in ((x, 32, 24), (y, 16, 63)):
            v[a] = (v[a] + v[b] + word) & _MASK
            v[d] = _turn(v[d] ^ v[a], first)
            v[c] = (v[c] + v[d]) & _MASK
            v[b] = _turn(v[b] ^ v[c], second)

    for number in range(12):
        s = SIGMA[number % 10]
        for q in range(4):
            mix(q, 4 + q, 8 + q, 12 + q, m[s[2 * q]], m[s[2 * q + 1]])
        for q in range(4):
            at = (q, 4 + (q + 1) % 4, 8 + (q + 2) % 4, 12 + (q + 3) % 4)
            mix(*at, m[s[8 + 2 * q]], m[s[9 + 2 * q]])
    return [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]


def _turn(word: int, right: int) -> int:
    return (word >> right | word << (64 - right)) & _MASK


class ErisKernel:
    """See the module's text. Safe to use from several threads at a time."""

    def __init__(
        self, target: Target | None = None, *, cache: Path | None = None, compiling: bool = True
    ) -> None:
        """Raises KernelUnavailable. The arguments are those of `llvm.load`."""
        library, self.target = load(
            "eris", lambda t: eris_module(t.vector_bits), target, cache=cache, compiling=compiling
        )
        pointers = (_POINTER, _POINTER, _POINTER)
        self._encrypt = library.function(
            "eris_encrypt", (*pointers, _SIZE, _SIZE, _LEVEL, _POINTER, _SIZE)
        )
        self._hash = library.function("blake2b_batch", (_POINTER, _POINTER, _SIZE, _SIZE, _POINTER))
        self._cipher = library.function("chacha20_batch", (*pointers, _SIZE, _SIZE, _LEVEL))
        self._keyed = functools.lru_cache(SECRETS_MAX)(keyed_state)

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""
        return f"kernel {self.target.name}"

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return self._run(plain, block_size, 0, self._keyed(secret), _KEY_BLOCK)

    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return self._run(nodes, block_size, level, PLAIN_STATE, 0)

    def _run(
        self, plain: Buffer, block_size: int, level: int, state: bytes, before: int
    ) -> tuple[Buffer, Buffer]:
        size = memoryview(plain).nbytes
        blocks = size // block_size
        cipher, pairs = unset(blocks * block_size), unset(64 * blocks)
        if blocks:
            with held([plain], [cipher, pairs]) as ((source,), out):
                self._encrypt(source, *out, blocks, block_size, level, state, before)
        return cipher, pairs

    def decrypt(self, ciphertext: Buffer, keys: Buffer, block_size: int, level: int) -> Buffer:
        """See Backend."""
        size = memoryview(ciphertext).nbytes
        blocks = size // block_size
        plain = unset(blocks * block_size)
        if blocks:
            with held([ciphertext, keys], [plain]) as ((source, key), (target,)):
                self._cipher(source, target, key, blocks, block_size, level)
        return plain

    def references(self, blocks: Buffer, block_size: int) -> bytes:
        """See Backend."""
        count = memoryview(blocks).nbytes // block_size
        digests = bytearray(32 * count)
        if count:
            with held([blocks], [digests]) as ((source,), (target,)):
                self._hash(source, target, count, block_size, PLAIN_STATE)
        return bytes(digests)


PLAIN_STATE = b"".join(
    word.to_bytes(8, "little") for word in (BLAKE2B_IV[0] ^ 0x01010020, *BLAKE2B_IV[1:])
)
