"""Content in, ciphertext blocks out, in batches and in post-order (docs/spec/eris.md).

`Encoder` is for one content of any size; `encode_many` for many small ones, where it makes one backend
call per level for about a mebibyte of them: with 1 KiB blocks the per-call cost would be most of the time.
Every block is emitted, also when it is equal to an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from potsherd.crypto.eris.backend import Backend, default_backend
from potsherd.crypto.eris.capability import (
    BLOCK_SIZES,
    PAIR_BYTES,
    REFERENCE_BYTES,
    ReadCapability,
)
from potsherd.errors import UsageError
from potsherd.ports import Buffer

__all__ = ["BATCH_BYTES", "NULL_SECRET", "Batch", "Encoded", "Encoder", "encode_many"]

BATCH_BYTES = 1 << 20
"""Plaintext bytes handed to the backend in one call; what an Encoder keeps is less than this."""
NULL_SECRET = bytes(32)
"""Convergence secret of public content: anybody can confirm a guess at it."""


class Batch(NamedTuple):
    """A run of ciphertext blocks that are neighbours in post-order."""

    first: int
    """Post-order position of the first block."""
    blocks: Buffer
    """Whole blocks, one behind the other."""
    references: bytes
    """32 bytes for each block."""
    leaves_from: int = -1
    """If all blocks are leaves, where in the content the bytes of the first one begin; else -1."""


class Encoded(NamedTuple):
    """One content encoded whole."""

    capability: ReadCapability
    blocks: bytes
    """All blocks in post-order."""
    references: bytes
    """32 bytes for each block."""


class _Run(NamedTuple):
    """New blocks of one level, in order."""

    first: int
    ciphertext: memoryview
    pairs: Buffer


class Encoder:
    """Sans-IO: `feed` any number of times, then `finish` once.

    A `feed` returns the blocks that are complete, so memory stays flat when the caller feeds pieces of
    about BATCH_BYTES and lets go of what it got.
    """

    def __init__(
        self,
        convergence_secret: bytes,
        block_size: int,
        *,
        backend: Backend | None = None,
        content_size: int | None = None,
    ) -> None:
        """`content_size`, where it is known before: see `content_digest`. May load a kernel then, which takes some milliseconds."""
        _check_arguments(convergence_secret, block_size)
        self._secret = bytes(convergence_secret)
        self._block_size = block_size
        self._arity = block_size // PAIR_BYTES
        self._backend = backend or default_backend()
        self._hashing = None if content_size is None else self._backend.hashing(content_size)
        self._tail = bytearray()
        self._pending: list[bytes] = [b""]  # per level: pairs that are in no node yet
        self._counts: list[int] = [0]  # per level: blocks emitted
        self._length = 0
        self._finished = False

    @property
    def content_length(self) -> int:
        """Bytes fed so far."""
        return self._length

    @property
    def hashes(self) -> bool:
        """Whether the content is hashed on the way, for a fraction of what that costs by itself."""
        return self._hashing is not None

    @property
    def content_digest(self) -> bytes:
        """BLAKE2b-256 of the content if it `hashes`, after `finish`; raises UsageError otherwise."""
        if self._hashing is None or not self._finished:
            raise UsageError("this encoder has not hashed the content")
        return self._hashing.digest()

    def feed(self, data: Buffer) -> list[Batch]:
        """Take the next bytes of the content; gives what became complete, perhaps nothing."""
        if self._finished:
            raise UsageError("this encoder is finished")
        view = memoryview(data).cast("B")
        self._length += len(view)
        batches = []
        if self._tail:
            room = BATCH_BYTES - len(self._tail)
            self._tail += view[:room]
            view = view[room:]
            if len(self._tail) == BATCH_BYTES:
                batches += self._leaves(self._tail)
                self._tail = bytearray()
        while len(view) >= BATCH_BYTES:
            batches += self._leaves(view[:BATCH_BYTES])
            view = view[BATCH_BYTES:]
        self._tail += view
        return batches

    def finish(self) -> tuple[list[Batch], ReadCapability]:
        """The last blocks, and the capability. Call once."""
        if self._finished:
            raise UsageError("this encoder is finished")
        self._finished = True
        tail, self._tail = self._tail, bytearray()
        whole = len(tail) - len(tail) % self._block_size
        batches = self._leaves(memoryview(tail)[:whole]) if whole else []
        # by itself: the leaves before it are nothing but content
        batches += self._leaves(tail[whole:] + _padding(len(tail), self._block_size))
        batches += self._close()
        level = len(self._counts) - 1
        pair = self._pending[level]
        root = ReadCapability(
            self._block_size, level, pair[:REFERENCE_BYTES], pair[REFERENCE_BYTES:]
        )
        return batches, root

    def _leaves(self, plain: Buffer) -> list[Batch]:
        """The leaves of whole blocks with the nodes that they complete; those by themselves if nodes come behind all."""
        leaves = self._hashing or self._backend
        ciphertext, pairs = leaves.encrypt_leaves(plain, self._block_size, self._secret)
        first, leaves_from = sum(self._counts), self._counts[0] * self._block_size
        runs = [self._enter(0, ciphertext, pairs)]
        while node := self._full_nodes(len(runs) - 1):
            level = len(runs)
            runs.append(
                self._enter(level, *self._backend.encrypt_nodes(node, self._block_size, level))
            )
        nodes = runs[1:]
        if nodes and (len(nodes[0].pairs) > PAIR_BYTES or self._pending[0]):
            return [Batch(first, *_post_order(runs, self._arity, self._block_size))]
        batches = [Batch(first, runs[0].ciphertext, _references(pairs), leaves_from)]
        if nodes:  # one of each level
            blocks = b"".join([run.ciphertext for run in nodes])
            references = b"".join([_references(run.pairs) for run in nodes])
            batches.append(Batch(first + len(pairs) // PAIR_BYTES, blocks, references))
        return batches

    def _enter(self, level: int, ciphertext: Buffer, pairs: Buffer) -> _Run:
        if level == len(self._counts):
            self._counts.append(0)
            self._pending.append(b"")
        run = _Run(self._counts[level], memoryview(ciphertext), pairs)
        self._counts[level] += len(pairs) // PAIR_BYTES
        self._pending[level] = b"".join((self._pending[level], pairs))
        return run

    def _full_nodes(self, level: int) -> bytes:
        """Take the pairs of this level that fill whole nodes; pairs of a full node *are* the node."""
        pending = self._pending[level]
        whole = len(pending) - len(pending) % self._block_size
        if whole:
            self._pending[level] = pending[whole:]
        return pending[:whole]

    def _close(self) -> list[Batch]:
        """Fill up the partial nodes of the right edge, from below, until one pair remains."""
        batches = []
        level = 0
        while self._counts[level] != 1:
            pairs = self._pending[level]
            level += 1
            if not pairs:
                continue
            self._pending[level - 1] = b""
            node = pairs.ljust(self._block_size, b"\0")
            first = sum(self._counts)
            run = self._enter(level, *self._backend.encrypt_nodes(node, self._block_size, level))
            batches.append(Batch(first, *_post_order([run], self._arity, self._block_size)))
        return batches


def encode_many(
    contents: Sequence[bytes],
    *,
    convergence_secret: bytes,
    block_size: int = 1024,
    backend: Backend | None = None,
) -> list[Encoded]:
    """Encode many contents with one secret; result i belongs to contents[i]."""
    _check_arguments(convergence_secret, block_size)
    backend = backend or default_backend()
    # Beyond one level of nodes, or a batch, the streaming encoder's cost per content is nothing.
    limit = min(BATCH_BYTES, block_size * (block_size // PAIR_BYTES))
    done: list[Encoded | None] = [None] * len(contents)
    waiting: list[int] = []
    size = 0
    for number, content in enumerate(contents):
        if len(content) >= limit:
            done[number] = _encode_one(content, convergence_secret, block_size, backend)
            continue
        waiting.append(number)
        size += len(content) + block_size
        if size >= BATCH_BYTES:
            _encode_small(contents, waiting, done, convergence_secret, block_size, backend)
            waiting, size = [], 0
    if waiting:
        _encode_small(contents, waiting, done, convergence_secret, block_size, backend)
    return [encoded for encoded in done if encoded is not None]


def _encode_one(content: bytes, secret: bytes, block_size: int, backend: Backend) -> Encoded:
    encoder = Encoder(secret, block_size, backend=backend)
    batches = encoder.feed(content)
    last, capability = encoder.finish()
    batches += last
    return Encoded(
        capability,
        b"".join([batch.blocks for batch in batches]),
        b"".join([batch.references for batch in batches]),
    )


def _encode_small(
    contents: Sequence[bytes],
    numbers: Iterable[int],
    done: list[Encoded | None],
    secret: bytes,
    block_size: int,
    backend: Backend,
) -> None:
    """Contents of at most one level of nodes: one call for all leaves, one for all roots."""
    parts: list[bytes] = []
    spans: list[
        tuple[int, int, int]
    ] = []  # number of the content, first leaf, leaf behind the last
    leaf = 0
    for number in numbers:
        content = contents[number]
        parts += (content, _padding(len(content), block_size))
        spans.append((number, leaf, leaf + len(content) // block_size + 1))
        leaf = spans[-1][2]
    ciphertext, pairs = backend.encrypt_leaves(b"".join(parts), block_size, secret)
    leaves = (memoryview(ciphertext), bytes(pairs), _references(pairs))
    roots = _encrypt_roots(leaves[1], spans, block_size, backend)
    node = 0
    for number, start, end in spans:
        node_end = node + (end - start > 1)
        done[number] = _gather(leaves, (start, end), roots, (node, node_end), block_size)
        node = node_end


_Level = tuple[memoryview, bytes, bytes]  # ciphertext, pairs, references


def _encrypt_roots(
    pairs: bytes, spans: list[tuple[int, int, int]], block_size: int, backend: Backend
) -> _Level:
    nodes = [
        pairs[start * PAIR_BYTES : end * PAIR_BYTES].ljust(block_size, b"\0")
        for _, start, end in spans
        if end - start > 1
    ]
    if not nodes:
        return memoryview(b""), b"", b""
    ciphertext, node_pairs = backend.encrypt_nodes(b"".join(nodes), block_size, 1)
    return memoryview(ciphertext), bytes(node_pairs), _references(node_pairs)


def _gather(
    leaves: _Level,
    span: tuple[int, int],
    roots: _Level,
    node_span: tuple[int, int],
    block_size: int,
) -> Encoded:
    """One content out of a batch: its leaves, then its root if that is another block."""
    (start, end), (node, node_end) = span, node_span
    level = node_end - node
    at = (node if level else start) * PAIR_BYTES
    pair = (roots if level else leaves)[1][at : at + PAIR_BYTES]
    blocks = (
        leaves[0][start * block_size : end * block_size],
        roots[0][node * block_size : node_end * block_size],
    )
    references = leaves[2][start * 32 : end * 32] + roots[2][node * 32 : node_end * 32]
    root = ReadCapability(block_size, level, pair[:REFERENCE_BYTES], pair[REFERENCE_BYTES:])
    return Encoded(root, b"".join(blocks), references)


def _check_arguments(secret: bytes, block_size: int) -> None:
    if len(secret) != 32:
        raise UsageError("a convergence secret has 32 bytes")
    if block_size not in BLOCK_SIZES:
        raise UsageError("ERIS has blocks of 1 KiB and of 32 KiB")


def _padding(length: int, block_size: int) -> bytes:
    return b"\x80".ljust(block_size - length % block_size, b"\0")


def _references(pairs: Buffer) -> bytes:
    """The references out of reference–key pairs."""
    pairs = bytes(pairs)
    return b"".join([pairs[at : at + REFERENCE_BYTES] for at in range(0, len(pairs), PAIR_BYTES)])


def _post_order(runs: list[_Run], arity: int, block_size: int) -> tuple[Buffer, bytes]:
    """Merge new blocks of level 0, 1, … so that every node directly follows its last child."""
    if len(runs) == 1:
        return runs[0].ciphertext, _references(runs[0].pairs)
    blocks: list[memoryview] = []
    references: list[bytes] = []
    views = [(run.ciphertext, _references(run.pairs)) for run in runs]
    taken = [0] * len(runs)

    def take(level: int, count: int) -> None:
        start, end = taken[level], taken[level] + count
        blocks.append(views[level][0][start * block_size : end * block_size])
        references.append(views[level][1][start * 32 : end * 32])
        taken[level] = end

    for node in range(len(views[1][1]) // 32):
        take(0, (runs[1].first + node + 1) * arity - runs[0].first - taken[0])
        level = 1
        take(1, 1)
        while level + 1 < len(runs) and (runs[level].first + taken[level]) % arity == 0:
            level += 1
            take(level, 1)
    take(0, len(views[0][1]) // 32 - taken[0])
    return b"".join(blocks), b"".join(references)
