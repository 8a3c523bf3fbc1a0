"""One network week by week: peers come and go, give and take; data is stored, repaired, dropped, lost.

A dataset belongs to the peer that brought it and may outlive its stay: then it is an *orphan*. Shards lie on the
peers that give room; `holders[d, i]` is the peer that keeps shard i of dataset d, or −1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.simulations.incentives.settings import (
    ALTRUIST,
    FREE_RIDER,
    LEVELS,
    STRATEGIC,
    WEEKS_PER_YEAR,
    Settings,
)

__all__ = ["DROPPED", "LOST", "STORED", "WAITING", "WITHDRAWN", "Society"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WAITING, STORED, LOST, DROPPED, WITHDRAWN = range(5)
UPTIMES = ((0.3, 0.95), (0.5, 0.4), (0.2, 0.15))
"""Share of the peers, their share of time online: always on, some hours a day, now and then."""
SERVED_MEMORY = 0.8
"""Weight of the past in how well a peer finds itself served, per week."""


@dataclass
class Society:
    """The state. Arrays by peer (a slot that a newcomer takes over) and by dataset."""

    settings: Settings
    rng: np.random.Generator
    week: int = 0

    def __post_init__(self) -> None:
        s, peers = self.settings, self.settings.peers
        self.kind = self._kinds()
        self.disk, self.uptime = np.zeros(peers), np.zeros(peers)
        self.departs, self.served = np.zeros(peers), np.zeros(peers)
        self.level = np.full(peers, LEVELS.index(1.0))
        self.data = np.full(peers, -1)
        # Room for everybody who may come: a third more than expected.
        stays = np.bincount(self.kind, minlength=3) * s.years / np.array(s.lives)
        room = int(1.3 * (peers + stays.sum())) + 200
        self.count = 0
        self.owner = np.full(room, -1)
        self.size = np.zeros(room)
        self.credit = np.zeros(room)
        self.state = np.full(room, WITHDRAWN)
        self.orphan_since = np.full(room, -1)
        self.holders = np.full((room, s.n), -1)
        self.pinned = np.zeros((room, s.institutes), dtype=bool)
        self.institute_departs = self._stay(np.full(s.institutes, s.institute_life))
        self.lost_copies = 0
        """Datasets of which too little was left while their owner was still there to store them anew."""
        self._arrive(np.arange(peers))

    def _kinds(self) -> Ints:
        s = self.settings
        altruists = round(s.altruists * s.peers)
        riders = min(round(s.free_riders * s.peers), s.peers - altruists)
        kinds = [ALTRUIST] * altruists + [FREE_RIDER] * riders
        return np.array(kinds + [STRATEGIC] * (s.peers - len(kinds)))

    def _stay(self, years: Floats) -> Floats:
        return self.week + self.rng.exponential(years * WEEKS_PER_YEAR)

    def _arrive(self, slots: Ints) -> None:
        """Newcomers with data of their own."""
        s, number = self.settings, len(slots)
        self.disk[slots] = s.disk * np.exp(s.spread * self.rng.normal(size=number))
        shares = [share for share, _ in UPTIMES]
        self.uptime[slots] = self.rng.choice([up for _, up in UPTIMES], number, p=shares)
        self.departs[slots] = self._stay(np.array(s.lives)[self.kind[slots]])
        self.served[slots] = 0.0
        if self.week:  # they do as somebody who is there
            others = np.flatnonzero(self.kind == STRATEGIC)
            if len(others):
                self.level[slots] = self.level[self.rng.choice(others, number)]
        new = np.arange(self.count, self.count + number)
        if len(new) and new[-1] >= len(self.owner):
            self._grow()
        self.count += number
        self.data[slots], self.owner[new] = new, slots
        self.size[new] = s.want * np.exp(s.spread * self.rng.normal(size=number))
        self.state[new] = WAITING
        self.credit[new] = s.starter * self.footprint(new)

    def _grow(self) -> None:
        """Twice the room for datasets."""
        for name, empty in (("owner", -1), ("size", 0.0), ("credit", 0.0), ("state", WITHDRAWN),
                            ("orphan_since", -1), ("holders", -1), ("pinned", False)):  # fmt: skip
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.full_like(old, empty)]))

    # --- looking ---------------------------------------------------------------------------------

    def footprint(self, datasets: Ints) -> Floats:
        """GB that they take up in the network when all shards are there."""
        return np.asarray(self.size[datasets] * self.settings.expansion)

    def shard(self, datasets: Ints) -> Floats:
        """GB of one shard."""
        return np.asarray(self.size[datasets] / self.settings.k)

    def live(self, datasets: Ints) -> Ints:
        """Shards in place."""
        return np.asarray((self.holders[datasets] >= 0).sum(axis=1))

    def stored(self) -> Ints:
        """Datasets kept now."""
        return np.flatnonzero(self.state[: self.count] == STORED)

    def given(self) -> Floats:
        """GB that each peer gives this week."""
        wanted = np.array(LEVELS)[self.level] * self.footprint(self.data)
        given = np.where(self.kind == ALTRUIST, self.disk, np.minimum(self.disk, wanted))
        return np.where(self.kind == FREE_RIDER, 0.0, given)

    def used(self) -> Floats:
        """GB that shards take up on each peer; in barter a partner sets aside as much as it gets itself."""
        shown = np.arange(self.count)
        held = self.holders[shown]
        sizes = np.repeat(self.shard(shown)[:, None], self.settings.n, axis=1)
        if self.settings.rule == "barter":
            present = (self.orphan_since[shown] < 0)[:, None]
            own = self.shard(self.data)[np.maximum(held, 0)]
            sizes = np.where(present, np.maximum(sizes, own), sizes)
        there = held >= 0
        peers = self.settings.peers
        return np.asarray(np.bincount(held[there], sizes[there], minlength=peers), dtype=float)

    # --- a week ----------------------------------------------------------------------------------

    def depart(self) -> None:
        """Who leaves takes the shards along, leaves the data behind, and is replaced by a newcomer."""
        gone = self.departs <= self.week
        slots = np.flatnonzero(gone)
        if len(slots):
            shown = self.holders[: self.count]
            shown[(shown >= 0) & gone[np.maximum(shown, 0)]] = -1
            left = self.data[slots]
            kept = self.state[left] == STORED
            self.orphan_since[left] = self.week
            self.state[left[~kept]] = WITHDRAWN
            self.holders[left[~kept]] = -1
            self._arrive(slots)
        for number in np.flatnonzero(self.institute_departs <= self.week):
            self.pinned[:, number] = False
            self.institute_departs[number] = self._stay(np.array([self.settings.institute_life]))[0]

    def adapt(self) -> None:
        """Strategic peers look at one another: who fares better is imitated, now and then something is tried."""
        stored = self.state[self.data] == STORED
        self.served = SERVED_MEMORY * self.served + (1 - SERVED_MEMORY) * stored
        s = self.settings
        if self.week % s.adapt_every:
            return
        pays = self.served - s.cost * self.given() / self.footprint(self.data)
        for _, uptime in UPTIMES:
            self._imitate(np.flatnonzero((self.kind == STRATEGIC) & (self.uptime == uptime)), pays)

    def _imitate(self, me: Ints, pays: Floats) -> None:
        """Among those who are online as much: what pays for one then pays for the other."""
        s = self.settings
        if len(me) < 2:
            return
        other = self.rng.choice(me, len(me))
        better = pays[other] - pays[me]
        copies = self.rng.random(len(me)) < s.imitate * better
        level = np.where(copies, self.level[other], self.level[me])
        tries = self.rng.random(len(me)) < s.explore
        self.level[me] = np.where(tries, self.rng.integers(len(LEVELS), size=len(me)), level)

    def evict(self, given: Floats) -> None:
        """Who gives less than before drops shards at random until the rest fits."""
        over = self.used() - given
        full = over > 1e-9
        shown = self.holders[: self.count]
        rows, columns = np.nonzero((shown >= 0) & full[np.maximum(shown, 0)])
        if not len(rows):
            return
        order = self.rng.permutation(len(rows))
        rows, columns = rows[order], columns[order]
        at = shown[rows, columns]
        by_peer = np.argsort(at, kind="stable")
        rows, columns, at = rows[by_peer], columns[by_peer], at[by_peer]
        sizes = self.shard(rows)
        before = np.cumsum(sizes) - sizes
        first = np.searchsorted(at, at)  # where this peer's shards begin
        drop = before - before[first] < over[at]
        shown[rows[drop], columns[drop]] = -1

    def drop(self, datasets: Ints) -> None:
        """Taken off the peers by the rule; what an institute keeps stays."""
        self.holders[datasets] = -1
        out = datasets[~self.pinned[datasets].any(axis=1)]
        self.state[out] = np.where(self.orphan_since[out] >= 0, DROPPED, WAITING)

    def lose(self) -> None:
        """Fewer than k shards and no pinned copy: an owner who is there stores it anew, an orphan is lost."""
        kept = self.stored()
        few = (self.live(kept) < self.settings.k) & ~self.pinned[kept].any(axis=1)
        dead = kept[few]
        orphans = self.orphan_since[dead] >= 0
        self.state[dead] = np.where(orphans, LOST, WAITING)
        self.holders[dead] = -1
        self.lost_copies += int((~orphans).sum())
