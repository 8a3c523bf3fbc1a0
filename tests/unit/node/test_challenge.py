"""The answer to a challenge is what the specification says, whoever computes it."""

from __future__ import annotations

import hashlib

import pytest
from challenge_book import by_hand, by_the_book
from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import cell_leaves
from potsherd.errors import MalformedError
from potsherd.node import deep
from potsherd.node.challenge import (
    CHALLENGE_ROWS_MAX,
    CHALLENGE_RUNS_MAX,
    TAG_SIZE,
    Challenge,
    ChallengeAnswer,
    ChallengeTag,
)
from potsherd.node.rpc import IN_FLIGHT_BYTES_MAX
from potsherd.node.testing import HandMade


def noise(size: int, seed: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)


def test_the_example_of_the_specification() -> None:
    tag = ChallengeTag(bytes(range(32)), 5)
    tag.update(bytes(64) + bytes([1]) * 64)
    assert tag.answer().hex() == "1ad450b3737cfe0acfabfe4c8e3e3045"


def test_the_book_is_right() -> None:
    nonce, cells = noise(32, 4), noise(3 * 64, 5)
    assert by_the_book(nonce, 32767, cells) == by_hand(nonce, 32767, cells)


@settings(max_examples=30, deadline=None)
@given(
    cell=st.sampled_from([64, 128, 192, 1024, 4096, 32768]),
    portions=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    first=st.integers(0, 32767),
    seed=st.integers(0, 2**32),
)
def test_any_portions_give_the_answer_by_the_book(
    cell: int, portions: list[int], first: int, seed: int
) -> None:
    cells, nonce = noise(cell * sum(portions), seed), noise(32, seed + 1)
    tag = ChallengeTag(nonce, first)
    at = 0
    for count in portions:
        tag.update(memoryview(cells)[at : at + count * cell])
        at += count * cell
    assert tag.answer() == by_the_book(nonce, first, cells)


def test_every_bit_of_cells_nonce_and_place_counts() -> None:
    cells, nonce = noise(8 * 32768, 1), noise(32, 2)
    right = by_the_book(nonce, 7, cells)
    for at in (0, 32767, 32768, len(cells) - 1):
        wrong = bytearray(cells)
        wrong[at] ^= 0x80
        tag = ChallengeTag(nonce, 7)
        tag.update(wrong)
        assert tag.answer() != right
    for other, first, some in (
        (noise(32, 3), 7, cells),
        (nonce, 8, cells),
        (nonce, 7, cells[:-64]),
    ):
        tag = ChallengeTag(other, first)
        tag.update(some)
        assert tag.answer() != right


@pytest.mark.parametrize(
    "data",
    [
        Challenge(bytes(32), 0, ((0, 1),), bytes(31)),
        Challenge(bytes(32), 0, ((0, 0),), bytes(32)),
        Challenge(bytes(32), 255, ((0, 1),), bytes(32)),
        Challenge(bytes(31), 0, ((0, 1),), bytes(32)),
        Challenge(bytes(32), 0, ((32768, 1),), bytes(32)),
        Challenge(bytes(32), 0, (), bytes(32)),
        Challenge(bytes(32), 0, ((0, 1),) * 65, bytes(32)),
    ],
)
def test_a_challenge_with_a_value_out_of_bounds_is_not_one(data: Challenge) -> None:
    with pytest.raises(MalformedError):
        Challenge.decode(data.encode())


def test_the_largest_challenge_and_its_answer_fit() -> None:
    runs = tuple((32767 - n, 32768) for n in range(CHALLENGE_RUNS_MAX))
    asked = Challenge(bytes(32), 254, runs, bytes(32))
    assert Challenge.decode(asked.encode()) == asked
    answer = ChallengeAnswer((bytes(TAG_SIZE),) * CHALLENGE_RUNS_MAX)
    assert ChallengeAnswer.decode(answer.encode()) == answer
    assert CHALLENGE_ROWS_MAX * CELL_SIZE < IN_FLIGHT_BYTES_MAX


@settings(max_examples=12, deadline=None)
@given(
    k=st.integers(1, 5),
    parity=st.integers(0, 6),
    size=st.integers(1, 12 * 32768),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_what_the_verifier_expects_is_what_honest_holders_answer(
    k: int, parity: int, size: int, seed: int, data: st.DataObject
) -> None:
    """From any k columns: leaves and answers of all, duplicates and columns that are there among them."""
    made = HandMade(bytes(32), noise(size, seed), k, k + parity)
    d = made.descriptor
    have = data.draw(st.permutations(range(d.n)))[:k]
    wanted = [(index, noise(32, seed + n)) for n, index in enumerate([*range(d.n), have[0]])]
    columns = {index: memoryview(made.shards[index]) for index in have}
    expected = deep._expect(d, columns, 3, wanted)
    for (index, nonce), answer in zip(wanted, expected.answers, strict=True):
        assert answer == by_the_book(nonce, 3, made.shards[index])
    assert expected.leaves == {
        index: cell_leaves(made.shards[index], d.cell_size)
        for index in range(d.n)
        if index not in have
    }
