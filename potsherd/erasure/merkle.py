"""Merkle trees in the shape of RFC 9162: an odd node is promoted to the next level (docs/spec/segments.md).

Leaves are 32-byte hashes and are handed in concatenated, as a holder stores them. The leaf of a cell is
plain BLAKE2b-256 of the cell, so that a data cell with one 32 KiB block has the ERIS reference as its
leaf. Inner nodes are BLAKE2b-256 of left ‖ right under a personalisation, one for each kind of tree, so a
node is never a leaf and a node of one kind of tree never one of another.

The size of a tree is not part of its root: who verifies must know it from elsewhere (a descriptor, a
lease).
"""

from __future__ import annotations

import functools
from hashlib import blake2b

from potsherd.errors import IntegrityError, UsageError
from potsherd.ports import Buffer

__all__ = [
    "CELL_TREE",
    "HASH_SIZE",
    "LEASE_TREE",
    "LEAVES_MAX",
    "MerkleBuilder",
    "MerkleTree",
    "cell_leaf",
    "cell_leaves",
    "cell_leaves_fast",
    "cell_leaves_light",
    "prove",
    "prove_range",
    "root",
    "verify_range",
]

HASH_SIZE = 32
LEAVES_MAX = 2**32
"""Leaves of one tree; a proof for a range has at most two hashes a level."""
CELL_TREE = b"potsherd cells"
"""Personalisation of inner nodes over the cells of a shard."""
LEASE_TREE = b"potsherd lease"
"""Personalisation of inner nodes over a lease's list of segment ids."""


KERNEL_BYTES_MIN = 128 * 1024
"""Runs from which the compiled kernel is used."""
KERNEL_STEP = 128
"""Bytes of a BLAKE2b block: what the kernel takes are multiples."""


@functools.lru_cache(maxsize=16)
def _start(tree: bytes) -> blake2b:
    """The state before a node's bytes: copying it takes half the time of making it."""
    return blake2b(digest_size=HASH_SIZE, person=tree)


def _node(tree: bytes, left: bytes, right: bytes) -> bytes:
    state = _start(tree).copy()
    state.update(left + right)
    return state.digest()


def cell_leaf(cell: Buffer) -> bytes:
    """BLAKE2b-256 of a cell, plain; for a cell that is one 32 KiB block, its ERIS reference."""
    return blake2b(cell, digest_size=HASH_SIZE).digest()


def cell_leaves(cells: Buffer, cell_size: int) -> bytes:
    """The concatenated leaves of a run of cells. Raises UsageError unless it is whole cells."""
    view = memoryview(cells).cast("B")
    if cell_size < 1 or len(view) % cell_size:
        raise UsageError("a run that is not whole cells")
    return b"".join(cell_leaf(view[i : i + cell_size]) for i in range(0, len(view), cell_size))


def cell_leaves_fast(cells: Buffer, cell_size: int) -> bytes:
    """`cell_leaves` by the compiled kernel where the run is worth it; for clients, which may compile it."""
    if memoryview(cells).nbytes < KERNEL_BYTES_MIN or cell_size % KERNEL_STEP:
        return cell_leaves(cells, cell_size)
    if memoryview(cells).nbytes % cell_size:
        raise UsageError("a run that is not whole cells")
    from potsherd.kernels.choice import batch_hash  # not before there is enough to do

    return batch_hash(cells, cell_size)


def cell_leaves_light(cells: Buffer, cell_size: int) -> bytes:
    """`cell_leaves` for nodes: by the compiled kernel once its image is there, never with its compiler (60 MB)."""
    if memoryview(cells).nbytes < KERNEL_BYTES_MIN or memoryview(cells).nbytes % cell_size:
        return cell_leaves(cells, cell_size)
    from potsherd.kernels.choice import light_hash

    return light_hash(cells, cell_size)


def _split(leaves: Buffer) -> list[bytes]:
    data = bytes(leaves)
    if len(data) % HASH_SIZE:
        raise UsageError("leaves that are not whole hashes")
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def _parents(tree: bytes, level: list[bytes]) -> list[bytes]:
    copy, parents = _start(tree).copy, []
    for left, right in zip(level[::2], level[1::2], strict=False):
        state = copy()
        state.update(left + right)
        parents.append(state.digest())
    return parents + level[-1:] if len(level) % 2 else parents


