"""How pushes grow and shrink, what the next shard begins with, and what tells nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.erasure.layout import CELL_SIZE
from potsherd.node.push_pace import PACE_LIFE_S, PUSH_BYTES_MAX, PUSH_BYTES_MIN, PushPace

TRIP_S = 0.125


def paced(*pushes: tuple[int, float]) -> PushPace:
    """After pushes of so many bytes, each taken so long after the way there and back, one a second."""
    pace = PushPace()
    pace.begin(0.0, TRIP_S)
    for second, (size, taken_s) in enumerate(pushes):
        pace.pushed(float(second), size, TRIP_S + taken_s)
    return pace


@pytest.mark.parametrize(
    ("size", "taken_s", "following"),
    [
        (2**16, 0.01, 2**19),  # much faster than it might be
        (2**16, 0.3, 2**17),
        (2**17, 0.7, 2**17),
        (2**17, 1.1, 2**16),
        (2**16, 60, 2**16),  # never less than the first
        (2**22, 0.01, 2**23),  # never more than a message
    ],
)
def test_pushes_grow_as_the_line_allows(size: int, taken_s: float, following: int) -> None:
    before = paced(*[(size // 2, 0.3)] * (size > PUSH_BYTES_MIN))  # and so as large as it is
    assert before.size(2**30) == size
    before.pushed(9.0, size, TRIP_S + taken_s)
    assert before.size(2**30) == following


def test_a_line_over_an_ocean_grows_like_one_to_the_next_room() -> None:
    near, far = PushPace(), PushPace()
    for pace, trip_s in ((near, 0.0005), (far, 0.3)):
        pace.begin(0.0, trip_s)
        for _ in range(3):
            pace.pushed(0.0, pace.size(2**30), trip_s + 0.001)
    assert near.size(2**30) == far.size(2**30) == PUSH_BYTES_MAX


def test_small_pushes_do_not_say_that_large_ones_are_quick() -> None:
    """A line of 50 kB/s takes a kilobyte at once; 8 MiB would take it three minutes."""
    assert paced(*[(1000, 0.0)] * 20).size(2**30) == PUSH_BYTES_MIN
    assert paced(*[(20_000, 0.0)] * 20).size(2**30) == 4 * CELL_SIZE  # 160,000, in whole cells


def test_a_slow_push_halves_what_was_pushed_not_what_might_have_been() -> None:
    """Of thirty holders each has pushes of 2 MiB at most, on a line that would be given 8."""
    pace = paced(*[(2**21, 0.0)] * 2)
    assert pace.size(2**30) == PUSH_BYTES_MAX
    pace.pushed(3.0, 2**21, TRIP_S + 1.1)
    assert pace.size(2**21) == 2**20


def test_a_small_rest_takes_nothing_back() -> None:
    grown = paced((2**16, 0.0), (2**19, 0.0))
    assert grown.size(2**30) == 2**22
    grown.pushed(3.0, 1000, TRIP_S)
    assert grown.size(2**30) == 2**22


@pytest.mark.parametrize("late", [False, True])
def test_the_next_shard_begins_with_what_the_last_one_learned_for_a_while(late: bool) -> None:
    pace = paced((2**16, 0.0))
    pace.begin(PACE_LIFE_S + (0.001 if late else 0.0), TRIP_S)
    assert pace.size(2**30) == (PUSH_BYTES_MIN if late else 2**19)


def test_after_a_while_the_way_there_and_back_is_new_as_well() -> None:
    pace = paced((2**16, 0.0))
    pace.begin(1000.0, 3.0)  # by another road
    pace.pushed(1001.0, 2**16, 3.01)
    assert pace.size(2**30) == 2**19


@given(
    st.lists(st.tuples(st.integers(1, PUSH_BYTES_MAX), st.floats(0, 100))),
    st.integers(1, 2**24),
)
def test_sizes_are_whole_cells_within_their_bounds(
    pushes: list[tuple[int, float]], most: int
) -> None:
    size = paced(*pushes).size(most)
    assert PUSH_BYTES_MIN <= size <= max(PUSH_BYTES_MIN, min(most, PUSH_BYTES_MAX))
    assert size % CELL_SIZE == 0
