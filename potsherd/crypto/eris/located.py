"""Decoding where the content length is known: every block's place follows by arithmetic.

So all blocks of a range are fetched at once, and verified here from the top down, one backend call per
level, across many contents. `decoder.Decoder` is the other way: length unknown, blocks one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from potsherd.crypto.eris.backend import Backend, default_backend
from potsherd.crypto.eris.capability import PAIR_BYTES, REFERENCE_BYTES, ReadCapability
from potsherd.crypto.eris.tree import TreeShape
from potsherd.errors import IntegrityError, MalformedError, NotFoundError
from potsherd.ports import Buffer

__all__ = ["decode_blocks", "decode_many", "decode_postorder", "shape_of"]

GROUP_BYTES = 1 << 20
"""Ciphertext of small contents that `decode_many` hands to the backend in one call."""

_Fetch = Callable[[int, int, int], list[Buffer]]  # (level, first, end) -> blocks, or runs of blocks


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
    shape = shape_of(capability, content_length)
    stop = content_length if length is None else min(start + length, content_length)
    spans = shape.spans_of_range(start, max(0, stop - start))
    if spans[0][0] == spans[0][1]:
        return b""

    def fetch(level: int, first: int, end: int) -> list[Buffer]:
        try:
            return [blocks[level, index] for index in range(first, end)]
        except KeyError:
            raise NotFoundError("a block is missing") from None

    job = _Job(capability, shape, spans, fetch)
    _decode([job], capability.block_size, backend or default_backend())
    offset = spans[0][0] * shape.block_size
    return bytes(job.plain[start - offset : stop - offset])


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

    def fetch(level: int, first: int, end: int) -> list[Buffer]:
        return [view[at * size : stop * size] for at, stop in _runs(shape, level, first, end)]

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
    parts: list[Buffer] = []
    for job in jobs:
        parts += job.fetch(level, *job.spans[level])
    if any(len(part) == 0 or len(part) % block_size for part in parts):
        raise IntegrityError("a block has the wrong size")
    ciphertext = parts[0] if len(parts) == 1 else b"".join(parts)
    references = b"".join([job.references for job in jobs])
    keys = b"".join([job.keys for job in jobs])
    if backend.references(ciphertext, block_size) != references:
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
