"""The shape of an ERIS tree, by arithmetic from the content length (docs/spec/eris.md).

Nodes are named by (level, index): level 0 are the leaves, index counts from the left. The blocks of an
encoding stand in *post-order*, a node directly after its last child: this is the order in which a
streaming encoder can emit them, and the order in which they lie in a block stream.
"""

from __future__ import annotations

from potsherd.crypto.eris.capability import PAIR_BYTES
from potsherd.errors import UsageError

__all__ = ["TreeShape"]


class TreeShape:
    """Widths and places of the blocks of a content of `content_length` bytes."""

    __slots__ = (
        "arity",
        "block_size",
        "blocks_total",
        "content_length",
        "leaves",
        "root_level",
        "widths",
    )

    def __init__(self, content_length: int, block_size: int, *, arity: int | None = None) -> None:
        """`arity` is given by tests only; a block of pairs has `block_size / 64`."""
        if content_length < 0:
            raise UsageError("a content length is not negative")
        self.content_length = content_length
        self.block_size = block_size
        self.arity = block_size // PAIR_BYTES if arity is None else arity
        widths = [content_length // block_size + 1]
        while widths[-1] > 1:
            widths.append(-(-widths[-1] // self.arity))
        self.widths = tuple(widths)
        """Number of nodes of each level, leaves first, the last is 1."""
        self.leaves = widths[0]
        self.root_level = len(widths) - 1
        self.blocks_total = sum(widths)

    @property
    def levels(self) -> int:
        """Number of levels, the leaves included."""
        return len(self.widths)

    @property
    def encoded_length(self) -> int:
        """Bytes of all blocks."""
        return self.blocks_total * self.block_size

    def children(self, level: int, index: int) -> int:
        """How many children the node has; 0 for a leaf."""
        self._check(level, index)
        if level == 0:
            return 0
        return min(self.arity, self.widths[level - 1] - index * self.arity)

    def position(self, level: int, index: int) -> int:
        """Place of a block in post-order, from 0.

        What stands before it: every node under it and left of it (levels below), the nodes left of it
        (its own level), and those nodes above that were complete before it.
        """
        self._check(level, index)
        before = -1
        end = index + 1
        for below in range(level, -1, -1):
            before += min(end, self.widths[below])
            end *= self.arity
        start = index
        for _ in range(level + 1, len(self.widths)):
            start //= self.arity
            before += start
        return before

    def at(self, position: int) -> tuple[int, int]:
        """(level, index) of the block at a post-order position: the inverse of `position`."""
        if not 0 <= position < self.blocks_total:
            raise UsageError("no block at this position")
        level, index, first = self.root_level, 0, 0
        while position != self.position(level, index):
            size = (self.arity**level - 1) // (self.arity - 1)  # blocks of a full subtree one below
            child = (position - first) // size
            first += child * size
            level, index = level - 1, index * self.arity + child
        return level, index

    def leaves_of_range(self, start: int, length: int) -> tuple[int, int]:
        """First leaf and the one behind the last that hold bytes of content[start : start+length].

        Equal when the range holds no byte of the content.
        """
        if start < 0 or length < 0:
            raise UsageError("a range has no negative numbers")
        stop = min(start + length, self.content_length)
        if start >= stop:
            return 0, 0
        return start // self.block_size, -(-stop // self.block_size)

    def spans_of_range(self, start: int, length: int) -> list[tuple[int, int]]:
        """Per level, leaves first: [first, behind the last) index of the blocks that a range needs.

        Empty spans when the range is empty. The blocks of one level are always neighbours.
        """
        first, end = self.leaves_of_range(start, length)
        spans = [(first, end)]
        for _ in range(self.root_level):
            first, end = first // self.arity, -(-end // self.arity)
            spans.append((first, end))
        return spans

    def blocks_of_range(self, start: int, length: int) -> list[tuple[int, int]]:
        """(level, index) of all blocks needed to verify and decrypt a range, root first, then by level."""
        spans = self.spans_of_range(start, length)
        return [
            (level, index)
            for level in range(self.root_level, -1, -1)
            for index in range(*spans[level])
        ]

    def _check(self, level: int, index: int) -> None:
        if not (0 <= level < len(self.widths) and 0 <= index < self.widths[level]):
            raise UsageError("no such node in this tree")
