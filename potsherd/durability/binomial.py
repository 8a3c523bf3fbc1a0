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

__all__ = ["at_least", "at_least_of_equal", "counts", "fewer_than", "fewer_than_each"]


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


def at_least_of_equal(k: int, nodes: int, up: float) -> float:
    """`at_least` for nodes that are all up with the same chance: the binomial tail, to 1e-12, in one pass."""
    if not 0 <= up <= 1:
        raise UsageError(f"availability = {up}: not from 0 to 1")
    if k <= 0 or up == 1:
        return float(nodes >= k)
    if up == 0 or nodes < k:
        return 0.0
    whole, p, q = math.lgamma(nodes + 1), math.log(up), math.log1p(-up)
    terms = (
        math.exp(whole - math.lgamma(i + 1) - math.lgamma(nodes - i + 1) + i * p + (nodes - i) * q)
        for i in range(k, nodes + 1)
    )
    return min(1.0, math.fsum(terms))


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
