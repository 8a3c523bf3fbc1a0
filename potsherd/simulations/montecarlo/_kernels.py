"""The compiled engine's code: one replicate as a single loop over events. Needs numba; see `compiled_engine`.

Cost follows shard events. A node has a list of the segments whose shards it keeps, in chunks of a cache line; when it
goes, each of them has one live shard less. Who still holds what is looked at only when a segment is repaired: its row
names slots and the generations that got the shards. Segments stand in the order of their homes, so neighbours in
memory share nodes. Meaning, step by step, as in `numpy_engine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from potsherd.simulations.montecarlo._compiling import OPTIONS, compiled
from potsherd.simulations.montecarlo._heaps import Heap, pop, push, sift_down
from potsherd.simulations.montecarlo.distributions import (
    EMPIRICAL,
    EXPONENTIAL,
    FOREVER,
    PARETO,
    WEIBULL,
)
from potsherd.simulations.montecarlo.habits import HOURS_PER_WEEK
from potsherd.simulations.montecarlo.placement import KINDS, TRIES_PER_DONOR
from potsherd.simulations.montecarlo.population import BINS
from potsherd.simulations.quantities import HOURS_PER_YEAR

__all__ = [
    "CHUNK",
    "Chunks",
    "Heap",
    "Kinds",
    "Nodes",
    "Rules",
    "Segments",
    "Tally",
    "World",
    "simulate",
]

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]

CHUNK = 15
"""Segments in a chunk; with the number of the next one it fills a cache line of 64 bytes."""
NEXT = CHUNK
IDLE, NOTICING, MOVING, LOST = range(4)


class Rules(NamedTuple):
    """Numbers that do not change."""

    k: int
    n: int
    r: int
    limit: int
    easy: int
    labelled: bool
    """Whether any node declares a domain."""
    pool: int
    years: float
    exponential: bool
    notice: float
    mean: float
    absence: float
    shard_bytes: float
    top: float


class Kinds(NamedTuple):
    """Classes of nodes."""

    life: Longs
    scale: Floats
    shape: Floats
    knots: Floats
    knot_start: Longs
    up: Floats
    down: Floats
    given_up: Floats
    capacity: Longs
    ample: Longs
    """Free shards from which a node's weight is that of the top."""
    replaced: Bytes
    online: Floats


class Nodes(NamedTuple):
    """Per slot."""

    kind: NDArray[np.int16]
    labels: Ints
    departs: Floats
    generation: Bytes
    used: Ints
    present: Bytes
    free_at: Floats
    emptied: Floats
    """When its shards were lost the last time,"""
    emptied_before: Floats
    """and the time before."""
    dark_until: Floats
    """Until then it is offline, whatever its habits."""
    first: Ints
    """First chunk of the segments it keeps; −1: none."""
    filled: Bytes
    """Segments in its first chunk; the others are full. Here, so that adding one only writes to the chunk."""


class Segments(NamedTuple):
    """Per segment."""

    home: Ints
    live: Bytes
    status: Bytes
    repairer: Ints
    repairer_generation: Bytes
    begun: Floats
    """When a line took the repair."""
    rows: Ints
    generations: Bytes


class Chunks(NamedTuple):
    """Lists of segments; `state` holds the first free chunk and the end of those ever used."""

    items: Ints
    state: Longs


class Tally(NamedTuple):
    """What is counted; `numbers`: lost, departures, unplaced, bin, looked at and unreadable in the dark; `busy`: node-years."""

    counts: Longs
    live_at: Longs
    lost_at: Floats
    numbers: Longs
    busy: Floats


class World(NamedTuple):
    """Everything."""

    rules: Rules
    kinds: Kinds
    nodes: Nodes
    segments: Segments
    chunks: Chunks
    events: Heap
    repairs: Heap
    tally: Tally
    strike_times: Floats
    strike_start: Longs
    strike_nodes: Ints
    strike_leaves: NDArray[np.bool_]
    strike_dark: Floats
    random: NDArray[np.uint64]
    queue: Longs
    """First and end of those passed over in the placement under way, then they themselves."""


