"""What a node has seen of coming and going: counts for the forecast of those who ask (docs/spec/node-protocol.md).

The counts are of peers that share segments with this node, in observed time (docs/design/liveness.md): time in
which it was running and reached them. They outlive restarts and the peers themselves. Others are told them as time
of the calendar: divided by the share of it that the node observes (attendance.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from potsherd.classes import dataclass
from potsherd.errors import MalformedError
from potsherd.wire import Bytes, ListOf, Opt, Record, Uint

__all__ = ["AVAILABILITY_WHOLE", "NODES_MAX", "ChurnCounts", "ChurnQuery", "ChurnSeen", "typical"]

NODES_MAX = 255
"""Nodes whose availability is asked for at a time."""
AVAILABILITY_WHOLE = 1000
"""An availability of 1 on the wire."""
COUNT_MAX = 2**48 - 1
SECONDS_MAX = 2**32 - 1


@dataclass(frozen=True)
class ChurnCounts(Record):
    """Sums since the node exists."""

    VERSION: ClassVar[int] = 2
    SIZE_MAX: ClassVar[int] = 96
    watched: Annotated[int, Uint(COUNT_MAX)] = 0
    """Observed seconds, of all peers together, while they were not given up."""
    gone: Annotated[int, Uint(COUNT_MAX)] = 0
    """Peers given up that have not come back."""
    returned: Annotated[int, Uint(COUNT_MAX)] = 0
    """Absences long enough that a peer may be given up, after which it came back."""
    observed: Annotated[int, Uint(COUNT_MAX)] = 0
    """Of the sums of `Attendance`, the seconds observed."""
    calendar: Annotated[int, Uint(COUNT_MAX)] = 0
    """Those of the calendar; 0: not counted yet."""
    at: Annotated[int | None, Opt(Uint(COUNT_MAX))] = None
    """Date up to which they are counted."""

    def check(self) -> None:
        if self.observed > self.calendar:
            raise MalformedError("ChurnCounts.observed: more than the calendar")


@dataclass(frozen=True)
class ChurnQuery(Record):
    """What have you seen of coming and going, and how much are these nodes there?"""

    SIZE_MAX: ClassVar[int] = 12 * 1024
    nodes: Annotated[tuple[bytes, ...], ListOf(Bytes(32), max=NODES_MAX)]


@dataclass(frozen=True)
class ChurnSeen(Record):
    """The answer; availabilities in the order asked for, in thousandths, nil where the node is not known."""

    SIZE_MAX: ClassVar[int] = 1280
    watched: Annotated[int, Uint(COUNT_MAX)]
    """Seconds of the calendar, of all peers together, while they were not given up."""
    gone: Annotated[int, Uint(COUNT_MAX)]
    returned: Annotated[int, Uint(COUNT_MAX)]
    noticed: Annotated[int, Uint(SECONDS_MAX, 1)]
    """Seconds of the calendar from a peer's silence until its shards are made anew, transfer not counted: the
    median over peers."""
    availability: Annotated[
        tuple[int | None, ...], ListOf(Opt(Uint(AVAILABILITY_WHOLE)), max=NODES_MAX)
    ]


def typical(values: Sequence[int], *, high: bool = False) -> int:
    """The median, of two middle values the lower or the higher one; 0 of none.

    A minority of liars does not move it beyond what others said.
    """
    return sorted(values)[(len(values) - (not high)) // 2] if values else 0
