"""One replicate by the compiled engine: a million nodes and segments in a minute or so. Needs the extra [simulate].

Same meaning as `numpy_engine`, same in distribution. The holders of a segment come from a pool of neighbours, so a
large ring falls into stretches that know nothing of each other but the shocks. They run one after the other, each
closed to a ring of its own: small enough for the processor's caches, which makes them several times as fast as one
ring, and memory does not grow with the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from potsherd.classes import dataclass
from potsherd.simulations.montecarlo.placement import Network, network_of
from potsherd.simulations.montecarlo.population import BINS, Outcome, Population, Strikes

if TYPE_CHECKING:
    from potsherd.simulations.montecarlo._kernels import (
        Heap,
        Kinds,
        Nodes,
        Rules,
        Segments,
        Tally,
        World,
    )

__all__ = ["STRETCH_NODES_MIN", "STRETCH_POOLS", "run"]

STRETCH_NODES_MIN = 1024
"""Slots of a stretch, at least."""
STRETCH_POOLS = 8
"""Length of a stretch in pools, at least: places in a ring, not near its ends."""


def run(population: Population) -> Outcome:
    """The whole horizon of one replicate. Raises ImportError without numba."""
    from potsherd.simulations.montecarlo._kernels import Tally, run_stretch

    scenario = population.scenario
    tally = Tally(
        counts=np.zeros((3, BINS), dtype=np.int64),
        live_at=np.zeros((BINS + 1, scenario.n + 1), dtype=np.int64),
        lost_at=np.empty(scenario.segments),
        numbers=np.zeros(6, dtype=np.int64),
        busy=np.zeros(1),
    )
    maker = _Maker(population, network_of(population), tally)
    alive = np.zeros(scenario.n, dtype=np.uint8)
    for stretch in _stretches(population):
        tally.numbers[3] = 0  # every stretch begins with the first bin
        run_stretch(maker.world(stretch), alive)
    lost, departures, unplaced = (int(value) for value in tally.numbers[:3])
    return Outcome(
        segments=scenario.segments,
        years=scenario.years,
        lost_at=np.sort(tally.lost_at[:lost]),
        times=np.linspace(0, scenario.years, BINS + 1),
        live=tally.live_at,
        passes=tally.counts[0],
        made=tally.counts[1],
        moved=tally.counts[2],
        departures=departures,
        busy_years=float(tally.busy[0]),
        node_years=len(population.departs) * scenario.years,
        unplaced=unplaced,
        dark_looked=int(tally.numbers[4]),
        dark_unreadable=int(tally.numbers[5]),
    )


@dataclass(frozen=True)
class _Stretch:
    """Slots `nodes`, the segments whose home is there, and the shocks that hit them."""

    nodes: slice
    segments: slice
    strikes: Strikes


def _stretches(population: Population) -> Iterator[_Stretch]:
    nodes = len(population.departs)
    pool = population.scenario.pool_size
    count = 1
    if pool < nodes:
        count = max(1, nodes // max(STRETCH_NODES_MIN, STRETCH_POOLS * pool))
    ends = (np.arange(count + 1) * nodes) // count
    segment_ends = np.searchsorted(population.home, ends)
    stretch_of_hit = np.searchsorted(ends, population.strikes.nodes, side="right") - 1
    for i in range(count):
        yield _Stretch(
            slice(int(ends[i]), int(ends[i + 1])),
            slice(int(segment_ends[i]), int(segment_ends[i + 1])),
            _own(population.strikes, stretch_of_hit == i, int(ends[i])),
        )


def _own(strikes: Strikes, mine: np.ndarray[tuple[int], np.dtype[np.bool_]], first: int) -> Strikes:
    """The part of each strike that hits a stretch, in its own numbers."""
    before = np.concatenate([[0], np.cumsum(mine)])
    return Strikes(
        times=strikes.times,
        start=before[strikes.start].astype(np.int64),
        nodes=(strikes.nodes[mine] - first).astype(np.int32),
        leaves=strikes.leaves,
        dark=strikes.dark,
    )


class _Maker:
    """Makes the compiled code's view of stretches."""

    def __init__(self, population: Population, network: Network, tally: Tally) -> None:
        self._population = population
        self._tally = tally
        self._rules = _rules(population, network)
        self._kinds = _kinds(population, network)
        self._random = np.array([population.seed], dtype=np.uint64)

    def world(self, stretch: _Stretch) -> World:
        from potsherd.simulations.montecarlo import _kernels as kernels

        nodes = stretch.nodes.stop - stretch.nodes.start
        segments = stretch.segments.stop - stretch.segments.start
        # A node's list has at most one chunk that is not full.
        chunks = segments * self._rules.n // kernels.CHUNK + nodes + 1
        items = np.empty((chunks, kernels.CHUNK + 1), dtype=np.int32)
        return kernels.World(
            rules=self._rules,
            kinds=self._kinds,
            nodes=_nodes(self._population, stretch.nodes),
            segments=_segments(self._population, stretch),
            chunks=kernels.Chunks(items, np.array([-1, 0])),
            events=_heap(nodes),
            repairs=_heap(segments),
            tally=self._tally,
            strike_times=stretch.strikes.times,
            strike_start=stretch.strikes.start,
            strike_nodes=stretch.strikes.nodes,
            strike_leaves=stretch.strikes.leaves,
            strike_dark=stretch.strikes.dark,
            random=self._random,
            queue=np.zeros(kernels.QUEUE + self._rules.n, dtype=np.int64),
        )


