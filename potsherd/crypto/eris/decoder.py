"""ERIS decoding, sans-IO and streaming: wants out, blocks in, verified plaintext out in order.

The tree is walked from the left. Refused, beyond wrong bytes (docs/spec/eris.md): trees that our encoder
would not write (they decode differently by streaming and by seeking), nodes whose key is wrong, contents
longer than the caller's limit: four blocks of 32 KiB can pretend to be 4 TiB.
"""

from __future__ import annotations

from potsherd.classes import dataclass
from potsherd.crypto.eris.backend import Backend, default_backend
from potsherd.crypto.eris.capability import PAIR_BYTES, REFERENCE_BYTES, ReadCapability
from potsherd.crypto.eris.located import shape_of
from potsherd.errors import IntegrityError, LimitError, MalformedError, UsageError
from potsherd.ports import Buffer

__all__ = ["BYTES_AHEAD", "NODES_AHEAD", "Decoder", "Want"]

BYTES_AHEAD = 2 << 20
"""A Decoder wants and keeps at most this much ciphertext at a time."""
NODES_AHEAD = 2
"""Inner nodes among the wants: the one in turn and the next; bounds what is known of the tree."""
_ZERO_PAIR = bytes(PAIR_BYTES)


@dataclass(frozen=True, slots=True)
class Want:
    """A block that a Decoder needs."""

    reference: bytes
    level: int
    index: int


class _Slot:
    """A node whose reference and key are verified, and which is not yet read."""

    __slots__ = ("asked", "ciphertext", "index", "key", "last", "level", "reference")

    def __init__(self, level: int, index: int, pair: bytes, last: bool) -> None:
        self.level = level
        self.index = index
        self.reference = pair[:REFERENCE_BYTES]
        self.key = pair[REFERENCE_BYTES:]
        self.last = last  # on the right edge of the tree
        self.asked = False
        self.ciphertext: Buffer | None = None