class MerkleTree:
    """All nodes of a tree, so that proofs cost no hashing: about 64 bytes of memory content a leaf."""

    def __init__(self, leaves: Buffer, *, tree: bytes = CELL_TREE) -> None:
        self._levels = [_split(leaves)]
        if not self._levels[0]:
            self.root = _start(tree).digest()
            return
        while len(self._levels[-1]) > 1:
            self._levels.append(_parents(tree, self._levels[-1]))
        self.root = self._levels[-1][0]

    def __len__(self) -> int:
        return len(self._levels[0])

    def leaf(self, index: int) -> bytes:
        """The leaf at `index`."""
        return self._levels[0][index]

    def prove_range(self, first: int, count: int) -> bytes:
        """The hashes outside the range that lead to the root, level by level from the leaves.

        On each level at most one to the left of the range, then one to the right. For count 1 this is
        the audit path of RFC 9162. Raises UsageError when the range is empty or outside.
        """
        _check_range(len(self), first, count)
        low, high, proof = first, first + count - 1, []
        for level in self._levels[:-1]:
            if low % 2:
                proof.append(level[low - 1])
            if high % 2 == 0 and high + 1 < len(level):
                proof.append(level[high + 1])
            low, high = low // 2, high // 2
        return b"".join(proof)


class MerkleBuilder:
    """Root of leaves that come one after another, in memory of one hash a level."""

    def __init__(self, *, tree: bytes = CELL_TREE) -> None:
        self._tree = tree
        self._left: list[bytes] = []
        """By level: the node that still waits for the one to its right; empty where there is none."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, leaf: bytes) -> None:
        """Add the next leaf, 32 bytes."""
        if len(leaf) != HASH_SIZE:
            raise UsageError("a leaf that is not a hash")
        self.extend(leaf)

    def extend(self, leaves: Buffer) -> None:
        """Add concatenated leaves."""
        nodes = _split(leaves)
        self._count += len(nodes)
        level = 0
        while nodes:
            if level == len(self._left):
                self._left.append(b"")
            if self._left[level]:
                nodes.insert(0, self._left[level])
            self._left[level] = nodes.pop() if len(nodes) % 2 else b""
            nodes = _parents(self._tree, nodes)
            level += 1

    def root(self) -> bytes:
        """The root of the leaves so far; more may follow."""
        nodes = [node for node in self._left if node]
        if not nodes:
            return _start(self._tree).digest()
        found = nodes[0]
        for node in nodes[1:]:
            found = _node(self._tree, node, found)
        return found


def root(leaves: Buffer, *, tree: bytes = CELL_TREE) -> bytes:
    """Root of concatenated leaves; of none, the personalised hash of nothing."""
    builder = MerkleBuilder(tree=tree)
    builder.extend(leaves)
    return builder.root()


def prove(leaves: Buffer, index: int, *, tree: bytes = CELL_TREE) -> bytes:
    """Proof of one leaf: see MerkleTree.prove_range."""
    return MerkleTree(leaves, tree=tree).prove_range(index, 1)


def prove_range(leaves: Buffer, first: int, count: int, *, tree: bytes = CELL_TREE) -> bytes:
    """Proof of a range; hashes the whole tree, so keep a MerkleTree where many proofs are made."""
    return MerkleTree(leaves, tree=tree).prove_range(first, count)


def _check_range(size: int, first: int, count: int) -> None:
    if size > LEAVES_MAX or first < 0 or count < 1 or first + count > size:
        raise UsageError(f"leaves {first} to {first + count - 1} of a tree with {size}")


class _Proof:
    """Hands out a proof's hashes in order."""

    def __init__(self, proof: Buffer) -> None:
        self._data = bytes(proof)
        self._at = 0

    def take(self) -> bytes:
        node = self._data[self._at : self._at + HASH_SIZE]
        if len(node) != HASH_SIZE:
            raise IntegrityError("a Merkle proof that is too short")
        self._at += HASH_SIZE
        return node

    def finish(self) -> None:
        if self._at != len(self._data):
            raise IntegrityError("a Merkle proof that is too long")


def _climb(
    tree: bytes, nodes: list[bytes], size: int, first: int, proof: _Proof
) -> tuple[list[bytes], int, int]:
    """One level up: (parents of the known nodes, size of their level, place of the first)."""
    last = first + len(nodes) - 1
    if first % 2:
        nodes = [proof.take(), *nodes]
    if last % 2 == 0 and last + 1 < size:
        nodes = [*nodes, proof.take()]
    return _parents(tree, nodes), (size + 1) // 2, first // 2


def verify_range(
    expected_root: bytes,
    size: int,
    first: int,
    leaf_hashes: Buffer,
    proof: Buffer,
    *,
    tree: bytes = CELL_TREE,
) -> None:
    """Check that `leaf_hashes` (concatenated) are the leaves from `first` on of a tree of `size` leaves.

    Raises IntegrityError when they are not or the proof has a hash too many or too few, UsageError when
    the range is empty or outside the tree.
    """
    nodes = _split(leaf_hashes)
    _check_range(size, first, len(nodes))
    hashes = _Proof(proof)
    while size > 1:
        nodes, size, first = _climb(tree, nodes, size, first, hashes)
    hashes.finish()
    if nodes[0] != expected_root:
        raise IntegrityError("cells that do not lead to the Merkle root")
