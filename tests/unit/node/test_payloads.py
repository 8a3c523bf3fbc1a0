"""Buffers that are used again are never those at which somebody still looks."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from potsherd.node.payloads import (
    ANSWERS_MAX,
    KEPT_BYTES_MAX,
    POOLED_BYTES_MIN,
    AnswerBuffers,
    PayloadBuffers,
)

LARGE = 4 * POOLED_BYTES_MIN


def test_an_answer_that_nobody_reads_gives_its_buffer_to_the_next() -> None:
    buffers = AnswerBuffers(LARGE)
    first = buffers.take(LARGE)
    place = id(first.obj)
    part = first[5:10]
    first.release()
    assert id(buffers.take(LARGE).obj) != place  # `part` still looks at it
    part.release()
    assert id(buffers.take(LARGE - 1).obj) == place


def test_a_node_keeps_no_answers() -> None:
    buffers = AnswerBuffers()
    buffers.take(LARGE)
    assert buffers.kept_bytes == 0


def test_small_answers_are_not_kept() -> None:
    buffers = AnswerBuffers(LARGE)
    buffers.take(POOLED_BYTES_MIN - 1)
    assert buffers.kept_bytes == 0


def test_buffers_of_another_size_make_way_unless_they_are_read() -> None:
    buffers = AnswerBuffers(2 * LARGE)
    read = buffers.take(POOLED_BYTES_MIN)
    for _ in range(3):
        buffers.take(POOLED_BYTES_MIN)
    large = buffers.take(2 * LARGE - POOLED_BYTES_MIN)
    assert buffers.kept_bytes == 2 * LARGE
    kept = id(large.obj)
    del large
    assert id(buffers.take(2 * LARGE - POOLED_BYTES_MIN).obj) == kept
    assert read.nbytes == POOLED_BYTES_MIN


@given(st.integers(0, 2**32))
def test_answers_keep_their_bytes_as_long_as_they_are_read(seed: int) -> None:
    rng = random.Random(seed)
    bytes_max = 6 * POOLED_BYTES_MIN
    buffers = AnswerBuffers(bytes_max)
    held: list[tuple[memoryview, int]] = []
    for _ in range(60):
        if held and rng.random() < 0.5:
            held.pop(rng.randrange(len(held)))
        size = rng.choice((1, POOLED_BYTES_MIN, POOLED_BYTES_MIN + 7, 3 * POOLED_BYTES_MIN))
        view, mark = buffers.take(size), rng.randrange(256)
        assert view.nbytes == size
        view[0] = view[-1] = mark
        held.append((view[:1] if rng.random() < 0.3 else view, mark))
        assert all(one[0] == one[-1] == known for one, known in held)
        assert buffers.kept_bytes <= bytes_max


def test_the_number_of_kept_answers_is_bounded() -> None:
    buffers = AnswerBuffers(2**30)
    held = [buffers.take(POOLED_BYTES_MIN) for _ in range(ANSWERS_MAX + 5)]
    assert buffers.kept_bytes == ANSWERS_MAX * POOLED_BYTES_MIN
    assert len({id(view.obj) for view in held}) == len(held)


def test_requests_give_their_buffers_back_and_idle_ones_are_bounded() -> None:
    buffers = PayloadBuffers()
    taken = [buffers.take(2**20) for _ in range(10)]
    looked_at = taken[0][:5]
    for payload in taken:
        buffers.give(payload)
    assert buffers.idle_bytes == KEPT_BYTES_MAX
    assert looked_at.nbytes == 5
