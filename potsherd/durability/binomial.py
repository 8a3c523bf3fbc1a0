"""How many of some unequal nodes are up: the Poisson-binomial distribution.

By convolution, one node at a time: sums and products of terms that are not negative, so tails are right down to
the smallest floats. The form by discrete Fourier transform is garbage below 1e-15.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from potsherd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["at_least", "counts", "fewer_than", "fewer_than_each"]


def counts(probabilities: Iterable[float]) -> list[float]:
    """P(exactly i are up) for i = 0 … number of nodes. Raises UsageError outside 0 … 1."""
    found = [1.0]
    for p in probabilities:
        if not 0 <= p <= 1:  # also catches nan
            raise UsageError(f"availability = {p}: not from 0 to 1")
        q = 1 - p
        found = [up * p + here * q for up, here in zip([0.0, *found], [*found, 0.0], strict=True)]
    return found


def fewer_than(k: int, probabilities: Iterable[float]) -> float:
    """P(fewer than k of the nodes are up), e.g. the loss of a segment whose holders survive so."""
    return min(1.0, math.fsum(counts(probabilities)[: max(0, k)]))


def at_least(k: int, probabilities: Iterable[float]) -> float:
    """P(k or more of the nodes are up), e.g. that a segment can be read now."""
    return min(1.0, math.fsum(counts(probabilities)[max(0, k) :]))


def fewer_than_each(k: int, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """`fewer_than` of each row of a matrix (segments x holders)."""
    import numpy as np

    rows, width = probabilities.shape
    found = np.zeros((rows, max(1, k)))
    found[:, 0] = 1.0
    for i in range(width):
        p = probabilities[:, i : i + 1]
        moved = found[:, :-1] * p
        found *= 1 - p
        found[:, 1:] += moved
    return np.asarray(found.sum(axis=1) if k > 0 else np.zeros(rows))
