"""One replicate with numpy alone: node events one by one, their shards and the repairs between them as arrays.

Events: a node leaves or is given up, a shock strikes, a repair is noticed or done, the state is noted. A repair, once
noticed, waits for the line of a live holder drawn at random and is done when the line has moved its bytes; if its
repairer goes, another holder takes over, from the start. When fewer than k holders are online it tries again after a
mean absence. All shards of the segment that are known to be lost when a line takes the repair are made anew in one
pass: those that were lost at least the time of noticing before. What was lost since is seen later, as in the nodes'
own code, which cannot know of it. Exponential repair has no noticing, and makes all anew, as the chain has it.

The compiled engine does the same with the same meaning, faster; they agree in distribution, not number by number.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from potsherd.simulations.montecarlo.distributions import FOREVER
from potsherd.simulations.montecarlo.habits import HOURS_PER_WEEK
from potsherd.simulations.montecarlo.placement import fill, network_of
from potsherd.simulations.montecarlo.population import BINS, Outcome, Population
from potsherd.simulations.quantities import HOURS_PER_YEAR

__all__ = ["run"]

IDLE, NOTICING, MOVING, LOST = range(4)
PLACE_AT_ONCE = 4096
"""Segments placed in one go at the start: nodes fill up evenly."""


def run(population: Population) -> Outcome:
    """The whole horizon of one replicate."""
    return _Run(population).run()


class _Run:
    def __init__(self, population: Population) -> None:
        self.population = population
        self.scenario = scenario = population.scenario
        self.classes = population.classes
        self.rng = np.random.default_rng(population.seed)
        self.network = network_of(population)
        size = (scenario.segments, scenario.n)
        self.rows = np.zeros(size, dtype=np.int32)
        self.generations = np.zeros(size, dtype=np.uint8)
        self.live = np.zeros(scenario.segments, dtype=np.int16)
        self.status = np.zeros(scenario.segments, dtype=np.uint8)
        self.repairer = np.zeros(scenario.segments, dtype=np.int32)
        self.repairer_generation = np.zeros(scenario.segments, dtype=np.uint8)
        self.held: list[list[int]] = [[] for _ in population.site]
        """Segments of which a node was given a shard since it was emptied; none twice."""
        self.departs = population.departs.copy()
        self.free_at = np.zeros(len(population.site))
        self.emptied = np.full((2, len(population.site)), -np.inf)
        """When each slot's shards were lost the last time, and the time before."""
        self.begun = np.zeros(scenario.segments)
        """When a line took the repair."""
        self.repairs: list[tuple[float, int]] = []
        self.note = np.linspace(0, scenario.years, BINS + 1)
        self.bin = 0
        self.live_at = np.zeros((BINS + 1, scenario.n + 1), dtype=np.int64)
        self.counts = np.zeros((3, BINS), dtype=np.int64)  # passes, made, moved
        self.lost_at: list[tuple[float, int]] = []
        self.departures = self.unplaced = self.dark_looked = self.dark_unreadable = 0
        self.dark_until = np.zeros(len(population.site))
        self.busy = 0.0

    def run(self) -> Outcome:
        self._place_all()
        nodes = [(self._next(i, 0.0), i) for i in range(len(self.departs))]
        heapq.heapify(nodes)
        strikes = self.population.strikes
        struck, end = 0, self.scenario.years
        while True:
            shock = strikes.times[struck] if struck < len(strikes.times) else FOREVER
            now = min(nodes[0][0], shock, end)
            self._repair_until(now)
            if now >= end:
                break
            if shock <= nodes[0][0]:
                here = slice(strikes.start[struck], strikes.start[struck + 1])
                if strikes.dark[struck] > 0:
                    self._darken(strikes.nodes[here], now, float(strikes.dark[struck]))
                else:
                    self._strike(strikes.nodes[here], bool(strikes.leaves[struck]), now)
                struck += 1
            else:
                node = nodes[0][1]
                self._node_event(node, now)
                heapq.heapreplace(nodes, (self._next(node, now), node))
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(
            segments=self.scenario.segments,
            years=self.scenario.years,
            lost_at=np.repeat(
                [at for at, _ in self.lost_at], [count for _, count in self.lost_at]
            ).astype(float),
            times=self.note,
            live=self.live_at,
            passes=self.counts[0],
            made=self.counts[1],
            moved=self.counts[2],
            departures=self.departures,
            busy_years=self.busy,
            node_years=len(self.departs) * self.scenario.years,
            unplaced=self.unplaced,
            dark_looked=self.dark_looked,
            dark_unreadable=self.dark_unreadable,
        )

    # --- nodes -----------------------------------------------------------------------------------

    def _next(self, node: int, now: float) -> float:
        """When the node's shards will be lost next: it leaves, or an absence is too long."""
        rate = self.classes.given_up[self.population.class_of[node]]
        given_up = now + self.rng.exponential(1 / rate) if rate > 0 else FOREVER
        return float(min(self.departs[node], given_up))

    def _node_event(self, node: int, now: float) -> None:
        self._empty(np.array([node], dtype=np.int32), now)
        if now < self.departs[node]:
            return  # given up; it comes back without shards
        kind = self.population.class_of[node]
        if self.classes.replaced[kind]:
            life = self.scenario.nodes[kind].life.inverse(np.array([1.0 - self.rng.random()]))[0]
            self.departs[node] = now + life
        else:
            self.network.present[node] = False
            self.departs[node] = FOREVER

    def _strike(self, nodes: NDArray[np.int32], leaves: bool, now: float) -> None:
        self._empty(nodes, now)
        if leaves:
            self.network.present[nodes] = False

    def _darken(self, nodes: NDArray[np.int32], now: float, years: float) -> None:
        """A power cut: who is hit keeps its shards and is offline for a while."""
        self.dark_until[nodes] = np.maximum(self.dark_until[nodes], now + years)
        for start in range(0, self.scenario.segments, PLACE_AT_ONCE):
            segments = np.arange(start, min(self.scenario.segments, start + PLACE_AT_ONCE))
            segments = segments[self.status[segments] != LOST]
            times = np.full(len(segments), now)
            online = self._readable(times, segments, self._alive(segments))
            self.dark_looked += len(segments)
            self.dark_unreadable += int((~online).sum())

    def _empty(self, nodes: NDArray[np.int32], now: float) -> None:
        """These nodes' shards are lost, at one moment."""
        lost = [self.held[node] for node in nodes.tolist()]
        for node in nodes.tolist():
            self.held[node] = []
        self.network.generation[nodes] += 1
        self.emptied[1, nodes] = self.emptied[0, nodes]
        self.emptied[0, nodes] = now
        self.network.used[nodes] = 0
        self.free_at[nodes] = now
        self.departures += int(self.network.present[nodes].sum())
        segments = np.array(list(chain.from_iterable(lost)), dtype=np.int64)
        if len(lost) > 1:
            segments, count = np.unique(segments, return_counts=True)
        else:
            count = np.ones(len(segments), dtype=np.int64)
        keeps = self.status[segments] != LOST
        segments, count = segments[keeps], count[keeps]
        if len(segments):
            self.live[segments] -= count.astype(np.int16)
            self._judge(segments, now)

    def _judge(self, segments: NDArray[np.int64], now: float) -> None:
        """Lost, or to be repaired, or well enough."""
        low = segments[self.live[segments] < self.scenario.r]
        if not len(low):
            return
        dead = low[self.live[low] < self.scenario.k]
        if len(dead):
            self.status[dead] = LOST
            self.lost_at.append((now, len(dead)))
        for segment in low[self.status[low] == IDLE].tolist():
            self._begin(segment, now)

    # --- repair ----------------------------------------------------------------------------------

    def _begin(self, segment: int, now: float) -> None:
        repair = self.scenario.repair
        if repair.kind == "exponential":
            self.status[segment] = MOVING
            self.repairer[segment] = -1
            done = now + self.rng.exponential(repair.mean_years)
        else:
            self.status[segment] = NOTICING
            done = now + repair.notice_years
        heapq.heappush(self.repairs, (done, segment))

    def _repair_until(self, until: float) -> None:
        """Everything about repairs that happens before the next event of nodes."""
        while self.repairs and self.repairs[0][0] <= until:
            self._note(self.repairs[0][0])
            due: list[tuple[float, int]] = []
            stop = min(until, self.note[min(self.bin, BINS)])
            while self.repairs and self.repairs[0][0] <= stop:
                due.append(heapq.heappop(self.repairs))
            done = [(at, s) for at, s in due if self._advance(at, s)]
            if done:
                self._finish(done)
        self._note(until)

    def _advance(self, now: float, segment: int) -> bool:
        """Whether this repair is done now; otherwise it is taken further."""
        status = self.status[segment]
        if status == LOST:
            return False
        if status == MOVING:
            node = self.repairer[segment]
            if node < 0 or self.network.generation[node] == self.repairer_generation[segment]:
                return True
        self._assign(segment, now)
        return False

    def _alive(self, segments: NDArray[np.int64]) -> NDArray[np.bool_]:
        rows = self.rows[segments]
        same = self.generations[segments] == self.network.generation[rows]
        # a shard without a node has no generation to compare
        return np.asarray(same & (rows >= 0))

    def _assign(self, segment: int, now: float) -> None:
        """A live holder's line takes the repair, after what it has to do already."""
        holders = self.rows[segment][self._alive(np.array([segment]))[0]]
        node = int(holders[self.rng.integers(len(holders))])
        kind = self.population.class_of[node]
        self.begun[segment] = now
        missing = self.scenario.n - len(holders) - int(np.isfinite(self._unseen([segment])).sum())
        shard = self.scenario.shard_bytes
        took = shard * (
            (self.scenario.k - 1) / self.classes.down[kind] + missing / self.classes.up[kind]
        )
        done = max(now, self.free_at[node]) + took
        self.free_at[node] = done
        self.busy += took
        self.status[segment] = MOVING
        self.repairer[segment] = node
        self.repairer_generation[segment] = self.network.generation[node]
        heapq.heappush(self.repairs, (done, segment))

    def _finish(self, done: list[tuple[float, int]]) -> None:
        times = np.array([at for at, _ in done])
        segments = np.array([s for _, s in done])
        alive = self._alive(segments)
        ready = self._enough_online(times, segments, alive)
        for at, segment in zip(times[~ready].tolist(), segments[~ready].tolist(), strict=True):
            wait = self.classes.retry
            heapq.heappush(self.repairs, (at + self.rng.exponential(wait), segment))
        segments, alive, times = segments[ready], alive[ready], times[ready]
        if not len(segments):
            return
        unseen = self._unseen(segments)
        left = np.isfinite(unseen)
        found = self._hold(segments, alive | left)
        live = (found & ~left).sum(axis=1)
        self._tally(times, live - alive.sum(axis=1))
        self.live[segments] = live
        self.status[segments] = IDLE
        for i in np.flatnonzero(live < self.scenario.r).tolist():
            self._begin(int(segments[i]), self._next_loss(float(times[i]), unseen[i], found[i]))

    def _unseen(self, segments: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """When shards were lost that nobody knew to be lost as the repair began; -inf for all others.

        A slot remembers two losses: who lost more since a shard was placed has lost it long ago.
        """
        rows, repair = self.rows[segments], self.scenario.repair
        gone = self.network.generation[rows] - self.generations[segments]
        at = np.select([gone == 1, gone == 2], list(self.emptied[:, rows]), -np.inf)
        at[rows < 0] = -np.inf
        # as `_begin` adds, so that the loss that is waited for counts to the last bit
        known = at + repair.notice_years <= self.begun[segments][:, None]
        if repair.kind == "exponential":
            known[:] = True
        return np.where(known, -np.inf, at)

    def _next_loss(
        self, now: float, unseen: NDArray[np.float64], found: NDArray[np.bool_]
    ) -> float:
        """The loss that takes a segment below r, when it is so at the end of a repair."""
        notice = self.scenario.repair.notice_years
        if not found.all():  # no room for all: try again
            return now + notice
        losses = np.sort(unseen[np.isfinite(unseen)])
        return max(now - notice, float(losses[self.scenario.n - self.scenario.r]))

    def _tally(self, times: NDArray[np.float64], made: NDArray[np.int64]) -> None:
        """Repairs that are done, by bin: passes, shards made, shards moved."""
        places = np.clip((times * (BINS / self.scenario.years)).astype(np.int64), 0, BINS - 1)
        for place, shards in zip(places.tolist(), made.tolist(), strict=True):
            self.counts[:, place] += (1, shards, shards + self.scenario.k - 1)

    def _enough_online(
        self, times: NDArray[np.float64], segments: NDArray[np.int64], alive: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Whether a repair finds k holders online at these moments."""
        if self.scenario.repair.kind == "exponential":
            return np.ones(len(segments), dtype=bool)
        return self._readable(times, segments, alive)

    def _readable(
        self, times: NDArray[np.float64], segments: NDArray[np.int64], alive: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Whether k live holders are online at these moments, sampled."""
        rows = self.rows[segments]
        hour = (times * HOURS_PER_YEAR).astype(np.int64) % HOURS_PER_WEEK
        chance = self.classes.online[self.population.class_of[rows], hour[:, None]]
        lit = self.dark_until[rows] <= times[:, None]
        online = alive & lit & (self.rng.random(alive.shape) < chance)
        return np.asarray(online.sum(axis=1) >= self.scenario.k)

    def _hold(self, segments: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Place what is not `alive` and write it down; returns the same with what has found a place."""
        rows = self.rows[segments]
        found, unplaced = fill(self.network, rows, alive, self.population.home[segments], self.rng)
        self.unplaced += unplaced
        rows[~found] = -1
        fresh = found & ~alive
        self.rows[segments] = rows
        self.generations[segments] = np.where(
            fresh, self.network.generation[rows], self.generations[segments]
        )
        which, column = np.nonzero(fresh)
        held = self.held
        for node, segment in zip(
            rows[which, column].tolist(), segments[which].tolist(), strict=True
        ):
            held[node].append(segment)
        return found

    def _place_all(self) -> None:
        for start in range(0, self.scenario.segments, PLACE_AT_ONCE):
            segments = np.arange(start, min(self.scenario.segments, start + PLACE_AT_ONCE))
            none = np.zeros((len(segments), self.scenario.n), dtype=bool)
            self.live[segments] = self._hold(segments, none).sum(axis=1)
        self._judge(np.arange(self.scenario.segments), 0.0)

    # --- noting ----------------------------------------------------------------------------------

    def _note(self, now: float) -> None:
        """Write down the state at the ends of bins that have passed."""
        while self.bin <= BINS and (
            self.note[self.bin] <= now or math.isclose(self.note[self.bin], now)
        ):
            live = self.live[self.status != LOST]
            self.live_at[self.bin] = np.bincount(np.maximum(live, 0), minlength=self.scenario.n + 1)
            self.bin += 1
