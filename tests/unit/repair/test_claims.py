"""Claims: who stands, who lapses, who is passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.errors import MalformedError
from potsherd.node.repair.claims import CLAIMS_MAX, ClaimBook, ClaimPolicy
from potsherd.node.repair.records import RepairClaim, indices_of, mask_of

SEGMENT = bytes(32)
POLICY = ClaimPolicy(lapse_s=100, total_s=1000, slowest_bytes_per_s=10, frozen_s=500, rest_s=60)


def key(number: int) -> bytes:
    return bytes([number]) * 32


class Book:
    """A claim book in which node numbers are ranks."""

    def __init__(self) -> None:
        self.frozen: set[bytes] = set()
        self.book = ClaimBook(POLICY, frozen=lambda k: k in self.frozen)
        self.numbers: dict[int, int] = {}

    def offer(
        self, node: int, now: float, rows: int = 0, indices: tuple[int, ...] = (1, 2), size: int = 0
    ) -> int | None:
        """Who stands after this claim."""
        self.numbers[node] = self.numbers.get(node, 0) + 1
        claim = RepairClaim(SEGMENT, key(node), self.numbers[node], mask_of(indices), rows)
        signed = claim.encode()
        stands = self.book.offer(claim, signed, now, segment_bytes=size, rank=lambda k: k[0])
        return RepairClaim.decode(stands).repairer[0] if stands else None

    def standing(self, now: float) -> int | None:
        claim = self.book.standing(SEGMENT, now)
        return claim.repairer[0] if claim else None


def test_the_first_stands_until_it_ends() -> None:
    book = Book()
    assert book.offer(5, 0) == 5
    assert book.offer(7, 1) == 5
    assert book.offer(5, 2, indices=()) is None
    assert book.offer(7, 3) == 7


def test_who_claims_and_ends_in_turns_keeps_nobody_away() -> None:
    book = Book()
    book.offer(5, 0)
    book.offer(5, 10, indices=())
    assert book.offer(5, 11) is None
    assert book.offer(7, 12) == 7, "another one gets its turn"
    book.offer(7, 13, indices=())
    assert book.offer(5, 80) == 5


def test_the_better_rank_stands_as_long_as_nothing_was_done() -> None:
    book = Book()
    assert book.offer(5, 0) == 5
    assert book.offer(2, 1) == 2
    assert book.offer(2, 2, rows=10) == 2
    assert book.offer(1, 3) == 2, "progress is not pushed aside"


def test_without_progress_it_lapses_and_its_maker_comes_last() -> None:
    book = Book()
    book.offer(5, 0)
    book.offer(5, 60, rows=1)
    assert book.standing(150) == 5
    book.offer(5, 155, rows=1)
    assert book.standing(160) is None, "saying the same again is no progress"
    assert book.book.is_passed_over(SEGMENT, key(5), 161)
    assert not book.book.is_passed_over(SEGMENT, key(6), 161)
    assert not book.book.is_passed_over(SEGMENT, key(5), 161 + POLICY.passed_over_s)


def test_fewer_indices_left_is_progress_too() -> None:
    book = Book()
    book.offer(5, 0, rows=9)
    book.offer(5, 90, rows=9, indices=(2,))
    assert book.standing(180) == 5


def test_progress_that_never_ends_lapses_all_the_same() -> None:
    book = Book()
    for step in range(200):
        if book.offer(5, step * 50.0, rows=step, size=1000) is None:
            break
    assert step * 50.0 == POLICY.total_s + 2 * 1000 / POLICY.slowest_bytes_per_s
    assert book.offer(5, 2000, rows=step) is None, "it may go on, but keeps nobody away"
    assert book.offer(6, 2001) == 6


def test_who_vanished_with_others_is_waited_for() -> None:
    book = Book()
    book.offer(5, 0)
    book.frozen.add(key(5))
    assert book.standing(300) == 5
    assert book.standing(601) is None


def test_an_older_claim_of_the_same_repairer_changes_nothing() -> None:
    book = Book()
    book.offer(5, 0)
    book.offer(5, 10, rows=5)
    old = RepairClaim(SEGMENT, key(5), 1, mask_of((1,)), 0)
    book.book.offer(old, old.encode(), 50, segment_bytes=0, rank=lambda k: 0)
    claim = book.book.standing(SEGMENT, 60)
    assert claim is not None
    assert (claim.rows, claim.indices) == (5, (1, 2))


def test_ending_what_somebody_else_claims_changes_nothing() -> None:
    book = Book()
    book.offer(5, 0)
    assert book.offer(1, 1, indices=()) == 5


def test_the_book_is_bounded() -> None:
    book = ClaimBook(POLICY, frozen=lambda _: False)
    for number in range(CLAIMS_MAX + 10):
        claim = RepairClaim(number.to_bytes(32, "big"), key(1), 1, mask_of((0,)), 0)
        book.offer(claim, claim.encode(), 0.0, segment_bytes=0, rank=lambda _: 0)
    assert len(book.all(1.0)) == CLAIMS_MAX


@given(st.sets(st.integers(0, 254)))
def test_masks(indices: set[int]) -> None:
    assert indices_of(mask_of(tuple(indices))) == tuple(sorted(indices))


def test_there_is_no_index_255() -> None:
    with pytest.raises(MalformedError):
        RepairClaim(SEGMENT, key(1), 1, (1 << 255).to_bytes(32, "little"), 0).encode()