QUEUE = 2
LEFT = 2
"""A shard that is lost, but nobody knows it yet: it is not made anew."""
LONG_AGO = np.uint8(3)
"""Losses of a slot ago: more than it remembers."""
TAKEN = 99
"""Cost of a node that holds a shard of the segment."""
LOST_N, DEPARTURES, UNPLACED, BIN, LOOKED, UNREADABLE = range(6)

# --- random numbers: splitmix64 (Steele, Lea, Flood 2014) -----------------------------------------

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@compiled
def uniform(random: NDArray[np.uint64]) -> float:
    """In (0, 1), both excluded."""
    random[0] += _GOLDEN
    z = random[0]
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    mixed = np.float64((z ^ (z >> _S31)) >> _S11)
    return float((mixed + 0.5) * 1.1102230246251565e-16)


@compiled
def life(kinds: Kinds, kind: int, u: float) -> float:
    """The inverse survival of the class, at u."""
    form, scale, shape = kinds.life[kind], kinds.scale[kind], kinds.shape[kind]
    if form == EXPONENTIAL:
        return float(-scale * math.log(u))
    if form == WEIBULL:
        return float(scale * (-math.log(u)) ** (1 / shape))
    if form == PARETO:
        return float(scale * (u ** (-1 / shape) - 1))
    if form == EMPIRICAL:
        start, end = kinds.knot_start[kind], kinds.knot_start[kind + 1]
        place = (1 - u) * (end - start - 1)
        below = min(int(place), end - start - 2)
        low, high = kinds.knots[start + below], kinds.knots[start + below + 1]
        return float(low + (place - below) * (high - low))
    return FOREVER


# --- lists of segments ----------------------------------------------------------------------------


@compiled
def keep(w: World, node: int, segment: int) -> None:
    """Add a segment to the node's list. There are chunks for every shard, so one is free."""
    items, state, first, filled = w.chunks.items, w.chunks.state, w.nodes.first, w.nodes.filled
    chunk = first[node]
    if chunk < 0 or filled[node] == CHUNK:
        fresh = state[0]
        if fresh >= 0:
            state[0] = items[fresh, NEXT]
        else:
            fresh = state[1]
            state[1] += 1
        items[fresh, NEXT] = chunk
        first[node], filled[node] = fresh, 0
        chunk = fresh
    items[chunk, filled[node]] = segment
    filled[node] += np.uint8(1)


# --- placement ------------------------------------------------------------------------------------


@compiled
def accepted(w: World, node: int) -> bool:
    """Whether a draw takes the node, by room and the class of its free space."""
    if not w.nodes.present[node]:
        return False
    kind = w.nodes.kind[node]
    free = w.kinds.capacity[kind] - w.nodes.used[node]
    if free >= w.kinds.ample[kind]:
        return True
    if free <= 0:
        return False
    behind = w.rules.top - math.floor(math.log2(free * w.rules.shard_bytes))
    return behind <= 0 or uniform(w.random) < 2.0**-behind


@compiled
def cost(w: World, row: Ints, alive: Bytes, node: int) -> int:
    """How many domains of the node hold the limit; TAKEN when it holds a shard of the segment."""
    found = 0
    for i in range(len(row)):
        if alive[i] and row[i] == node:
            return TAKEN
    if not w.rules.labelled:
        return 0
    for kind in range(KINDS):
        label = w.nodes.labels[kind, node]
        if label >= 0:
            same = 0
            for i in range(len(row)):
                if alive[i] and w.nodes.labels[kind, row[i]] == label:
                    same += 1
            found += same >= w.rules.limit
    return found