class Decoder:
    """Ask `wants`, `supply` what comes, take `plaintext`, until `finished`.

    Bytes that `plaintext` gives are verified against the capability. A MalformedError or LimitError is
    final; after an IntegrityError the same block may be supplied again from elsewhere.
    """

    def __init__(
        self,
        capability: ReadCapability,
        *,
        size_limit: int,
        start: int = 0,
        length: int | None = None,
        content_length: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Decodes content[start : start+length].

        `size_limit` bounds the whole content, in bytes. Raises LimitError where the levels alone show
        more, MalformedError where `content_length`, if given, does not fit them.
        """
        if start < 0 or (length is not None and length < 0) or size_limit < 0:
            raise UsageError("a range and a limit have no negative numbers")
        self._capability = capability
        self._backend = backend or default_backend()
        self._size = capability.block_size
        self._arity = self._size // PAIR_BYTES
        self._limit = size_limit
        self._start = start
        self._stop = None if length is None else start + length
        self._asked: dict[bytes, list[_Slot]] = {}
        self._shape = None if content_length is None else shape_of(capability, content_length)
        if content_length is not None:
            self._check_limit(content_length)
        if capability.level:
            # More than arity^(level-1) leaves, all but the last full: else the level would be useless.
            self._check_limit(self._arity ** (capability.level - 1) * self._size)
        root = capability.root_reference + capability.root_key
        self._slots = [] if length == 0 else [_Slot(capability.level, 0, root, True)]

    @property
    def finished(self) -> bool:
        """Everything has been given out."""
        return not self._slots

    def wants(self) -> list[Want]:
        """Blocks needed next, each named once; at most BYTES_AHEAD are wanted or kept at a time."""
        new = []
        nodes = 0
        for slot in self._slots[: BYTES_AHEAD // self._size]:
            nodes += slot.level > 0
            if nodes > NODES_AHEAD:
                break
            # A leaf behind an unread node waits: that node's children would push it out of the window.
            if slot.asked or (nodes and not slot.level):
                continue
            slot.asked = True
            same = self._asked.setdefault(slot.reference, [])
            same.append(slot)
            if len(same) == 1:
                new.append(Want(slot.reference, slot.level, slot.index))
        return new

    def supply(self, want: Want | bytes, block: Buffer, *, verified: bool = False) -> None:
        """Give a wanted block; one that is not wanted (any more) is ignored.

        `verified`: the caller has already compared its BLAKE2b-256 with the reference. Raises
        IntegrityError for other bytes than were asked for, MalformedError and LimitError for a tree
        that nobody may follow.
        """
        reference = want.reference if isinstance(want, Want) else bytes(want)
        if reference not in self._asked:
            return
        if len(block) != self._size:
            raise IntegrityError(f"a block of {len(block)} bytes, not {self._size}")
        if not verified and self._backend.references(block, self._size) != reference:
            raise IntegrityError("a block does not have the hash it must have")
        for slot in self._asked.pop(reference):
            if slot.level:
                self._expand(slot, block)
            else:
                slot.ciphertext = block

    def plaintext(self) -> list[Buffer]:
        """The next pieces of the content, in order; empty when a wanted block is missing before them."""
        ready: list[_Slot] = []
        parts: list[Buffer] = []
        for slot in self._slots:
            if slot.ciphertext is None:
                break
            ready.append(slot)
            parts.append(slot.ciphertext)
        if not ready:
            return []
        ciphertext = parts[0] if len(parts) == 1 else b"".join(parts)
        keys = b"".join([slot.key for slot in ready])
        leaves = memoryview(self._backend.decrypt(ciphertext, keys, self._size, 0))
        del self._slots[: len(ready)]
        return self._cut(ready, leaves)

    def _cut(self, ready: list[_Slot], leaves: memoryview) -> list[Buffer]:
        """Trim neighbouring leaves to the range, and take the padding from the last."""
        offset = ready[0].index * self._size
        end = offset + len(leaves)
        if ready[-1].last:
            end -= self._size - _unpadded_length(bytes(leaves[-self._size :]))
            self._check_limit(end)
            if self._shape is not None and end != self._shape.content_length:
                raise MalformedError("the content does not have the length it must have")
        start = max(self._start, offset)
        stop = end if self._stop is None else min(self._stop, end)
        return [leaves[start - offset : stop - offset]] if start < stop else []

    def _expand(self, slot: _Slot, block: Buffer) -> None:
        """Put the children of an inner node in its place, as far as the range needs them."""
        node = bytes(self._backend.decrypt(block, slot.key, self._size, slot.level))
        if self._backend.references(node, self._size) != slot.key:
            raise MalformedError("an inner node does not have the key it must have")
        pairs = _read_pairs(node)
        self._check_children(slot, len(pairs))
        width = self._arity ** (slot.level - 1) * self._size  # bytes under one full child
        first = slot.index * self._arity
        children = []
        for number, pair in enumerate(pairs):
            begin = (first + number) * width
            last = slot.last and number == len(pairs) - 1
            if self._stop is not None and begin >= self._stop:
                break
            if last or begin + width > self._start:
                children.append(_Slot(slot.level - 1, first + number, pair, last))
        at = self._slots.index(slot)
        self._slots[at : at + 1] = children

    def _check_children(self, slot: _Slot, count: int) -> None:
        """Refuse what a left-filled tree cannot have, and contents that must be over the limit."""
        if not slot.last and count < self._arity:
            raise MalformedError("an inner node that is not the last of its level must be full")
        if slot.level == self._capability.level and count < 2:
            raise MalformedError("a root with a single child")
        leaves_before = (slot.index * self._arity + count - 1) * self._arity ** (slot.level - 1)
        self._check_limit(leaves_before * self._size)
        if self._shape is not None and count != self._shape.children(slot.level, slot.index):
            raise MalformedError("the tree does not fit the content length")

    def _check_limit(self, length: int) -> None:
        if length > self._limit:
            raise LimitError(f"the content is longer than the {self._limit} bytes allowed here")


def _unpadded_length(leaf: bytes) -> int:
    content = leaf.rstrip(b"\0")
    if not content.endswith(b"\x80"):
        raise MalformedError("the last leaf has no padding")
    return len(content) - 1


def _read_pairs(node: bytes) -> list[bytes]:
    """The pairs of an inner node, at least one; behind the first of zeros there are only zeros."""
    pairs = [node[at : at + PAIR_BYTES] for at in range(0, len(node), PAIR_BYTES)]
    count = pairs.index(_ZERO_PAIR) if _ZERO_PAIR in pairs else len(pairs)
    if count == 0:
        raise MalformedError("an inner node without children")
    if node[count * PAIR_BYTES :] != bytes(len(node) - count * PAIR_BYTES):
        raise MalformedError("an inner node with something behind its last child")
    return pairs[:count]
