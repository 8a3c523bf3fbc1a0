"""Vectorised placement beside the product's: the same holders with the same chances."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from potsherd.node.placement import Candidate, free_class, place
from potsherd.simulations.montecarlo.distributions import Exponential
from potsherd.simulations.montecarlo.placement import FEW, Network, fill, network_of
from potsherd.simulations.montecarlo.population import populate
from potsherd.simulations.montecarlo.scenario import NodeClass, Scenario

DRAWS = 4000
SHARD = 2.0**20


def scenario(classes: tuple[NodeClass, ...], n: int, r: int, k: int = 2) -> Scenario:
    count = sum(c.count for c in classes)
    return Scenario(classes, k=k, n=n, r=r, segments=1, segment_bytes=SHARD * k, pool=count)


def drawn(network: Network, n: int, draws: int, size: int) -> NDArray[np.int32]:
    """Holders of independent segments, `size` at a time, on the same empty network."""
    rng = np.random.default_rng(size)
    rows = np.zeros((draws, n), dtype=np.int32)
    for start in range(0, draws, size):
        part = rows[start : start + size]
        fill(network, part, np.zeros(part.shape, bool), np.zeros(len(part), np.int32), rng)
        network.used[:] = 0
    return rows


def product(network: Network, n: int, k: int, r: int, draws: int) -> NDArray[np.int32]:
    candidates = [
        Candidate(
            key=i.to_bytes(32),
            dht_id=i.to_bytes(20),
            address=None,
            operator=f"op{operator}" if operator >= 0 else "",
            site=f"site{site}" if site >= 0 else "",
            free_class=free_class(int(capacity * SHARD)),
        )
        for i, (capacity, site, operator) in enumerate(
            zip(network.capacity.tolist(), *network.labels.tolist(), strict=True)
        )
    ]
    rng = random.Random(7)
    found = [place(candidates, n, k, r, rng=rng).holders for _ in range(draws)]
    return np.array([[int.from_bytes(c.key) for c in holders] for holders in found], np.int32)


def compare(classes: tuple[NodeClass, ...], n: int, r: int, k: int = 2) -> None:
    """Both ways of ours, arrays and the plain loop, against the product."""
    network = network_of(populate(scenario(classes, n, r, k), 0))
    theirs = product(network, n, k, r, DRAWS)
    for size in (500, FEW):
        alike(network, drawn(network, n, DRAWS, size), theirs)


def alike(network: Network, ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> None:
    count = len(network.present)
    # How often each node holds a shard.
    a = np.bincount(ours.ravel(), minlength=count) / DRAWS
    b = np.bincount(theirs.ravel(), minlength=count) / DRAWS
    sigma = np.sqrt(np.maximum(b * (1 - b), 1 / DRAWS) * 2 / DRAWS)
    assert np.abs((a - b) / sigma).max() < 4.5
    # How the shards lie over sites: the sorted counts, whole patterns.
    for labels in network.labels:
        if (labels >= 0).any():
            same = [
                Counter(tuple(sorted(Counter(row.tolist()).values())) for row in labels[rows])
                for rows in (ours, theirs)
            ]
            for pattern in same[0] | same[1]:
                p, q = same[0][pattern] / DRAWS, same[1][pattern] / DRAWS
                both = max((p + q) / 2, 1 / DRAWS)
                assert abs(p - q) < 4.5 * np.sqrt(both * (1 - both) * 2 / DRAWS)


def nodes(count: int, **changes: object) -> NodeClass:
    return NodeClass(count, Exponential(1.0), **changes)  # type: ignore[arg-type] # by name


@pytest.mark.slow
def test_equal_nodes() -> None:
    compare((nodes(20),), 8, 5)


@pytest.mark.slow
def test_weighted_by_free_space() -> None:
    compare((nodes(12, disk_bytes=1e9), nodes(6, disk_bytes=4e9), nodes(4, disk_bytes=17e9)), 8, 5)


@pytest.mark.slow
def test_sites_within_the_limit() -> None:
    compare((nodes(24, sites=4),), 9, 6)


@pytest.mark.slow
def test_unequal_sites_and_operators() -> None:
    compare((nodes(14, sites=2, operators=7), nodes(8, sites=4), nodes(6)), 9, 6)


@pytest.mark.slow
def test_too_few_sites_for_the_limit() -> None:
    """Two sites, at most three shards in each wanted, nine placed: the rest goes where it must."""
    compare((nodes(20, sites=2),), 9, 6)


def test_no_node_holds_two_and_full_ones_hold_none() -> None:
    classes = (nodes(30, disk_bytes=40 * SHARD, sites=5), nodes(3, disk_bytes=SHARD))
    network = network_of(populate(scenario(classes, 9, 6), 0))
    rng = np.random.default_rng(2)
    rows = np.zeros((120, 9), dtype=np.int32)
    alive, unplaced = fill(network, rows, np.zeros(rows.shape, bool), np.zeros(120, np.int32), rng)
    assert (network.used <= network.capacity).all()
    for row, kept in zip(rows, alive, strict=True):
        assert len(set(row[kept].tolist())) == kept.sum()
    assert network.used.sum() == alive.sum() == 120 * 9 - unplaced


def test_more_than_the_room_there_is_stays_unplaced() -> None:
    network = network_of(populate(scenario((nodes(10, disk_bytes=6 * SHARD),), 5, 4), 0))
    rows = np.zeros((20, 5), dtype=np.int32)  # 100 shards, room for 60
    none = np.zeros(rows.shape, bool)
    alive, unplaced = fill(network, rows, none, np.zeros(20, np.int32), np.random.default_rng(1))
    assert unplaced == 40
    assert alive.sum() == 60


def test_present_shards_stay_where_they_are() -> None:
    network = network_of(populate(scenario((nodes(12, sites=3),), 6, 4), 0))
    rows = np.tile(np.arange(6, dtype=np.int32), (50, 1))
    alive = np.zeros(rows.shape, bool)
    alive[:, [0, 2, 5]] = True
    before = rows.copy()
    after, _ = fill(network, rows, alive, np.zeros(50, np.int32), np.random.default_rng(4))
    assert after.all()
    assert (rows[:, [0, 2, 5]] == before[:, [0, 2, 5]]).all()
    assert all(len(set(row.tolist())) == 6 for row in rows)


def test_pools_are_kept_to() -> None:
    classes = (nodes(200),)
    wide = Scenario(classes, k=2, n=4, r=3, segments=1, segment_bytes=SHARD, pool=10)
    network = network_of(populate(wide, 0))
    rows = np.zeros((50, 4), dtype=np.int32)
    home = np.arange(50, dtype=np.int32) * 4
    fill(network, rows, np.zeros(rows.shape, bool), home, np.random.default_rng(4))
    assert (((rows - home[:, None]) % 200) < 10).all()
