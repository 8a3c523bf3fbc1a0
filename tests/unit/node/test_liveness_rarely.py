"""Peers that are asked rarely, by watchers that sleep or do not: sleepers are found awake, the dead are given up."""

from __future__ import annotations

import random

import pytest
from watching import DAY, HOUR, WEEK, Watch, always, until, workstation


@pytest.mark.parametrize("hours", [4, 8, 24])
@pytest.mark.parametrize("watcher_sleeps", [False, True])
def test_sleepers_are_found_awake_however_rarely_they_are_asked(
    hours: int, watcher_sleeps: bool
) -> None:
    """Once asked only every 48 hours, always at one hour of the day, they were given up."""
    rng = random.Random(hours)
    peers = [always] * 8 + [workstation(rng) for _ in range(8)]
    watch = Watch(1, hours * HOUR, workstation(rng) if watcher_sleeps else always, peers)
    watch.until(20 * WEEK)
    assert not watch.ever_gone


@pytest.mark.parametrize("hours", [1, 8])
def test_the_dead_are_given_up_however_rarely_they_are_asked(hours: int) -> None:
    rng = random.Random(hours)
    end = 6 * WEEK + 3 * DAY
    mortal = [until(end, always), until(end, workstation(rng))]
    watch = Watch(1, hours * HOUR, always, [*[always] * 8, *mortal])
    watch.until(end)
    watch.until(end + (1 if hours == 1 else 5) * DAY + 8 * HOUR)
    assert 8 in watch.ever_gone, "a server"
    watch.until(end + 14 * DAY)
    assert set(watch.ever_gone) == {8, 9}