@compiled
def find(w: World, segment: int, alive: Bytes, live: int) -> int:
    """A node for one more shard; −1 when nobody has room.

    `w.queue` holds who was passed over for the limits: once these may be exceeded, they come first.
    """
    row, total = w.segments.rows[segment], len(w.nodes.present)
    home, pool, queue = w.segments.home[segment], w.rules.pool, w.queue
    slack = 1 if live >= w.rules.easy else 0
    while True:
        for _ in range(TRIES_PER_DONOR * pool):
            if slack > 0 and queue[0] < queue[1]:
                node = int(queue[QUEUE + queue[0]])
                queue[0] += 1
                if w.nodes.used[node] >= w.kinds.capacity[w.nodes.kind[node]]:
                    continue
            else:
                node = int((home + int(uniform(w.random) * pool)) % total)
                if not accepted(w, node):
                    continue
            over = cost(w, row, alive, node)
            if over <= slack:
                return node
            if over < TAKEN and queue[1] < w.rules.n:
                queue[QUEUE + queue[1]] = node
                queue[1] += 1
        if slack < KINDS:
            slack += 1
        elif pool < total:
            pool = total
        else:
            return -1


@compiled
def hold(w: World, segment: int, alive: Bytes, live: int) -> int:
    """Place every shard that is not marked in `alive`; returns how many of them are marked then."""
    row, generations = w.segments.rows[segment], w.segments.generations[segment]
    w.queue[0] = w.queue[1] = 0
    for i in range(w.rules.n):
        if alive[i]:
            continue
        node = find(w, segment, alive, live)
        if node < 0:
            w.tally.numbers[UNPLACED] += 1
            row[i] = 0
            generations[i] = w.nodes.generation[0] - LONG_AGO
            continue
        row[i], generations[i] = node, w.nodes.generation[node]
        alive[i] = 1
        live += 1
        w.nodes.used[node] += 1
        keep(w, node, segment)
    return live


# --- what happens ---------------------------------------------------------------------------------


@compiled
def begin(w: World, segment: int, now: float) -> None:
    """A segment has fallen below r."""
    if w.rules.exponential:
        w.segments.status[segment] = MOVING
        w.segments.repairer[segment] = -1
        push(w.repairs, now - w.rules.mean * math.log(uniform(w.random)), segment)
    else:
        w.segments.status[segment] = NOTICING
        push(w.repairs, now + w.rules.notice, segment)


@compiled
def lose(w: World, segment: int, now: float) -> None:
    """One shard of a segment is gone."""
    status, live = w.segments.status, w.segments.live
    if status[segment] == LOST:
        return
    live[segment] -= 1
    if live[segment] < w.rules.k:
        status[segment] = LOST
        w.tally.lost_at[w.tally.numbers[LOST_N]] = now
        w.tally.numbers[LOST_N] += 1
    elif live[segment] < w.rules.r and status[segment] == IDLE:
        begin(w, segment, now)


@compiled
def empty(w: World, node: int, now: float) -> None:
    """The node's shards are gone."""
    items, state = w.chunks.items, w.chunks.state
    w.tally.numbers[DEPARTURES] += w.nodes.present[node]
    w.nodes.generation[node] += np.uint8(1)
    w.nodes.emptied_before[node] = w.nodes.emptied[node]
    w.nodes.emptied[node] = now
    w.nodes.used[node] = 0
    w.nodes.free_at[node] = now
    chunk, count = w.nodes.first[node], w.nodes.filled[node]
    w.nodes.first[node] = -1
    while chunk >= 0:
        for i in range(count):
            lose(w, items[chunk, i], now)
        count = np.uint8(CHUNK)
        following = items[chunk, NEXT]
        items[chunk, NEXT] = state[0]
        state[0] = chunk
        chunk = following


@compiled
def next_event(w: World, node: int, now: float) -> float:
    """When its shards go next: it leaves, or an absence is too long."""
    rate = w.kinds.given_up[w.nodes.kind[node]]
    given_up = now - math.log(uniform(w.random)) / rate if rate > 0 else FOREVER
    return float(min(w.nodes.departs[node], given_up))


