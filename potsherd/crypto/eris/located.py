"""Decoding where the content length is known: every block's place follows by arithmetic.

So all blocks of a range are fetched at once, and verified here from the top down, one backend call per
level, across many contents. `decoder.Decoder` is the other way: length unknown, blocks one after another.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from potsherd.crypto.eris.backend import Backend, default_backend
from potsherd.crypto.eris.capability import PAIR_BYTES, REFERENCE_BYTES, ReadCapability
from potsherd.crypto.eris.tree import TreeShape
from potsherd.errors import IntegrityError, MalformedError, NotFoundError
from potsherd.ports import Buffer

__all__ = ["Run", "decode_blocks", "decode_many", "decode_postorder", "decode_runs", "shape_of"]

GROUP_BYTES = 1 << 20
"""Ciphertext of small contents that `decode_many` hands to the backend in one call."""


class Run(NamedTuple):
    """Neighbouring blocks of one level."""

    level: int
    first: int
    """Index of the first block in its level."""
    blocks: Buffer
    references: bytes = b""
    """BLAKE2b-256 of each block where the caller has made sure of it, so that it is not hashed again; or empty."""


_Part = tuple[Buffer, bytes]  # whole blocks, and their references if they are known
_Fetch = Callable[[int, int, int], list[_Part]]  # (level, first, end) -> blocks in order


def shape_of(capability: ReadCapability, content_length: int) -> TreeShape:
    """The tree of a content of this length. Raises MalformedError when the levels do not agree."""
    shape = TreeShape(content_length, capability.block_size)
    if shape.root_level != capability.level:
        raise MalformedError("the content length does not fit the levels of the key link")
    return shape


def decode_blocks(
    capability: ReadCapability,
    content_length: int,
    blocks: Mapping[tuple[int, int], Buffer],
    start: int = 0,
    length: int | None = None,
    backend: Backend | None = None,
) -> bytes:
    """content[start : start+length] out of blocks named (level, index).

    Needed are those of `shape_of(…).blocks_of_range(start, length)`; more may be there. Raises
    NotFoundError for a missing one, IntegrityError for wrong bytes, MalformedError for a wrong tree.
    """
    runs = [Run(*name, block) for name, block in blocks.items()]
    return bytes(decode_runs(capability, content_length, runs, start, length, backend))


def decode_runs(
    capability: ReadCapability,
    content_length: int,
    runs: Iterable[Run],
    start: int = 0,
    length: int | None = None,
    backend: Backend | None = None,
) -> memoryview:
    """`decode_blocks` of blocks that come in runs; nothing is copied where a level's blocks are one run."""
    shape = shape_of(capability, content_length)
    stop = content_length if length is None else min(start + length, content_length)
    spans = shape.spans_of_range(start, max(0, stop - start))
    if spans[0][0] == spans[0][1]:
        return memoryview(b"")
    by_level: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run[:2]):
        by_level.setdefault(run.level, []).append(run)

    def fetch(level: int, first: int, end: int) -> list[_Part]:
        return _cut(by_level.get(level, []), first, end, shape.block_size)

    job = _Job(capability, shape, spans, fetch)
    _decode([job], capability.block_size, backend or default_backend())
    offset = spans[0][0] * shape.block_size
    return job.plain[start - offset : stop - offset]


