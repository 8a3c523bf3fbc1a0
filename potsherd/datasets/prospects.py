"""What a dataset that is about to be stored can expect of the network, as its donors have seen it.

Some donors are asked what they have seen of coming and going, and how much the others are there. Where that is too
little to judge by, nothing is said. What would be enough is in `potsherd.durability.advice`.
"""

from __future__ import annotations

import asyncio

from potsherd.datasets.outlook import (
    OBSERVERS,
    REPAIR_BYTES_PER_S,
    UNSEEN,
    Seen,
    ask,
    churn_of,
)
from potsherd.durability import advice
from potsherd.durability.advice import Advice, advise
from potsherd.durability.census import UNKNOWN_DEPARTURES
from potsherd.durability.segment import Code
from potsherd.erasure.descriptor import defaults
from potsherd.errors import PotsherdError
from potsherd.node.session import Session

__all__ = ["WATCHED_MIN_YEARS", "advice_for", "look_around"]

LOOK_S = 4.0
"""That a put waits for it, beside its scan."""
ANSWER_S = 2.0
"""That a donor has to answer; one that sleeps must not silence the others."""
ASKED_ABOUT = 64
"""Donors whose availability is asked for."""
KNOWN_MIN = 3
"""Donors of whom an availability must be known."""
WATCHED_MIN_YEARS = 0.03
"""Machine-years that donors must have watched: eleven machine-days, so that nights are among them."""


async def look_around(session: Session) -> Seen:
    """What some donors have seen of the others; nothing, when they take longer than LOOK_S to say."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await _look(session)
    except (PotsherdError, TimeoutError):
        return UNSEEN


async def _look(session: Session) -> Seen:
    candidates = await session.donors(session.env.rng.randbytes(20), ASKED_ABOUT)
    asked = {c.key: c.address for c in candidates[:OBSERVERS]}
    return await ask(session, asked, [c.key for c in candidates], ANSWER_S)


def advice_for(
    seen: Seen, donors: int, code: tuple[int, int, int], segments: int, stream_bytes: int
) -> Advice | None:
    """For a code (k, n, r); None where it is enough, or too little is known to say."""
    if len(seen.availability) < KNOWN_MIN or seen.years < WATCHED_MIN_YEARS or not segments:
        return None
    k, n, r = code
    moved = stream_bytes / segments / k * (k - 1 + n - r + 1)
    around = advice.Seen(
        donors=donors,
        up=sum(seen.availability.values()) / len(seen.availability),
        churn=churn_of(seen, moved / REPAIR_BYTES_PER_S),
        leaving_known=seen.years >= UNKNOWN_DEPARTURES.years,
    )
    return advise(Code(k, n, r), segments, around, lambda k, n: defaults(k, n)[0])
