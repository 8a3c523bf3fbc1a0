"""The product's placement (`potsherd.node.placement`), for many segments at a time.

The product draws donors of the pool in a random order weighted by free space and takes the first that keep the limit
of n − r shards in a failure domain; what is missing then goes to those it has passed over, in their order, where
the limits are exceeded least. Drawing again whatever is taken or full gives the same order with the same chances
(successive sampling). The product's last step, exchanges where kinds of domains overlap, is left out; nothing
measurable comes of it
(tests/unit/simulations/test_mc_placement.py compares).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from potsherd.classes import dataclass
from potsherd.simulations.montecarlo.population import Population

__all__ = ["FEW", "TRIES_PER_DONOR", "Network", "fill", "network_of"]

TRIES_PER_DONOR = 8
"""Draws for one shard, times the size of the pool, until it is taken that no donor there keeps the limits."""
KINDS = 2
"""Of failure domains: site and operator."""
DRAWS = 4096
"""Random numbers drawn at a time for the plain loop."""
FEW = 48
"""Segments up to which a plain loop is faster than arrays."""

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


class Uniforms:
    """Random numbers from 0 to 1 one by one, drawn many at a time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.source = rng
        self._left: list[float] = []

    def one(self) -> float:
        """The next."""
        if not self._left:
            self._left = self.source.random(DRAWS).tolist()
        return self._left.pop()


@dataclass
class Network:
    """Nodes as placement sees them. Slots are node numbers."""

    present: Bools
    generation: NDArray[np.uint8]
    """Goes up when a slot's node loses its shards, whatever the reason."""
    used: NDArray[np.int64]
    """Shards kept."""
    labels: NDArray[np.int32]
    """Kind of domain x node; −1: none."""
    capacity: NDArray[np.int64]
    """Shards that fit."""
    shard_bytes: float
    limit: int
    """Shards of a segment in one domain: n − r."""
    pool: int
    easy: int
    """So many shards of a segment can surely be placed within the limits, as far as the number of domains goes."""
    top: float
    """log2 of the largest weight that a node may have."""
    domains: tuple[dict[int, int], ...]
    """For the plain loop: of each kind of domain that there is, node to label."""
    uniforms: Uniforms | None = None

    def plain(self, rng: np.random.Generator) -> Uniforms:
        """Random numbers for the plain loop."""
        if self.uniforms is None or self.uniforms.source is not rng:
            self.uniforms = Uniforms(rng)
        return self.uniforms

    def accepted(self, nodes: Ints, u: NDArray[np.float64]) -> Bools:
        """Whether a draw (u uniform) takes the node: chance 2^(class of its free space), relative to the top."""
        free = (self.capacity[nodes] - self.used[nodes]) * self.shard_bytes
        room = free >= self.shard_bytes
        weight = np.exp2(np.floor(np.log2(np.maximum(free, 1.0))) - self.top)
        return np.asarray(self.present[nodes] & room & (u < weight))

    def cost(self, nodes: Ints, rows: Ints, alive: Bools) -> NDArray[np.int64]:
        """How many of its domains already hold the limit, for each candidate and row of holders."""
        found = np.zeros(len(nodes), dtype=np.int64)
        for labels in self.labels:
            mine = labels[nodes]
            same = ((labels[rows] == mine[:, None]) & alive).sum(axis=1)
            found += (mine >= 0) & (same >= self.limit)
        return found


