"""Range proofs of trees of any size: complete, and broken by any change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.erasure import merkle
from potsherd.errors import IntegrityError, UsageError


@st.composite
def ranges(draw: st.DrawFn) -> tuple[bytes, int, int]:
    size = draw(st.integers(1, 300))
    first = draw(st.integers(0, size - 1))
    count = draw(st.integers(1, size - first))
    return b"".join(merkle.cell_leaf(b"%d" % i) for i in range(size)), first, count


@given(ranges())
def test_a_range_is_proven(case: tuple[bytes, int, int]) -> None:
    leaves, first, count = case
    proof = merkle.prove_range(leaves, first, count)
    run = leaves[first * 32 : (first + count) * 32]
    merkle.verify_range(merkle.root(leaves), len(leaves) // 32, first, run, proof)


@given(ranges(), st.data())
def test_a_changed_bit_anywhere_is_seen(
    case: tuple[bytes, int, int], choices: st.DataObject
) -> None:
    leaves, first, count = case
    run = leaves[first * 32 : (first + count) * 32]
    message = bytearray(run + merkle.prove_range(leaves, first, count))
    message[choices.draw(st.integers(0, len(message) - 1))] ^= choices.draw(st.integers(1, 255))
    changed, proof = message[: len(run)], message[len(run) :]
    with pytest.raises(IntegrityError):
        merkle.verify_range(merkle.root(leaves), len(leaves) // 32, first, changed, proof)


@given(ranges(), st.binary(max_size=500), st.integers(-3, 310), st.integers(-3, 310))
def test_garbage_is_never_a_proof(
    case: tuple[bytes, int, int], proof: bytes, size: int, first: int
) -> None:
    leaves, start, count = case
    run = leaves[start * 32 : (start + count) * 32]
    honest = merkle.prove_range(leaves, start, count)
    if (size, first, proof) == (len(leaves) // 32, start, honest):
        return
    if size == count == 1 and first == 0 and not proof and run == merkle.root(leaves):
        return  # a tree of one leaf is that leaf
    with pytest.raises((IntegrityError, UsageError)):
        merkle.verify_range(b"r" * 32, size, first, run, proof)
