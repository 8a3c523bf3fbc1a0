"""ERIS on compiled kernels: a batch of blocks a call, one SIMD lane a block (eris 1.0, sections 2.2–2.4).

`ErisKernel` has the methods of `potsherd.crypto.eris.backend.Backend` and gives the same bytes; whoever
loads it compares it with the plain backend first (`self_check` there).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

from potsherd.errors import UsageError
from potsherd.kernels.buffers import held, unset
from potsherd.kernels.eris_ir import eris_module
from potsherd.kernels.ir import BLAKE2B_IV, SIGMA
from potsherd.kernels.llvm import Target, load
from potsherd.kernels.stream_ir import BESIDE_BITS, STEP_BYTES
from potsherd.ports import Buffer

__all__ = ["PLAIN_STATE", "ErisKernel", "HashingKernel", "keyed_state"]

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
        self._lanes = self.target.vector_bits // 64
        self._beside: Any = None
        self._stream: Any = None
        if self.target.vector_bits in BESIDE_BITS:
            self._beside = library.function(
                "eris_encrypt_beside", (*pointers, _SIZE, _SIZE, _LEVEL, _POINTER, _SIZE, _POINTER)
            )
            self._stream = library.function("blake2b_stream", (_POINTER, _SIZE, _POINTER))

    @property
    def name(self) -> str:
        """What `doctor` and benchmarks call it."""
        return f"kernel {self.target.name}"

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return self._run(plain, block_size, 0, self._keyed(secret), _KEY_BLOCK)

    def hashing(self, content_size: int) -> HashingKernel | None:
        """See Backend."""
        return HashingKernel(self, content_size) if self._beside is not None else None

    def encrypt_groups(
        self, plain: Buffer, block_size: int, secret: bytes, stream: Buffer
    ) -> tuple[Buffer, Buffer]:
        """`encrypt_leaves` of whole groups, hashed as one stream besides. Only where `hashing` is something.

        `stream` is the state that potsherd/kernels/stream_ir.py describes, here and in `hash_steps`.
        """
        return self._run(plain, block_size, 0, self._keyed(secret), _KEY_BLOCK, stream)

    def hash_steps(self, data: Buffer, stream: Buffer) -> None:
        """The next bytes of one stream, a multiple of 128."""
        steps = memoryview(data).nbytes // STEP_BYTES
        if steps:
            with held([data], [stream]) as ((source,), (state,)):
                self._stream(source, steps, state)

    def group_bytes(self, block_size: int) -> int:
        """How many bytes as many blocks have as there are lanes."""
        return self._lanes * block_size

    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        """See Backend."""
        return self._run(nodes, block_size, level, PLAIN_STATE, 0)

    def _run(
        self,
        plain: Buffer,
        block_size: int,
        level: int,
        state: bytes,
        before: int,
        stream: Buffer | None = None,
    ) -> tuple[Buffer, Buffer]:
        size = memoryview(plain).nbytes
        blocks = size // block_size
        cipher, pairs = unset(blocks * block_size), unset(64 * blocks)
        if blocks:
            beside = () if stream is None else (stream,)
            function = self._encrypt if stream is None else self._beside
            with held([plain], [cipher, pairs, *beside]) as ((source,), (target, out, *more)):
                function(source, target, out, blocks, block_size, level, state, before, *more)
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


class HashingKernel:
    """`Backend.encrypt_leaves` for the leaves of one content in order, and its BLAKE2b-256 (`backend.Hashing`).

    One call at a time.
    """

    def __init__(self, kernel: ErisKernel, content_size: int) -> None:
        self._kernel = kernel
        self._left = content_size
        self._state = bytearray(PLAIN_STATE + bytes(16))
        self._size = content_size
        if not content_size:
            self._last(memoryview(b""))

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        """See Backend. What is behind the content's end is not hashed: the last leaf is filled up."""
        size = memoryview(plain).nbytes
        # the step that ends the content is another one, so what holds it is hashed by itself
        if size % self._kernel.group_bytes(block_size) or size >= self._left:
            self._hash(memoryview(plain).cast("B")[: self._left])
            done = self._kernel.encrypt_leaves(plain, block_size, secret)
        else:
            done = self._kernel.encrypt_groups(plain, block_size, secret, self._state)
        self._left -= min(size, self._left)
        return done

    def _hash(self, data: memoryview) -> None:
        """The next bytes of the content, a multiple of 128 but at its end."""
        rest = 0
        if len(data) == self._left and data:
            rest = len(data) % STEP_BYTES or STEP_BYTES
        self._kernel.hash_steps(data[: len(data) - rest], self._state)
        if rest:
            self._last(data[len(data) - rest :])

    def _last(self, data: memoryview) -> None:
        before = (self._size - STEP_BYTES) % 2**64  # the step counts 128 more
        self._state[64:] = before.to_bytes(8, "little") + b"\xff" * 8
        self._kernel.hash_steps(bytes(data).ljust(STEP_BYTES, b"\0"), self._state)

    def digest(self) -> bytes:
        """BLAKE2b-256 of the content; raises UsageError before all of it has come."""
        if self._left:
            raise UsageError(f"{self._left} bytes of the content are missing")
        return bytes(self._state[:32])


PLAIN_STATE = b"".join(
    word.to_bytes(8, "little") for word in (BLAKE2B_IV[0] ^ 0x01010020, *BLAKE2B_IV[1:])
)
