"""What the rules decide: whose data is taken in, where it goes, whose is dropped."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from potsherd.simulations.incentives.settings import FREE_RIDER
from potsherd.simulations.incentives.society import STORED, WAITING, Society

__all__ = ["account", "barter", "drop_orphans", "pin", "place", "put", "repair", "unpair", "unpin"]

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
ROUNDS = 30
"""Tries a week to find partners."""
TAIL = 1e-9


def put(society: Society, free: Floats) -> None:
    """Data that waits is stored where there is room, in the order of a lottery; all n shards or none."""
    waiting = np.flatnonzero(society.state[: society.count] == WAITING)
    if society.settings.by_ratio:
        waiting = waiting[society.credit[waiting] > 0]
    placed = place(society, society.rng.permutation(waiting), free, whole=True)
    society.state[placed] = STORED


def repair(society: Society, free: Floats) -> None:
    """Segments with fewer than r live shards are completed as far as there is room."""
    s, kept = society.settings, society.stored()
    live = society.live(kept)
    readable = (live >= s.k) | society.pinned[kept].any(axis=1)
    due = kept[readable & (live < s.r)]
    if s.by_ratio:
        due = due[society.credit[due] > 0]
    # The weakest first.
    place(society, due[np.argsort(society.live(due), kind="stable")], free, whole=False)


def place(society: Society, datasets: Ints, free: Floats, *, whole: bool) -> Ints:
    """Missing shards go to distinct peers, drawn by free room; `free` is used up. Returns those placed."""
    n = society.settings.n
    placed = []
    # Room of the n-th best peer: larger shards need not be tried at all.
    best = float(np.partition(free, -n)[-n])
    for dataset in datasets.tolist():
        shard = society.size[dataset] / society.settings.k
        if whole and shard > best:
            continue
        row = society.holders[dataset]
        missing = np.flatnonzero(row < 0)
        weight = np.where(free >= shard, free, 0.0)
        weight[row[row >= 0]] = 0.0
        found = int(np.count_nonzero(weight))
        if found < len(missing):
            if whole:
                continue
            missing = missing[:found]
        if not len(missing):
            continue
        race = society.rng.exponential(size=len(free)) / np.maximum(weight, TAIL)
        race[weight == 0] = np.inf
        targets = np.argpartition(race, len(missing) - 1)[: len(missing)]
        row[missing] = targets
        free[targets] -= shard
        best = float(np.partition(free, -n)[-n]) if whole else best
        placed.append(dataset)
    return np.array(placed, dtype=np.int64)


def account(society: Society, given: Floats) -> None:
    """Ratio rule: what is given is earned, what is kept is spent; who is in debt has the data dropped.

    The account of somebody who has left runs down by what the data takes up.
    """
    s = society.settings
    weight = society.uptime if s.by_uptime else 1.0
    society.credit[society.data] += given * weight
    kept = society.stored()
    # What only an institute keeps costs its owner nothing.
    charged = society.live(kept) > 0
    society.credit[kept] -= society.footprint(kept) * charged
    most = s.saved_max * society.footprint(society.data)
    society.credit[society.data] = np.minimum(society.credit[society.data], most)
    broke = kept[(society.credit[kept] < 0) & charged]
    society.drop(broke)
    if s.whitewash:
        riders = broke[society.kind[society.owner[broke]] == FREE_RIDER]
        riders = riders[society.state[riders] == WAITING]
        society.credit[riders] = s.starter * society.footprint(riders)


def drop_orphans(society: Society, after: int) -> None:
    """What belongs to somebody who left so many weeks ago."""
    since = society.orphan_since[: society.count]
    old = np.flatnonzero((since >= 0) & (since <= society.week - after))
    society.drop(old[society.state[old] == STORED])


def barter(society: Society, free: Floats) -> None:
    """Two peers keep a shard for each other, and set aside as much as they get; neighbours in size meet first."""
    s, data = society.settings, society.data
    shard = society.shard(data)
    for number in range(ROUNDS):
        missing = s.n - society.live(data)
        order = np.flatnonzero((missing > 0) & (free > 0))
        if len(order) < 2:
            break
        blur = np.exp(0.05 * (1 + number) * society.rng.normal(size=len(order)))
        order = order[np.argsort(shard[order] * blur)]
        left, right = order[: len(order) // 2 * 2].reshape(-1, 2).T
        aside = np.maximum(shard[left], shard[right])
        known = (society.holders[data[left]] == right[:, None]).any(axis=1)
        known |= (society.holders[data[right]] == left[:, None]).any(axis=1)
        good = ~known & (free[left] >= aside) & (free[right] >= aside)
        left, right, aside = left[good], right[good], aside[good]
        for one, other in ((left, right), (right, left)):
            column = np.argmax(society.holders[data[one]] < 0, axis=1)
            society.holders[data[one], column] = other
            free[one] -= aside
    complete = (society.live(data) >= s.accepted) & (society.state[data] == WAITING)
    society.state[data[complete]] = STORED


def unpair(society: Society) -> None:
    """Barter: who no longer keeps a shard for a partner loses the one it has there."""
    data = society.data
    held = society.holders[data]
    mine, column = np.nonzero(held >= 0)
    partner = held[mine, column]
    returned = (society.holders[data[partner]] == mine[:, None]).any(axis=1)
    society.holders[data[mine[~returned]], column[~returned]] = -1


def pin(society: Society) -> None:
    """Institutes keep whole copies: first of orphans, then of what has fewest live shards, then of what waits."""
    s = society.settings
    wanted = float(society.size[society.data].sum())
    room = s.pins * wanted / s.institutes
    shown = slice(0, society.count)
    used = society.size[shown] @ society.pinned[shown]
    state = society.state[shown]
    kept = np.flatnonzero((state == STORED) | (state == WAITING))
    short = kept[society.pinned[kept].sum(axis=1) < s.copies]
    orphan = society.orphan_since[short] >= 0
    order = short[np.lexsort((society.live(short), ~orphan))]
    for dataset in order.tolist():
        fits = (used + society.size[dataset] <= room) & ~society.pinned[dataset]
        need = s.copies - int(society.pinned[dataset].sum())
        chosen = np.flatnonzero(fits)[np.argsort(used[fits])][:need]
        society.pinned[dataset, chosen] = True
        used[chosen] += society.size[dataset]
        if not fits.any() and society.size[dataset] <= room / 1000:
            break  # full
    waiting = np.flatnonzero((society.state[shown] == WAITING) & society.pinned[shown].any(axis=1))
    society.state[waiting] = STORED


def unpin(society: Society) -> None:
    """Copies of data that was lost, dropped or withdrawn make room."""
    shown = slice(0, society.count)
    society.pinned[shown][society.state[shown] > STORED] = False
