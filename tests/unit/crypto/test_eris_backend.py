"""The plain backend's contract, what a check of another backend notices, and who is chosen when."""

from __future__ import annotations

from hashlib import blake2b, shake_128

import pytest

from potsherd.crypto import eris
from potsherd.crypto.eris.backend import (
    KERNEL_BYTES_MIN,
    Backend,
    LazyBackend,
    PlainBackend,
    self_check,
)
from potsherd.crypto.eris.encoder import BATCH_BYTES, Encoder, encode_many
from potsherd.errors import UsageError
from potsherd.ports import Buffer

PLAIN = PlainBackend()
SECRET = b"s" * 32


def turned(data: Buffer) -> bytes:
    """The last bit is another."""
    return bytes(data[:-1]) + bytes([data[-1] ^ 1])


class WrongLeaves(PlainBackend):
    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        ciphertext, pairs = super().encrypt_leaves(plain, block_size, secret)
        return ciphertext, turned(pairs)


class WrongNodes(PlainBackend):
    def encrypt_nodes(self, nodes: Buffer, block_size: int, level: int) -> tuple[Buffer, Buffer]:
        return super().encrypt_nodes(nodes, block_size, 1)


class WrongDecrypt(PlainBackend):
    def decrypt(self, ciphertext: Buffer, keys: Buffer, block_size: int, level: int) -> Buffer:
        return turned(super().decrypt(ciphertext, keys, block_size, level))


class WrongReferences(PlainBackend):
    def references(self, blocks: Buffer, block_size: int) -> bytes:
        return turned(super().references(blocks, block_size))


class HashesOnTheWay(PlainBackend):
    """With hashlib, so that this can be tested where no kernel does it."""

    wrong = False

    def __init__(self) -> None:
        self._state = blake2b(digest_size=32)
        self._left = 0

    def hashing(self, content_size: int) -> HashesOnTheWay:
        made = type(self)()
        made._left = content_size
        return made

    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        self._state.update(memoryview(plain)[: self._left])
        self._left -= min(self._left, len(plain))
        return super().encrypt_leaves(plain, block_size, secret)

    def digest(self) -> bytes:
        return turned(self._state.digest()) if self.wrong else self._state.digest()


class WrongHash(HashesOnTheWay):
    wrong = True


class WrongLeavesWhenItHashes(HashesOnTheWay):
    def encrypt_leaves(
        self, plain: Buffer, block_size: int, secret: bytes
    ) -> tuple[Buffer, Buffer]:
        ciphertext, pairs = super().encrypt_leaves(plain, block_size, secret)
        return (turned(ciphertext), pairs) if self._state.digest() != EMPTY else (ciphertext, pairs)


EMPTY = blake2b(digest_size=32).digest()


class WrongBeyondLanes(PlainBackend):
    """Right for few blocks: the mistake of a kernel in what is left after whole groups of lanes."""

    def references(self, blocks: Buffer, block_size: int) -> bytes:
        found = super().references(blocks, block_size)
        return found if len(found) <= 32 * 32 else turned(found)


def test_a_right_backend_passes_the_check() -> None:
    assert self_check(PlainBackend())
    assert self_check(LazyBackend())
    assert self_check(HashesOnTheWay())


@pytest.mark.parametrize(
    "wrong",
    [
        WrongLeaves,
        WrongNodes,
        WrongDecrypt,
        WrongReferences,
        WrongBeyondLanes,
        WrongHash,
        WrongLeavesWhenItHashes,
    ],
)
def test_a_wrong_backend_does_not(wrong: type[PlainBackend]) -> None:
    assert not self_check(wrong())


