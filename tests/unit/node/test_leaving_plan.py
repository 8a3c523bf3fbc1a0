"""When shrinking and leaving are done, and how long they take yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from potsherd.node.leaving import Intent, Mode, estimate_s, is_done, left_bytes
from potsherd.node.store import Usage

USAGE = Usage(quota=1000, used=800, staged=0, index_bytes=100, shards=3, free=200)


def test_leaving_is_done_when_no_shard_is_here() -> None:
    leaving = Intent(Mode.LEAVING)
    assert not is_done(leaving, USAGE)
    assert is_done(leaving, replace(USAGE, shards=0))
    assert left_bytes(leaving, USAGE, 600) == 600


@pytest.mark.parametrize(
    ("quota", "done", "left"), [(799, False, 1), (800, True, 0), (100, False, 600)]
)
def test_shrinking_is_done_when_what_is_left_fits(quota: int, done: bool, left: int) -> None:
    shrinking = Intent(Mode.SHRINKING, quota)
    assert is_done(shrinking, USAGE) == done
    assert left_bytes(shrinking, USAGE, 600) == left


def test_nothing_moves_otherwise() -> None:
    for mode in (Mode.STAY, Mode.PAUSED, Mode.LEFT):
        assert not Intent(mode).moves
        assert is_done(Intent(mode), USAGE)
        assert left_bytes(Intent(mode), USAGE, 600) == 0


def test_an_estimate_needs_something_measured() -> None:
    assert estimate_s(0, 0, 0) == 0
    assert estimate_s(100, 0, 50) is None
    assert estimate_s(100, 10, 0.5) is None
    assert estimate_s(100, 10, 5) == 50
