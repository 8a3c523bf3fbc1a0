"""The board of troubles, and what counts as a jump of the clock."""

from __future__ import annotations

import logging

import pytest

from potsherd.errors import StorageError
from potsherd.node.troubles import CLOCK_JUMP_S, SAID_AGAIN_S, ClockWatch, Kind, Troubles


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_trouble_begins_goes_on_and_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    board = Troubles(clock, clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            board.disk(StorageError("no"))
            clock.now += 10
    [trouble] = board.all()
    assert (trouble.kind, trouble.count, trouble.first, trouble.last) == ("disk", 3, 1000, 1020)
    assert trouble.now and board.active(Kind.DISK)
    assert len(caplog.records) == 1  # not with every failure
    clock.now += SAID_AGAIN_S
    board.disk(StorageError("no"))
    board.over(Kind.DISK)
    board.over(Kind.DISK)
    assert not board.active(Kind.DISK)
    assert len(board.all()) == 1
    board.disk(StorageError("again"))
    [trouble] = board.all()
    assert (trouble.count, trouble.first) == (1, int(clock.now))


def test_what_is_wrong_now_comes_first() -> None:
    clock = Clock()
    board = Troubles(clock, clock)
    board.note(Kind.CLOCK_JUMP, "jumped", "", now=False)
    board.note(Kind.ROOM, "x" * 1000, "")
    assert [t.kind for t in board.all()] == ["room", "clock-jump"]
    assert len(board.all()[0].text) == 300
    assert board.quiet_s(Kind.COPY) == float("inf")


@pytest.mark.parametrize("jump", [CLOCK_JUMP_S, -CLOCK_JUMP_S, 10 * 365 * 86400.0, 1.0, -1.0])
def test_a_jump_is_seen_once(jump: float) -> None:
    watch = ClockWatch(5000.0, 100.0)
    assert watch.jump_s(5030.0, 130.0) == 0
    seen = watch.jump_s(5060.0 + jump, 160.0)
    assert seen == (jump if abs(jump) >= CLOCK_JUMP_S else 0)
    assert watch.jump_s(5090.0 + jump, 190.0) == 0
