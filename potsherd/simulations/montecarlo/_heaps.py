"""The compiled engine's queues of what happens when. Needs numba; see `_kernels`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from potsherd.simulations.montecarlo._compiling import compiled

__all__ = ["Heap", "pop", "push", "sift_down"]


class Heap(NamedTuple):
    """A binary heap of (time, number)."""

    at: NDArray[np.float64]
    which: NDArray[np.int32]
    size: NDArray[np.int64]


@compiled
def sift_down(heap: Heap, place: int) -> None:
    """Put the entry at `place` where it belongs, below."""
    at, which, size = heap.at, heap.which, heap.size[0]
    time, number = at[place], which[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and at[child + 1] < at[child]:
            child += 1
        if at[child] >= time:
            break
        at[place], which[place] = at[child], which[child]
        place = child
    at[place], which[place] = time, number


@compiled
def push(heap: Heap, time: float, number: int) -> None:
    """Add an entry."""
    at, which = heap.at, heap.which
    place = heap.size[0]
    heap.size[0] += 1
    while place > 0:
        parent = (place - 1) // 2
        if at[parent] <= time:
            break
        at[place], which[place] = at[parent], which[parent]
        place = parent
    at[place], which[place] = time, number


@compiled
def pop(heap: Heap) -> None:
    """Remove the first entry."""
    heap.size[0] -= 1
    last = heap.size[0]
    if last > 0:
        heap.at[0], heap.which[0] = heap.at[last], heap.which[last]
        sift_down(heap, 0)