def network_of(population: Population) -> Network:
    """As it is before anything is placed."""
    scenario = population.scenario
    labels = np.stack([population.site, population.operator])
    limit = scenario.n - scenario.r
    capacity = population.classes.capacity[population.class_of]
    easy = [(int(kind.max()) + 1) * limit for kind in labels if (kind >= 0).all()]
    return Network(
        present=np.ones(len(population.site), dtype=bool),
        generation=np.zeros(len(population.site), dtype=np.uint8),
        used=np.zeros(len(population.site), dtype=np.int64),
        labels=labels,
        capacity=(capacity // scenario.shard_bytes).astype(np.int64),
        shard_bytes=scenario.shard_bytes,
        limit=limit,
        pool=scenario.pool_size,
        easy=min(easy, default=scenario.n),
        top=float(np.floor(np.log2(capacity.max()))),
        domains=tuple(
            {int(node): int(kind[node]) for node in np.flatnonzero(kind >= 0)}
            for kind in labels
            if (kind >= 0).any()
        ),
    )


def fill(
    network: Network, rows: Ints, alive: Bools, home: Ints, rng: np.random.Generator
) -> tuple[Bools, int]:
    """Give each missing shard of some segments a node; changes `rows` and the network's `used`.

    Returns which shards are alive now, and how many found no node with room.
    """
    if len(rows) <= FEW:
        return _fill_few(network, rows, alive, home, rng)
    alive = alive.copy()
    nodes = len(network.present)
    search = _Search(network, alive)
    while (active := np.flatnonzero(~alive.all(axis=1) & ~search.given_up)).size:
        drawn = ((home[active] + rng.random(len(active)) * search.pool[active]) % nodes).astype(
            np.int32
        )
        good = network.accepted(drawn, rng.random(len(active)))
        again = search.passed_over(active, drawn)
        mine, held = rows[active], alive[active]
        good |= again & network.accepted(drawn, np.zeros(len(active)))
        good &= ~((mine == drawn[:, None]) & held).any(axis=1)
        over = network.cost(drawn, mine, held) > search.slack[active]
        search.pass_over(active[good & over], drawn[good & over])
        good = _within_room(network, drawn, good & ~over)
        taken = active[good]
        column = np.argmin(alive[taken], axis=1)
        rows[taken, column] = drawn[good]
        alive[taken, column] = True
        np.add.at(network.used, drawn[good], 1)
        search.went_on(active, taken, alive)
    return alive, int((~alive).sum())


class _Search:
    """How far each segment's search for nodes has come."""

    def __init__(self, network: Network, alive: Bools) -> None:
        self._network = network
        rows, n = alive.shape
        self.pool = np.full(rows, network.pool)
        self.tries = np.zeros(rows, dtype=np.int64)
        self.slack = (alive.sum(axis=1) >= network.easy).astype(np.int64)
        """Domains over the limit that a node may have."""
        self.given_up = np.zeros(rows, dtype=bool)
        self._queue = np.zeros((rows, n), dtype=np.int32)
        self._first = np.zeros(rows, dtype=np.int64)
        self._end = np.zeros(rows, dtype=np.int64)

    def passed_over(self, active: NDArray[np.int64], drawn: Ints) -> Bools:
        """Once limits may be exceeded, those passed over come first, in their order: put them into `drawn`."""
        again = (self.slack[active] > 0) & (self._first[active] < self._end[active])
        which = active[again]
        drawn[again] = self._queue[which, self._first[which]]
        self._first[which] += 1
        return np.asarray(again)

    def pass_over(self, rows: NDArray[np.int64], drawn: Ints) -> None:
        """Remember who was drawn but is over the limit."""
        room = self._end[rows] < self._queue.shape[1]
        rows, drawn = rows[room], drawn[room]
        self._queue[rows, self._end[rows]] = drawn
        self._end[rows] += 1

    def went_on(self, active: NDArray[np.int64], taken: NDArray[np.int64], alive: Bools) -> None:
        """After a round. Where nobody is found: allow more excess, then ask everybody, then give up."""
        self.tries[active] += 1
        self.tries[taken] = 0
        easy = alive[taken].sum(axis=1) >= self._network.easy
        self.slack[taken] = np.maximum(self.slack[taken], easy)
        late = active[self.tries[active] > TRIES_PER_DONOR * self.pool[active]]
        self.tries[late] = 0
        strict = self.slack[late] < KINDS
        self.slack[late[strict]] += 1
        rest = late[~strict]
        nodes = len(self._network.present)
        self.given_up[rest] = self.pool[rest] >= nodes
        self.pool[rest] = nodes


def _within_room(network: Network, drawn: Ints, good: Bools) -> Bools:
    """Of several segments that draw a nearly full node in one round, only as many as it has room for."""
    room = network.capacity[drawn] - network.used[drawn]
    wanted = np.bincount(drawn[good], minlength=len(network.present))[drawn]
    tight = good & (wanted > room)
    if tight.any():
        first = np.zeros(len(drawn), dtype=bool)
        candidates = np.flatnonzero(tight)
        first[candidates[np.unique(drawn[candidates], return_index=True)[1]]] = True
        good = good & (~tight | first)
    return good


def _fill_few(
    network: Network, rows: Ints, alive: Bools, home: Ints, rng: np.random.Generator
) -> tuple[Bools, int]:
    """The same, one shard after the other."""
    uniforms = network.plain(rng)
    found, unplaced = [], 0
    for i, (row, there) in enumerate(zip(rows.tolist(), alive.tolist(), strict=True)):
        one = _One(
            network, [n for n, a in zip(row, there, strict=True) if a], int(home[i]), uniforms
        )
        for column, lives in enumerate(there):
            if not lives:
                node = one.find()
                if node < 0:
                    break
                row[column], there[column] = node, True
        unplaced += there.count(False)
        rows[i] = row
        found.append(there)
    return np.array(found, dtype=bool).reshape(alive.shape), unplaced


class _One:
    """A segment that looks for nodes."""

    def __init__(self, network: Network, held: list[int], home: int, uniforms: Uniforms) -> None:
        self._network, self._home, self._uniforms = network, home, uniforms
        self._held = set(held)
        self._counts: list[dict[int, int]] = [{} for _ in network.domains]
        self._pool, self._nodes = network.pool, len(network.present)
        self._queue: list[int] = []
        self._first = 0
        for node in held if network.domains else ():
            self._count(node)

    def _count(self, node: int) -> None:
        for labels, counts in zip(self._network.domains, self._counts, strict=True):
            label = labels.get(node)
            if label is not None:
                counts[label] = counts.get(label, 0) + 1

    def _cost(self, node: int) -> int:
        found = 0
        for labels, counts in zip(self._network.domains, self._counts, strict=True):
            label = labels.get(node)
            found += label is not None and counts.get(label, 0) >= self._network.limit
        return found

    def _accepted(self, node: int) -> bool:
        network = self._network
        free = (network.capacity.item(node) - network.used.item(node)) * network.shard_bytes
        if free < network.shard_bytes or not network.present.item(node):
            return False
        behind = network.top + 1 - math.frexp(free)[1]  # of the power of two below it
        return behind <= 0 or self._uniforms.one() < 2.0**-behind

    def find(self) -> int:
        """A node for one more shard; −1 when nobody has room."""
        slack = int(len(self._held) >= self._network.easy)
        one = self._uniforms.one
        while True:
            for _ in range(TRIES_PER_DONOR * self._pool):
                node = self._try((self._home + int(one() * self._pool)) % self._nodes, slack)
                if node >= 0:
                    return node
            if slack < KINDS:
                slack += 1
            elif self._pool < self._nodes:
                self._pool = self._nodes
            else:
                return -1

    def _try(self, node: int, slack: int) -> int:
        """The node drawn, or who was passed over before; −1 if it will not do."""
        network = self._network
        if slack > 0 and self._first < len(self._queue):
            node = self._queue[self._first]
            self._first += 1
            good = network.used.item(node) < network.capacity.item(node)
        else:
            good = node not in self._held and self._accepted(node)
        if not good or node in self._held:
            return -1
        if self._counts:
            if self._cost(node) > slack:
                self._queue.append(node)
                return -1
            self._count(node)
        self._held.add(node)
        network.used[node] += 1
        return node