@compiled
def node_event(w: World, node: int, now: float) -> None:
    """It leaves, or is given up."""
    empty(w, node, now)
    if now < w.nodes.departs[node]:
        return
    kind = w.nodes.kind[node]
    if w.kinds.replaced[kind]:
        w.nodes.departs[node] = now + life(w.kinds, kind, uniform(w.random))
    else:
        w.nodes.present[node] = 0
        w.nodes.departs[node] = FOREVER


@compiled
def look(w: World, segment: int, alive: Bytes) -> int:
    """Which shards of a segment are live; how many."""
    row, generations = w.segments.rows[segment], w.segments.generations[segment]
    live = 0
    for i in range(w.rules.n):
        alive[i] = generations[i] == w.nodes.generation[row[i]]
        live += alive[i]
    return live


@compiled
def unseen(w: World, segment: int, i: int) -> float:
    """When a missing shard was lost, if nobody knew it as the repair began; else −1."""
    if w.rules.exponential:
        return -1.0
    node = w.segments.rows[segment, i]
    gone = np.uint8(w.nodes.generation[node] - w.segments.generations[segment, i])
    at = -1.0
    if gone == 1:
        at = w.nodes.emptied[node]
    elif gone == 2:
        at = w.nodes.emptied_before[node]
    # as `begin` adds, so that the loss that is waited for counts to the last bit
    return at if at + w.rules.notice > w.segments.begun[segment] else -1.0


@compiled
def leave(w: World, segment: int, alive: Bytes) -> int:
    """Mark the shards that are not made anew, because nobody knew that they are lost; how many."""
    left = 0
    for i in range(w.rules.n):
        if not alive[i] and unseen(w, segment, i) >= 0:
            alive[i] = LEFT
            left += 1
    return left


@compiled
def next_loss(w: World, segment: int, alive: Bytes, now: float) -> float:
    """The loss that takes a segment below r, when it is so at the end of a repair."""
    for i in range(w.rules.n):
        if not alive[i]:  # no room for all: try again
            return float(now + w.rules.notice)
    for i in range(w.rules.n):
        if alive[i] == LEFT:
            mine, before = unseen(w, segment, i), 0
            for j in range(w.rules.n):
                if alive[j] == LEFT:
                    other = unseen(w, segment, j)
                    before += other < mine or (other == mine and j < i)
            if before == w.rules.n - w.rules.r:
                return float(max(mine, now - w.rules.notice))
    return float(now)


@compiled
def assign(w: World, segment: int, alive: Bytes, live: int, now: float) -> None:
    """The line of a live holder takes the repair."""
    number = int(uniform(w.random) * live)
    place = -1
    while number >= 0:
        place += 1
        number -= alive[place]
    node = w.segments.rows[segment, place]
    kind = w.nodes.kind[node]
    w.segments.begun[segment] = now
    missing = w.rules.n - live - leave(w, segment, alive)
    took = w.rules.shard_bytes * ((w.rules.k - 1) / w.kinds.down[kind] + missing / w.kinds.up[kind])
    done = max(now, w.nodes.free_at[node]) + took
    w.nodes.free_at[node] = done
    w.tally.busy[0] += took
    w.segments.status[segment] = MOVING
    w.segments.repairer[segment] = node
    w.segments.repairer_generation[segment] = w.nodes.generation[node]
    push(w.repairs, done, segment)


@compiled
def enough_online(w: World, segment: int, alive: Bytes, now: float) -> bool:
    """Whether k live holders are online at this moment."""
    hour = int(now * HOURS_PER_YEAR) % HOURS_PER_WEEK
    online = 0
    for i in range(w.rules.n):
        if alive[i]:
            node = w.segments.rows[segment, i]
            lit = w.nodes.dark_until[node] <= now
            online += lit and uniform(w.random) < w.kinds.online[w.nodes.kind[node], hour]
    return online >= w.rules.k


