"""How large the next push to a holder may be: it grows by what the line carries (docs/design/put.md)."""

from __future__ import annotations

from potsherd.erasure.layout import CELL_SIZE
from potsherd.node.records import PAYLOAD_MAX

__all__ = ["PACE_LIFE_S", "PUSH_BYTES_MAX", "PUSH_BYTES_MIN", "PushPace"]

PUSH_BYTES_MIN = 2**16
"""A first push, and one to a slow holder, has at most this size."""
PUSH_BYTES_MAX = PAYLOAD_MAX
"""A push to a fast holder: as many batches as are ready, because each message costs some CPU time of its own."""
PUSH_FAST_S = 0.5
"""A push that took less may be twice as large the next time; one that took twice as long halves the next."""
PUSH_GROWTH_MAX = 8
"""That many times as large, when it took that many times less: the first few tell what a line carries."""
PACE_LIFE_S = 60.0
"""For so long after a push the next shard begins with what it has told."""


class PushPace:
    """What pushes on one connection have told of the line and of the holder behind it."""

    def __init__(self) -> None:
        self._size = PUSH_BYTES_MIN
        self._trip_s = float("inf")  # the quickest answer: what a push takes however small it is
        self._told = float("-inf")

    def begin(self, now: float, trip_s: float) -> None:
        """A shard begins, after an answer that took `trip_s`."""
        if now - self._told > PACE_LIFE_S:
            self._size, self._trip_s = PUSH_BYTES_MIN, float("inf")
        self._trip_s = min(self._trip_s, trip_s)

    def pushed(self, now: float, size: int, taken_s: float) -> None:
        """`size` bytes have been taken, and the answer came after `taken_s`.

        The way there and back does not count: a line over an ocean carries as much as one to the next room. Nor
        does a small push that was quick say that a large one would be.
        """
        self._told = now
        self._trip_s = min(self._trip_s, taken_s)
        taken_s -= self._trip_s
        if taken_s < PUSH_FAST_S:
            growth = PUSH_GROWTH_MAX if taken_s * PUSH_GROWTH_MAX < PUSH_FAST_S else 2
            self._size = max(self._size, min(growth * size, PUSH_BYTES_MAX))
        elif taken_s > 2 * PUSH_FAST_S:
            self._size = max(min(size, self._size) // 2, PUSH_BYTES_MIN)

    def size(self, most: int) -> int:
        """Bytes of the next push, at most `most` unless that is less than the first: whole cells, which a disk takes without a copy."""
        size = min(self._size, most)
        return max(size - size % CELL_SIZE, PUSH_BYTES_MIN)
