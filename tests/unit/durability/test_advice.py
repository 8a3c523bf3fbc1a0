"""What put says before it spends: whether the default code will do on such donors, and which would."""

from __future__ import annotations

import pytest

from potsherd.durability import Churn, Rate
from potsherd.durability.advice import LOSS, READABLE, Advice, Seen, advise
from potsherd.durability.binomial import at_least
from potsherd.durability.segment import Code
from potsherd.durability.wording import share_in_words

DAY = 1 / 365.25
YEARS = 400.0


def seen(donors: int, up: float, leaving: float = 0.1, *, known: bool = True) -> Seen:
    churn = Churn(Rate(leaving * YEARS, YEARS), Rate(100, 100 * 15 * DAY))
    return Seen(donors, up, churn, known)


def below(k: int, n: int) -> int:
    return n if k == 1 else k + -(-(n - k) // 2)


def advised(code: Code, around: Seen, segments: int = 20) -> Advice | None:
    return advise(code, segments, around, below)


def test_servers_need_no_advice() -> None:
    assert advised(Code(10, 30, 20), seen(60, 0.97)) is None


def test_sleeping_desktops_get_a_code_that_reads_and_lasts() -> None:
    found = advised(Code(10, 30, 20), seen(200, 0.6))
    assert found is not None and found.better is not None
    assert found.given.readable < READABLE
    better = found.better
    assert better.enough and better.loss is not None and better.loss <= LOSS
    assert better.code.r == below(better.code.k, better.code.n)
    # not by the model alone: with only r pieces left, or all, as nodes come and go
    low, high = (
        at_least(better.code.k, [0.6] * live) for live in (better.code.r - 1, better.code.n)
    )
    assert low < better.readable < high
    words = found.words()
    assert words.startswith("nodes here are up 60 % of the time: 10-of-30 can be read 9")
    assert f"Better: --k {better.code.k} --n {better.code.n}, which can be read" in words
    assert "\n" not in words


def test_it_is_lean_and_one_piece_fewer_is_not_enough() -> None:
    found = advised(Code(4, 9, 7), seen(30, 0.8))
    assert found is not None and found.better is not None
    code = found.better.code
    assert code.n <= 0.8 * 30, "some are left over for repair"
    fewer = advise(Code(code.k, code.n - 1, below(code.k, code.n - 1)), 20, seen(30, 0.8), below)
    assert fewer is not None, "one piece fewer needs advice again"


def test_nodes_that_leave_are_told_apart_from_nodes_that_sleep() -> None:
    """Always there, but half of them gone within a year."""
    found = advised(Code(4, 9, 7), seen(60, 0.999, leaving=0.7))
    assert found is not None
    assert found.given.readable > READABLE
    assert found.given.loss is not None and found.given.loss > LOSS
    assert "any loss" in found.words()
    guess = advised(Code(4, 9, 7), seen(60, 0.999, leaving=0.7, known=False))
    assert guess is None, "too little was watched to judge by"


def test_where_nothing_is_enough_the_nearest_is_named_or_nothing() -> None:
    few = advised(Code(2, 4, 4), seen(6, 0.6, known=False))
    assert few is not None and few.better is not None
    assert not few.better.enough
    assert few.better.readable > few.given.readable
    assert "Not enough, but the best here: --k 1 --n 6" in few.words()
    none = advised(Code(1, 3, 3), seen(3, 0.6, known=False))
    assert none is not None and none.better is None
    assert "No code on 3 nodes is much better" in none.words()


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.6, "60 %"), (0.9612, "96 %"), (0.9997, "99.970 %"), (1.0, "100 %"), (0.012, "1.2 %"),
     (1 - 1e-12, "over 99.999999 %")],
)  # fmt: skip
def test_shares_in_words(share: float, words: str) -> None:
    assert share_in_words(share) == words
