"""Trees and proofs against the definition of RFC 9162, section 2.1.1, written down recursively."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from potsherd.erasure import merkle
from potsherd.erasure.merkle import CELL_TREE, LEASE_TREE, MerkleBuilder, MerkleTree
from potsherd.errors import IntegrityError, UsageError


def leaves_of(count: int) -> list[bytes]:
    return [merkle.cell_leaf(b"cell %d" % i) for i in range(count)]


def slow_root(leaves: list[bytes], tree: bytes = CELL_TREE) -> bytes:
    """MTH of RFC 9162: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    both = slow_root(leaves[:split], tree) + slow_root(leaves[split:], tree)
    return blake2b(both, digest_size=32, person=tree).digest()


def slow_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*slow_path(index, leaves[:split]), slow_root(leaves[split:])]
    return [*slow_path(index - split, leaves[split:]), slow_root(leaves[:split])]


@pytest.mark.parametrize("count", [*range(1, 40), 63, 64, 65, 100])
def test_root_is_that_of_the_definition(count: int) -> None:
    leaves = leaves_of(count)
    expected = slow_root(leaves)
    assert merkle.root(b"".join(leaves)) == MerkleTree(b"".join(leaves)).root == expected
    builder = MerkleBuilder()
    for i, leaf in enumerate(leaves):
        builder.append(leaf)
        assert builder.root() == slow_root(leaves[: i + 1])
    assert len(builder) == count


def test_the_empty_tree_and_the_single_leaf() -> None:
    nothing = blake2b(digest_size=32, person=CELL_TREE).digest()
    assert merkle.root(b"") == MerkleTree(b"").root == MerkleBuilder().root() == nothing
    leaf = leaves_of(1)[0]
    assert merkle.root(leaf) == leaf
    assert merkle.prove(leaf, 0) == b""
    merkle.verify_range(leaf, 1, 0, leaf, b"")


def test_proof_of_one_leaf_is_the_audit_path() -> None:
    for count in range(1, 40):
        leaves = leaves_of(count)
        for index in range(count):
            assert merkle.prove(b"".join(leaves), index) == b"".join(slow_path(index, leaves))


def test_every_range_of_small_trees_is_proven() -> None:
    for count in range(1, 14):
        leaves = leaves_of(count)
        tree = MerkleTree(b"".join(leaves))
        for first in range(count):
            for length in range(1, count - first + 1):
                proof = tree.prove_range(first, length)
                run = b"".join(leaves[first : first + length])
                merkle.verify_range(tree.root, count, first, run, proof)
                assert len(proof) <= 2 * 32 * (count - 1).bit_length()


def test_a_proof_holds_for_nothing_else() -> None:
    """Any changed byte, a hash too many or too few, another place, size or kind of tree."""
    leaves = leaves_of(13)
    data = b"".join(leaves)
    proof, run = merkle.prove_range(data, 3, 4), b"".join(leaves[3:7])
    root = merkle.root(data)

    def refused(*arguments: object, tree: bytes = CELL_TREE) -> None:
        with pytest.raises(IntegrityError):
            merkle.verify_range(*arguments, tree=tree)  # type: ignore[arg-type]

    merkle.verify_range(root, 13, 3, run, proof)
    for at in range(len(proof)):
        refused(root, 13, 3, run, proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :])
    for at in range(len(run)):
        refused(root, 13, 3, run[:at] + bytes([run[at] ^ 128]) + run[at + 1 :], proof)
    for cut in range(len(proof)):
        with pytest.raises(IntegrityError, match="too short"):
            merkle.verify_range(root, 13, 3, run, proof[:cut])
    refused(root, 13, 3, run, proof + b"\0")
    refused(root, 13, 3, run, proof + proof[:32])
    for first in (0, 1, 2, 4, 5, 9):
        refused(root, 13, first, run, proof)
    refused(root, 13, 3, run[:-32], proof)
    refused(root, 13, 3, run, proof, tree=LEASE_TREE)
    refused(bytes(32), 13, 3, run, proof)


def test_kinds_of_trees_do_not_meet() -> None:
    data = b"".join(leaves_of(2))
    assert merkle.root(data) != merkle.root(data, tree=LEASE_TREE)
    assert merkle.root(data) != merkle.cell_leaf(data)
    proof = merkle.prove(data, 1, tree=LEASE_TREE)
    merkle.verify_range(merkle.root(data, tree=LEASE_TREE), 2, 1, data[32:], proof, tree=LEASE_TREE)


def test_leaves_of_cells_are_plain_blake2b() -> None:
    """So that the leaf of a cell with one 32 KiB block is its ERIS reference."""
    cells = bytes(range(256)) * 4
    plain = [blake2b(cells[i : i + 512], digest_size=32).digest() for i in (0, 512)]
    assert merkle.cell_leaves(cells, 512) == b"".join(plain)
    assert merkle.cell_leaf(cells[:512]) == plain[0]


def test_calls_that_make_no_sense() -> None:
    data = b"".join(leaves_of(4))
    for first, count in ((0, 0), (-1, 1), (4, 1), (2, 3)):
        with pytest.raises(UsageError):
            merkle.prove_range(data, first, count)
    for size, first, run in ((0, 0, data), (4, 1, data), (4, 0, b""), (4, -1, data[:32])):
        with pytest.raises(UsageError):
            merkle.verify_range(bytes(32), size, first, run, b"")
    with pytest.raises(UsageError):
        merkle.root(data[:-1])
    with pytest.raises(UsageError):
        MerkleBuilder().append(b"short")
    with pytest.raises(UsageError):
        merkle.cell_leaves(b"abc", 2)
    with pytest.raises(UsageError):
        merkle.cell_leaves(b"abc", 0)


def test_a_full_segment_of_one_column() -> None:
    """32768 rows, the most there are: a proof of one cell is 15 hashes."""
    data = b"".join(leaves_of(32768))
    tree = MerkleTree(data)
    proof = tree.prove_range(12345, 1)
    assert len(proof) == 15 * 32
    merkle.verify_range(tree.root, 32768, 12345, tree.leaf(12345), proof)
    assert merkle.root(data) == tree.root
    assert len(tree) == 32768