def _heap(size: int) -> Heap:
    from potsherd.simulations.montecarlo._kernels import Heap

    return Heap(np.empty(size + 1), np.empty(size + 1, dtype=np.int32), np.zeros(1, dtype=np.int64))


def _rules(population: Population, network: Network) -> Rules:
    from potsherd.simulations.montecarlo._kernels import Rules

    scenario = population.scenario
    # "6 years" is an integer: the engine would be compiled once more for it, some ten seconds.
    return Rules(
        k=scenario.k,
        n=scenario.n,
        r=scenario.r,
        limit=network.limit,
        easy=network.easy,
        labelled=bool((network.labels >= 0).any()),
        pool=network.pool,
        years=float(scenario.years),
        exponential=scenario.repair.kind == "exponential",
        notice=float(scenario.repair.notice_years),
        mean=float(scenario.repair.mean_years),
        absence=float(population.classes.retry),
        shard_bytes=float(scenario.shard_bytes),
        top=float(network.top),
    )


def _kinds(population: Population, network: Network) -> Kinds:
    from potsherd.simulations.montecarlo._kernels import Kinds

    classes = population.classes
    shard = population.scenario.shard_bytes
    knots = [p.knots for p in classes.parameters]
    return Kinds(
        life=np.array([p.kind for p in classes.parameters]),
        scale=np.array([p.scale for p in classes.parameters], dtype=np.float64),
        shape=np.array([p.shape for p in classes.parameters], dtype=np.float64),
        knots=np.concatenate(knots),
        knot_start=np.concatenate([[0], np.cumsum([len(part) for part in knots])]),
        up=classes.up.astype(np.float64),
        down=classes.down.astype(np.float64),
        given_up=classes.given_up.astype(np.float64),
        capacity=(classes.capacity // shard).astype(np.int64),
        ample=np.full(len(knots), int(np.ceil(2.0**network.top / shard)), dtype=np.int64),
        replaced=classes.replaced.astype(np.uint8),
        online=classes.online.astype(np.float64),
    )


def _nodes(population: Population, here: slice) -> Nodes:
    from potsherd.simulations.montecarlo._kernels import Nodes

    count = here.stop - here.start
    return Nodes(
        kind=population.class_of[here],
        labels=np.stack([population.site[here], population.operator[here]]),
        departs=population.departs[here].copy(),
        generation=np.zeros(count, dtype=np.uint8),
        used=np.zeros(count, dtype=np.int32),
        present=np.ones(count, dtype=np.uint8),
        free_at=np.zeros(count),
        emptied=np.full(count, -1.0),
        emptied_before=np.full(count, -1.0),
        dark_until=np.zeros(count),
        first=np.full(count, -1, dtype=np.int32),
        filled=np.zeros(count, dtype=np.uint8),
    )


def _segments(population: Population, stretch: _Stretch) -> Segments:
    from potsherd.simulations.montecarlo._kernels import Segments

    count = stretch.segments.stop - stretch.segments.start
    size = (count, population.scenario.n)
    return Segments(
        home=population.home[stretch.segments] - np.int32(stretch.nodes.start),
        live=np.zeros(count, dtype=np.uint8),
        status=np.zeros(count, dtype=np.uint8),
        repairer=np.zeros(count, dtype=np.int32),
        repairer_generation=np.zeros(count, dtype=np.uint8),
        begun=np.zeros(count),
        rows=np.zeros(size, dtype=np.int32),
        generations=np.zeros(size, dtype=np.uint8),
    )
