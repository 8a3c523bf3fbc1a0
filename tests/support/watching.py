"""A table of peers that is driven by itself for weeks: watchers and peers that sleep like workstations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from potsherd.node.liveness import FreezePolicy, PeerTable

HOUR, DAY, WEEK = 3600.0, 86_400.0, 7 * 86_400.0
MONDAY = 1_767_571_200.0
"""5 January 2026, 00:00 UTC."""

Up = Callable[[float], bool]
"""Whether a machine is on, so many seconds after MONDAY."""


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def always(_: float) -> bool:
    return True


def until(end: float, up: Up) -> Up:
    """The same machine, but dead from `end` on."""
    return lambda now: now < end and up(now)


def workstation(rng: random.Random) -> Up:
    """On weekdays from about eight to about seven; one night in five it is left running, never into the weekend."""
    days: dict[int, tuple[float, float]] = {}

    def up(now: float) -> bool:
        today = int(now // DAY)
        for day in (today - 1, today):
            if day not in days:
                begin, end = 8 + rng.gauss(0, 1), 19 + rng.gauss(0, 1)
                days[day] = begin, 32 if rng.random() < 0.2 else end
        if today % 7 >= 5:
            return False
        hour = now % DAY / HOUR
        begin, end = days[today]
        return begin <= hour < end or (today % 7 > 0 and hour + 24 < days[today - 1][1])

    return up


class Watch:
    """A table that asks every `beat_s`, a tenth of that being its tick, while its own machine is up.

    `clock` gives what the calendar says.
    """

    def __init__(
        self,
        seed: int,
        beat_s: float,
        me: Up,
        peers: Sequence[Up],
        clock: Callable[[float], float] = lambda now: MONDAY + now,
    ) -> None:
        self.rng = random.Random(seed)
        self.beat_s, self.me, self.peers, self.clock = beat_s, me, peers, clock
        self.table = PeerTable(
            interval_s=beat_s,
            away_after_s=2 * beat_s,
            peers_max=100,
            freeze=FreezePolicy(window_s=max(HOUR, beat_s)),
        )
        self.now = 0.0
        self.ever_gone: dict[int, float] = {}
        """When each was given up first."""
        for number in range(len(peers)):
            self.table.watch(key(number), 0.0)

    def until(self, end: float) -> None:
        tick = self.beat_s / 10
        while self.now < end:
            self.now += tick * self.rng.uniform(0.5, 1.5)
            if not self.me(self.now):
                continue
            self.table.advance(self.now, self.clock(self.now), step_max_s=3 * tick)
            for due in self.table.due(self.now, 100):
                self.ask(due)
            for gone in self.table.gone():
                self.ever_gone.setdefault(int.from_bytes(gone, "big"), self.now)

    def ask(self, due: bytes) -> None:
        answers = self.peers[int.from_bytes(due, "big")](self.now)
        (self.table.seen if answers else self.table.failed)(due, self.now, self.clock(self.now))