def _cut(runs: Sequence[Run], first: int, end: int, size: int) -> list[_Part]:
    """Blocks `first` to before `end` out of sorted runs. Raises NotFoundError."""
    parts: list[_Part] = []
    place = max(0, bisect.bisect_right(runs, first, key=lambda run: run.first) - 1)
    for run in runs[place:]:
        view = memoryview(run.blocks).cast("B")
        skip, stop = first - run.first, min(end - run.first, len(view) // size)
        if first == end or skip < 0:
            break
        if len(view) % size or not len(view):
            raise IntegrityError("a block has the wrong size")
        if skip < stop:
            known = run.references[skip * REFERENCE_BYTES : stop * REFERENCE_BYTES]
            parts.append((view[skip * size : stop * size], known))
            first = run.first + stop
    if first != end:
        raise NotFoundError("a block is missing")
    return parts


def decode_postorder(
    capability: ReadCapability, content_length: int, blocks: Buffer, backend: Backend | None = None
) -> bytes:
    """The whole content out of all its blocks in post-order. Raises like `decode_blocks`."""
    return decode_many([(capability, content_length, blocks)], backend)[0]


def decode_many(
    items: Sequence[tuple[ReadCapability, int, Buffer]], backend: Backend | None = None
) -> list[bytes]:
    """Many contents, each (capability, content length, its blocks in post-order), at once.

    Raises like `decode_blocks` when any one of them is wrong.
    """
    backend = backend or default_backend()
    jobs = [_whole(*item) for item in items]
    groups: dict[int, list[_Job]] = {}
    sizes: dict[int, int] = {}
    for job in jobs:
        block_size = job.shape.block_size
        groups.setdefault(block_size, []).append(job)
        sizes[block_size] = sizes.get(block_size, 0) + job.shape.encoded_length
        if sizes[block_size] >= GROUP_BYTES:
            _decode(groups.pop(block_size), block_size, backend)
            sizes[block_size] = 0
    for block_size, group in groups.items():
        _decode(group, block_size, backend)
    return [bytes(job.plain[: job.shape.content_length]) for job in jobs]


class _Job:
    """One tree, or the part of it that a range needs, on its way down."""

    __slots__ = ("capability", "fetch", "keys", "plain", "references", "shape", "spans")

    def __init__(
        self,
        capability: ReadCapability,
        shape: TreeShape,
        spans: list[tuple[int, int]],
        fetch: _Fetch,
    ) -> None:
        self.capability = capability
        self.shape = shape
        self.spans = spans
        self.fetch = fetch
        # What the blocks of the next level must be: known before they are looked at.
        self.references = capability.root_reference
        self.keys = capability.root_key
        self.plain: memoryview = memoryview(b"")

    def descend(self, level: int, nodes: memoryview) -> None:
        """Read the pairs of verified inner nodes of `level`, and check that the tree is canonical."""
        shape = self.shape
        first, end = self.spans[level]
        used = min(end * shape.arity, shape.widths[level - 1]) - first * shape.arity
        if not _all_zero(nodes[used * PAIR_BYTES :]):
            raise MalformedError("an inner node has more children than the content length allows")
        low, high = self.spans[level - 1]
        start = low - first * shape.arity
        pairs = bytes(nodes[start * PAIR_BYTES : (start + high - low) * PAIR_BYTES])
        places = range(0, len(pairs), PAIR_BYTES)
        self.references = b"".join([pairs[at : at + REFERENCE_BYTES] for at in places])
        self.keys = b"".join([pairs[at + REFERENCE_BYTES : at + PAIR_BYTES] for at in places])

    def arrive(self, leaves: memoryview) -> None:
        """Keep the leaves' plaintext; where the last one is among them, its padding must fit."""
        shape = self.shape
        if self.spans[0][1] == shape.leaves:
            content_end = shape.content_length - self.spans[0][0] * shape.block_size
            padding = leaves[content_end:]
            if padding[0] != 0x80 or not _all_zero(padding[1:]):
                raise MalformedError("the last leaf is not padded where the content must end")
        self.plain = leaves


def _all_zero(view: memoryview) -> bool:
    return bytes(view) == bytes(len(view))  # memcmp; `any` would look at each byte as an object


def _whole(capability: ReadCapability, content_length: int, blocks: Buffer) -> _Job:
    shape = shape_of(capability, content_length)
    view = memoryview(blocks).cast("B")
    if len(view) != shape.encoded_length:
        raise IntegrityError(f"{len(view)} bytes of blocks, not {shape.encoded_length}")
    size = shape.block_size

    def fetch(level: int, first: int, end: int) -> list[_Part]:
        runs = _runs(shape, level, first, end)
        return [(view[at * size : stop * size], b"") for at, stop in runs]

    return _Job(capability, shape, [(0, width) for width in shape.widths], fetch)


def _runs(shape: TreeShape, level: int, first: int, end: int) -> Iterable[tuple[int, int]]:
    """Runs of neighbours in post-order: leaves of one parent; inner nodes stand alone."""
    if level:
        for index in range(first, end):
            at = shape.position(level, index)
            yield at, at + 1
        return
    for start in range(first, end, shape.arity):
        at = shape.position(0, start)
        yield at, at + min(shape.arity, end - start)


def _decode(jobs: list[_Job], block_size: int, backend: Backend) -> None:
    """All jobs from their roots down to their leaves; the deepest trees begin first."""
    for level in range(max(job.shape.root_level for job in jobs), -1, -1):
        _decode_level(
            [job for job in jobs if job.shape.root_level >= level], level, block_size, backend
        )


def _decode_level(jobs: list[_Job], level: int, block_size: int, backend: Backend) -> None:
    parts: list[_Part] = []
    for job in jobs:
        parts += job.fetch(level, *job.spans[level])
    ciphertext = parts[0][0] if len(parts) == 1 else b"".join([blocks for blocks, _ in parts])
    references = b"".join([job.references for job in jobs])
    keys = b"".join([job.keys for job in jobs])
    if all(known for _, known in parts):
        found = b"".join([known for _, known in parts])
    else:
        found = backend.references(ciphertext, block_size)
    if found != references:
        raise IntegrityError("a block does not have the hash it must have")
    plain = backend.decrypt(ciphertext, keys, block_size, level)
    if level and backend.references(plain, block_size) != keys:
        raise MalformedError("an inner node does not have the key it must have")
    view = memoryview(plain)
    at = 0
    for job in jobs:
        first, end = job.spans[level]
        part = view[at : at + (end - first) * block_size]
        at += len(part)
        if level:
            job.descend(level, part)
        else:
            job.arrive(part)
