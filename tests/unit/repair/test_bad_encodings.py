"""Proofs of bad coding: what proves, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import MerkleTree, cell_leaf, cell_leaves
from potsherd.errors import IntegrityError, MalformedError, PotsherdError
from potsherd.node.audit.encodings import check_bad_encoding, join_proof, split_proof
from potsherd.node.audit.records import BadEncoding, ProvedCell
from potsherd.node.testing import HandMade

K, N, ROWS = 3, 6, 5
MADE = HandMade(bytes(32), bytes(range(256)) * (K * ROWS * CELL_SIZE // 256), K, N)


def spoiled(index: int, row: int) -> tuple[Descriptor, list[bytes]]:
    """The same segment as a careless owner would sign it: one cell is not of the code word."""
    shards = [bytearray(shard) for shard in MADE.shards]
    shards[index][row * CELL_SIZE + 100] ^= 1
    roots = [MerkleTree(cell_leaves(shard, CELL_SIZE)).root for shard in shards]
    return replace(MADE.descriptor, roots=tuple(roots)), [bytes(shard) for shard in shards]


def proof_of(
    descriptor: Descriptor, shards: list[bytes], row: int, indices: list[int]
) -> tuple[BadEncoding, bytes]:
    cells = [shards[index][row * CELL_SIZE : (row + 1) * CELL_SIZE] for index in indices]
    proved = []
    for index, cell in zip(indices, cells, strict=True):
        tree = MerkleTree(cell_leaves(shards[index], CELL_SIZE))
        proved.append(ProvedCell(index, cell_leaf(cell), tree.prove_range(row, 1)))
    return BadEncoding(descriptor.encode(), row, tuple(proved)), b"".join(cells[:-1])


@pytest.mark.parametrize("indices", [[0, 1, 2, 4], [0, 2, 5, 4], [0, 1, 4, 2]])
def test_k_plus_one_cells_that_do_not_belong_together_are_a_proof(indices: list[int]) -> None:
    descriptor, shards = spoiled(4, 3)
    proof, cells = proof_of(descriptor, shards, 3, indices)
    found = check_bad_encoding(proof.encode(), cells)
    assert (found.segment_id, found.row) == (descriptor.segment_id, 3)
    assert found.index == indices[-1]
    joined = join_proof(proof.encode(), cells)
    assert split_proof(joined) == (proof.encode(), cells)
    with pytest.raises(MalformedError):
        split_proof(joined[:40])


def test_cells_of_one_code_word_prove_nothing() -> None:
    descriptor, shards = spoiled(4, 3)
    for row, indices in ((2, [0, 1, 2, 4]), (3, [0, 1, 2, 5])):
        proof, cells = proof_of(descriptor, shards, row, indices)
        with pytest.raises(IntegrityError):
            check_bad_encoding(proof.encode(), cells)


def test_made_up_cells_leaves_and_descriptors_prove_nothing() -> None:
    descriptor, shards = spoiled(4, 3)
    proof, cells = proof_of(descriptor, shards, 3, [0, 1, 2, 4])
    lying = [
        (replace(proof, row=2), cells),
        (replace(proof, descriptor=MADE.descriptor.encode()), cells),
        (proof, bytes(len(cells))),
        (proof, cells[:-1]),
        (replace(proof, cells=proof.cells[1:]), cells[CELL_SIZE:]),
        (replace(proof, cells=(*proof.cells[:3], replace(proof.cells[3], leaf=bytes(32)))), cells),
        (replace(proof, cells=(*proof.cells[:3], replace(proof.cells[3], index=200))), cells),
    ]
    for made_up, with_cells in lying:
        with pytest.raises((IntegrityError, MalformedError)):
            check_bad_encoding(made_up.encode(), with_cells)
    with pytest.raises(MalformedError):
        replace(proof, cells=(*proof.cells[:3], proof.cells[0])).encode()


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_garbage_is_no_proof(data: bytes, cells: bytes) -> None:
    with pytest.raises(PotsherdError):
        check_bad_encoding(data, cells)