@compiled
def repair_event(w: World, segment: int, alive: Bytes, now: float) -> None:
    """A repair is noticed, done, or has to be taken over."""
    if w.segments.status[segment] == LOST:
        return
    live = look(w, segment, alive)
    node = w.segments.repairer[segment]
    moved = w.segments.status[segment] == MOVING
    if moved and node >= 0:
        moved = w.nodes.generation[node] == w.segments.repairer_generation[segment]
    if not moved:
        assign(w, segment, alive, live, now)
        return
    if not w.rules.exponential and not enough_online(w, segment, alive, now):
        push(w.repairs, now - w.rules.absence * math.log(uniform(w.random)), segment)
        return
    held = live + leave(w, segment, alive)
    made = hold(w, segment, alive, held) - held
    place = min(int(now / w.rules.years * BINS), BINS - 1)
    w.tally.counts[0, place] += 1
    w.tally.counts[1, place] += made
    w.tally.counts[2, place] += made + w.rules.k - 1
    w.segments.live[segment] = live + made
    w.segments.status[segment] = IDLE
    if live + made < w.rules.r:
        begin(w, segment, next_loss(w, segment, alive, now))


@compiled
def strike(w: World, number: int, alive: Bytes, now: float) -> None:
    """A shock: data is lost, or the power for a while."""
    dark = w.strike_dark[number]
    for i in range(w.strike_start[number], w.strike_start[number + 1]):
        node = w.strike_nodes[i]
        if dark > 0:
            w.nodes.dark_until[node] = max(w.nodes.dark_until[node], now + dark)
            continue
        empty(w, node, now)
        if w.strike_leaves[number]:
            w.nodes.present[node] = 0
    if dark > 0:
        for segment in range(len(w.segments.live)):
            if w.segments.status[segment] != LOST:
                look(w, segment, alive)
                w.tally.numbers[LOOKED] += 1
                w.tally.numbers[UNREADABLE] += not enough_online(w, segment, alive, now)


@compiled
def note(w: World) -> None:
    """The state at the end of a bin."""
    row = w.tally.live_at[w.tally.numbers[BIN]]
    for segment in range(len(w.segments.live)):
        if w.segments.status[segment] != LOST:
            row[w.segments.live[segment]] += 1
    w.tally.numbers[BIN] += 1


@compiled
def start(w: World, alive: Bytes) -> None:
    """Place everything; every node gets its first event."""
    for segment in range(len(w.segments.live)):
        alive[:] = 0
        live = hold(w, segment, alive, 0)
        w.segments.live[segment] = live
        if live < w.rules.k:
            lose(w, segment, 0.0)
        elif live < w.rules.r:
            begin(w, segment, 0.0)
    for node in range(len(w.nodes.present)):
        w.events.at[node], w.events.which[node] = next_event(w, node, 0.0), node
    w.events.size[0] = len(w.nodes.present)
    for place in range(len(w.nodes.present) // 2, -1, -1):
        sift_down(w.events, place)


def simulate(w: World, alive: Bytes) -> None:
    """The whole horizon. `alive` is room for n flags."""
    start(w, alive)
    struck = 0
    while w.tally.numbers[BIN] <= BINS:
        shock = w.strike_times[struck] if struck < len(w.strike_times) else FOREVER
        repair = w.repairs.at[0] if w.repairs.size[0] > 0 else FOREVER
        node_at = w.events.at[0]
        noted = w.tally.numbers[BIN] * w.rules.years / BINS
        now = min(min(shock, repair), min(node_at, noted))
        if now == noted:
            note(w)
        elif now == repair:
            segment = w.repairs.which[0]
            pop(w.repairs)
            repair_event(w, segment, alive, now)
        elif now == shock:
            strike(w, struck, alive, now)
            struck += 1
        else:
            node = w.events.which[0]
            node_event(w, node, now)
            w.events.at[0] = next_event(w, node, now)
            sift_down(w.events, 0)


run_stretch = cast(Callable[[World, Bytes], None], numba.njit(**OPTIONS)(simulate))
"""`simulate`, compiled."""