@pytest.mark.parametrize("block_size", eris.BLOCK_SIZES)
def test_a_batch_is_its_blocks_one_by_one(block_size: int) -> None:
    plain = b"".join([bytes([number]) * block_size for number in range(5)])
    ciphertext, pairs = PLAIN.encrypt_leaves(plain, block_size, SECRET)
    ones = [
        PLAIN.encrypt_leaves(plain[at : at + block_size], block_size, SECRET)
        for at in range(0, len(plain), block_size)
    ]
    assert ciphertext == b"".join([one for one, _ in ones])
    assert pairs == b"".join([one for _, one in ones])
    assert pairs[32:64] == blake2b(plain[:block_size], key=SECRET, digest_size=32).digest()
    keys = b"".join([pairs[at + 32 : at + 64] for at in range(0, len(pairs), 64)])
    assert PLAIN.decrypt(ciphertext, keys, block_size, 0) == plain


def test_an_empty_batch() -> None:
    assert PLAIN.encrypt_leaves(b"", 1024, SECRET) == (b"", b"")
    assert PLAIN.references(b"", 1024) == b""
    assert PLAIN.decrypt(b"", b"", 1024, 0) == b""


class Kernels:
    """Stands for what `eris_kernel` gives: notes the work it hears of, and has `kernel`."""

    def __init__(self, kernel: PlainBackend | None) -> None:
        self.kernel = kernel
        self.asked: list[int] = []

    def get(self, size: int) -> PlainBackend | None:
        self.asked.append(size)
        return self.kernel


class Marked(PlainBackend):
    def references(self, blocks: Buffer, block_size: int) -> bytes:
        return b"from the kernel"


def test_small_batches_look_for_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels(Marked())
    monkeypatch.setattr("potsherd.kernels.choice.eris_kernel", lambda check: kernels)
    lazy = eris.default_backend()
    small = bytes(KERNEL_BYTES_MIN - 1024)
    assert lazy.references(small, 1024) == PLAIN.references(small, 1024)
    assert kernels.asked == []
    assert lazy.references(bytes(KERNEL_BYTES_MIN), 1024) == b"from the kernel"
    assert kernels.asked == [KERNEL_BYTES_MIN]


def test_without_kernels_the_plain_backend_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potsherd.kernels.choice.eris_kernel", lambda check: Kernels(None))
    batch = bytes(KERNEL_BYTES_MIN)
    assert eris.default_backend().references(batch, 1024) == PLAIN.references(batch, 1024)


@pytest.mark.parametrize("backend", [HashesOnTheWay(), LazyBackend(), PLAIN])
@pytest.mark.parametrize("size", [0, 1, 32768, BATCH_BYTES - 1, BATCH_BYTES, 3 * BATCH_BYTES + 5])
@pytest.mark.parametrize("pieces", [4096 * 3 + 7, BATCH_BYTES, 2 * BATCH_BYTES])
def test_an_encoder_that_knows_the_size_may_give_the_hash(
    backend: Backend, size: int, pieces: int
) -> None:
    content = shake_128(b"content").digest(size)
    encoder = Encoder(SECRET, 32768, backend=backend, content_size=size)
    batches = [b for at in range(0, size, pieces) for b in encoder.feed(content[at : at + pieces])]
    if encoder.hashes:
        with pytest.raises(UsageError):
            _ = encoder.content_digest
    last, capability = encoder.finish()
    blocks = b"".join(bytes(batch.blocks) for batch in batches + last)
    (expected,) = encode_many([content], convergence_secret=SECRET, block_size=32768, backend=PLAIN)
    assert (blocks, capability) == (expected.blocks, expected.capability)
    assert encoder.hashes or not isinstance(backend, HashesOnTheWay)
    if encoder.hashes:
        assert encoder.content_digest == blake2b(content, digest_size=32).digest()
    else:
        with pytest.raises(UsageError):
            _ = encoder.content_digest


def test_a_hash_that_nobody_asked_for_is_not_there() -> None:
    encoder = Encoder(SECRET, 1024, backend=HashesOnTheWay())
    encoder.finish()
    assert not encoder.hashes
    with pytest.raises(UsageError):
        _ = encoder.content_digest
